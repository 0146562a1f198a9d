"""The MTU of paths in a real fabric: found to the byte, with who says so, and on no path that keeps its promise."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from exporter.contracts.codec import encode, write
from exporter.contracts.fabric import Fabric
from exporter.contracts.plan import UDP_HEADERS
from lab.network.design import Design
from lab.running import Running
from tests.lab.agent import LOST, PORTS, SENT, Agent, stop, until

PERIOD = 0.2  # seconds
VLAN_TAG = 4  # a veth takes so much more than its MTU, as many ports do (is_skb_forwardable, net/core/dev.c)


@dataclass
class Probed:
    """Full-size paths from one agent to another, over all spines."""

    near: Agent
    far: Agent
    promise: int
    generation: int = 0

    def probe(self, ports: range) -> None:
        """Probe from these source ports and no others, and return once their paths are traced."""
        self.generation += 1
        size = self.promise - UDP_HEADERS
        self.near.follow(
            (self.near.target(self.far.host, self.far.rnic, port, "mtu", PERIOD, payload_bytes=size) for port in ports),
            self.generation,
        )
        until(lambda: len(self.near.links()) == len(ports), 30)

    def mtus(self) -> dict[str, float]:
        return {dict(labels)["path"]: mtu for labels, mtu in self.near.metrics()["fabric_path_mtu_bytes"].items()}

    def limits(self) -> dict[str, tuple[str, str]]:
        """{path: (kind, hop)}"""
        found = [dict(labels) for labels in self.near.metrics()["fabric_path_mtu_limit_info"]]
        return {labels["path"]: (labels["kind"], labels.get("hop", "")) for labels in found}

    def through(self, end: str) -> set[str]:
        """Paths that cross the link at this port."""
        return {path for path, links in self.near.links().items() if any(end in link.split(" -- ") for link in links)}

    def until_found(self, paths: set[str], mtu: int) -> None:
        """Wait until these paths have this MTU, and the others their promise."""
        expected = {path: mtu if path in paths else self.promise for path in self.near.links()}
        until(lambda: self.mtus() == expected, 40)


@pytest.fixture(scope="module")
def probing(fabric: Running, design: Design, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probed]:
    directory = tmp_path_factory.mktemp("path-mtu")
    near = design.hosts[0]
    far = next(host for host in design.hosts if host.pod != near.pod)
    topology = directory / "topology.json"
    write(topology, encode(design.topology()))
    agents = [Agent(fabric, host, directory / host.name, topology) for host in (near, far)]
    try:
        until(lambda: all(agent.metrics() for agent in agents))
        yield Probed(*agents, design.mtu)
    finally:
        codes = stop(agents)
    assert codes == [0, 0]


@pytest.fixture
def probed(probing: Probed, whole: Running) -> Probed:  # noqa: ARG001 - before the test, and after it mended
    """Paths over all spines that keep their promise."""
    probing.probe(PORTS)
    probing.until_found(set(), probing.promise)
    assert probing.limits() == {}
    return probing


def spine_ports(probed: Probed, design: Design) -> tuple[str, str]:
    """The ports of one spine that the paths over it come in by, and go out by."""
    fabric = Fabric(design.topology())
    ends = [f"{agent.host.name}:{agent.rnic.name}" for agent in (probed.near, probed.far)]
    spine = design.spines[0].name
    links = sorted(link for link in fabric.possible_links(*ends) if f"{spine}:" in link)
    found = []
    for leaf in map(fabric.leaf_of, ends):
        link = next(link for link in links if f"{leaf}:" in link)
        found.append(next(end for end in link.split(" -- ") if end.startswith(f"{spine}:")))
    return found[0], found[1]


def test_a_router_with_a_small_port_is_named_and_paths_over_other_spines_keep_their_promise(
    probed: Probed, whole: Running, design: Design
) -> None:
    into, out_of = spine_ports(probed, design)
    crossing = probed.through(out_of)
    assert 0 < len(crossing) < len(PORTS)
    sent, before = probed.near.total(SENT), probed.near.total(LOST)
    whole.fault("port-mtu", out_of, "1500")
    probed.until_found(crossing, 1500)
    # A router answers from the port where the packet came in (RFC 1812, section 4.3.2.4), as in a traceroute.
    assert probed.limits() == dict.fromkeys(crossing, ("frag_needed", into))
    lost = probed.near.total(LOST) - before
    assert 0 < lost <= probed.near.total(SENT) - sent
    whole.act("heal", "all")
    probed.until_found(set(), probed.promise)
    assert probed.limits() == {}


def test_the_same_port_without_icmp_is_a_black_hole(probed: Probed, whole: Running, design: Design) -> None:
    _, out_of = spine_ports(probed, design)
    crossing = probed.through(out_of)
    whole.fault("icmp-blackhole", out_of.partition(":")[0])
    whole.fault("port-mtu", out_of, "1500")
    probed.until_found(crossing, 1500)
    assert probed.limits() == dict.fromkeys(crossing, ("black_hole", ""))
    whole.act("heal", "all")
    probed.until_found(set(), probed.promise)
    assert probed.limits() == {}


def test_a_port_that_drops_what_arrives_too_large_is_a_black_hole(
    probed: Probed, whole: Running, design: Design
) -> None:
    into, _ = spine_ports(probed, design)
    crossing = probed.through(into)
    whole.fault("port-mtu", into, "1500")
    probed.until_found(crossing, 1500 + VLAN_TAG)
    assert probed.limits() == dict.fromkeys(crossing, ("black_hole", ""))


def test_our_own_interface_is_told_from_the_network(probed: Probed, whole: Running) -> None:
    own = f"{probed.near.host.name}:{probed.near.rnic.name}"
    every = set(probed.near.links())
    whole.fault("port-mtu", own, "4000")
    probed.until_found(every, 4000)
    assert probed.limits() == dict.fromkeys(every, ("local", own))
    whole.act("heal", "all")
    probed.until_found(set(), probed.promise)


def test_random_loss_of_a_healthy_path_is_no_mtu(probed: Probed, whole: Running, design: Design) -> None:
    """One in twenty each way: about one probe in ten, and three in a row now and then."""
    into, _ = spine_ports(probed, design)
    link = next(link for links in probed.near.links().values() for link in links if into in link.split(" -- "))
    probed.probe(range(PORTS.start, PORTS.start + 3 * len(PORTS)))
    probed.until_found(set(), probed.promise)
    before = probed.near.total(LOST)
    whole.fault("silent-loss", link, "5")
    ends = time.monotonic() + 9
    while time.monotonic() < ends:
        assert set(probed.mtus().values()) <= {probed.promise}
        assert probed.limits() == {}
        time.sleep(0.5)
    assert probed.near.total(LOST) - before > 20


def test_a_person_is_told_for_each_source_port_what_passes_and_who_limits_it(
    probed: Probed, whole: Running, design: Design
) -> None:
    into, out_of = spine_ports(probed, design)
    whole.fault("port-mtu", out_of, "1500")
    near, far = probed.near, probed.far
    addresses = [far.rnic.address, "--source", near.rnic.address, "--source-port", "51000-51015"]
    options = ["--type", "mtu", "--key-file", str(near.key), "-c", "2", "-i", "0.2", "--json"]
    argv = [sys.executable, "-m", "exporter.cli", "probe", *addresses, *options]
    done = whole.run(near.host.name, argv, check=False)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    found = [path["path_mtu"] for path in document["paths"]]
    assert {(each["bytes"], each["kind"]) for each in found} == {(probed.promise, None), (1500, "frag_needed")}
    assert {each["roce_path_mtu"] for each in found} == {4096, 1024}
    (problem,) = document["problems"]  # one line for all paths of one reason
    assert "packets of at most 1500 bytes pass, not 9000: " in problem
    routers = {path["path_mtu"]["hop"] for path in document["paths"]} - {None}
    assert {Fabric(design.topology()).locate(address) for address in routers} == {into}
