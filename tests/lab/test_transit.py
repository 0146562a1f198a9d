"""The way to a second site: what ping, traceroute and BGP say of it before, during and after a route change."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from exporter.contracts.codec import encode
from exporter.contracts.fabric import Fabric
from exporter.contracts.topology import check_topology
from lab.errors import LabError
from lab.faults import kind
from lab.network import transit
from lab.network.design import Design, Transit, draw, dump, load
from lab.running import Running
from tests.lab.agent import PORTS, Agent, stop, until

CHANGED = "fabric_path_route_change_timestamp_seconds"


@dataclass(frozen=True)
class Pinged:
    sent: int
    received: int
    least: float  # ms
    mean: float


def ping(lab: Running, node: str, address: str, count: int = 100, interval: float = 0.004) -> Pinged:
    argv = f"ping -n -q -c {count} -i {interval} -W 1 {address}".split()
    answer = lab.run(node, argv, check=False).stdout
    sent, received = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", answer).groups())  # type: ignore[union-attr]
    times = re.search(r"= ([\d.]+)/([\d.]+)/", answer)
    assert times, answer
    return Pinged(sent, received, float(times[1]), float(times[2]))


def hops(lab: Running, node: str, address: str) -> list[str]:
    """Traced addresses of one flow, three tries at each hop."""
    argv = f"traceroute -n -q 3 -w 0.3 -m 8 -U -p 33533 --sport=40000 {address}".split()
    lines = lab.run(node, argv).stdout.splitlines()[1:]
    return [(re.findall(r"\d+\.\d+\.\d+\.\d+", line) or ["*"])[0] for line in lines]


def address(design: Design, host: str) -> str:
    return design.service_host(host).rnics[0].address


@pytest.fixture(scope="module")
def design(two_sites: Running) -> Design:
    return two_sites.design()


@pytest.fixture(scope="module")
def plan(design: Design) -> Transit:
    assert design.transit is not None
    return design.transit


@pytest.fixture
def healed(two_sites: Running) -> Iterator[Running]:
    yield two_sites
    two_sites.act("heal", "all")


# ---- as values


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2, 2, 4), (2, 4, 4, 16)])
def test_a_transit_fits_the_topology_contract_and_changes_nothing_of_the_fabric(
    sizes: tuple[int, int, int, int],
) -> None:
    alone = draw(5, *sizes)
    design = transit.add(alone)
    check_topology(design.topology(), "drawn")
    assert load(dump(design)) == design
    assert design.hosts == alone.hosts
    assert design.tenants == alone.tenants
    assert design.links[: len(alone.links)] == alone.links
    assert {leaf.name: leaf for leaf in design.leaves} == {leaf.name: leaf for leaf in alone.leaves}
    assert transit.add(draw(5, *sizes)) == design
    assert transit.add(draw(6, *sizes)).transit != design.transit
    used = [end.address for link in design.links for end in link.ends]
    used += [switch.loopback for switch in design.switches] + [node.management for node in design.nodes]
    assert len(set(used)) == len(used)


def test_no_path_between_the_fabrics_hosts_goes_through_the_border() -> None:
    alone = draw(8)
    with_transit = transit.add(alone)
    before, after = Fabric(alone.topology()), Fabric(with_transit.topology())
    ends = sorted(before.interfaces)
    for source in ends[:6]:
        for destination in ends:
            assert after.link_shares(source, destination) == before.link_shares(source, destination)


def test_the_stores_paths_cross_a_spine_a_border_and_a_carrier() -> None:
    design = transit.add(draw(8))
    plan = design.transit
    assert plan is not None
    store = design.service_host(plan.store)
    source = f"{design.hosts[0].name}:{design.hosts[0].rnics[0].name}"
    links = Fabric(design.topology()).possible_links(source, f"{store.name}:{store.rnics[0].name}")
    crossed = {name.partition(":")[0] for link in links for name in link.split(" -- ")}
    assert {plan.border, plan.far_border, *(carrier.switch for carrier in plan.carriers)} < crossed


def test_a_lab_has_one_transit_at_most() -> None:
    with pytest.raises(LabError):
        transit.add(transit.add(draw(1)))


# ---- as packets


def test_packets_take_the_clean_carriers_time_and_none_is_lost(
    two_sites: Running, design: Design, plan: Transit
) -> None:
    clean = plan.carriers[0]
    seen = ping(two_sites, design.hosts[0].name, address(design, plan.store))
    assert seen.received == seen.sent
    assert seen.least >= 2 * clean.microseconds / 1e3
    assert seen.least < 2 * (clean.microseconds + clean.jitter) / 1e3 + 1
    assert ping(two_sites, design.hosts[0].name, address(design, plan.services)).least < 1


def test_traced_hops_name_the_links_to_the_store(two_sites: Running, design: Design, plan: Transit) -> None:
    fabric = Fabric(design.topology())
    source, store = design.hosts[0], design.service_host(plan.store)
    ends = f"{source.name}:{source.rnics[0].name}", f"{store.name}:{store.rnics[0].name}"
    route = hops(two_sites, source.name, store.rnics[0].address)
    links = fabric.links_of_route(ends[0], route[:-1], ends[1])
    assert links is not None
    assert set(links) <= fabric.possible_links(*ends)
    assert any(plan.carriers[0].switch in link for link in links)


def test_a_route_change_and_back(healed: Running, design: Design, plan: Transit) -> None:
    clean, lossy = plan.carriers
    host, store = design.hosts[0].name, address(design, plan.store)
    said = healed.fault("route-change", lossy.switch)
    assert lossy.switch in str(said)
    best = json.loads(
        healed.run(plan.border, ["vtysh", "-N", plan.border, "-c", f"show bgp ipv4 unicast {store} json"]).stdout
    )
    chosen = next(path for path in best["paths"] if path.get("bestpath"))
    neighbor = transit.sessions_with_carriers(design, plan.border)[lossy.switch]
    assert chosen["nexthops"][0]["ip"] == neighbor
    assert chosen["locPrf"] == transit.FORCED
    seen = ping(healed, host, store, count=300, interval=0.002)
    assert seen.least >= 2 * lossy.microseconds / 1e3
    # Both ways lose 5 to 8 %: 9.75 to 15.36 % of the pings, give or take five standard deviations.
    lost = seen.sent - seen.received
    assert 300 * 0.0975 - 26 < lost < 300 * 0.1536 + 31
    assert json.loads(healed.act("dropped")) == {f"route-change {lossy.switch}": lost}, "the truth is exact"
    assert neighbor in hops(healed, host, store)
    healed.act("heal", "all")
    assert ping(healed, host, store).received == 100
    assert transit.sessions_with_carriers(design, plan.border)[clean.switch] in hops(healed, host, store)


def test_an_exporter_tells_of_the_change_within_seconds_and_names_the_carrier(
    healed: Running, design: Design, plan: Transit, tmp_path: Path
) -> None:
    """Flows are traced once an hour here, but for their losses; each path is probed once a second."""
    clean, lossy = (carrier.switch for carrier in plan.carriers)
    topology = tmp_path / "topology.json"
    topology.write_bytes(encode(design.topology()))
    hosts = design.hosts[0], design.service_host(plan.store)
    near, far = agents = [Agent(healed, host, tmp_path / host.name, topology) for host in hosts]

    def told() -> dict[str, tuple[dict[str, str], float]]:
        found = ((dict(labels), at) for labels, at in near.metrics()[CHANGED].items())
        return {labels["path"]: (labels, at) for labels, at in found}

    try:
        until(lambda: all(agent.metrics() for agent in agents))
        near.probe(far.host, far.rnic, 1, period_seconds=1.0)
        until(lambda: len(near.links()) == len(PORTS))
        links = near.links()
        assert told() == {}
        began = time.time()
        healed.fault("route-change", lossy)
        changed = time.time()
        until(told, 10)
        took = time.time() - changed
        for path, (labels, at) in told().items():
            assert began <= at <= changed + 10
            before, after = labels["before"].split(" > "), labels["after"].split(" > ")
            assert (labels["hop"], lossy in after, lossy in before) == (lossy, True, False)
            assert [clean if hop == lossy else hop for hop in after] == before
            assert near.links()[path] == links[path], "the votes are frozen"
        assert near.total("fabric_path_route_changes_total") == 0
        print(f"told after {took:.1f} s")
    finally:
        codes = stop(agents)
    assert codes == [0, 0]


@pytest.mark.parametrize("direction", ["away", "back"])
def test_a_route_change_of_one_direction_only(healed: Running, design: Design, plan: Transit, direction: str) -> None:
    clean, lossy = plan.carriers
    healed.fault("route-change", lossy.switch, direction)
    store, services = address(design, plan.store), address(design, plan.services)
    one_way = (clean.microseconds + lossy.microseconds) / 1e3
    seen = ping(healed, plan.services, store, count=60)
    assert one_way <= seen.least < one_way + 3
    changed = transit.sessions_with_carriers(design, plan.border)[lossy.switch]
    assert (changed in hops(healed, plan.services, store)) == (direction == "away")
    changed = transit.sessions_with_carriers(design, plan.far_border)[lossy.switch]
    assert (changed in hops(healed, plan.store, services)) == (direction == "back")


def test_the_loss_fluctuates_between_its_bounds(two_sites: Running, plan: Transit) -> None:
    log = two_sites.directory / "logs" / f"loss-{plan.carriers[1].switch}.log"
    drawn = [float(line.split()[1]) for line in log.read_text().splitlines()]
    assert len(drawn) > 3
    assert all(5 <= percent <= 8 for percent in drawn)
    assert max(drawn) - min(drawn) > 0.1


def test_only_the_unused_carrier_can_be_changed_to(two_sites: Running, design: Design, plan: Transit) -> None:
    for target in (plan.carriers[0].switch, design.spines[0].name, "nowhere"):
        with pytest.raises(LabError):
            two_sites.fault("route-change", target)


def test_a_site_is_no_transit_for_the_carriers(two_sites: Running, design: Design, plan: Transit) -> None:
    for border in (plan.border, plan.far_border):
        for carrier, neighbor in transit.sessions_with_carriers(design, border).items():
            show = f"show bgp ipv4 unicast neighbors {neighbor} advertised-routes json"
            routes = json.loads(two_sites.run(border, ["vtysh", "-N", border, "-c", show]).stdout)
            paths = {route["path"] for route in routes["advertisedRoutes"].values()}
            carriers = {str(number) for number in transit.CARRIER_ASNS}
            assert all(carriers.isdisjoint(path.split()) for path in paths), carrier


def test_a_lab_without_a_second_site_says_so() -> None:
    design = draw(1)
    with pytest.raises(LabError, match="--transit"):
        kind("route-change").resolve(design, design.spines[0].name)
