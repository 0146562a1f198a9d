"""From containers' plans and traced outer tuples to the links of overlay paths."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import msgspec
import pytest

from exporter.contracts.catalogue import PATH_LINK_INFO, ROUTE_CHANGE_TIME, UNDERLAY_ROUTE, UNDERLAY_ROUTE_CHANGE
from exporter.contracts.codec import encode, write
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import link_id
from exporter.contracts.plan import Target
from exporter.exposition import Series
from exporter.records import to_csv
from exporter.store import Store
from exporter.underlay import paths
from exporter.underlay.paths import OverlayPaths, underlay_settings
from exporter.underlay.settings import ContainerPlan, Underlay
from exporter.underlay.tracing import Route
from skeleton_service.diagnosis.observations import observe
from skeleton_service.reading.records import read_records
from tests.unit.test_fabric import FABRIC, FAR, LINKS, NEAR, PORTS, TOPOLOGY, address
from tests.unit.test_plan_contract import PLAN, TARGET

HOST, THERE = NEAR.partition(":")[0], FAR.partition(":")[0]
NEAR_VTEP, FAR_VTEP = (FABRIC.interfaces[end].rnic.ip for end in (NEAR, FAR))
HOPS = [address(port) for port in PORTS]
NONE: frozenset[str] = frozenset()


def target(path: str, **changes: object) -> Target:
    """An overlay path of a container on HOST."""
    basis = {
        "path": path,
        "source": "a/mlx5_0",
        "destination": "b/mlx5_0",
        "source_address": "10.8.0.1",
        "destination_address": "10.8.0.2",
        "source_host": HOST,
        "source_rnic": "mlx5_0",
        "destination_host": THERE,
        "destination_rnic": "mlx5_0",
    }
    return msgspec.structs.replace(TARGET, **{**basis, **changes})


class Followed:
    """Overlay paths with plan files in a directory, and the routes that a process would have found."""

    def __init__(self, directory: Path, *plans: tuple[Target, ...], fabric: Fabric = FABRIC, **changes: object) -> None:
        self.files = [directory / f"plan-{number}.json" for number in range(len(plans))]
        for file, targets in zip(self.files, plans, strict=True):
            self.write(file, *targets)
        underlay = Underlay(plans=tuple(ContainerPlan(plan=str(file)) for file in self.files), **changes)  # type: ignore[arg-type]
        self.paths = OverlayPaths(underlay, HOST, fabric)
        self.store = Store([(UNDERLAY_ROUTE, 8), (UNDERLAY_ROUTE_CHANGE, 8)])
        self.routes = self.store.writer(UNDERLAY_ROUTE)

    def write(self, file: Path, *targets: Target, expires: float = 2e9) -> None:
        write(file, encode(msgspec.structs.replace(PLAN, targets=targets, expires=expires)))

    def trace(self, hops: list[str], source: str = NEAR_VTEP, destination: str = FAR_VTEP, plan: int = 0) -> None:
        self.routes.add((str(plan), "10.8.0.1", "49152", "10.8.0.2", "65300", source, destination, json.dumps(hops)))

    def links(self, prober: Series | None = None) -> list[tuple[str, ...]]:
        series = self.paths.series(self.store) if prober is None else self.paths.series(self.store, prober)
        return [tuple(labels) for labels, _ in series.samples]


def test_all_paths_of_a_flow_have_the_links_between_the_tunnel_ends(tmp_path: Path) -> None:
    followed = Followed(tmp_path, (target("p"), target("q", probe="mtu", traffic_class=2, period_seconds=2.0)))
    assert followed.paths.follow(1e9, NONE)
    assert [(flow.plan, flow.inner, flow.period_seconds) for flow in followed.paths.flows] == [
        (0, ("10.8.0.1", 49152, "10.8.0.2", 65300), 1.0)
    ]
    assert followed.links() == []
    followed.trace(HOPS)
    assert followed.links() == [(path, link) for path in ("p", "q") for link in LINKS]
    assert not followed.paths.follow(1e9 + 1, NONE)


@pytest.mark.parametrize("hops", [HOPS[:2], HOPS[::-1], ["203.0.113.1", *HOPS[1:]]])
def test_a_route_that_the_topology_contradicts_has_no_links(tmp_path: Path, hops: list[str]) -> None:
    followed = Followed(tmp_path, (target("p"),))
    followed.paths.follow(1e9, NONE)
    followed.trace(hops)
    assert followed.links() == []


def test_a_tunnel_end_that_is_no_rnic_is_behind_the_one_that_the_route_leads_to(tmp_path: Path) -> None:
    vteps = {HOST: ("192.0.2.1",), THERE: ("192.0.2.2",)}
    hosts = tuple(msgspec.structs.replace(host, vteps=vteps.get(host.name, ())) for host in TOPOLOGY.hosts)
    fabric = Fabric(msgspec.structs.replace(TOPOLOGY, hosts=hosts))
    followed = Followed(tmp_path, (target("p"),), fabric=fabric)
    followed.paths.follow(1e9, NONE)
    followed.trace(HOPS, "192.0.2.1", "192.0.2.2")
    assert followed.links() == [("p", link) for link in LINKS]
    last = underlay_settings(Underlay(plans=()), (), (), fabric).last_switches
    assert last["192.0.2.2"] == ("leaf-p1-r0", "leaf-p1-r1")
    assert last[FAR_VTEP] == ("leaf-p1-r0",)


def test_a_trace_ends_at_whatever_address_the_last_switch_answers_from() -> None:
    settings = underlay_settings(Underlay(plans=()), (), (), FABRIC)
    (leaf,) = settings.last_switches[FAR_VTEP]
    assert HOPS[-1] in settings.switch_addresses[leaf]
    assert set(FABRIC.switches[leaf].addresses) <= set(settings.switch_addresses[leaf])
    assert not set(HOPS[:-1]) & set(settings.switch_addresses[leaf])


def test_other_hosts_paths_handshakes_and_neighbours_on_the_host_are_not_looked_for(tmp_path: Path) -> None:
    own = target("own", source_ports=(49152, 49153))
    others = (
        target("elsewhere", source_host=THERE, source_ports=(1025,)),
        target("unsaid", source_host=None, source_ports=(1026,)),
        target("handshake", probe="tcp", source_ports=(1027,)),
        target("neighbour", destination_host=HOST, source_ports=(1028,)),
    )
    followed = Followed(tmp_path, (own, *others))
    followed.paths.follow(1e9, NONE)
    assert {flow.inner[1] for flow in followed.paths.flows} == {49152, 49153}
    followed.trace(HOPS)
    assert {path for path, _ in followed.links()} == {"own#49152"}


def test_a_path_name_has_one_route_the_prober_goes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    followed = Followed(tmp_path, (target("p"), target("q")), (target("q"), target("r")))
    followed.paths.follow(1e9, frozenset({"p"}))
    followed.trace(HOPS)
    followed.trace(HOPS, plan=1)
    prober = Series(PATH_LINK_INFO, [(("p", "another link"), 1.0)])
    found = followed.links(prober)
    assert len(set(found)) == len(found) == 1 + 2 * len(LINKS)
    assert [link for path, link in found if path == "p"] == ["another link"]
    assert "2 paths are in another plan too: left out" in capsys.readouterr().err


def test_all_paths_of_a_flow_have_the_change_of_the_route_between_the_tunnel_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = Followed(tmp_path, (target("p"), target("q", probe="mtu", traffic_class=2)))
    followed.paths.follow(1e9, NONE)
    prober = Series(ROUTE_CHANGE_TIME, [(("own", "a", "b", "b"), 150.5)])
    first = followed.paths.changes(followed.store, prober)
    assert list(first.samples) == list(prober.samples)
    assert followed.paths.changes(followed.store, prober) is first
    moved = [HOPS[0], address("spine-0:Ethernet0"), HOPS[2]]
    writer = followed.store.writer(UNDERLAY_ROUTE_CHANGE)
    flow = ("0", "10.8.0.1", "49152", "10.8.0.2", "65300")
    row = writer.add((*flow, "100.250", " ".join(HOPS), " ".join(moved)))
    before, after = ("leaf-p0-r0 > spine-1 > leaf-p1-r0", "leaf-p0-r0 > spine-0 > leaf-p1-r0")
    own = [((path, before, after, "spine-0"), 100.25) for path in ("p", "q")]
    assert list(followed.paths.changes(followed.store, prober).samples) == [*own, *prober.samples]
    monkeypatch.setattr(paths, "MOST_ROUTE_CHANGES", 2)
    followed.write(followed.files[0], target("q"), target("r"))
    assert followed.paths.follow(1e9, NONE)
    newest = [labels[0] for labels, _ in followed.paths.changes(followed.store, prober).samples]
    assert newest == ["r", "own"], "a new plan's names, and the newest of all"
    writer.remove(row)
    assert list(followed.paths.changes(followed.store).samples) == []


def test_renderers_get_the_same_object_until_something_changes(tmp_path: Path) -> None:
    followed = Followed(tmp_path, (target("p"),))
    followed.paths.follow(1e9, NONE)
    followed.trace(HOPS)
    before = followed.paths.series(followed.store)
    assert followed.paths.series(followed.store) is before
    prober = Series(PATH_LINK_INFO, [])
    assert followed.paths.series(followed.store, prober) is not before
    followed.write(followed.files[0], target("renamed"))
    assert followed.paths.follow(1e9, NONE)
    assert {labels[0] for labels, _ in followed.paths.series(followed.store, prober).samples} == {"renamed"}


def test_a_route_that_stays_is_not_worked_out_again_when_another_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of thousands of routes some change before each scrape; all were worked out again, for most of a second."""
    worked_out: list[object] = []
    links_of_route = Fabric.links_of_route
    monkeypatch.setattr(
        Fabric,
        "links_of_route",
        lambda *route: worked_out.append(route) or links_of_route(*route),  # type: ignore[func-returns-value]
    )
    followed = Followed(tmp_path, (target("p"),))
    followed.paths.follow(1e9, NONE)
    followed.trace(HOPS)
    assert followed.links() == [("p", link) for link in LINKS]
    first = len(worked_out)
    followed.trace(HOPS, plan=1)  # another plan's flow, the same way
    assert (followed.links(), len(worked_out)) == ([("p", link) for link in LINKS], first)


def test_a_plan_that_lapses_takes_its_paths_with_it_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    followed = Followed(tmp_path, (target("p"),))
    assert followed.paths.follow(1e9, NONE)
    followed.files[0].write_text("{}")
    assert not followed.paths.follow(1e9, NONE)
    assert (followed.paths.refused, followed.paths.rejected, len(followed.paths.flows)) == (True, 1, 1)
    assert followed.paths.follow(2e9, NONE)
    assert followed.paths.flows == []
    assert followed.paths.follow(1e9, NONE)  # the clock was wrong
    assert len(followed.paths.flows) == 1


def test_more_flows_than_allowed_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = tuple(target(f"p{port}", source_ports=(port,)) for port in range(50_000, 50_020))
    followed = Followed(tmp_path, targets, max_flows=8)
    followed.paths.follow(1e9, NONE)
    assert len(followed.paths.flows) == 8
    assert "12 flows are more than underlay.max_flows: left out" in capsys.readouterr().err


def test_the_service_binds_an_overlay_path_to_the_links_by_the_record_of_its_underlay(tmp_path: Path) -> None:
    followed = Followed(tmp_path, (target("p"),))
    followed.paths.follow(1e9, NONE)
    followed.trace(HOPS)
    (traced,) = csv.DictReader(io.StringIO(to_csv(followed.paths.records(followed.store, 10**18)).decode()))
    assert (traced["src_ip"], traced["src_real_ip"]) == ("10.8.0.1", NEAR_VTEP)
    # What the container's agent says of its probes, and of its own trace, which sees one hop.
    probed = {**traced, "task_type": "UDP_PING", "route": "", "loss_rate": 0, "src_real_ip": "10.8.0.1"}
    blind = {**traced, "route": "[]"}
    (tmp_path / "records.csv").write_bytes(to_csv([traced, probed, blind]))
    observations = observe(read_records([tmp_path / "records.csv"]), FABRIC, "j")
    (path,) = observations.paths[observations.path[0] :][:1]
    (route,) = {trace.egresses for trace in observations.traces if trace.flow == path.flow}
    assert FABRIC.links_of_route(NEAR, HOPS, FAR) == tuple(LINKS)
    assert tuple(link_id(end, FABRIC.far_end(end) or "") for end in route) == tuple(LINKS)


def test_a_changed_route_is_taken_when_it_has_held() -> None:
    route, (old, new, third) = Route(hold_ns=90), ((("a", "b", name)) for name in ("old", "new", "third"))
    assert route.offer(old, 0)
    assert not route.offer(old, 10)
    assert not route.offer(new, 20)
    assert not route.offer(new, 109)
    assert route.taken == old
    assert not route.offer(third, 110)  # begins afresh
    assert not route.offer(new, 111)
    assert not route.offer(old, 150)  # it came back
    assert not route.offer(new, 210)
    assert not route.offer(new, 299)
    assert route.offer(new, 300)
    assert route.taken == new
    route.forget()
    assert route.offer(old, 301)
