"""Faults of links, ports, queues, sessions and switches do what they say, measured with other tools, and heal."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Network

import msgspec
import pytest
import yaml

from lab.errors import LabError
from lab.faults import Fault, kind
from lab.network.design import HOST_LINKS, Cable, Design, End, Switch
from lab.network.snmp import Agents
from lab.running import Running
from lab.sandbox import environment
from tests.lab.pings import ping
from tests.lab.processes import until
from tests.lab.talk import ask, ask_words, echo

JUMBO = 8972  # 9000 less 20 of IPv4 and 8 of ICMP
BGP_IDENTIFIER = "1.3.6.1.2.1.15.4.0"


@dataclass(frozen=True)
class Pair:
    """Two hosts of different pods with an RNIC of one rail each, and the switches between them."""

    source: str
    own: str
    destination: str
    there: str
    link: Cable
    """The source's own link; every packet crosses it."""
    far_link: Cable

    @property
    def leaf(self) -> str:
        return self.link.b.node


@pytest.fixture
def pair(design: Design) -> Pair:
    source = design.hosts[0]
    destination = next(host for host in design.hosts if host.pod != source.pod)
    own, there = source.rnics[0], destination.rnics[0]
    links = [design.link_at(design.rnic_end(f"{h.name}:{r.name}")) for h, r in ((source, own), (destination, there))]
    return Pair(source.name, own.address, destination.name, there.address, *links)


@pytest.fixture
def uplink(design: Design, pair: Pair) -> tuple[End, End]:
    """A port of the source's leaf that faces a spine, and the spine's port."""
    return next(design.peers(pair.leaf))


def binomial_bounds(count: int, probability: float, sigmas: float = 5) -> tuple[float, float]:
    spread = sigmas * math.sqrt(count * probability * (1 - probability))
    return count * probability - spread, count * probability + spread


def dropped(fabric: Running) -> int:
    (count,) = json.loads(fabric.act("dropped")).values()
    return int(count)


def operstate(fabric: Running, end: End) -> str:
    return fabric.run(end.node, ["cat", f"/sys/class/net/{end.netdev}/operstate"]).stdout.strip()


def vtysh(fabric: Running, switch: str, command: str) -> dict[str, dict[str, object]]:
    return dict(json.loads(fabric.run(switch, ["vtysh", "-N", switch, "-c", f"{command} json"]).stdout))


def neighbor(fabric: Running, own: End, far: End) -> dict[str, object]:
    return vtysh(fabric, own.node, f"show bgp neighbors {far.address}")[far.address]


def bfd_status(fabric: Running, own: End, far: End) -> str:
    peers = json.loads(fabric.run(own.node, ["vtysh", "-N", own.node, "-c", "show bfd peers json"]).stdout)
    return next((str(peer["status"]) for peer in peers if peer["peer"] == far.address), "absent")


def hops(fabric: Running, pair: Pair, port: int = 41000) -> list[str]:
    argv = f"traceroute -n -q 1 -w 0.3 -m 6 -U -p 33533 --sport={port} -s {pair.own} {pair.there}".split()
    return [line.split()[1] for line in fabric.run(pair.source, argv).stdout.splitlines()[1:]]


def routes_through(fabric: Running, switch: str, gateway: str) -> int:
    """Routes of a switch to hosts that may use a next hop."""
    table = json.loads(fabric.run(switch, ["ip", "-j", "route", "show", "proto", "bgp"]).stdout)
    hosts = [row for row in table if IPv4Network(row["dst"]).subnet_of(HOST_LINKS)]
    ways = [[way.get("gateway") for way in row.get("nexthops", [row])] for row in hosts]
    return sum(gateway in each for each in ways)


# ---- flows and classes


def test_the_same_flows_die_completely_whichever_way_is_broken(whole: Running, pair: Pair) -> None:
    count, packets, percent = 300, 3, 20
    dead: list[set[int]] = []
    with echo(whole, pair.destination, pair.there):
        for toward in ("both", pair.link.b.id, pair.link.a.id):
            whole.fault("flow-blackhole", pair.link.id, percent, toward)
            replies = ask(whole, pair.source, pair.own, pair.there, count=count, packets=packets)
            assert set(replies.values()) == {0, packets}, "a flow lives or dies, nothing between"
            dead.append({port for port, heard in replies.items() if not heard})
            assert dropped(whole) == packets * len(dead[-1])
        low, high = binomial_bounds(count, percent / 100)
        assert low <= len(dead[0]) <= high
        assert dead[0] == dead[1] == dead[2]
        whole.fault("flow-blackhole", pair.link.id, percent, "both", 99)
        other = ask(whole, pair.source, pair.own, pair.there, count=count, packets=packets)
        assert {port for port, heard in other.items() if not heard} != dead[0], "another seed, other flows"
        whole.act("heal", "all")
        assert set(ask(whole, pair.source, pair.own, pair.there, count=count).values()) == {packets}


def test_echo_requests_have_no_ports_and_pass_a_flow_blackhole_by_address(
    whole: Running, design: Design, pair: Pair
) -> None:
    whole.fault("flow-blackhole", pair.link.id, 50)
    others = [r.address for h in design.hosts if h.name != pair.source for r in h.rnics]
    lost = [ping(whole, pair.source, pair.own, there, count=3, patience=0.2).lost for there in others]
    assert set(lost) <= {0, 3}, "always or never"
    assert len(set(lost)) == 2, "some addresses and not others"


def test_loss_of_one_class_leaves_the_others_alone(whole: Running, pair: Pair) -> None:
    count, percent = 400, 30
    whole.fault("class-loss", pair.link.id, percent)
    lossless = ping(whole, pair.source, pair.own, pair.there, count=count, interval=0.002, dscp=26, patience=0.5)
    low, high = binomial_bounds(count, 1 - (1 - percent / 100) ** 2)  # there and back
    assert low <= lossless.lost <= high
    assert dropped(whole) == lossless.lost
    for dscp in (0, 25, 27, 48):
        assert ping(whole, pair.source, pair.own, pair.there, count=50, interval=0.002, dscp=dscp).lost == 0
    whole.fault("class-loss", pair.link.id, 100, 48)
    assert ping(whole, pair.source, pair.own, pair.there, count=20, dscp=26).lost == 0
    assert ping(whole, pair.source, pair.own, pair.there, count=5, dscp=48, patience=0.2).lost == 5


# ---- links


def test_bit_errors_kill_long_packets_more_often_than_short_ones(whole: Running, pair: Pair) -> None:
    ber, count = 1e-5, 300
    whole.fault("crc-errors", pair.link.b.id, ber)
    lost = {}
    for size in (18, 1000, JUMBO):
        lost[size] = ping(
            whole, pair.source, pair.own, pair.there, size=size, count=count, interval=0.002, patience=0.3
        ).lost
        frame = max(64, size + 28 + 18)
        low, high = binomial_bounds(count, 1 - (1 - ber) ** (8 * frame))
        assert low - 1 <= lost[size] <= high + 1, lost
    assert lost[18] < lost[1000] < lost[JUMBO]
    assert 0 <= dropped(whole) - sum(lost.values()) <= 2, "an ARP request may have been hit"


@pytest.mark.parametrize("way", ["both", "one"])
def test_bfd_finds_a_link_that_fails_in_silence(whole: Running, uplink: tuple[End, End], way: str) -> None:
    own, far = uplink
    until(lambda: bfd_status(whole, own, far) == bfd_status(whole, far, own) == "up", 10, "BFD is up")
    whole.fault("silent-failure", f"{own.id} -- {far.id}", "both" if way == "both" else far.id)
    # The reason below tells BFD from the hold time of 9 s, however slow the machine is.
    until(lambda: neighbor(whole, own, far)["bgpState"] != "Established", 15, "the session ends")
    assert "Cease/BFD Down" in [
        neighbor(whole, a, b).get("lastNotificationReason") for a, b in ((own, far), (far, own))
    ]
    assert operstate(whole, own) == operstate(whole, far) == "up"
    until(lambda: not routes_through(whole, own.node, far.address), 3, "traffic takes the other spines")
    assert dropped(whole) > 0
    whole.act("heal", "all")
    whole.act("wait-converged")
    until(lambda: bfd_status(whole, own, far) == "up", 10, "BFD is up again")


# ---- ports


def test_a_flapping_port_loses_and_regains_carrier(whole: Running, uplink: tuple[End, End]) -> None:
    own, far = uplink

    def falls() -> int:
        return int(whole.run(far.node, ["cat", f"/sys/class/net/{far.netdev}/carrier_down_count"]).stdout)

    before = falls()
    whole.fault("port-flap", own.id, 0.8, 0.3)
    until(lambda: falls() >= before + 3, 5, "it falls again and again")
    until(lambda: operstate(whole, far) == "up", 2, "and comes back")
    whole.act("heal", "all")
    after = falls()
    whole.act("wait-converged")
    assert operstate(whole, own) == operstate(whole, far) == "up"
    assert falls() == after


@pytest.mark.parametrize("what", ["breakout-mtu", "linecard-mtu"])
def test_a_group_of_ports_with_a_small_mtu(whole: Running, design: Design, what: str) -> None:
    spine = design.spines[0]
    field = {"breakout-mtu": "breakout_group", "linecard-mtu": "linecard"}[what]
    group = getattr(spine.ports[0], field)
    ports = [end for end in spine.ports if getattr(end, field) == group]

    def small() -> set[str]:
        rows = json.loads(whole.run(spine.name, ["ip", "-j", "link"]).stdout)
        return {row["ifname"] for row in rows if row["mtu"] == 1500} - {"mgmt0"}

    def deaf() -> set[str]:
        """Ports that do not hear a full-size packet of the leaf at the other end."""
        ends = [(end, design.far_end(end)) for end in spine.ports]
        tries = [
            (end, ping(whole, f.node, f.address, end.address, size=JUMBO, count=1, patience=0.3)) for end, f in ends
        ]
        return {end.netdev for end, tried in tries if tried.lost}

    whole.fault(what, f"{spine.name}:{group}")
    assert small() == deaf() == {end.netdev for end in ports}
    whole.act("heal", f"{spine.name}:{group}")
    assert small() == deaf() == set()


# ---- queues


def test_congestion_delays_and_hardly_drops(whole: Running, uplink: tuple[End, End]) -> None:
    own, far = uplink
    calm = ping(whole, own.node, own.address, far.address, count=30, interval=0.02)
    drops = {end: neighbor(whole, *ends)["connectionsDropped"] for end, ends in (("a", (own, far)), ("b", (far, own)))}
    for milliseconds in (30, 10):
        whole.fault("congestion", own.id, milliseconds)
        time.sleep(0.5)  # the queue fills
        busy = ping(whole, own.node, own.address, far.address, count=50, interval=0.02)
        assert busy.lost <= 1
        assert busy.mean - calm.mean == pytest.approx(milliseconds, rel=0.25)

    def backlog() -> int:
        queue = json.loads(whole.run(own.node, ["tc", "-s", "-j", "qdisc", "show", "dev", own.netdev]).stdout)
        return int(next(row for row in queue if row["kind"] == "pfifo")["backlog"])

    until(lambda: backlog() > 50_000, 5, "real bytes are in a real queue")
    assert dropped(whole) == 0
    assert {
        "a": neighbor(whole, own, far)["connectionsDropped"],
        "b": neighbor(whole, far, own)["connectionsDropped"],
    } == drops
    whole.act("heal", "all")
    assert ping(whole, own.node, own.address, far.address, count=20, interval=0.02).mean < 3
    assert "pfifo" not in whole.run(own.node, ["tc", "qdisc", "show", "dev", own.netdev]).stdout


def test_incast_drops_at_the_tail_and_spares_the_control_plane(whole: Running, uplink: tuple[End, End]) -> None:
    own, far = uplink
    drops = neighbor(whole, own, far)["connectionsDropped"]
    whole.fault("incast", own.id, 20, 100)
    time.sleep(0.5)
    # From the far end: a sender on the switch itself would be told of the full queue, and try again.
    pings = ping(whole, far.node, far.address, own.address, count=150, interval=0.02, patience=0.3)
    assert 0.05 < pings.lost / pings.sent < 0.98
    assert pings.mean == pytest.approx(20, rel=0.4), "those that got in waited for the whole queue"
    assert dropped(whole) == pytest.approx(pings.lost, abs=3)
    assert neighbor(whole, own, far)["connectionsDropped"] == drops
    assert bfd_status(whole, own, far) == "up"
    whole.act("heal", "all")
    assert ping(whole, own.node, own.address, far.address, count=20, interval=0.02).lost == 0


# ---- sessions


def test_bgp_starves_under_load_while_the_link_is_up(whole: Running, uplink: tuple[End, End]) -> None:
    own, far = uplink
    assert neighbor(whole, own, far)["bgpState"] == "Established"
    falls = int(whole.run(own.node, ["cat", f"/sys/class/net/{own.netdev}/carrier_down_count"]).stdout)
    whole.fault("bgp-starvation", own.id)
    until(lambda: neighbor(whole, own, far)["bgpState"] != "Established", 15, "the hold timer expires")
    reasons = [
        neighbor(whole, *ends).get(name)
        for ends in ((own, far), (far, own))
        for name in ("lastResetDueTo", "lastNotificationReason", "lastErrorCodeSubcode")
    ]
    assert "Hold Timer Expired" in json.dumps(reasons), reasons
    assert operstate(whole, own) == operstate(whole, far) == "up"
    assert int(whole.run(own.node, ["cat", f"/sys/class/net/{own.netdev}/carrier_down_count"]).stdout) == falls
    assert dropped(whole) > 1000
    whole.act("heal", "all")
    whole.act("wait-converged")


def test_without_load_bgp_does_not_starve(whole: Running, uplink: tuple[End, End]) -> None:
    own, far = uplink
    whole.fault("bgp-starvation", own.id, 1000, 0)
    drops = neighbor(whole, own, far)["connectionsDropped"]
    assert ping(whole, own.node, own.address, far.address, count=20).lost == 0
    assert dropped(whole) == 0
    assert neighbor(whole, own, far)["connectionsDropped"] == drops


# ---- switches


def pids(fabric: Running, switch: str) -> dict[str, int]:
    """The daemons of a switch, by program."""
    answer = fabric.run(
        None, ["sh", "-c", f"for p in $(ip netns pids {switch}); do echo $p $(cat /proc/$p/comm); done"]
    )
    return {name: int(pid) for pid, name in (line.split() for line in answer.stdout.splitlines())}


def test_a_switch_that_is_offline_is_gone_and_boots_again(whole: Running, design: Design, pair: Pair) -> None:
    spine = design.spines[0]
    daemons = {"zebra", "bgpd", "bfdd", "snmpd"}
    before = pids(whole, spine.name)
    assert daemons <= set(before)
    whole.fault("switch-offline", spine.name)
    assert not daemons & set(pids(whole, spine.name))
    assert all(operstate(whole, design.far_end(end)) != "up" for end in spine.ports)
    until(lambda: not routes_through(whole, pair.leaf, _address(design, pair.leaf, spine)), 5, "leaves avoid it")
    assert ping(whole, pair.source, pair.own, pair.there, size=JUMBO, count=20).lost == 0
    assert not _answers_snmp(whole, spine)
    time.sleep(1.2)  # the keeper looks once a second
    assert whole.dead_daemons() == [], "killed on purpose is not died"
    whole.act("heal", spine.name)
    after = pids(whole, spine.name)
    assert daemons <= set(after)
    assert all(after[name] != before[name] for name in daemons), "started afresh"
    whole.act("wait-converged")
    assert _answers_snmp(whole, spine)
    until(lambda: _answers_snmp(whole, spine, BGP_IDENTIFIER), 10, "bgpd finds the new agent")
    own, far = next(design.peers(spine.name))
    until(lambda: bfd_status(whole, own, far) == "up", 15, "BFD is up again")
    whole.run(None, ["kill", "-KILL", str(after["bfdd"])])
    until(lambda: whole.dead_daemons() == [f"bfdd-{spine.name}"], 5, "one that dies later is reported all the same")
    whole.fault("switch-offline", spine.name)
    whole.act("heal", "all")
    (whole.directory / "dead").unlink()
    assert "bfdd" in pids(whole, spine.name)
    # Until its sessions are new, leaves may still count routes of the old ones as converged.
    until(lambda: all(bfd_status(whole, *ends) == "up" for ends in design.peers(spine.name)), 15, "BFD is up with all")


def _address(design: Design, leaf: str, spine: Switch) -> str:
    return next(far.address for _, far in design.peers(leaf) if far.node == spine.name)


def _answers_snmp(fabric: Running, switch: Switch, oid: str = "1.3.6.1.2.1.1.5.0") -> bool:
    """Whether a switch tells its own name, or with ``BGP_IDENTIFIER`` its own router identifier."""
    client = [f"{name}={value}" for name, value in Agents(fabric.directory / "snmp").client_environment().items()]
    get = ["env", *client, "snmpget", "-r", "2", "-t", "0.3", "-Oqv", switch.management, oid]
    answer = fabric.run(None, get, check=False).stdout
    return switch.name in answer or switch.loopback in answer


def test_a_switch_without_icmp_is_a_star_and_a_path_mtu_black_hole(whole: Running, pair: Pair) -> None:
    last = pair.far_link.b  # the port of the last leaf towards the destination
    whole.fault("port-mtu", last.id, 1500)
    probe = f"ping -n -M do -s {JUMBO} -c 1 -W 0.5 -I {pair.own} {pair.there}".split()
    assert "mtu = 1500" in whole.run(pair.source, probe, check=False).stdout
    whole.act("heal", "all")
    before = hops(whole, pair)
    assert before[2] != "*"
    whole.fault("icmp-blackhole", last.node)
    whole.fault("port-mtu", last.id, 1500)
    answer = whole.run(pair.source, probe, check=False).stdout
    assert "mtu" not in answer
    assert "100% packet loss" in answer
    assert hops(whole, pair) == [*before[:2], "*", *before[3:]]
    assert ping(whole, pair.source, pair.own, last.address, count=3).lost == 0, "it answers echo requests"
    assert json.loads(whole.act("dropped")) == {f"icmp-blackhole {last.node}": 2}
    whole.act("heal", "all")
    assert hops(whole, pair) == before


def test_flows_move_when_a_switch_hashes_anew_and_move_back(whole: Running, pair: Pair) -> None:
    ports = range(43000, 43012)

    def spines() -> list[str]:
        return [hops(whole, pair, port)[1] for port in ports]

    before = spines()
    whole.fault("ecmp-rehash", pair.leaf, 3)
    moved = spines()
    assert moved != before
    assert spines() == moved, "a flow keeps its new path"
    whole.fault("ecmp-rehash", pair.leaf, 4)
    assert spines() != moved
    whole.act("heal", "all")
    assert spines() == before
    whole.fault("ecmp-rehash", "all", 3)
    assert spines() == moved
    whole.act("heal", "ecmp-rehash all")
    assert spines() == before


def test_a_drain_takes_all_traffic_away_and_loses_none(whole: Running, design: Design, pair: Pair) -> None:
    spine = design.spines[0]
    gateway = _address(design, pair.leaf, spine)
    assert routes_through(whole, pair.leaf, gateway) > 0

    def states() -> set[str]:
        argv = [sys.executable, "-m", "lab", "topology", "--name", whole.name]
        text = subprocess.run(argv, env=environment(), check=True, capture_output=True).stdout
        return {switch["name"] for switch in yaml.safe_load(text)["switches"] if switch.get("state") == "drained"}

    assert states() == set()
    flows, packets = 32, 400
    with echo(whole, pair.destination, pair.there):
        argv = ask_words(pair.own, pair.there, count=flows, packets=packets, seconds=4)
        asking = subprocess.Popen(whole.command(pair.source, argv), stdout=subprocess.PIPE)
        time.sleep(0.3)
        whole.fault("drain", spine.name)
        until(lambda: not routes_through(whole, pair.leaf, gateway), 3, "no route uses it")
        assert states() == {spine.name}
        assert neighbor(whole, *next(design.peers(spine.name)))["bgpState"] == "Established"
        whole.act("heal", "all")
        whole.act("wait-converged")
        answer, _ = asking.communicate(timeout=20)
    assert set(json.loads(answer).values()) == {packets}, "there and back again without a loss"
    assert states() == set()


# ---- all of them


def _all_kinds(design: Design) -> list[tuple[str, str, list[tuple[float | str, ...]]]]:
    """Every fault of the underlay: kind, target, and two sets of values."""
    leaf = design.leaves[0]
    own, far = next(design.peers(leaf.name))
    link = f"{own.id} -- {far.id}"
    spine = design.spines[0]
    return [
        ("flow-blackhole", link, [(20,), (100, own.id)]),
        ("class-loss", link, [(20,), (100, 0, far.id)]),
        ("silent-failure", link, [(), (own.id,)]),
        ("crc-errors", far.id, [(1e-5,), (1e-9,)]),
        ("port-down", own.id, [()]),
        ("port-flap", own.id, [(), (1, 0.2)]),
        ("port-mtu", own.id, [(1500,), (1400,)]),
        ("breakout-mtu", f"{spine.name}:{spine.ports[0].breakout_group}", [(), (1400,)]),
        ("linecard-mtu", f"{spine.name}:{spine.ports[0].linecard}", [(), (1400,)]),
        ("congestion", own.id, [(), (5, 100, "shared")]),
        ("incast", own.id, [(), (5, 10, 100, "shared")]),
        ("bgp-starvation", own.id, [(), (100, 0)]),
        ("switch-offline", spine.name, [()]),
        ("icmp-blackhole", spine.name, [()]),
        ("ecmp-rehash", "all", [(), (2,)]),
        ("drain", design.spines[1].name, [()]),
    ]


_SNAPSHOT = """
for n in $(ip netns list | cut -d' ' -f1); do
  echo "== $n"; ip netns exec $n sh -c '
  nft list tables; tc qdisc show; ip -o link | sed "s/ state .*//"; cat /proc/sys/net/ipv4/fib_multipath_hash_seed'
done
cat /proc/[0-9]*/cmdline | tr "\\0" " " | grep -ac "[l]ab.faults" || true
for s in /etc/frr/*/; do s=$(basename $s); vtysh -N $s -c "show running-config" 2>&1 | grep -v "^Building"; done
"""


def snapshot(fabric: Running) -> list[str]:
    return fabric.run(None, ["sh", "-c", _SNAPSHOT]).stdout.splitlines()


def test_faults_inflicted_again_with_other_values_leave_nothing_behind(whole: Running, design: Design) -> None:
    before = snapshot(whole)
    for name, target, variants in _all_kinds(design):
        for values in (*variants, variants[0]):
            whole.fault(name, target, *values)
        assert whole.act("heal", f"{name} {target}").startswith("healed")  # others change the same port
    assert snapshot(whole) == before


def test_a_fault_may_not_change_what_another_has_changed(whole: Running, pair: Pair) -> None:
    port = pair.link.b.id
    whole.fault("link-down", pair.link.id)
    with pytest.raises(LabError, match=r"link-down .* has changed the state of .*heal that first"):
        whole.fault("port-down", port)
    assert whole.act("status").count("fault  ") == 1
    assert whole.act("heal", " -- ".join(reversed(pair.link.id.split(" -- ")))).startswith("healed"), "either order"
    whole.fault("port-down", port)


def test_what_is_refused_while_it_is_done_is_not_recorded(whole: Running, design: Design) -> None:
    with pytest.raises(LabError, match="no exporter runs"):
        whole.fault("agent-stop", design.hosts[0].name)
    assert "fault     none" in whole.act("status")


def test_faults_half_done_are_mended(whole: Running, design: Design) -> None:
    before = snapshot(whole)
    faults = []
    for name, target, variants in _all_kinds(design):
        parameters = kind(name).parameters
        given = dict(zip((p.name for p in parameters), variants[0], strict=False))
        faults.append(Fault(name, target, {p.name: given.get(p.name, p.default or 0) for p in parameters}))
    (whole.directory / "faults.json").write_bytes(msgspec.json.encode(faults))  # recorded, and then nothing was done
    assert len(whole.act("heal", "all").splitlines()) == len(faults)
    assert snapshot(whole) == before


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("flow-blackhole", "{link}", "0"), "percent"),
        (("flow-blackhole", "{link}", "5", "nowhere:Ethernet0"), "end of"),
        (("class-loss", "{link}", "5", "64"), "dscp"),
        (("crc-errors", "{port}", "0.5"), "ber"),
        (("port-down", "{rnic}"), "rnic-down"),
        (("port-flap", "{port}", "1", "1"), "shorter"),
        (("breakout-mtu", "{switch}"), "breakout group"),
        (("linecard-mtu", "{switch}:lc9"), "line card"),
        (("congestion", "{rnic}"), "switch's port"),
        (("congestion", "{port}", "1", "1"), "at least one packet"),
        (("bgp-starvation", "{port}"), "between two switches"),
        (("switch-offline", "host"), "switch"),
        (("ecmp-rehash", "every"), "switch"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_in_one_line(
    fabric: Running, pair: Pair, words: tuple[str, ...], what: str
) -> None:
    names = {"link": pair.link.id, "port": pair.link.b.id, "rnic": pair.link.a.id, "switch": pair.leaf}
    with pytest.raises(LabError, match=what) as caught:
        fabric.fault(*(word.format(**names) for word in words))
    assert not re.search(r"Traceback", str(caught.value))
    assert "fault     none" in fabric.act("status")
