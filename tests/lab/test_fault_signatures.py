"""Each path fault is shown by exactly the metrics that should show it, on the paths it is on, and by no others.

One agent probes two hosts of another pod in every way there is. For each fault what moved meanwhile, against a healthy
window just before, is compared with tests/lab/signatures.py: every family, every probe, and three groups of paths:
those that cross the broken component on the way there, those that cross it only on the way back, and the others.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from exporter.contracts.codec import encode
from exporter.contracts.names import link_id
from exporter.contracts.plan import RESPONDER_PORT, UDP_HEADERS, ProbeType, Target
from lab.network.design import Design, End
from lab.running import Running
from tests.lab.agent import SENT, Agent, Samples, until
from tests.lab.signatures import (
    BLACK_HOLE,
    DEFAULT,
    ECHO_ABSENT,
    ECHO_RTT,
    FRAG_NEEDED,
    LOCAL,
    LOSSLESS,
    LOST,
    LOST_RETURN,
    MTU,
    MTU_FOUND,
    MTU_REPORTED,
    REFUSED,
    RESETS,
    RESTARTS,
    RETRANSMITS,
    ROUTE_CHANGES,
    RTT,
    SIGNATURES,
    SYN_RETRANSMITS,
    TCP,
    UNSENT,
    Moved,
)

pytestmark = pytest.mark.slow  # three minutes

PORTS, CANDIDATES = 12, range(51_000, 51_060)
TCP_PORTS = 24  # a handshake that loses something takes a second: as many probes need more paths
PROBES: dict[str, tuple[ProbeType, int, float]] = {  # type, traffic class, period in seconds
    LOSSLESS: ("udp", 26 << 2 | 2, 0.1),
    DEFAULT: ("udp", 2, 0.1),
    MTU: ("mtu", 26 << 2 | 2, 0.1),
    TCP: ("tcp", 2, 0.5),
}
TIMEOUT_SECONDS = 0.3
SETTLE_SECONDS = 1.4
"""A handshake that began in one window must not end in the next: TIMEOUT_SECONDS after its second SYN."""
WINDOW_SECONDS = 1.8
LOOKS = 3  # at gauges, in the second half of a window
SLOW_SECONDS = 0.005
"""A median round trip that grew by so much has moved: the lab's are tens of microseconds, its slow faults 20 ms."""

SHARES = {LOST: 0.1, LOST_RETURN: 0.1, UNSENT: 0.2, SYN_RETRANSMITS: 0.1, RETRANSMITS: 0.04}
"""Events that a busy machine can make by itself, or routing while it converges, have moved when they are more than this
share of the probes sent. Of the others, which never come by themselves, one is a move."""
CARRIER_SHARES = {
    **SHARES,
    LOST: 0.02,
    LOST_RETURN: 0.02,
    SYN_RETRANSMITS: 0.03,
    RETRANSMITS: 0.01,
}
"""For a carrier, which loses little and all the time."""
LOST_HANDSHAKES = 0.06  # LOST of TCP: two SYNs in a row, which a little loss makes now and then
COUNTERS = (LOST, LOST_RETURN, REFUSED, UNSENT, RESTARTS, ROUTE_CHANGES, SYN_RETRANSMITS, RETRANSMITS, RESETS)
PROBER = {  # what the prober says of itself, as shares of all probes: no fault of a path is ever its trouble
    "fabric_exporter_prober_starved_probes_total": 0.3,
    "fabric_exporter_prober_unjudged_probes_total": 0.02,
    "fabric_exporter_prober_dropped_total": 0.02,
}
SPRAYED = "fabric_exporter_sprayed_flows"


Group = dict[str, set[str]]
"""{probe: paths}"""
Break = Callable[["Scene"], None]


@dataclass(frozen=True)
class Scene:
    """Who probes whom, and the ends of the link that is to be broken."""

    lab: Running
    near: Agent
    far: Agent
    targets: list[Target]
    uplink: End  # the near leaf's port
    spine: End
    far_port: End  # of the far leaf, to the far host
    there: set[str]  # paths that cross the link on their way there
    back: set[str]  # those whose replies cross it

    def groups(self, there: set[str], back: set[str]) -> dict[str, Group]:
        """Paths that cross the broken component on the way there only, back only, both ways, and not at all."""
        every = {target.path for target in self.targets}
        sides = {"there": there - back, "back": back - there, "both": there & back, "neither": every - there - back}
        return {side: by_probe(self.targets, paths) for side, paths in sides.items() if paths}

    def towards_far(self) -> set[str]:
        return {target.path for target in self.targets if target.destination_host == self.far.host.name}

    def fault(self, kind: str, target: str, *values: str | float) -> None:
        self.lab.fault(kind, target, *values)


def by_probe(targets: list[Target], paths: set[str]) -> Group:
    return {
        name: {t.path for t in targets if t.path in paths and (t.probe, t.traffic_class) == (probe, traffic_class)}
        for name, (probe, traffic_class, _) in PROBES.items()
    }


def every_probe(near: Agent, other: Agent, ports: range, mtu: int) -> list[Target]:
    """Every kind of probe from each of these ports."""
    return [
        near.target(
            other.host,
            other.rnic,
            port,
            probe,
            period,
            payload_bytes=mtu - UDP_HEADERS if probe == "mtu" else 64,
            traffic_class=traffic_class,
        )
        for probe, traffic_class, period in PROBES.values()
        for port in ports
    ]


def leaf_port(design: Design, agent: Agent) -> End:
    return design.far_end(design.rnic_end(f"{agent.host.name}:{agent.rnic.name}"))


def forwarded(lab: Running, leaf: str, words: dict[str, str]) -> dict[str, str]:
    """{path: the device by which a leaf forwards it}, as its kernel says; ``words`` are of ip-route(8)'s ``get``."""
    script = "; ".join(f"ip -j route get {each}" for each in words.values())
    lines = [line for line in lab.run(leaf, ["sh", "-c", script]).stdout.splitlines() if line.startswith("[{")]
    return {path: json.loads(line)[0]["dev"] for path, line in zip(words, lines, strict=True)}


def set_scene(lab: Running, design: Design, near: Agent, far: Agent, beside: Agent) -> Scene:
    """Probe both hosts; of the paths to the far one half cross the link on the way there, as the kernels route them.

    On the way back it is the same half, or else the other: the kernel hashes both ways of a flow alike, and the order
    of a leaf's spines decides.
    """
    inner, outer = leaf_port(design, near), leaf_port(design, far)
    own, spine = next((own, far) for own, far in design.peers(inner.node) if far.node == design.spines[0].name)
    last = next(own for own, far in design.peers(outer.node) if far.node == spine.node)
    ways, replies = {}, {}
    possible = every_probe(near, far, CANDIDATES, design.mtu)
    for target in possible:
        kind = f"ipproto {'tcp' if target.probe == 'tcp' else 'udp'}"
        here, there, port = target.source_address, target.destination_address, target.source_ports[0]
        ways[target.path] = f"{there} from {here} iif {inner.netdev} {kind} sport {port} dport {RESPONDER_PORT}"
        replies[target.path] = f"{here} from {there} iif {outer.netdev} {kind} sport {RESPONDER_PORT} dport {port}"
    there = {path for path, device in forwarded(lab, inner.node, ways).items() if device == own.netdev}
    back = {path for path, device in forwarded(lab, outer.node, replies).items() if device == last.netdev}
    targets = every_probe(near, beside, CANDIDATES[:PORTS], design.mtu)
    for probe, paths in by_probe(possible, {target.path for target in possible}).items():
        count = (TCP_PORTS if probe == TCP else PORTS) // 2
        for chosen in (paths & there, paths - there):
            ordered = [target for target in possible if target.path in chosen]
            assert len(ordered) >= count
            targets += ordered[:count]
    used = {target.path for target in targets}
    near.follow(targets, 1)
    return Scene(lab, near, far, targets, own, spine, outer, there & used, back & used)


# ---- what moved


def by_path(samples: Samples, name: str) -> dict[str, float]:
    return {dict(labels)["path"]: value for labels, value in samples[name].items()}


def look(agent: Agent, seconds: float) -> list[Samples]:
    """What the agent serves in the last half of so many seconds, ``LOOKS`` times."""
    began = time.monotonic()
    looks = []
    for number in range(LOOKS):
        time.sleep(max(0.0, began + seconds * (1 - (LOOKS - 1 - number) / (2 * (LOOKS - 1))) - time.monotonic()))
        looks.append(agent.metrics())
    return looks


def slowness(looks: list[Samples], name: str, paths: set[str]) -> float | None:
    """Median of a round trip; None where no path has one at any look."""
    values = [value for each in looks for path, value in by_path(each, name).items() if path in paths]
    return statistics.median(values) if values else None


def grown(name: str, start: Samples, end: Samples, paths: set[str]) -> float:
    before, after = by_path(start, name), by_path(end, name)
    return sum(after[path] - before.get(path, 0) for path in paths if path in after)


def moved(
    start: Samples,
    healthy: list[Samples],
    faulty: list[Samples],
    group: Group,
    promise: int,
    shares: dict[str, float] = SHARES,
) -> Moved:
    """What moved on these paths between the looks at a healthy fabric and those at a broken one."""
    found: dict[str, set[str]] = defaultdict(set)
    middle, end = healthy[-1], faulty[-1]
    for probe, paths in group.items():
        if not paths:
            continue
        sent = grown(SENT, middle, end, paths)
        assert sent > len(paths)
        for name in COUNTERS:
            more = grown(name, middle, end, paths) - grown(name, start, middle, paths)
            share = LOST_HANDSHAKES if (name, probe) == (LOST, TCP) else shares.get(name, 0.0)
            if more > share * sent:
                found[name].add(probe)
        for name in (RTT, ECHO_RTT):
            before, after = (slowness(looks, name, paths) for looks in (healthy, faulty))
            if before is not None and after is not None and after > before + SLOW_SECONDS:
                found[name].add(probe)
            # Where segments are lost, the last echo of every path may have been by chance.
            if name == ECHO_RTT and before is not None and after is None and RETRANSMITS not in found:
                found[ECHO_ABSENT].add(probe)
        if paths & (by_path(end, MTU_REPORTED).keys() - by_path(middle, MTU_REPORTED).keys()):
            found[MTU_REPORTED].add(probe)
        if any(value < promise for path, value in by_path(end, MTU_FOUND).items() if path in paths):
            found[MTU_FOUND].add(probe)
        limits = {(dict(labels)["path"], dict(labels)["kind"]) for labels in end["fabric_path_mtu_limit_info"]}
        for name in (FRAG_NEEDED, BLACK_HOLE, LOCAL):
            if any(path in paths and kind == name.split()[1] for path, kind in limits):
                found[name].add(probe)
    return dict(found)


def troubled(start: Samples, healthy: list[Samples], faulty: list[Samples]) -> set[str]:
    """What the prober says of itself that moved."""
    middle, end = healthy[-1], faulty[-1]

    def total(name: str, samples: Samples) -> float:
        return sum(samples[name].values())

    def more(name: str) -> float:
        return total(name, end) - 2 * total(name, middle) + total(name, start)

    sent = total(SENT, end) - total(SENT, middle)
    return {name for name, share in PROBER.items() if more(name) > share * sent} | {
        SPRAYED for samples in faulty if total(SPRAYED, samples)
    }


# ---- the faults


@dataclass(frozen=True)
class Case:
    """How a fault of the table is made, and what it is on: the link, or the far host."""

    inflict: Callable[[Scene], object]
    is_of_host: bool = False
    seconds: float = WINDOW_SECONDS
    until: Callable[[Scene, Samples], bool] = lambda _, __: True
    """What takes longer than the window, and is waited for."""


def link(scene: Scene) -> str:
    return link_id(scene.uplink.id, scene.spine.id)


def far_rnic(scene: Scene) -> str:
    return f"{scene.far.host.name}:{scene.far.rnic.name}"


def kill_and_start(scene: Scene) -> None:
    scene.lab.fault("agent-stop", scene.far.host.name, "kill")
    time.sleep(2)
    scene.lab.act("heal", "all")
    until(scene.far.metrics)


def has_searched(scene: Scene, now: Samples) -> bool:
    """Whether each full-size path over the link has an MTU again."""
    return {path for path in scene.there if "/mtu/" in path} <= by_path(now, MTU_FOUND).keys()


def has_traced(scene: Scene, now: Samples) -> bool:
    """Whether each traced path that crossed the link has a new route: 15 s after its last loss (FREEZE_SECONDS)."""
    changes = by_path(now, ROUTE_CHANGES)
    return all(changes[path] for path in scene.there)


CASES = {
    # Half of a handshake's answers have to die for some handshakes to be lost: the SYN and its answer are sent again.
    "silent-loss, towards the far end": Case(lambda s: s.lab.fault("silent-loss", link(s), 55, s.spine.id), seconds=10),
    "silent-loss, towards us": Case(lambda s: s.lab.fault("silent-loss", link(s), 55, s.uplink.id), seconds=20),
    # BFD finds it after 3 s. One way only: else either end may find it first, and turn one way before the other.
    "silent-failure": Case(lambda s: s.lab.fault("silent-failure", link(s), s.spine.id), seconds=3),
    "flow-blackhole": Case(lambda s: s.lab.fault("flow-blackhole", link(s), 95)),
    "class-loss": Case(lambda s: s.lab.fault("class-loss", link(s), 50)),
    "crc-errors": Case(lambda s: s.lab.fault("crc-errors", s.spine.id, 2.5e-6)),
    "port-mtu, of a port that packets leave by": Case(
        lambda s: s.lab.fault("port-mtu", s.uplink.id, 1500), until=has_searched
    ),
    "port-mtu, of a port that packets arrive at": Case(
        lambda s: s.lab.fault("port-mtu", s.spine.id, 1500), until=has_searched
    ),
    "congestion": Case(lambda s: s.lab.fault("congestion", s.uplink.id, 20)),
    "port-down": Case(lambda s: s.lab.fault("port-down", s.far_port.id), is_of_host=True),
    "rnic-down": Case(lambda s: s.lab.fault("rnic-down", far_rnic(s)), is_of_host=True),
    "rnic-slow": Case(lambda s: s.lab.fault("rnic-slow", far_rnic(s), 20_000), is_of_host=True),
    "host-slow": Case(lambda s: s.lab.fault("host-slow", s.far.host.name, 20_000), is_of_host=True),
    "gid-change": Case(lambda s: s.lab.fault("gid-change", far_rnic(s)), is_of_host=True),
    "agent-stop, hung": Case(lambda s: s.lab.fault("agent-stop", s.far.host.name), is_of_host=True),
    "agent-stop, killed and started": Case(kill_and_start, is_of_host=True),
    "link-down": Case(lambda s: s.lab.fault("link-down", link(s)), until=has_traced),  # last: its route stays for 15 s
}


@pytest.fixture(scope="module")
def scene(fabric: Running, design: Design, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    near = design.hosts[0]
    far = next(host for host in design.hosts if host.pod != near.pod)
    beside = next(host for host in design.hosts if host.pod == near.pod and host != near)  # behind the same leaf
    directory = tmp_path_factory.mktemp("agents")
    topology = directory / "topology.json"
    topology.write_bytes(encode(design.topology()))
    probing = {"trace_period_seconds": 2, "timeout_seconds": TIMEOUT_SECONDS}
    agents = [Agent(fabric, host, directory / host.name, topology, **probing) for host in (near, far, beside)]
    try:
        until(lambda: all(agent.metrics() for agent in agents))
        yield set_scene(fabric, design, *agents)
    finally:
        fabric.act("heal", "all")
        for agent in agents:
            agent.stop()


@pytest.fixture
def healthy(scene: Scene, design: Design) -> Iterator[Scene]:
    """The scene, with routes that are traced and are the ones the kernels take."""

    def settled() -> bool:
        links = scene.near.links()
        traced = {target.path for target in scene.targets}
        return links.keys() == traced and {path for path in links if link(scene) in links[path]} == scene.there

    def whole() -> bool:
        found = by_path(scene.near.metrics(), MTU_FOUND)
        return len(found) == 2 * PORTS and set(found.values()) == {design.mtu}

    until(lambda: settled() and whole(), 40)
    yield scene
    scene.lab.act("heal", "all")
    scene.lab.act("wait-converged")
    time.sleep(SETTLE_SECONDS)


@pytest.mark.parametrize("name", CASES)
def test_a_fault_moves_its_metrics_and_no_others(name: str, healthy: Scene, design: Design) -> None:
    case, near, signature = CASES[name], healthy.near, SIGNATURES[name]
    hit = (healthy.towards_far(), set[str]()) if case.is_of_host else (healthy.there, healthy.back)
    groups = healthy.groups(*hit)
    start = near.metrics()
    before = look(near, case.seconds)
    case.inflict(healthy)
    during = look(near, case.seconds)
    until(lambda: case.until(healthy, near.metrics()), 40)
    during.append(near.metrics())
    found = {side: moved(start, before, during, group, design.mtu) for side, group in groups.items()}
    expected = {"there": signature.there, "back": signature.back, "both": signature.both, "neither": {}}
    assert found == {side: expected[side] for side in groups}
    assert troubled(start, before, during) == set()


def test_another_carrier_moves_its_metrics_and_no_others(two_sites: Running, tmp_path: Path) -> None:
    """The second carrier is 14 ms slower there and back at least, and loses 5 to 8 % each way."""
    design = two_sites.design()
    assert design.transit is not None
    signature = SIGNATURES["route-change"]
    topology = tmp_path / "topology.json"
    topology.write_bytes(encode(design.topology()))
    hosts = (design.hosts[0], design.service_host(design.transit.store))
    probing = {"trace_period_seconds": 0.5, "timeout_seconds": TIMEOUT_SECONDS}
    agents = [Agent(two_sites, host, tmp_path / host.name, topology, **probing) for host in hosts]
    try:
        until(lambda: all(agent.metrics() for agent in agents))
        near = agents[0]
        targets = every_probe(near, agents[1], CANDIDATES[:PORTS], design.mtu)
        near.follow(targets, 1)
        group = by_probe(targets, {target.path for target in targets})
        until(lambda: len(near.links()) == len(targets))
        start = near.metrics()
        before = look(near, 4)
        two_sites.fault("route-change", design.transit.carriers[1].switch)
        during = look(near, 4)
        assert moved(start, before, during, group, design.mtu, CARRIER_SHARES) == signature.there
        assert troubled(start, before, during) == set()
    finally:
        two_sites.act("heal", "all")
        codes = [agent.stop() for agent in agents]
    assert codes == [0, 0]
