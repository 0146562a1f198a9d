"""The failure simulator: its truth is what its records show, its files are the project's own, its draws repeat."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporter.contracts.codec import read
from exporter.contracts.counters import FCS_ERRORS
from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.fabric import Fabric
from exporter.contracts.overlay import OverlayState
from exporter.contracts.skeleton import check_skeleton, read_skeleton
from exporter.contracts.topology import check_topology, read_topology
from lab.simulator.failures import CLASSES, Case, simulate
from lab.simulator.failures.__main__ import main
from skeleton_service.reading.records import KINDS, read_records

SEEDS = range(2)
REAL = sorted(name for name, each in CLASSES.items() if not each.distractor)
DEADLY = {"unreachable", "loss", "flap", "mtu", "path_change"}
QUEUEING = {"bgp-flap-incast", "pfc-storm", "pfc-deadlock"}  # what is not lost there is late
LOSSY = [*QUEUEING, "cnp-surge-vlan-drops", *(name for name in REAL if CLASSES[name].symptom in DEADLY - {"flap"})]
LATE = [name for name in REAL if CLASSES[name].symptom == "latency" or CLASSES[name].row == 19]


@cache
def case(name: str, seed: int) -> Case:
    return simulate(name, seed)


@pytest.mark.parametrize("name", sorted(CLASSES))
@pytest.mark.parametrize("seed", SEEDS)
def test_every_class_builds_valid_contracts(name: str, seed: int) -> None:
    drawn = case(name, seed)
    check_topology(drawn.topology, name)
    check_skeleton(drawn.skeleton, name)
    assert dict(zip(drawn.probes.column_names, drawn.probes.schema.types, strict=True)) == KINDS
    assert bool(drawn.truth.failures) is not CLASSES[name].distractor
    symptoms = {failure.symptom for failure in drawn.truth.failures}
    # What loses everything is not called loss.
    assert CLASSES[name].distractor or CLASSES[name].symptom in symptoms | (
        {"loss"} if "unreachable" in symptoms else set()
    )
    times = drawn.probes["ping_time"].to_numpy() / 1e9
    assert drawn.begin <= times[0] < drawn.begin + 5
    assert drawn.end - 5 < times[-1] < drawn.end
    assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_same_seed_same_case_and_counters_do_not_change_the_probes(name: str) -> None:
    again = simulate(name, 1)
    assert again.probes.equals(case(name, 1).probes)
    assert again.truth == case(name, 1).truth
    if CLASSES[name].counters is None:
        with_counters, without = (simulate(name, 1, counters=each) for each in (True, False))
        assert with_counters.counters is not None
        assert without.counters is None
        assert with_counters.probes.equals(without.probes)
    assert not simulate(name, 2).probes.equals(again.probes)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("seed", SEEDS)
def test_names_of_the_truth_are_in_the_topology(name: str, seed: int) -> None:
    drawn = case(name, seed)
    fabric = Fabric(drawn.topology)
    ports = {f"{switch.name}:{port.name}" for switch in drawn.topology.switches for port in switch.ports}
    cards = {
        f"{s.name}:{card}" for s in drawn.topology.switches for p in s.ports for card in (p.linecard, p.breakout_group)
    }
    hosts = {host.name for host in drawn.topology.hosts}
    known = {
        "link": {link.id for link in drawn.topology.links},
        "port": ports | set(fabric.interfaces),
        "switch": set(fabric.switches),
        "rnic": set(fabric.interfaces),
        "host": hosts,
        "agent": hosts,
        "vswitch": hosts,
        "container": {end.container for end in drawn.skeleton.endpoints},
        "linecard": cards,
        "breakout_group": cards,
        "provider": set(fabric.switches),
    }
    for failure in drawn.truth.failures:
        for named in (failure.component, *failure.alternatives):
            if named.kind in known:
                assert named.name in known[named.kind], named
        scores = [alternative.score for alternative in failure.alternatives]
        assert set(scores) <= {0.5, 1.0}
        assert scores.count(0.5) <= 2


def pings(drawn: Case) -> dict[str, np.ndarray]:
    """Columns of everything that is a ping: when, whose, and what became of it."""
    others = pc.is_in(drawn.probes["task_type"], value_set=pa.array(["TRACEROUTE", "DNS"]))
    table = drawn.probes.filter(pc.invert(others))
    names = ("src_node_sn", "src_rnic", "dst_node_sn", "dst_rnic", "dial", "latency", "task_type")
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in names}
    return columns | {"time": table["ping_time"].to_numpy() / 1e9}


def owners(drawn: Case) -> dict[str, str]:
    """{endpoint: host:rnic}; what the job does not own is its host's."""
    others = {
        f"{host.name}/{card.name}": f"{host.name}:{card.name}" for host in drawn.topology.hosts for card in host.rnics
    }
    return others | {end.id: f"{end.host}:{end.rnic}" for end in drawn.skeleton.endpoints}


@pytest.mark.parametrize("name", [*LOSSY, "switch-port-flapping", "rnic-port-flapping"])
@pytest.mark.parametrize("seed", SEEDS)
def test_lost_probes_are_those_of_the_affected_pairs(name: str, seed: int) -> None:
    drawn = case(name, seed)
    columns, owner = pings(drawn), owners(drawn)
    sources = columns["src_node_sn"] + ":" + columns["src_rnic"]
    destinations = columns["dst_node_sn"] + ":" + columns["dst_rnic"]
    dying = [failure for failure in drawn.truth.failures if failure.symptom in DEADLY | {"congestion"}]
    said = {(owner[a], owner[b]) for failure in dying for a, b in failure.paths}
    broken = (columns["time"] >= drawn.injected) & (columns["time"] < (drawn.repaired or drawn.end))
    lost = columns["dial"] == "fail"
    lossy = set(zip(sources[lost & broken], destinations[lost & broken], strict=True))
    assert said <= lossy or name in QUEUEING
    ours = np.array([pair in said for pair in zip(sources, destinations, strict=True)])
    stray = lost & ~(broken & ours)
    assert stray.sum() <= 5 + 3e-4 * lost.size  # background loss is at most 1e-4
    for failure in drawn.truth.failures:
        assert drawn.injected <= failure.start <= failure.detected_at < drawn.end


@pytest.mark.parametrize("name", [name for name, each in CLASSES.items() if each.distractor])
@pytest.mark.parametrize("seed", range(4))
def test_a_distractor_loses_no_more_than_any_fabric(name: str, seed: int) -> None:
    lost = pings(simulate(name, seed))["dial"] == "fail"
    assert lost.sum() <= 5 + 3e-4 * lost.size


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("seed", SEEDS)
def test_late_probes_are_those_of_the_affected_pairs(name: str, seed: int) -> None:
    """The worst rise of a pair's upper decile is a pair of the truth; what is not named hardly rises."""
    drawn = case(name, seed)
    columns, owner = pings(drawn), owners(drawn)
    said = {(owner[a], owner[b]) for failure in drawn.truth.failures for a, b in failure.paths}
    alive = columns["dial"] == "success"
    broken = (columns["time"] >= drawn.injected) & (columns["time"] < (drawn.repaired or drawn.end))
    before = columns["time"] < drawn.injected
    keys = np.array(["|".join(each) for each in zip(
        columns["src_node_sn"] + ":" + columns["src_rnic"], columns["dst_node_sn"] + ":" + columns["dst_rnic"],
        strict=True)])  # fmt: skip
    rises: dict[bool, list[float]] = {True: [], False: []}
    for key in np.unique(keys):
        own = (keys == key) & alive & (columns["task_type"] != "MTU")
        if (own & broken).sum() >= 10:
            means = [np.mean(np.minimum(columns["latency"][own & part], 5000)) for part in (before, broken)]
            rises[tuple(key.split("|")) in said].append(float(means[1] - means[0]))
    assert max(rises[True]) > 5
    assert np.median(rises[True]) > np.median(rises[False] or [0.0]) + 2


@pytest.mark.parametrize("name", ["dns-overload", "overlay-loop", "pfc-deadlock", "transit-path-change"])
def test_files_read_back(name: str, tmp_path: Path) -> None:
    drawn = simulate(name, 0, counters=True)
    drawn.write(tmp_path)
    assert read_topology(tmp_path / "topology.json") == drawn.topology
    assert read_skeleton(tmp_path / "skeleton.json") == drawn.skeleton
    assert read(tmp_path / "truth.json", Diagnosis) == drawn.truth
    files = sorted(tmp_path.glob("probes-*.csv.gz"))
    assert [file.name for file in files if "dns" in file.name] == ["probes-dns.csv.gz"] * (name == "dns-overload")
    order = [
        ("ping_time", "ascending"),
        ("src_real_ip", "ascending"),
        ("dst_ip", "ascending"),
        ("src_port", "ascending"),
    ]
    assert read_records(files).sort_by(order).equals(drawn.probes.sort_by(order))
    assert (tmp_path / "counters.csv.gz").exists() is (drawn.counters is not None)
    if drawn.overlay is not None:
        assert read(tmp_path / "overlay.json", OverlayState) == drawn.overlay
        assert read(tmp_path / "overlay-before.json", OverlayState) == drawn.overlay_before


@pytest.mark.parametrize("seed", range(6))
def test_traces_before_the_fault_are_complete_and_name_links(seed: int) -> None:
    drawn = case("crc-error", seed)
    fabric = Fabric(drawn.topology)
    traces = drawn.probes.filter(pc.equal(drawn.probes["task_type"], "TRACEROUTE"))
    early = [row for row in traces.to_pylist() if row["ping_time"] < drawn.injected * 1e9]
    assert early
    for row in early[:200]:
        ends = (f"{row['src_node_sn']}:{row['src_rnic']}", f"{row['dst_node_sn']}:{row['dst_rnic']}")
        links = fabric.links_of_route(ends[0], json.loads(row["route"]), ends[1])
        assert row["dial"] == "success"
        assert links is not None
        assert set(links) <= fabric.possible_links(*ends)


def test_at_the_papers_rate_an_endpoint_probes_one_path_a_second() -> None:
    drawn = simulate("clean", 3, paper_rate=True)
    columns = pings(drawn)
    sources = columns["src_node_sn"] + ":" + columns["src_rnic"]
    small = columns["task_type"] != "MTU"
    seconds = drawn.end - drawn.begin
    counts = np.unique(sources[small], return_counts=True)[1]
    assert np.abs(counts - seconds).max() <= 2


def test_the_command_lists_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "crc-error" in capsys.readouterr().out
    assert main(["crc-error", "--seed", "7", "--output", str(tmp_path / "out")]) == 0
    assert {"probes-underlay.csv.gz", "probes-overlay.csv.gz", "topology.json", "skeleton.json", "truth.json"} <= {
        file.name for file in (tmp_path / "out").iterdir()
    }


def test_the_page_names_every_class() -> None:
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    assert [name for name in CLASSES if f"`{name}`" not in page] == []


def samples(drawn: Case, metric: str, node: str, port: str | None = None) -> list[tuple[float, float]]:
    assert drawn.counters is not None
    rows = drawn.counters.filter(
        pc.and_(pc.equal(drawn.counters["metric"], metric), pc.equal(drawn.counters["node"], node))
    )
    return [(row["time"], row["value"]) for row in rows.to_pylist() if row["port"] == port]


@pytest.mark.parametrize("seed", range(4))
def test_the_receiving_end_of_a_bad_link_counts_errors_from_the_injection_on(seed: int) -> None:
    drawn = simulate("silent-hops", seed, counters=True)
    port = drawn.truth.failures[0].alternatives[0]
    assert port.kind == "port"
    values = samples(drawn, FCS_ERRORS, *port.name.split(":", 1))
    before = [value for time, value in values if time < drawn.injected]
    during = [value for time, value in values if drawn.injected + 5 <= time < (drawn.repaired or drawn.end)]
    assert max(before) - min(before) < 10 < during[-1] - before[-1]


@pytest.mark.parametrize("seed", range(4))
def test_both_ends_of_a_dead_link_say_so(seed: int) -> None:
    drawn = simulate("switch-port-down", seed, counters=True)
    failure = drawn.truth.failures[0]
    for port in failure.component.name.split(" -- "):
        for time, up in samples(drawn, "fabric_switch_port_up", *port.split(":", 1)):
            assert up == float(not failure.start <= time < (failure.end or drawn.end))


@pytest.mark.parametrize("seed", range(4))
def test_a_switch_that_is_off_is_read_no_more(seed: int) -> None:
    drawn = simulate("switch-offline", seed, counters=True)
    failure = drawn.truth.failures[0]
    assert drawn.counters is not None
    own = drawn.counters.filter(pc.equal(drawn.counters["node"], failure.component.name)).to_pylist()
    during = {row["metric"] for row in own if failure.start <= row["time"] < (failure.end or drawn.end)}
    assert during == {"fabric_switch_reachable"}


def traced(drawn: Case) -> dict[tuple[str, str, int], set[str]]:
    """{flow: links, and ports where its requests come in} by the last complete route before the injection."""
    fabric, found = Fabric(drawn.topology), {}
    for row in drawn.probes.filter(pc.equal(drawn.probes["task_type"], "TRACEROUTE")).to_pylist():
        source, destination = f"{row['src_node_sn']}:{row['src_rnic']}", f"{row['dst_node_sn']}:{row['dst_rnic']}"
        route = json.loads(row["route"])
        links = fabric.links_of_route(source, route, destination)
        if links is not None and row["ping_time"] < drawn.injected * 1e9:
            found[source, destination, row["src_port"]] = {*links, *(fabric.locate(hop) or "" for hop in route)}
    return found


@pytest.mark.parametrize("name", ["crc-error", "one-pair", "parallel-links", "switch-port-down"])
def test_what_is_said_to_look_alike_is_crossed_by_the_same_traced_flows(name: str) -> None:
    compared = 0
    for seed in range(20):
        drawn = simulate(name, seed, counters=False)
        failure = drawn.truth.failures[0]
        routes = traced(drawn)
        # A link that loses one way is crossed by those requests that come in at its named port.
        where = failure.component.name if name == "switch-port-down" else failure.alternatives[0].name
        over = {flow for flow, places in routes.items() if where in places}
        for twin in (each.name for each in failure.alternatives if (each.kind, each.score) == ("link", 0.5)):
            ends = twin.split(" -- ")
            ways = [{flow for flow, places in routes.items() if place in places} for place in (twin, *ends)]
            if over:  # empty where hops are switches, which do not say by which port
                assert over in ways
                compared += 1
    assert compared or name == "parallel-links"


def test_a_reply_is_known_lost_only_where_a_later_one_came() -> None:
    for seed in range(8):
        drawn = simulate("crc-error", seed)
        rows = drawn.probes.select(
            ["src_real_ip", "dst_real_ip", "src_port", "task_type", "dial", "error", "ping_time"]
        )
        answered: dict[tuple[object, ...], int] = {}
        lost = []
        for row in rows.to_pylist():
            path = (row["src_real_ip"], row["dst_real_ip"], row["src_port"], row["task_type"])
            if row["dial"] == "success":
                answered[path] = row["ping_time"]
            elif row["error"] == "reply lost":
                lost.append((path, row["ping_time"]))
        assert all(answered[path] > time for path, time in lost)
