"""The skeleton contract: which pairs it holds, and what it may not say."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts.codec import ContractError
from exporter.contracts.skeleton import Edge, Endpoint, Group, Skeleton, Window, check_skeleton


def skeleton(
    groups: tuple[Group, ...] = (), edges: tuple[Edge, ...] = (), hosts: dict[str, str] | None = None
) -> Skeleton:
    endpoints = tuple(
        Endpoint(id=name, host=host, container=name.rpartition("/")[0], rnic=name.rpartition("/")[2])
        for name, host in (hosts or {}).items()
    )
    return Skeleton(
        version=1,
        job="j",
        window=Window(start=0, end=900, step_seconds=1),
        period_seconds=30.0,
        confidence=1.0,
        fallback=None,
        parallelism=None,
        endpoints=endpoints,
        groups=groups,
        edges=edges,
    )


def test_a_group_is_a_clique_without_pairs_on_one_host() -> None:
    hosts = {"a/0": "h1", "b/0": "h1", "c/0": "h2"}
    value = skeleton((Group(role="dp", members=("a/0", "b/0", "c/0")),), hosts=hosts)
    assert list(value.pairs()) == [("a/0", "c/0", "dp"), ("b/0", "c/0", "dp")]


def test_a_pair_named_twice_appears_once_with_the_role_of_its_edge() -> None:
    value = skeleton((Group(role="dp", members=("b/0", "a/0")),), (Edge(a="b/0", b="a/0", role="pp"),))
    assert list(value.pairs()) == [("a/0", "b/0", "pp")]


def test_an_edge_to_itself_is_no_pair() -> None:
    assert list(skeleton(edges=(Edge(a="a/0", b="a/0", role="pp"),)).pairs()) == []


@given(st.lists(st.lists(st.sampled_from([f"c{n}/0" for n in range(8)]), unique=True), max_size=4))
def test_pairs_are_the_union_of_the_cliques(groups: list[list[str]]) -> None:
    value = skeleton(tuple(Group(role="dp", members=tuple(members)) for members in groups))
    pairs = [(a, b) for a, b, _ in value.pairs()]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == {pair for members in groups for pair in combinations(sorted(members), 2)}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (skeleton((Group(role="dp", members=("a",)),)), "field 'groups[0].members': endpoint 'a' is not written"),
        (
            skeleton(edges=(Edge(a="a/0", b="b/0", role="pp"),), hosts={"a/0": "h"}),
            "field 'edges[0]': 'b/0' is not in 'endpoints' (list every endpoint)",
        ),
        (
            skeleton((Group(role="dp", members=("b/0",)),), hosts={"a/0": "h"}),
            "field 'groups[0].members': 'b/0' is not in 'endpoints' (list every endpoint)",
        ),
    ],
)
def test_a_wrong_skeleton_is_refused(value: Skeleton, message: str) -> None:
    with pytest.raises(ContractError) as refusal:
        check_skeleton(value, "s.json")
    assert str(refusal.value).startswith(f"s.json: {message}")


def test_an_endpoint_named_twice_is_refused() -> None:
    value = skeleton(hosts={"a/0": "h"})
    twice = Skeleton(
        **{name: getattr(value, name) for name in value.__struct_fields__} | {"endpoints": value.endpoints * 2}
    )
    with pytest.raises(ContractError, match=r"^s: field 'endpoints\[1\]\.id': 'a/0' appears twice$"):
        check_skeleton(twice, "s")


def test_an_older_file_without_endpoints_is_read() -> None:
    check_skeleton(skeleton((Group(role="dp", members=("a/0", "b/0")),)), "s")
