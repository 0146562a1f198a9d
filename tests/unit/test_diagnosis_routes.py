"""Which routes accuse a link: those of the flow itself, whole; where packets are sprayed, the shares of each path."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from exporter.contracts.fabric import Fabric
from tests.unit.probed import (
    BROKEN,
    FABRIC,
    LOST,
    PATHS,
    TRACES,
    Way,
    crosses,
    lossy,
    names,
    probed,
    trace,
    unlucky,
    verdict,
)

UPLINKS = {BROKEN, "leaf-p0-r0:Ethernet4 -- spine-1:Ethernet0"}
"""Of pod 0: what its paths may take, as far as no trace tells."""


def half(path: Way, second: int) -> bool:
    return crosses(path) and unlucky(path, second, 2)


def is_open(rows: list[dict[str, Any]]) -> bool:
    """Whether the verdict leaves it open which uplink it is."""
    (failure,) = verdict(*rows).failures
    return failure.confidence < 0.5 and names(failure) >= UPLINKS


def test_failing_paths_without_a_trace_leave_open_which_link_it_is() -> None:
    assert is_open(probed(half))
    assert not is_open([*TRACES, *probed(half)])


def test_a_truncated_trace_does_not_vote() -> None:
    cut = [{**row, "route": '["leaf-p0-r0", null]'} for row in TRACES]
    assert verdict(*cut, *probed(half)) == verdict(*probed(half))


@pytest.mark.parametrize("changes", [{"protocol": "tcp"}, {"dial": "fail", "error": "silent"}], ids=["tcp", "failed"])
def test_a_trace_of_the_other_protocol_and_one_that_failed_do_not_vote(changes: dict[str, Any]) -> None:
    """ECMP hashes the protocol; and a trace that came to the last switch, but not to its end, looks whole."""
    rows = probed(half)
    first = [{**row, "ping_time": row["ping_time"] - int(9e9)} for row in TRACES]
    named = verdict(*first, *rows).failures[0].component
    assert (named.kind, named.name) == ("link", BROKEN)
    swapped = [trace((*path[:2], 1 - path[2])) | {"src_port": 49152 + path[2]} for path in PATHS]
    elsewhere = [{**row, "ping_time": row["ping_time"] - int(5e9)} for row in swapped]
    misled = verdict(*first, *elsewhere, *rows).failures[0].component
    assert misled != named, "as whole traces of the flow they would have voted"
    assert verdict(*first, *[{**row, **changes} for row in elsewhere], *rows).failures[0].component == named
    assert is_open([*[{**row, **changes} for row in TRACES], *rows])


def test_tcp_paths_vote_by_the_traces_of_their_own_protocol() -> None:
    rows = [{**row, "task_type": "TCP_PING"} for row in probed(half)]
    assert is_open([*[{**row, "protocol": "udp"} for row in TRACES], *rows])
    (failure,) = verdict(*[{**row, "protocol": "tcp"} for row in TRACES], *rows).failures
    assert failure.component == verdict(*TRACES, *probed(half)).failures[0].component


@pytest.mark.parametrize(
    "route", ["", "spine-0", "{}", "[1]", '["spine-0"', "[]", "[" * 20_000], ids=lambda route: route[:20]
)
def test_a_route_that_is_none_is_no_route(route: str) -> None:
    rows = [{**row, "route": route} for row in TRACES]
    assert verdict(*rows, *probed()).failures == ()
    assert is_open([*rows, *probed(half)])


def test_losses_that_begin_as_the_route_changes_are_the_old_routes_if_they_end_with_it() -> None:
    """A link dies, and a few seconds later routing goes round it: the trace seen by then is of another way."""

    def until_rerouted(path: Way, second: int) -> bool:
        return crosses(path) and 10 <= second < 14

    round_it = [
        {**row, "ping_time": row["ping_time"] + int(14e9), "route": row["route"].replace("spine-0", "spine-1")}
        for row in TRACES
        if "spine-0" in row["route"] and row["src_node_sn"].startswith("host-p0")
    ]
    (failure,) = verdict(*TRACES, *round_it, *probed(until_rerouted, seconds=60)).failures
    assert failure.component.name == BROKEN
    assert (failure.start, failure.end) == (1_010.0, 1_014.0)


def partly_cabled() -> Fabric:
    """Pod 1 is on spine 0 alone: what is sprayed from pod 0 to pod 2 crosses each spine with a half, to pod 1 that."""
    topology = FABRIC.topology
    links = tuple(link for link in topology.links if not ("leaf-p1" in link.id and "spine-1" in link.id))
    return Fabric(msgspec.structs.replace(topology, links=links))


def sprayed_loss(path: Way, second: int) -> bool:
    """A third of what crosses BROKEN out of pod 0."""
    return path[0].startswith("host-p0") and unlucky(path, second, 3 if path[1].startswith("host-p1") else 6)


@pytest.mark.parametrize("changes", [{}, {"error": "timeout"}], ids=["round trips", "each way"])
def test_where_packets_are_sprayed_paths_without_a_route_name_the_link(changes: dict[str, Any]) -> None:
    rows, fabric = probed(sprayed_loss, fate={**LOST, **changes}), partly_cabled()
    (failure,) = verdict(*rows, fabric=fabric, spraying=True).failures
    assert (failure.component.kind, failure.component.name) == ("link", BROKEN)
    assert failure.confidence > 0.5
    assert failure.evidence[0].startswith("16 of ")
    assert all(blind.confidence < failure.confidence for blind in verdict(*rows, fabric=fabric).failures)


def test_links_that_all_sprayed_paths_cross_alike_share_the_confidence() -> None:
    lost = probed(lambda path, second: path[0].startswith("host-p0") and unlucky(path, second, 4))
    (failure,) = verdict(*lost, spraying=True).failures
    beside = failure.alternatives[0]
    assert {failure.component.name, beside.name} == UPLINKS
    assert failure.confidence == beside.score > 0.3
    assert any(line.startswith(f"next: link {beside.name} ") for line in failure.evidence)


def test_a_route_that_is_known_holds_where_packets_are_sprayed_too() -> None:
    rows = [*TRACES, *probed(lossy)]
    assert verdict(*rows, spraying=True) == verdict(*rows)
