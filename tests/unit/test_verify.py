"""What the network is, held against what it is meant to be: every difference, and what is not told."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.contracts import rnic_counters as rnics
from exporter.contracts import switch_counters as switches
from exporter.contracts.catalogue import RNIC_MTU
from exporter.contracts.codec import decode, encode
from exporter.contracts.intent import Intent, check_fits, read_intent
from exporter.contracts.metric import Metric
from exporter.contracts.schemas import schema
from exporter.contracts.topology import Link, Port, Switch, Topology, read_topology
from exporter.contracts.verification import Verification
from skeleton_service.cli import main
from skeleton_service.verification.readings import SETTINGS, Reading, Readings, Subject
from skeleton_service.verification.text import verification_lines
from skeleton_service.verification.verify import verify
from tests.unit import settled
from tests.unit.settled import NOW, changed, without

EXAMPLES = Path(__file__).parents[2] / "examples"
TOPOLOGY = read_topology(EXAMPLES / "topology.yaml")
INTENT = read_intent(EXAMPLES / "intent.yaml")
SETTLED = settled.settings(TOPOLOGY)
LEAF, HOST = "leaf-p0-r0", "host-p0-0"
UPLINK, DOWNLINK = "Ethernet0", "Ethernet8"
NO_WORD = Intent(version=1)


def verified(
    readings: Sequence[Reading], intent: Intent = INTENT, topology: Topology = TOPOLOGY, *, drained: bool = False
) -> Verification:
    result = verify(intent, topology, Readings(readings), drained=drained)
    assert decode(encode(result), Verification, "itself") == result
    jsonschema.Draft202012Validator(schema("verification")).validate(json.loads(encode(result)))
    return result


def lines(readings: Sequence[Reading], intent: Intent = INTENT, topology: Topology = TOPOLOGY) -> list[str]:
    return list(verification_lines(verified(readings, intent, topology)))


def meant(text: str) -> Intent:
    return decode(f"version: 1\n{text}".encode(), Intent, "intent")


def test_a_fabric_as_it_is_meant_to_be_agrees_and_is_told_whole() -> None:
    result = verified(SETTLED)
    assert result.agrees
    assert (result.findings, result.groups, result.not_told) == ((), (), ())
    assert result.compared == {
        "mtu": 16,  # 12 ports, 4 RNICs
        "speed": 12,
        "lossless": 16 * 8,
        "pfc": 12,
        "ecn": 12 * 2 + 4 * 2,
        "ecn_threshold": 12 * 2,
        "dscp": 2 * (4 + 4),
        "bgp": 4 * 2,
        "rdma_mtu": 4,
        "trust": 4,
        "mtu_ends": 8,
    }
    assert lines(SETTLED)[-1].startswith("all that is told agrees; compared: 16 MTUs, 12 speeds, ")


@pytest.mark.parametrize(
    ("metric", "node", "port", "subject", "value", "line"),
    [
        (switches.PORT_MTU, LEAF, UPLINK, None, 1500, "MTU 1500, meant 9216"),
        (switches.PORT_MTU, "spine-0", UPLINK, None, 9100, "MTU 9100, meant 9216 or 9214"),
        (switches.PORT_SPEED, LEAF, UPLINK, None, 25e9, "speed 200000 Mb/s, meant 400000 Mb/s"),
        (switches.PORT_SPEED, LEAF, DOWNLINK, None, 12.5e9, "speed 100000 Mb/s, meant 200000 or 400000 Mb/s"),
        (switches.PORT_PFC_MODE, LEAF, UPLINK, None, 0, "PFC off, meant on"),
        (switches.PRIORITY_LOSSLESS, LEAF, UPLINK, 3, 0, "priority 3 lossy, meant lossless"),
        (switches.PRIORITY_LOSSLESS, LEAF, UPLINK, 4, 1, "priority 4 lossless, meant lossy"),
        (switches.QUEUE_ECN_ENABLED, LEAF, UPLINK, 3, 0, "ECN of queue 3 off, meant on"),
        (switches.QUEUE_ECN_ENABLED, LEAF, UPLINK, 0, 1, "ECN of queue 0 on, meant off"),
        (
            switches.QUEUE_ECN_LOW,
            LEAF,
            UPLINK,
            3,
            9e5,
            "ECN of queue 3 from 900000 bytes, meant 100000 to 250000 bytes",
        ),
        (
            switches.QUEUE_ECN_HIGH,
            LEAF,
            UPLINK,
            3,
            9e6,
            "ECN of queue 3 in full from 9000000 bytes, meant 1000000 to 2000000 bytes",
        ),
        (RNIC_MTU, HOST, "mlx5_0", None, 1500, "MTU 1500, meant at least 9000"),
        (rnics.ACTIVE_MTU, HOST, "mlx5_0", None, 1024, "RDMA MTU 1024, meant 4096"),
        (rnics.PFC_ENABLED, HOST, "mlx5_0", 3, 0, "PFC of priority 3 off, meant on"),
        (rnics.TRUSTS_DSCP, HOST, "mlx5_0", None, 0, "trust pcp, meant dscp"),
        (rnics.ECN_NP_ENABLED, HOST, "mlx5_0", 3, 0, "ECN notification point of priority 3 off, meant on"),
        (rnics.ECN_RP_ENABLED, HOST, "mlx5_0", 3, 0, "ECN reaction point of priority 3 off, meant on"),
        (rnics.DSCP_PRIORITY, HOST, "mlx5_0", 26, 0, "DSCP 26 in priority 0, meant 3"),
        (rnics.DSCP_PRIORITY, HOST, "mlx5_0", 48, 0, "DSCP 48 in priority 0, meant 6, where CNPs travel"),
    ],
)
def test_each_difference_names_the_port_the_setting_and_the_cable(
    metric: Metric, node: str, port: str, subject: Subject, value: float, line: str
) -> None:
    readings = changed(SETTLED, metric, value, node=node, ports=[port], subject=subject)
    (finding,) = verified(readings).findings
    assert (finding.component.kind, finding.component.name) == ("config", f"{node}:{port}")
    assert (finding.metric, finding.value, finding.time) == (metric.name, value, NOW)
    assert finding.link
    assert f"{node}:{port}" in finding.link
    first, *_, verdict = lines(readings)
    assert first == f"{node}:{port}: {line} (link {finding.link})"
    assert verdict.startswith("1 difference; compared: ")


def test_the_map_of_a_switch_and_a_session_are_named_as_such() -> None:
    readings = changed(SETTLED, switches.SWITCH_DSCP_PRIORITY, 0, node=LEAF, subject=26)
    readings = changed(readings, switches.BGP_HOLD, 180, node=LEAF)
    readings = changed(readings, switches.BGP_KEEPALIVE, 60, node=LEAF)
    assert lines(readings)[:3] == [
        f"{LEAF}: DSCP 26 in priority 0, meant 3",
        f"BGP session {LEAF}:10.9.0.1: hold time 180 s, meant 9 s",
        f"BGP session {LEAF}:10.9.0.1: keepalive interval 60 s, meant 3 s",
    ]


def cards(ports: int = 8) -> Topology:
    """A leaf with two line cards of breakout groups of two, each port to a spine."""

    def parts(place: int) -> Port:
        return Port(name=f"Ethernet{place}", linecard=f"lc{place // (ports // 2) + 1}", breakout_group=f"{place // 2}")

    leaf = Switch(name="leaf", tier="leaf", ports=tuple(parts(n) for n in range(ports)))
    spines = tuple(Switch(name=f"spine-{n}", tier="spine", ports=(Port(name="Ethernet0"),)) for n in range(ports))
    links = tuple(Link(a=f"leaf:Ethernet{n}", b=f"spine-{n}:Ethernet0") for n in range(ports))
    return Topology(version=1, hosts=(), switches=(leaf, *spines), links=links)


CARDS = cards()
CARDS_TOLD = settled.settings(CARDS)
MTU = meant("mtu: {tiers: {leaf: 9216, spine: 9216}}\nlossless_priorities: [3]")


def swapped(places: Sequence[int], mtu: float = 1500) -> list[Reading]:
    return changed(CARDS_TOLD, switches.PORT_MTU, mtu, node="leaf", ports=[f"Ethernet{n}" for n in places])


def test_a_line_card_that_came_back_with_defaults_is_one_line_with_its_ports_below() -> None:
    assert lines(swapped(range(4)), MTU, CARDS)[:5] == [
        "line card lc1 of leaf: 4 ports with MTU 1500, meant 9216",
        *(f"  leaf:Ethernet{n} (link leaf:Ethernet{n} -- spine-{n}:Ethernet0)" for n in range(4)),
    ]
    (group,) = verified(swapped(range(4)), MTU, CARDS).groups
    assert (group.component.kind, group.component.name) == ("linecard", "leaf:lc1")
    assert (group.ports, group.of, group.findings) == (4, 4, (0, 1, 2, 3))


@pytest.mark.parametrize(
    ("places", "headlines"),
    [
        (range(8), ["switch leaf: 8 ports with MTU 1500, meant 9216"]),
        ([4, 5], ["breakout group 2 of leaf: 2 ports with MTU 1500, meant 9216"]),
        ([0, 1, 2], ["breakout group 0 of leaf: 2 ports with MTU 1500, meant 9216"]),
        ([*range(4), 6, 7], [f"line card lc1 of leaf: 4 ports{(rest := ' with MTU 1500, meant 9216')}",
                             f"breakout group 3 of leaf: 2 ports{rest}"]),
        ([0], []),
        ([0, 4], []),
    ],
)  # fmt: skip
def test_the_component_named_is_the_largest_that_is_wrong_as_a_whole(
    places: Sequence[int], headlines: list[str]
) -> None:
    result = lines(swapped(places), MTU, CARDS)
    assert [line for line in result if " ports with " in line] == headlines
    named = sum(line.strip().startswith("leaf:Ethernet") for line in result)
    assert named == len(places)  # every port is named once


def test_most_of_a_line_card_is_still_named_by_the_line_card() -> None:
    topology = cards(32)
    told = settled.settings(topology)
    odd = [f"Ethernet{n}" for n in range(1, 16, 2)]
    even = [f"Ethernet{n}" for n in range(0, 16, 2)]
    readings = changed(told, switches.PORT_MTU, 1500, node="leaf", ports=[*even, odd[0]])
    headlines = [line for line in lines(readings, MTU, topology) if " with MTU" in line]
    # Its one whole breakout group is named by itself, the rest by the card: none is left for a reader to add up.
    assert headlines == ["breakout group 0 of leaf: 2 ports with MTU 1500, meant 9216"]
    flat = msgspec.structs.replace(
        topology,
        switches=tuple(
            msgspec.structs.replace(
                each, ports=tuple(msgspec.structs.replace(port, breakout_group=None) for port in each.ports)
            )
            for each in topology.switches
        ),
    )
    assert lines(readings, MTU, flat)[0] == "line card lc1 of leaf: 9 of 16 ports with MTU 1500, meant 9216"


def test_all_that_a_line_card_lost_stands_together() -> None:
    ports = [f"Ethernet{n}" for n in range(4)]
    readings = changed(swapped(range(4)), switches.PRIORITY_LOSSLESS, 0, node="leaf", ports=ports, subject=3)
    assert [line for line in lines(readings, MTU, CARDS) if not line.startswith(" ")][:2] == [
        "line card lc1 of leaf: 4 ports with MTU 1500, meant 9216",
        "line card lc1 of leaf: 4 ports with priority 3 lossy, meant lossless",
    ]


def test_the_ports_of_a_card_that_are_meant_to_differ_are_still_one_line() -> None:
    intent = meant(
        "mtu: {tiers: {leaf: 9216}}\noverrides: [{switches: [leaf], ports: [Ethernet0, Ethernet1], mtu: 9100}]"
    )
    readings = changed(swapped(range(2, 4)), switches.PORT_MTU, 1500, node="leaf", ports=["Ethernet0", "Ethernet1"])
    assert lines(readings, intent, CARDS)[0] == "line card lc1 of leaf: 4 ports with MTU 1500, meant 9100 or 9216"


def test_the_rnics_of_a_host_are_one_line() -> None:
    (host, *rest) = TOPOLOGY.hosts
    two = msgspec.structs.replace(
        host, rnics=(*host.rnics, msgspec.structs.replace(host.rnics[0], name="mlx5_1", ip="10.8.0.1"))
    )
    topology = msgspec.structs.replace(TOPOLOGY, hosts=(two, *rest))
    readings = changed(settled.settings(topology), rnics.TRUSTS_DSCP, 0, node=HOST)
    assert lines(readings, INTENT, topology)[0] == f"host {HOST}: 2 RNICs with trust pcp, meant dscp"


def test_the_ends_of_a_link_need_one_mtu_even_where_nothing_is_meant() -> None:
    readings = changed(SETTLED, switches.PORT_MTU, 1500, node=LEAF, ports=[UPLINK])
    (finding,) = verified(readings, NO_WORD).findings
    link = f"{LEAF}:{UPLINK} -- spine-0:Ethernet0"
    assert (finding.component.kind, finding.component.name, finding.item) == ("link", link, "mtu_ends")
    assert lines(readings, NO_WORD)[0] == (
        f"link {link}: MTU 1500 at {LEAF}:{UPLINK}, 9216 at spine-0:Ethernet0, meant the same at both ends"
    )
    assert lines(swapped(range(4)), NO_WORD, CARDS)[0] == (
        "line card lc1 of leaf: 4 ports with MTU 1500, meant 9216 as at the other end"
    )


def test_a_port_before_an_rnic_may_count_more_headers_but_not_take_less() -> None:
    assert verified(SETTLED, NO_WORD).agrees  # 9216 before 9000
    (finding,) = verified(changed(SETTLED, RNIC_MTU, 9600, node=HOST), NO_WORD).findings
    assert finding.found == f"MTU 9216 at {LEAF}:{DOWNLINK}, 9600 at {HOST}:mlx5_0"
    assert finding.meant == "no less at the switch than at the RNIC"


def test_ends_that_the_intent_names_exactly_may_differ_and_bounds_do_not_name() -> None:
    readings = changed(SETTLED, switches.PORT_MTU, 9214, node="spine-0")
    assert verified(readings, meant("mtu: {tiers: {leaf: 9216, spine: [9216, 9214]}}")).agrees
    loose = verified(readings, meant("mtu: {tiers: {leaf: {at_least: 9000}, spine: {at_least: 9000}}}"))
    assert [finding.item for finding in loose.findings] == ["mtu_ends", "mtu_ends"]


def test_what_differs_from_the_intent_is_not_told_again_as_a_link() -> None:
    readings = changed(SETTLED, switches.PORT_MTU, 1500, node=LEAF, ports=[UPLINK])
    assert [finding.item for finding in verified(readings).findings] == ["mtu"]


def test_overrides_select_by_tier_side_switch_and_host_and_the_last_one_holds() -> None:
    intent = meant(
        "mtu: {tiers: {leaf: 9216}, rnics: 9000}\n"
        "overrides:\n"
        "  - {tiers: [leaf], facing: host, mtu: 9100}\n"
        f"  - {{switches: [{LEAF}], ports: [{DOWNLINK}], mtu: 9050}}\n"
        f"  - {{hosts: [{HOST}], mtu: 4200}}\n"
    )
    found = {each.component.name: each.meant for each in verified(SETTLED, intent).findings}
    assert found == {
        f"{LEAF}:Ethernet8": "9050",
        f"{LEAF}:Ethernet12": "9100",
        "leaf-p1-r0:Ethernet8": "9100",
        "leaf-p1-r0:Ethernet12": "9100",
        f"{HOST}:mlx5_0": "4200",
    }


def test_a_queue_may_be_meant_otherwise_in_one_tier() -> None:
    intent = meant("ecn: {queues: [{queue: 3}, {queue: 3, enabled: false, tiers: [spine]}]}")
    found = verified(SETTLED, intent).findings
    assert {each.component.name.partition(":")[0] for each in found} == {"spine-0", "spine-1"}


def test_no_lossless_priority_at_all_can_be_meant() -> None:
    found = {each.found for each in verified(SETTLED, meant("lossless_priorities: []")).findings}
    assert found == {"priority 3 lossless", "PFC on", "PFC of priority 3 on"}


# ---- what is not told


def test_what_is_not_told_is_blind_not_healthy_and_no_difference() -> None:
    readings = without(SETTLED, switches.QUEUE_ECN_ENABLED, node=LEAF)
    readings = without(readings, switches.PRIORITY_LOSSLESS, switches.BGP_HOLD, switches.SWITCH_DSCP_PRIORITY)
    readings = without(readings, rnics.TRUSTS_DSCP, rnics.DSCP_PRIORITY, node=HOST)
    result = verified(readings)
    assert result.agrees
    assert {(each.subject, each.node) for each in result.not_told if each.item == "ecn"} == {
        ("ECN of queue 0", LEAF),
        ("ECN of queue 3", LEAF),
    }
    told = [line for line in lines(readings) if line.startswith("not told: ")]
    every = f"{LEAF}, leaf-p1-r0, spine-0, spine-1"
    assert f"not told: lossless priorities: {every}" in told
    assert f"not told: hold time: {every}" in told
    assert f"not told: priorities of DSCPs: {HOST}, {every}" in told
    assert f"not told: trust: {HOST}" in told


def test_a_few_ports_that_do_not_tell_are_named() -> None:
    readings = [
        each for each in SETTLED if (each.metric, each.node, each.port) != (switches.PORT_MTU.name, LEAF, UPLINK)
    ]
    (blind,) = verified(readings).not_told
    assert (blind.ports, blind.of) == ((UPLINK,), 4)
    assert f"not told: MTU: {LEAF} {UPLINK} (1 of 4)" in lines(readings)


def test_one_priority_that_is_to_be_lossless_and_is_not_told_is_blind() -> None:
    readings = [each for each in SETTLED if not (each.metric == switches.PRIORITY_LOSSLESS.name and each.subject == 3)]
    assert {each.subject for each in verified(readings).not_told} == {"priority 3"}


def test_a_switch_that_did_not_answer_is_blind_whatever_it_told_before() -> None:
    readings = changed(SETTLED, switches.SWITCH_REACHABLE, 0, node=LEAF)
    readings = changed(readings, switches.PORT_MTU, 1500, node=LEAF)
    result = verified(readings)
    assert result.agrees
    assert {each.reason for each in result.not_told} == {"did not answer its last poll"}
    assert {each.node for each in result.not_told} == {LEAF}
    assert f"not told: anything: {LEAF} (did not answer its last poll)" in lines(readings)


def test_what_was_read_before_a_moment_does_not_count() -> None:
    old = [replace(each, time=NOW - 600) if each.node == LEAF else each for each in SETTLED]
    result = verify(INTENT, TOPOLOGY, Readings(old, since=NOW - 60))
    assert {each.node for each in result.not_told} == {LEAF}
    assert {each.reason for each in result.not_told} == {"last read 2025-10-09 08:43:20 UTC"}
    assert verify(INTENT, TOPOLOGY, Readings([*old, *SETTLED], since=NOW - 60)).not_told == ()


def test_of_several_readings_the_last_counts_in_any_order() -> None:
    late = replace(SETTLED[0], value=1500.0, time=NOW + 1)
    assert (late.metric, late.node) == (switches.PORT_MTU.name, LEAF)
    for readings in ([late, *SETTLED], [*SETTLED, late]):
        assert len(verified(readings).findings) == 1


# ---- what is skipped


def test_drained_nodes_and_ports_that_are_shut_are_skipped_and_counted() -> None:
    readings = changed(SETTLED, switches.PORT_MTU, 1500, node=LEAF, ports=[UPLINK])
    readings = changed(readings, switches.PORT_ENABLED, 0, node=LEAF, ports=[UPLINK])
    readings = changed(readings, switches.PORT_MTU, 1500, node="spine-1")
    spine = msgspec.structs.replace(TOPOLOGY.switches[3], state="drained")
    topology = msgspec.structs.replace(TOPOLOGY, switches=(*TOPOLOGY.switches[:3], spine))
    result = verified(readings, INTENT, topology)
    assert result.agrees
    assert (result.skipped.nodes, result.skipped.ports) == (("spine-1",), (f"{LEAF}:{UPLINK}",))
    assert "not compared: drained: 1: spine-1" in lines(readings, INTENT, topology)
    assert f"not compared: administratively down: 1: {LEAF}:{UPLINK}" in lines(readings, INTENT, topology)
    before_service = verified(readings, INTENT, topology, drained=True)
    assert {each.component.name for each in before_service.findings} == {
        f"{LEAF}:{UPLINK}",
        "spine-1:Ethernet0",
        "spine-1:Ethernet4",
    }


def test_sessions_that_are_down_have_agreed_on_nothing() -> None:
    readings = changed(SETTLED, switches.BGP_ESTABLISHED, 0, node=LEAF)
    readings = changed(readings, switches.BGP_HOLD, 0, node=LEAF)
    result = verified(readings)
    assert result.agrees
    assert result.skipped.sessions == (f"{LEAF}:10.9.0.1",)


def test_a_session_names_the_cable_where_the_topology_knows_the_peer() -> None:
    readings = [replace(each, subject="spine-0:Ethernet0") if each.subject == "10.9.0.1" else each for each in SETTLED]
    (finding,) = verified(changed(readings, switches.BGP_HOLD, 180, node=LEAF)).findings
    assert finding.link == f"{LEAF}:{UPLINK} -- spine-0:Ethernet0"


def test_ports_that_the_topology_does_not_have_are_counted() -> None:
    result = verified([*SETTLED, replace(SETTLED[0], port="Management0", value=1500.0)])
    assert result.agrees
    assert result.skipped.unknown == 1


NAMES = st.sampled_from([LEAF, "spine-0", HOST, "elsewhere", ""])
PORTS = st.sampled_from([UPLINK, DOWNLINK, "mlx5_0", "x", "", None])


@given(
    st.lists(
        st.builds(
            Reading,
            metric=st.sampled_from([metric.name for metric in SETTINGS]),
            node=NAMES,
            port=PORTS,
            subject=st.one_of(st.none(), st.integers(0, 255), st.text(max_size=8)),
            value=st.floats(allow_nan=False, allow_infinity=False),
            time=st.floats(min_value=0, allow_nan=False, allow_infinity=False),
        ),
        max_size=40,
    ),
    st.one_of(st.just(0.0), st.floats(min_value=0, allow_nan=False, allow_infinity=False)),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_no_reading_makes_it_fail_and_every_difference_is_printed(
    readings: list[Reading], since: float, drained: bool, settled_too: bool
) -> None:
    told = [*SETTLED, *readings] if settled_too else readings
    result = verify(INTENT, TOPOLOGY, Readings(told, since), drained=drained)
    text = list(verification_lines(result))
    assert result.agrees is (not result.findings)
    assert all(line.isprintable() for line in text)
    grouped = [number for group in result.groups for number in group.findings]
    assert len(grouped) == len(set(grouped))
    assert sum(not line.startswith(("not ", "all ", "nothing ")) for line in text) - (not result.agrees) == (
        len(result.groups) + len(result.findings)
    )


# ---- the command


def command(
    tmp_path: Path, readings: Sequence[Reading], *more: str, intent: str | Path = EXAMPLES / "intent.yaml"
) -> int:
    samples = settled.write_samples(tmp_path / "samples.csv", readings)
    topology = str(EXAMPLES / "topology.yaml")
    options = ["--intent", str(intent), "--topology", topology, "--counters", str(samples)]
    return main(["verify", *options, *more])


def test_the_exit_code_tells_a_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path, SETTLED) == 0
    out = capsys.readouterr().out
    assert "not told: priorities of DSCPs: " in out  # samples have no column for them
    assert "all that is told agrees" in out
    assert command(tmp_path, SETTLED, "--strict") == 1
    capsys.readouterr()
    wrong = changed(SETTLED, switches.PORT_MTU, 1500, node=LEAF)
    assert command(tmp_path, wrong) == 1
    assert capsys.readouterr().out.startswith(f"switch {LEAF}: 4 ports with MTU 1500, meant 9216\n")
    assert command(tmp_path, SETTLED, "--strict", intent=without_dscp(tmp_path)) == 0


def without_dscp(tmp_path: Path) -> Path:
    path = tmp_path / "intent.json"
    path.write_bytes(encode(msgspec.structs.replace(INTENT, dscp_priorities=(), cnp_queue=None)))
    return path


def test_a_machine_reads_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path, changed(SETTLED, switches.PORT_MTU, 1500, node=LEAF), "--format", "json") == 1
    result = decode(capsys.readouterr().out.encode(), Verification, "stdout")
    assert [each.component.name for each in result.findings] == [f"{LEAF}:Ethernet{n}" for n in (0, 4, 8, 12)]
    assert result.groups[0].component.name == LEAF


def test_readings_from_before_a_swap_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readings = [replace(each, time=NOW + 60) if each.node != LEAF else each for each in SETTLED]
    since = ["--since", "2025-10-09T08:54:00Z"]
    assert command(tmp_path, readings, *since, intent=without_dscp(tmp_path)) == 0
    assert f"not told: anything: {LEAF} (last read 2025-10-09 08:53:20 UTC)\n" in capsys.readouterr().out
    assert command(tmp_path, readings, *since, "--strict", intent=without_dscp(tmp_path)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("mtu: 9216", "field 'version' is missing (add version: 1)"),
        ("version: 2", "field 'version' is 2, not 1 (this release reads version 1 only)"),
        ("version: 1\nmtu: 9216", "field 'mtu': Expected `object`, got `int`"),
        ("version: 1\nmtu: {tiers: {leaf: 0}}", "field 'mtu.tiers[...]': Expected `int` >= 1"),
        (
            "version: 1\nmtu: {tiers: {laef: 9216}}",
            "field 'mtu.tiers': no switch of tier 'laef' in the topology (did you mean 'leaf'?)",
        ),
        ("version: 1\nmtu: {rnics: []}", "field 'mtu.rnics': is an empty list (give the values that will do)"),
        ("version: 1\nmtu: {rnics: {}}", "field 'mtu.rnics': bounds nothing (give at_least, at_most or both)"),
        (
            "version: 1\nmtu: {rdma: {at_least: 2, at_most: 1}}",
            "field 'mtu.rdma': at_least is more than at_most (exchange them)",
        ),
        (
            "version: 1\nspeed_mbps: {core: 1}",
            "field 'speed_mbps': no switch of tier 'core' in the topology (correct it, or leave it out)",
        ),
        ("version: 1\nlossless_priorities: [8]", "field 'lossless_priorities[0]': Expected `int` <= 7"),
        (
            "version: 1\ndscp_priorities: [{dscp: [26], priority: 3}, {dscp: [26], priority: 4}]",
            "field 'dscp_priorities[1]': DSCP 26 appears twice (keep one)",
        ),
        (
            "version: 1\ncnp_queue: 6\ndscp_priorities: [{dscp: [26], priority: 3}]",
            "field 'cnp_queue': no DSCP of dscp_priorities has priority 6 "
            "(add the DSCP of CNPs, or correct one of them)",
        ),
        ("version: 1\ntrust: cos", "field 'trust': 'cos' is none of dscp, pcp"),
        (
            "version: 1\necn: {queues: [{queue: 3}, {queue: 3}]}",
            "field 'ecn.queues[1]': queue 3 appears twice (keep one)",
        ),
        (
            "version: 1\necn: {queues: [{queue: 3, tiers: [leaf]}, {queue: 3, tiers: [leaf]}]}",
            "field 'ecn.queues[1]': queue 3 of tier 'leaf' appears twice (keep one)",
        ),
        (
            "version: 1\necn: {queues: [{queue: 3, tiers: [lea]}]}",
            "field 'ecn.queues[0].tiers': no switch of tier 'lea' in the topology (did you mean 'leaf'?)",
        ),
        (
            "version: 1\necn: {queues: [{queue: 3, enabled: false, low_bytes: 1}]}",
            "field 'ecn.queues[0]': thresholds of a queue that is not to mark (leave them out, or enabled: true)",
        ),
        (
            "version: 1\necn: {rnics: [{priority: 3}, {priority: 3}]}",
            "field 'ecn.rnics[1]': priority 3 appears twice (keep one)",
        ),
        ("version: 1\nbgp: {leaf: {hold_seconds: -9}}", "field 'bgp[...].hold_seconds': Expected `int` >= 0"),
        (
            "version: 1\nbgp: {tor: {}}",
            "field 'bgp': no switch of tier 'tor' in the topology (correct it, or leave it out)",
        ),
        (
            "version: 1\noverrides: [{mtu: 1}]",
            "field 'overrides[0]': selects every port (name tiers, switches, hosts, ports or facing)",
        ),
        ("version: 1\noverrides: [{tiers: [leaf]}]", "field 'overrides[0]': says nothing (add mtu or speed_mbps)"),
        (
            "version: 1\noverrides: [{hosts: [host-p0-0], facing: host, mtu: 1}]",
            "field 'overrides[0]': no port is on a host and on a switch (write two overrides)",
        ),
        (
            "version: 1\noverrides: [{hosts: [host-p0-0], speed_mbps: 1}]",
            "field 'overrides[0]': RNICs do not tell their speed (leave speed_mbps out)",
        ),
        (
            "version: 1\noverrides: [{switches: [leaf-p0-r1], mtu: 1}]",
            "field 'overrides[0].switches': no switch 'leaf-p0-r1' in the topology (did you mean 'leaf-p0-r0'?)",
        ),
        (
            "version: 1\noverrides: [{hosts: [nobody], mtu: 1}]",
            "field 'overrides[0].hosts': no host 'nobody' in the topology (correct it, or leave it out)",
        ),
        (
            "version: 1\noverrides: [{switches: [spine-0], ports: [Ethernet8], mtu: 1}]",
            "field 'overrides[0].ports': no port 'Ethernet8' in the topology (did you mean 'Ethernet4'?)",
        ),
    ],
)
def test_a_wrong_intent_is_exit_2_with_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "intent.yaml"
    path.write_text(text)
    assert command(tmp_path, SETTLED, intent=path) == 2
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", f"skeleton-service: {path}: {message}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loseless_priorities: [3]", "unknown key 'loseless_priorities' (did you mean 'lossless_priorities'?)"),
        ("mtu: {tier: {leaf: 1}}", "unknown key 'mtu.tier' (did you mean 'tiers'?)"),
        ("mtu: {tiers: {leaf: {at_lest: 1}}}", "unknown key 'mtu.tiers[...].at_lest' (did you mean 'at_least'?)"),
        ("overrides: [{tiers: [leaf], mtu: 9216, port: x}]", "unknown key 'overrides[0].port' (did you mean 'ports'?)"),
        ("ecn: {queues: [{queue: 3, enable: no}]}", "unknown key 'ecn.queues[0].enable' (did you mean 'enabled'?)"),
        ("ecn: {rnics: [{priority: 3, x: 1}]}", "unknown key 'ecn.rnics[0].x' (remove it)"),
        ("bgp: {leaf: {hold_second: 9}}", "unknown key 'bgp[...].hold_second' (did you mean 'hold_seconds'?)"),
        ("", "means nothing (give mtu, lossless_priorities, ...)"),
        ("mtu: {}", "means nothing (give mtu, lossless_priorities, ...)"),
        ("mtu:", "field 'mtu': is empty (leave it out)"),
        ("lossless_priorities: 3", "field 'lossless_priorities': Expected `array | null`, got `int` (write [3])"),
        ("overrides: [{tiers: leaf}]", "field 'overrides[0].tiers': Expected `array`, got `str` (write [leaf])"),
        ("trust: dcsp", "field 'trust': 'dcsp' is none of dscp, pcp (did you mean 'dscp'?)"),
        (
            "overrides: [{ports: ['leaf-p0-r0:Ethernet0'], mtu: 1}]",
            "field 'overrides[0].ports': no port 'leaf-p0-r0:Ethernet0' in the topology "
            "(write switches: [leaf-p0-r0], ports: [Ethernet0])",
        ),
        (
            "overrides: [{ports: ['host-p0-0:mlx5_0'], mtu: 1}]",
            "field 'overrides[0].ports': no port 'host-p0-0:mlx5_0' in the topology "
            "(write hosts: [host-p0-0], ports: [mlx5_0])",
        ),
    ],
)
def test_what_is_misspelt_or_meant_otherwise_is_exit_2_with_how_to_write_it(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown key would leave unchecked what it is about."""
    path = tmp_path / "intent.yaml"
    path.write_text(f"version: 1\n{text}\n")
    assert command(tmp_path, SETTLED, intent=path) == 2
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", f"skeleton-service: {path}: {message}\n")


def test_where_all_was_read_before_since_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for zone in ("Z", "", "+00:00"):
        assert command(tmp_path, SETTLED, "--since", f"2025-10-09T08:54:00{zone}") == 2
        assert capsys.readouterr().err.endswith(
            "samples.csv: all was read before --since, so nothing was compared "
            "(the last at 2025-10-09 08:53:20 UTC: wait for the next poll, or correct --since)\n"
        )
    assert command(tmp_path, SETTLED, "--since", "2025-10-09T09:54:00+01:00") == 2
    assert command(tmp_path, SETTLED, "--since", "2025-10-09T09:53:00+01:00") == 0
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    assert "UTC where it names no zone" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("readings", "more", "message"),
    [
        (
            [
                *(replace(SETTLED[0], node=name) for name in ("aaa", "aab", "zz-leaf-p0", "LEAF-P0-R0.example.net")),
                replace(SETTLED[0], metric=switches.SWITCH_REACHABLE.name, port=None, node="leaf-p0-r0x"),
            ],
            [],
            "tells no setting of any switch or host of {topology}, but of LEAF-P0-R0.example.net, zz-leaf-p0, aaa "
            "(names have to be those of the topology)",
        ),
        ([], [], "tells no setting of any switch or host of {topology} (names have to be those of the topology)"),
        (
            [replace(SETTLED[0], node="other")],
            [],
            "tells no setting of any switch or host of {topology}, but of other "
            "(names have to be those of the topology)",
        ),
        (
            SETTLED,
            ["--cluster", "c"],
            "--cluster and --prometheus-token-file are for --prometheus alone (leave them out)",
        ),
    ],
)
def test_samples_that_can_not_answer_are_exit_2(
    readings: list[Reading], more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path, readings, *more) == 2
    error = capsys.readouterr().err
    assert error.endswith(f": {message.format(topology=EXAMPLES / 'topology.yaml')}\n")
    assert error.count("\n") == 1


def test_where_nothing_could_be_compared_the_exit_code_is_not_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipeline that drained all it verifies, or whose switches all stopped answering, must not go on."""
    silent = [replace(each, value=0.0) for each in SETTLED if each.metric == switches.SWITCH_REACHABLE.name]
    assert command(tmp_path, silent) == 2
    output = capsys.readouterr()
    assert "not told: anything: leaf-p0-r0, leaf-p1-r0, spine-0, spine-1 (did not answer its last poll)" in output.out
    assert output.out.endswith("nothing could be compared\n")
    assert output.err.endswith(
        "tells nothing of what is meant, so nothing was compared (is all of it drained? --drained compares that, too)\n"
    )


def test_a_source_is_needed_and_only_one(capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--counters", "a", "--prometheus", "b"]):
        with pytest.raises(SystemExit, match="2"):
            main(["verify", "--intent", "i", "--topology", "t", *more])
    assert "--counters --prometheus is required" in capsys.readouterr().err


def test_the_example_fits_the_examples_topology_and_survives_json() -> None:
    check_fits(INTENT, TOPOLOGY, "examples")
    assert decode(encode(INTENT), Intent, "itself") == INTENT


# ---- Prometheus

PAGE = (
    settled.page(changed(SETTLED, switches.PORT_MTU, 1500, node=LEAF))
    + f'{switches.TABLE_TIME.name}{{switch="spine-0",table="interfaces"}} 1000\n'
    + f'{switches.PORT_MTU.name}{{switch="spine-0",switch_port="Ethernet9"}} NaN\n'
)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One that scrapes two exporters of two clusters: ``right`` is as it is meant, in ``wrong`` a leaf is not."""
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not on PATH (apt: prometheus)")
    pages = {"/wrong": PAGE, "/right": settled.page(SETTLED)}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(pages[self.path].encode())

        def log_message(self, *_: object) -> None:
            pass

    directory = tmp_path_factory.mktemp("prometheus")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        jobs = [
            {
                "job_name": name,
                "metrics_path": f"/{name}",
                "scrape_interval": "1s",
                "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"], "labels": {"cluster": name}}],
            }
            for name in ("right", "wrong")
        ]
        (directory / "config.yaml").write_text(json.dumps({"scrape_configs": jobs}))
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory / 'config.yaml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await_scrapes(process, address)
            yield f"http://{address}/"
        finally:
            process.terminate()
            process.wait()
            server.shutdown()


def _await_scrapes(process: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        assert process.poll() is None, "prometheus did not start"
        try:
            with urlopen(f"http://{address}/api/v1/query?query=count(sum_over_time(up[1m])>=2)", timeout=5) as answer:
                result = json.load(answer)["data"]["result"]
            if result and result[0]["value"][1] == "2":
                return
        except (URLError, OSError):
            pass
        assert time.monotonic() < deadline, "prometheus scraped nothing"
        time.sleep(0.1)


def ask(url: str, *more: str) -> int:
    options = ["--intent", str(EXAMPLES / "intent.yaml"), "--topology", str(EXAMPLES / "topology.yaml")]
    return main(["verify", *options, "--prometheus", url, *more])


def test_a_prometheus_tells_all_of_it(prometheus: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(prometheus, "--cluster", "right", "--strict") == 0
    assert capsys.readouterr().out.startswith("all that is told agrees; compared: 16 MTUs")
    assert ask(f"prometheus:{prometheus}", "--cluster", "wrong", "--strict") == 1
    assert capsys.readouterr().out.splitlines()[0] == f"switch {LEAF}: 4 ports with MTU 1500, meant 9216"


def test_what_prometheus_holds_of_an_old_poll_is_not_told_since(
    prometheus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(prometheus, "--cluster", "wrong", "--since", str(time.time() - 60)) == 1
    out = capsys.readouterr().out
    assert "not told: anything: spine-0 (last read 1970-01-01 00:16:40 UTC)" in out


def test_several_clusters_and_none_of_a_name_are_one_line(prometheus: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(prometheus) == 2
    assert "holds several clusters: right, wrong (choose one with --cluster)" in capsys.readouterr().err
    assert ask(prometheus, "--cluster", "none") == 2
    assert "tells no setting of cluster 'none'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (401, b"no", "answers 401: Unauthorized (give --prometheus-token-file)"),
        (422, b'{"status":"error","error":"too many"}', "answers 422: too many (ask a Prometheus that may load more"),
        (200, b"<html>", "does not answer as Prometheus does (give its address up to /api)"),
        (200, b'{"status":"success","data":{"result":[]}}', "tells no setting of any switch or host of "),
    ],
)
def test_a_bad_answer_is_exit_2_with_one_line(
    status: int, body: bytes, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert ask(url) == 2
        server.shutdown()
    error = capsys.readouterr().err
    assert error.startswith(f"skeleton-service: {url}: {problem}")
    assert error.count("\n") == 1


def test_a_prometheus_that_is_not_there_and_an_address_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    assert ask(f"http://127.0.0.1:{port}") == 2
    assert "cannot be fetched" in capsys.readouterr().err
    assert ask("host:9090") == 2
    assert "host:9090: is no address of a Prometheus (write http://host:9090)" in capsys.readouterr().err
