"""Failures of what several ports share, and of links that are hard to tell apart."""

from __future__ import annotations

import numpy as np

from exporter.contracts.counters import FRAME_TOO_LONGS
from exporter.contracts.diagnosis import ComponentKind, Symptom
from lab.simulator.failures.blame import Name, Redraw
from lab.simulator.failures.catalogue import failure
from lab.simulator.failures.flows import Kinds
from lab.simulator.failures.links import corrupt, severity
from lab.simulator.failures.overlays import OVERLAY, from_host, peers_of
from lab.simulator.failures.scene import Scene
from lab.simulator.failures.story import SWITCH_MTU
from lab.simulator.failures.wiring import Sizes, both_ways

LEAST_APART = 3
"""Flows that cross one of two broken links and not the other."""


@failure("mtu-black-hole", "a 1500-byte port in a path for jumbo frames", symptom="mtu", kinds=Kinds(full=True))
def mtu_black_hole(scene: Scene) -> None:
    """A line card came back with the vendor's default: full-size probes die there, small ones live."""
    full = scene.flows.full
    options = []
    for link in scene.fabric_links(1):
        both = both_ways([link])
        if (full & scene.crossings.requests(both)).sum() >= 2 and len(scene.twins(both, full)) <= 1:
            options.append(link)
    if not options:
        raise Redraw
    link = int(scene.draw.choice(options))
    port, other = scene.wiring.ends[link][:: int(scene.draw.choice([1, -1]))]
    scene.lose(both_ways([link]), 1.0, flows=full)
    scene.count(FRAME_TOO_LONGS, port, rate=float(scene.draw.uniform(20.0, 2000.0)))
    scene.count(SWITCH_MTU, port, level=1500.0)
    card = scene.wiring.ports[port].linecard
    right: list[Name] = [("link", scene.wiring.links[link]), ("config", port)]
    scene.story.resets += [(port.partition(":")[0], port.partition(":")[2], scene.clock.injected)]
    right += [("linecard", f"{port.partition(':')[0]}:{card}")] if card else []
    scene.blame("mtu", "underlay", "port", port, f"{port} came back with MTU 1500", right=right,
                alike=(("port", other), *scene.alike(both_ways([link]), full)))  # fmt: skip


def used(scene: Scene, links: list[int]) -> list[int]:
    """Those of the links that some flow crosses."""
    crossed = set(np.unique(np.concatenate([scene.first.there.ravel(), scene.first.back.ravel()]) // 2).tolist())
    return [link for link in links if link in crossed]


def broken_part(scene: Scene, kind: ComponentKind) -> tuple[str, list[int]]:
    """A part of which the probes see two links and more, but not all that they see of its switch's."""
    options = []
    for (own, name), links in scene.wiring.parts.items():
        switch = name.partition(":")[0]
        beside = [
            link
            for (other, part), each in scene.wiring.parts.items()
            if (other, part.partition(":")[0]) == (own, switch)
            for link in each
        ]
        if own == kind and 2 <= len(used(scene, links)) < len(used(scene, beside)):
            options.append((name, links))
    if not options:
        raise Redraw
    name, links = options[int(scene.draw.integers(len(options)))]
    scene.distinct(both_ways(links))
    return name, links


@failure("linecard-failure", "a line card of a spine fails with all its ports", symptom="unreachable",
         sizes=Sizes(pods=(3, 4), hosts=(2, 4)))  # fmt: skip
def linecard(scene: Scene) -> None:
    """Its ports go down and routing goes round them, or it drops packets and they stay up."""
    name, links = broken_part(scene, "linecard")
    silent = scene.draw.random() < 0.5
    if silent:
        scene.lose(both_ways(links), 1.0)
    else:
        scene.dead(links, scene.clock.injected, until=scene.clock.repaired)
        scene.down(links, scene.clock.during)
    scene.blame(
        "unreachable", "underlay", "linecard", name, f"line card {name} {'drops packets' if silent else 'died'}"
    )


@failure("breakout-failure", "a broken-out port fails with all its lanes", symptom="unreachable",
         sizes=Sizes(pods=(2, 3), rails=(2, 3), hosts=(3, 6)))  # fmt: skip
def breakout(scene: Scene) -> None:
    """Neighbouring hosts lose one rail."""
    name, links = broken_part(scene, "breakout_group")
    scene.lose(both_ways(links), 1.0)
    scene.down(links, scene.clock.during)
    for link in links:
        scene.stop_traffic(scene.wiring.ends[link][0])
    scene.blame("unreachable", "underlay", "breakout_group", name, f"all lanes of {name} are dark")


@failure("parallel-links", "one of several links between two switches loses packets", symptom="loss",
         sizes=Sizes(parallel=(2, 3)))  # fmt: skip
def parallel_links(scene: Scene) -> None:
    lossy(scene, scene.direction(), severity(scene))


def lossy(scene: Scene, direction: int, loss: float) -> None:
    """A direction loses packets by bit errors, and is blamed."""
    corrupt(scene, direction, loss, failure=len(scene.blames))
    port = scene.wiring.receiver(direction)
    said = f"{100 * loss:.1f} % die towards {port}"
    link, alike = scene.wiring.links[direction // 2], scene.alike(np.array([direction]), parts=True, dead=loss == 1)
    symptom: Symptom = "loss" if loss < 1 else "unreachable"
    scene.blame(symptom, "underlay", "link", link, said, right=(("port", port),), alike=alike)


@failure("one-pair", "a lossy link that a single probed pair crosses", symptom="loss")
def one_pair(scene: Scene) -> None:
    """Only what the link's end counts tells it from the others of the pair's path."""
    number = len(scene.wiring.rnics)
    low = np.minimum(scene.flows.source, scene.flows.destination)
    pairs = low * number + np.maximum(scene.flows.source, scene.flows.destination)
    options = []
    for direction in scene.directions(1):
        there, back = scene.first.crossing([direction])
        if np.unique(pairs[there | back]).size == 1:
            options.append(direction)
    if not options:
        raise Redraw
    lossy(scene, int(scene.draw.choice(options)), severity(scene, 0.05))


def told_apart(scene: Scene, direction: int, other: int) -> bool:
    """Whether flows that a fault in another direction cannot hide tell the direction from all links."""
    hidden = np.logical_or(*scene.first.crossing([other]))
    felt = scene.crossings.requests(np.array([direction])) & ~hidden
    return bool(np.count_nonzero(felt) >= LEAST_APART and not scene.twins(np.array([direction]), ~hidden))


@failure("two-faults-one-path", "two lossy links, both on the path of some flow", symptom="loss")
def two_faults(scene: Scene) -> None:
    first = scene.direction()
    there = scene.crossings.requests(np.array([first]))
    others = [each for each in scene.directions() if each // 2 != first // 2]
    options = [each for each in others if (there & scene.crossings.requests(np.array([each]))).any()]
    options = [each for each in options if told_apart(scene, first, each) and told_apart(scene, each, first)]
    if not options:
        raise Redraw
    lossy(scene, first, severity(scene, 0.05))
    lossy(scene, int(scene.draw.choice(options)), severity(scene, 0.05))


@failure("overlay-and-underlay", "a lossy link, and a virtual switch whose flows take the slow path", symptom="loss",
         slow=True, kinds=OVERLAY)  # fmt: skip
def overlay_and_underlay(scene: Scene) -> None:
    lossy(scene, scene.direction(), severity(scene, 0.05))
    host = scene.host()
    peers = peers_of(scene, host)
    if not peers:
        raise Redraw
    delay = scene.microseconds(60.0, 600.0)
    scene.delay_flows(*from_host(scene, host, peers), delay, spread=0.3, failure=1)
    addresses = {scene.job.overlay[rnic] for rnic in peers}
    scene.tables.edit(host, "rnic", lambda entry: None if entry.dst in addresses else entry)
    scene.blame("latency", "overlay", "vswitch", host, f"{host} sends the overlay's packets through software",
                right=[("rnic", scene.wiring.rnics[rnic]) for rnic in scene.wiring.hosts[host]])  # fmt: skip


@failure("silent-hops", "a lossy link where some switches answer no trace", symptom="loss")
def silent_hops(scene: Scene) -> None:
    """The link's own switches answer; flows over others have no complete route."""
    switches = [each.name for each in scene.wiring.topology.switches]
    scene.silent |= set(scene.draw.choice(switches, int(scene.draw.integers(1, 3)), replace=False).tolist())
    for switch in scene.silent:
        scene.hide(scene.first.crossing(scene.wiring.directions_at(switch))[0])
    direction = scene.direction()
    if scene.silent & set(scene.wiring.nodes[direction // 2]):
        raise Redraw
    lossy(scene, direction, severity(scene))


@failure("rate-limited-hops", "a lossy link where switches answer some traces only", symptom="loss")
def rate_limited(scene: Scene) -> None:
    scene.answering = float(scene.draw.uniform(0.5, 0.9))
    lossy(scene, scene.direction(least=4), severity(scene))


@failure("reroute-after-fault", "a lossy link that routing leaves after a while", symptom="loss")
def reroute(scene: Scene) -> None:
    """The routes that lost packets are not those that are traced at the end."""
    direction = scene.direction(least=4)
    moved = scene.clock.injected + float(scene.draw.uniform(10.0, 25.0))
    lossy(scene, direction, severity(scene, 0.1))
    scene.routes.append((moved, scene.way([direction // 2])))
