"""The fabric in a box behaves as the fabric its topology describes, whole and broken."""

from __future__ import annotations

import json
import math
import re
import stat
import sys
import time

import pytest

from exporter.contracts.fabric import Fabric
from lab.errors import LabError
from lab.network.design import Cable, Design, Host, Rnic
from lab.network.snmp import Agents
from lab.running import Running

JUMBO = 8972  # 9000 less 20 of IPv4 and 8 of ICMP


def far_pair(design: Design, rail: int = 0) -> tuple[Host, Rnic, Host, Rnic]:
    """Two RNICs of one rail in two pods: every path between them crosses a spine."""
    source = design.hosts[0]
    destination = next(host for host in design.hosts if host.pod != source.pod)
    return source, source.rnics[rail], destination, destination.rnics[rail]


def ping(
    fabric: Running, host: str, source: str, destination: str, *, size: int = 56, count: int = 1, interval: float = 0.2
) -> int:
    """Number of lost pings, sent with the don't-fragment bit."""
    argv = f"ping -n -q -M do -s {size} -c {count} -i {interval} -W 0.3 -I {source} {destination}".split()
    answer = fabric.run(host, argv, check=False).stdout
    match = re.search(r"(\d+) packets transmitted, (\d+) received", answer)
    assert match, answer
    return int(match[1]) - int(match[2])


def host_link(design: Design, host: Host, rnic: Rnic) -> Cable:
    return next(link for link in design.links if link.a.node == host.name and link.a.port == rnic.name)


def binomial_bounds(count: int, probability: float, sigmas: float = 5) -> tuple[float, float]:
    spread = sigmas * math.sqrt(count * probability * (1 - probability))
    return count * probability - spread, count * probability + spread


def route(fabric: Running, source: Host, rnic: Rnic, destination: str, port: int) -> list[str | None]:
    argv = f"traceroute -n -q 1 -w 1 -m 8 -U -p 33533 --sport={port} -s {rnic.address} {destination}".split()
    lines = fabric.run(source.name, argv).stdout.splitlines()[1:]
    return [None if "*" in line else line.split()[1] for line in lines]


def test_jumbo_packets_reach_every_rnic(fabric: Running, design: Design) -> None:
    source = design.hosts[0]
    script = "\n".join(
        f"ping -n -q -c 1 -W 1 -M do -s {JUMBO} -I {own.address} {rnic.address} >/dev/null || echo {rnic.address}"
        for host in design.hosts[1:]
        for own in source.rnics
        for rnic in host.rnics
    )
    assert fabric.run(source.name, ["sh", "-c", script]).stdout == ""


def test_one_byte_more_does_not_fit(fabric: Running, design: Design) -> None:
    source, own, _, rnic = far_pair(design)
    assert ping(fabric, source.name, own.address, rnic.address, size=JUMBO + 1) == 1


def test_traffic_leaves_through_the_rnic_whose_address_it_carries(fabric: Running, design: Design) -> None:
    source, _, _, rnic = far_pair(design)
    for own in source.rnics:
        answer = fabric.run(source.name, ["ip", "route", "get", rnic.address, "from", own.address]).stdout
        assert f"via {own.gateway} dev {own.netdev}" in answer


def test_source_ports_spread_over_the_spines(fabric: Running, design: Design) -> None:
    source, own, _, rnic = far_pair(design)
    leaf = host_link(design, source, own).b.node
    uplinks = [end.netdev for end, _ in design.peers(leaf)]

    def sent() -> list[int]:
        files = [f"/sys/class/net/{uplink}/statistics/tx_packets" for uplink in uplinks]
        return [int(word) for word in fabric.run(leaf, ["cat", *files]).stdout.split()]

    flows = 2000
    script = (
        "import socket\n"
        f"for port in range(20000, {20000 + flows}):\n"
        "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"    s.bind(('{own.address}', port)); s.sendto(b'x', ('{rnic.address}', 4791)); s.close()\n"
    )
    before = sent()
    fabric.run(source.name, [sys.executable, "-c", script])
    spread = [after - earlier for earlier, after in zip(before, sent(), strict=True)]
    low, high = binomial_bounds(flows, 1 / len(uplinks))
    assert all(low <= packets <= high + 20 for packets in spread), spread  # BGP adds a few
    assert sum(spread) >= flows


def test_traced_hops_name_the_links_of_the_path(fabric: Running, design: Design) -> None:
    index = Fabric(design.topology())
    source, own, destination, rnic = far_pair(design, rail=1)
    ends = f"{source.name}:{own.name}", f"{destination.name}:{rnic.name}"
    spines = set()
    for port in range(41000, 41016):
        hops = route(fabric, source, own, rnic.address, port)
        assert hops[-1] == rnic.address
        places = [index.locate(hop) for hop in hops[:-1] if hop is not None]
        assert all(place is not None and ":" in place for place in places), "a hop is the port where the packet came in"
        links = index.links_of_route(ends[0], hops[:-1], ends[1])
        assert links is not None
        assert len(links) == 4
        assert set(links) <= index.possible_links(*ends)
        spines.add(places[1])
    assert len(spines) == len(design.spines), "16 source ports find every spine"


def test_a_connected_socket_takes_the_path_that_was_traced(fabric: Running, design: Design) -> None:
    """The kernel draws a hash per connected socket; paths must follow the ports all the same."""
    index = Fabric(design.topology())
    source, own, _, rnic = far_pair(design)
    leaf = host_link(design, source, own).b.node
    for port in (43000, 43001, 43002):
        spine_port = index.locate(route(fabric, source, own, rnic.address, port)[1] or "")
        uplink = next(own_end for own_end, far in design.peers(leaf) if far.id == spine_port)
        sent = ["cat", f"/sys/class/net/{uplink.netdev}/statistics/tx_packets"]
        before = int(fabric.run(leaf, sent).stdout)
        script = (
            "import socket\n"
            "for _ in range(100):\n"
            "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            f"    s.bind(('{own.address}', {port})); s.connect(('{rnic.address}', 33533)); s.send(b'x'); s.close()\n"
        )
        fabric.run(source.name, [sys.executable, "-c", script])
        assert int(fabric.run(leaf, sent).stdout) - before >= 100


def test_every_bgp_session_is_established(fabric: Running, design: Design) -> None:
    sessions = 2 * len(design.leaves) * len(design.spines)
    assert f"{sessions} of {sessions} BGP sessions established" in fabric.act("status")


@pytest.mark.parametrize(("oid", "what"), [("1.3.6.1.2.1.2.2.1.2", "ifDescr"), ("1.3.6.1.2.1.31.1.1.1.1", "ifName")])
def test_every_switch_answers_snmp_with_its_ports(fabric: Running, design: Design, oid: str, what: str) -> None:
    client = Agents(fabric.directory / "snmp").client_environment()
    variables = [f"{name}={value}" for name, value in client.items()]
    for switch in design.switches:
        walk = ["env", *variables, "snmpbulkwalk", "-Oqv", switch.management, oid]
        names = {line.strip('"') for line in fabric.run(None, walk).stdout.splitlines()}
        assert names == {port.port for port in switch.ports} | {"lo", "mgmt0"}, what


def test_switches_tell_of_their_bgp_sessions_over_snmp(fabric: Running, design: Design) -> None:
    """BGP4-MIB, bgpPeerState: 6 is established (RFC 4273). A poller sees a starved session nowhere else."""
    client = Agents(fabric.directory / "snmp").client_environment()
    variables = [f"{name}={value}" for name, value in client.items()]
    for switch in design.switches:
        walk = ["env", *variables, "snmpbulkwalk", "-Onq", switch.management, "1.3.6.1.2.1.15.3.1.2"]
        rows = (line.split() for line in fabric.run(None, walk).stdout.splitlines())
        states = {".".join(oid.split(".")[-4:]): state for oid, state in rows}
        assert states == {far.address: "6" for _, far in design.peers(switch.name)}


def test_counters_over_snmp_are_fresh(fabric: Running, design: Design) -> None:
    """Without a shorter cache net-snmp would answer with counters of up to 15 s ago."""
    source, own, _, rnic = far_pair(design)
    leaf = design.node(host_link(design, source, own).b.node)
    port = host_link(design, source, own).b.netdev
    client = [f"{name}={value}" for name, value in Agents(fabric.directory / "snmp").client_environment().items()]
    index = fabric.run(leaf.name, ["cat", f"/sys/class/net/{port}/ifindex"]).stdout.strip()
    get = ["env", *client, "snmpget", "-Oqv", leaf.management, f"1.3.6.1.2.1.31.1.1.1.6.{index}"]
    before = int(fabric.run(None, get).stdout)
    assert ping(fabric, source.name, own.address, rnic.address, size=8000, count=20, interval=0.01) == 0
    time.sleep(2.5)
    assert int(fabric.run(None, get).stdout) - before >= 20 * 8000


def test_the_snmp_community_is_private(fabric: Running) -> None:
    file = Agents(fabric.directory / "snmp").community_file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(fabric.directory.stat().st_mode) == 0o700


def test_silent_loss_is_the_share_asked_for_and_counted_exactly(whole: Running, design: Design) -> None:
    source, own, _, rnic = far_pair(design)
    link = host_link(design, source, own).id
    whole.fault("silent-loss", link, "20")
    count = 1500
    lost = ping(whole, source.name, own.address, rnic.address, count=count, interval=0.002)
    low, high = binomial_bounds(count, 1 - 0.8**2)  # there and back
    assert low <= lost <= high
    assert json.loads(whole.act("dropped")) == {f"silent-loss {link}": lost}
    # The same host's other RNIC does not cross the link.
    other = ping(whole, source.name, source.rnics[1].address, rnic.address, count=200, interval=0.002)
    assert other == 0


def test_total_silent_loss_is_not_noticed_by_routing(whole: Running, design: Design) -> None:
    link = next(link for link in design.links if link.a.node in {leaf.name for leaf in design.leaves})
    before = whole.act("status").splitlines()[0]
    whole.fault("silent-loss", link.id, "100")
    probe = f"ping -q -c 3 -i 0.2 -W 1 -I {link.a.address} {link.b.address}".split()
    assert "100% packet loss" in whole.run(link.a.node, probe, check=False).stdout
    assert whole.act("status").splitlines()[0] == before


def test_a_smaller_mtu_on_one_port_kills_long_packets_only(whole: Running, design: Design) -> None:
    source, own, destination, rnic = far_pair(design)
    whole.fault("port-mtu", host_link(design, source, own).b.id, "1500")
    assert ping(whole, source.name, own.address, rnic.address, size=1472, count=3) == 0
    assert ping(whole, source.name, own.address, rnic.address, size=JUMBO, count=2) == 2
    assert ping(whole, destination.name, rnic.address, own.address, size=JUMBO, count=2) == 2
    whole.act("heal", "all")
    assert ping(whole, source.name, own.address, rnic.address, size=JUMBO) == 0
    assert ping(whole, destination.name, rnic.address, own.address, size=JUMBO) == 0


def test_traffic_goes_round_a_link_that_is_down(whole: Running, design: Design) -> None:
    source, own, destination, rnic = far_pair(design)
    leaf = host_link(design, source, own).b.node
    link = next(link for link in design.links if link.a.node == leaf)
    whole.fault("link-down", link.id)
    for end in link.ends:
        assert whole.run(end.node, ["cat", f"/sys/class/net/{end.netdev}/operstate"]).stdout.strip() != "up"
    deadline = time.monotonic() + 10
    index = Fabric(design.topology())
    ends = f"{source.name}:{own.name}", f"{destination.name}:{rnic.name}"
    while True:
        routes = [route(whole, source, own, rnic.address, port)[:-1] for port in range(42000, 42008)]
        chains = [index.links_of_route(ends[0], hops, ends[1]) for hops in routes]
        if all(chain is not None and link.id not in chain for chain in chains):
            break
        assert time.monotonic() < deadline, chains
    assert ping(whole, source.name, own.address, rnic.address, size=JUMBO, count=10, interval=0.01) == 0
    whole.act("heal", "all")
    whole.act("wait-converged")


def test_a_host_comes_back_after_its_link_was_down(whole: Running, design: Design) -> None:
    source, own, _, rnic = far_pair(design)
    link = host_link(design, source, own)
    whole.fault("link-down", link.id)
    assert ping(whole, source.name, own.address, rnic.address, count=2) == 2
    assert ping(whole, source.name, source.rnics[1].address, rnic.address) == 0
    whole.act("heal", link.id)
    whole.act("wait-converged")
    assert ping(whole, source.name, own.address, rnic.address, size=JUMBO, count=3) == 0


def test_faults_are_recorded_once_replaced_and_healed_by_name(whole: Running, design: Design) -> None:
    first, second = (link.id for link in design.links[:2])
    for percent in ("5", "5", "7.5"):
        whole.fault("silent-loss", first, percent)
    whole.fault("link-down", second)
    listed = [line for line in whole.act("status").splitlines() if line.startswith("fault")]
    assert len(listed) == 2
    assert f"silent-loss {first} percent 7.5 %" in listed[0]
    assert whole.act("heal", f"link-down {second}").strip() == f"healed link-down {second}"
    assert whole.act("heal", "all").startswith(f"healed silent-loss {first} percent 7.5 %")
    assert whole.act("heal", "all") == ""
    assert whole.act("heal", first) == ""


@pytest.mark.parametrize(
    "words",
    [
        ("link-down", "no such link"),
        ("silent-loss", "{link}", "0"),
        ("silent-loss", "{link}", "much"),
        ("port-mtu", "{port}", "9001"),
        ("port-mtu", "nowhere:Ethernet0", "1500"),
        ("no such kind", "{link}"),
        ("silent-loss", "{link}", "5", "{port}", "5"),
        ("silent-loss", "{link}", "5", "nowhere:Ethernet0"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(fabric: Running, design: Design, words: tuple[str, ...]) -> None:
    link = design.links[0]
    with pytest.raises(LabError):
        fabric.fault(*(word.format(link=link.id, port=link.b.id) for word in words))
    assert "fault     none" in fabric.act("status")


def test_no_daemon_has_died(fabric: Running) -> None:
    assert fabric.dead_daemons() == []
