"""Failures of congestion control: queues that stand full, pauses in a circle, and sessions that starve."""

from __future__ import annotations

import numpy as np

from exporter.contracts.counters import (
    ECN_MARKED,
    PFC_PAUSED,
    PFC_PAUSING,
    PFC_RECEIVED,
    PFC_SENT,
    RNIC_CNP_HANDLED,
    RNIC_CNP_SENT,
    RNIC_ECN_MARKED,
    RNIC_PFC_PAUSED,
    RNIC_PFC_RECEIVED,
    WATCHDOG_STUCK,
)
from lab.simulator.failures.blame import Name, Redraw
from lab.simulator.failures.catalogue import failure
from lab.simulator.failures.flows import LOSSLESS_DSCP
from lab.simulator.failures.scene import Scene
from lab.simulator.failures.story import LOSSLESS
from lab.simulator.failures.wiring import both_ways


@failure("congestion-control-issue", "congestion control is off on one queue of a switch", row=19, symptom="congestion",
         slow=True)  # fmt: skip
def congestion_control(scene: Scene) -> None:
    """The queue stays full: nothing is marked, nobody slows down, and the switch pauses whoever sends through it."""
    lossless = scene.flows.dscp == LOSSLESS_DSCP
    cable = scene.draw.random() < 0.5
    direction = int(scene.into([scene.rnic()])[0]) if cable else scene.direction()
    delay = scene.microseconds(100.0, 3000.0)
    scene.delay([direction], delay, flows=lossless, spread=0.3)
    port = scene.wiring.sender(direction)
    scene.story.unmarked.append(port)
    switch = port.partition(":")[0]
    for other in [each for each in scene.wiring.ports if each.startswith(f"{switch}:") and each != port]:
        if scene.draw.random() < 0.7:
            pauses(scene, other, float(scene.draw.uniform(0.05, 0.4)))
    right: list[Name] = [("config", port), ("switch", switch), ("link", scene.wiring.links[direction // 2])]
    if cable:
        right.append(("rnic", scene.wiring.receiver(direction)))
    scene.blame("congestion", "underlay", "port", port, f"the queue of {port} is {delay:.0f} us long and marks nothing",
                right=right, alike=scene.alike(np.array([direction]), lossless))  # fmt: skip


def pauses(scene: Scene, port: str, share: float) -> None:
    """A switch port pauses its neighbour for ``share`` of the time."""
    frames = 11_921.0 * share  # what keeps a priority of 400 Gb/s paused, with the longest pause a frame can ask for
    scene.count(PFC_SENT, port, rate=frames, priority=LOSSLESS)
    scene.count(PFC_PAUSING, port, rate=share, priority=LOSSLESS)
    far = next(pair for pair in scene.wiring.ends if port in pair)
    other = far[0] if far[1] == port else far[1]
    received, paused = (
        (PFC_RECEIVED, PFC_PAUSED) if other in scene.wiring.ports else (RNIC_PFC_RECEIVED, RNIC_PFC_PAUSED)
    )
    scene.count(received, other, rate=frames, priority=LOSSLESS)
    scene.count(paused, other, rate=share, priority=LOSSLESS)


@failure("pfc-deadlock", "ports pause each other in a circle; one VLAN's packets are stuck", symptom="congestion")
def pfc_deadlock(scene: Scene) -> None:
    """Two leaves and two spines pause each other (Guo et al., SIGCOMM 2016, 4.2): lossless packets among them die."""
    spines = [str(each) for each in scene.draw.permutation(scene.wiring.tier("spine"))[:2]]
    leaves = [str(each) for each in scene.draw.permutation(scene.wiring.tier("leaf"))[:2]]
    circle = [link for link, (low, high) in enumerate(scene.wiring.nodes) if low in leaves and high in spines]
    directions = both_ways(circle)
    scene.distinct(directions)
    lossless = scene.flows.dscp == LOSSLESS_DSCP
    loss = float(scene.draw.uniform(0.15, 0.7))
    scene.lose(directions, loss, flows=lossless)
    scene.delay(directions, scene.microseconds(200.0, 2000.0), flows=lossless, spread=0.8)
    for link in circle:
        for port in scene.wiring.ends[link]:
            pauses(scene, port, 1.0)
            scene.count(WATCHDOG_STUCK, port, rate=0.5, queue=LOSSLESS)
    start = leaves[0]
    for link in circle:
        port = scene.wiring.ends[link][0]
        if port.startswith(f"{start}:"):
            scene.drop(port, 200.0, vlan=scene.job.vni)
    scene.blame("congestion", "underlay", "vlan", f"{start}:{scene.job.vni}",
                f"{', '.join((*leaves, *spines))} pause each other; {100 * loss:.0f} % of VLAN {scene.job.vni} die",
                right=[("switch", each) for each in (*leaves, *spines)])  # fmt: skip


@failure("cnp-surge-vlan-drops", "one VLAN of a switch drops packets while notifications surge", symptom="congestion")
def cnp_surge(scene: Scene) -> None:
    """A leaf drops lossless packets of the job's VLAN, marks what it can, and receivers tell senders to slow down."""
    leaf = str(scene.draw.choice(scene.wiring.tier("leaf")))
    arriving = np.array([each ^ 1 for each in outgoing(scene, leaf)])
    scene.distinct(arriving)
    lossless = scene.flows.dscp == LOSSLESS_DSCP
    loss = float(np.exp(scene.draw.uniform(np.log(0.02), np.log(0.25))))
    scene.lose(arriving, loss, flows=lossless)
    vlan = scene.job.vni
    for number, own in enumerate(scene.wiring.leaves[: scene.wiring.computing]):
        rnic = scene.wiring.rnics[number]
        scene.count(RNIC_CNP_HANDLED, rnic, rate=float(scene.draw.uniform(50.0, 400.0)))
        if own == leaf:
            port = scene.wiring.ends[int(scene.wiring.cables[number])][1]
            marks = float(scene.draw.uniform(2000.0, 20_000.0))
            scene.count(ECN_MARKED, port, rate=marks, queue=LOSSLESS)
            scene.count(RNIC_ECN_MARKED, rnic, rate=marks)
            scene.count(RNIC_CNP_SENT, rnic, rate=marks)
            scene.drop(port, float(scene.draw.uniform(50.0, 500.0)), vlan=vlan)
    scene.blame("congestion", "underlay", "vlan", f"{leaf}:{vlan}", f"{leaf} drops {100 * loss:.1f} % on VLAN {vlan}",
                right=(("switch", leaf),))  # fmt: skip


def outgoing(scene: Scene, switch: str) -> list[int]:
    """The directions in which packets leave a switch."""
    here = scene.wiring.directions_at(switch).tolist()
    return [each for each in here if scene.wiring.sender(each).startswith(f"{switch}:")]


@failure("bgp-flap-incast", "an incast starves a BGP session's keepalives; the link stays up", symptom="flap",
         counters=True)  # fmt: skip
def bgp_incast(scene: Scene) -> None:
    """What exceeds the port's rate is dropped, keepalives with it. The session ends, its routes go, and both return."""
    link = scene.fabric_link(least=4)
    windows = scene.flapping(float(scene.draw.uniform(9.0, 18.0)), float(scene.draw.uniform(2.0, 5.0)))
    lower, upper = scene.wiring.ends[link]
    down = scene.draw.random() < 0.5
    port, far = (upper, lower) if down else (lower, upper)
    scene.lose([2 * link + int(down)], float(scene.draw.uniform(0.1, 0.6)), windows=windows)
    scene.delay([2 * link + int(down)], scene.microseconds(100.0, 800.0), windows=windows, spread=0.5)
    held = tuple((since + 1.5, until) for since, until in windows if until - since > 1.6)
    if not held:
        raise Redraw
    scene.session(port, far, held)
    scene.session(far, port, held)
    scene.count(ECN_MARKED, port, rate=5000.0, queue=LOSSLESS, windows=windows)
    scene.drop(port, 2000.0, windows=windows)
    names = [f"{one.partition(':')[0]}:{scene.wiring.ports[other].addresses[0]}" for one, other in
             ((port, far), (far, port))]  # fmt: skip
    scene.blame("flap", "underlay", "bgp_session", names[0], f"load on {port} starves its session with {far}",
                right=(("bgp_session", names[1]), ("link", scene.wiring.links[link]), ("port", port)))  # fmt: skip
