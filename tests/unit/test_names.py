"""Names are split where they were joined, also when they hold the joints themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts.names import endpoint_id, link_id, path_id, port_id, split_endpoint, split_link, split_port

words = st.text(min_size=1)


def test_an_endpoint_is_split_at_the_last_slash() -> None:
    assert split_endpoint("team/pod-0/mlx5_0") == ("team/pod-0", "mlx5_0")


def test_a_port_is_split_at_the_first_colon() -> None:
    assert split_port("leaf-1:Ethernet1/1:2") == ("leaf-1", "Ethernet1/1:2")


@pytest.mark.parametrize("text", ["", "rnic", "/rnic", "container/"])
def test_an_endpoint_without_both_sides_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not written container/rnic"):
        split_endpoint(text)


@pytest.mark.parametrize("text", ["", "leaf", ":Ethernet0", "leaf:"])
def test_a_port_without_both_sides_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not written switch:port"):
        split_port(text)


def test_a_link_without_a_joint_is_refused() -> None:
    with pytest.raises(ValueError, match="is not written"):
        split_link("a:1--b:1")


@given(words, words.filter(lambda word: "/" not in word))
def test_an_endpoint_comes_back_whole(container: str, rnic: str) -> None:
    assert split_endpoint(endpoint_id(container, rnic)) == (container, rnic)


@given(words.filter(lambda word: ":" not in word), words)
def test_a_port_comes_back_whole(node: str, port: str) -> None:
    assert split_port(port_id(node, port)) == (node, port)


@given(words, words)
def test_a_link_has_one_name_whichever_end_comes_first(end: str, other: str) -> None:
    assert link_id(end, other) == link_id(other, end)


def test_a_link_orders_its_ends_bytewise() -> None:
    assert link_id("b:1", "B:1") == "B:1 -- b:1"
    assert link_id("é:1", "z:1") == "z:1 -- é:1"
    assert split_link("B:1 -- b:1") == ("B:1", "b:1")


def test_a_path_is_named_by_its_physical_ends() -> None:
    assert path_id("h1", "r0", "h2", "r1", "udp", 106, 49152) == "h1:r0>h2:r1/udp/106/49152"
