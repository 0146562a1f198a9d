"""Failures of links, ports and switches."""

from __future__ import annotations

import numpy as np

from exporter.contracts.counters import FCS_ERRORS, RNIC_CRC_ERRORS, SYMBOL_ERRORS
from lab.simulator.failures.blame import Name, Redraw
from lab.simulator.failures.catalogue import failure
from lab.simulator.failures.scene import Scene
from lab.simulator.failures.story import RECEIVE_ERRORS
from lab.simulator.failures.wiring import Integers, both_ways


@failure("crc-error", "a link corrupts packets one way, the longer the likelier", row=1, symptom="loss")
def crc_error(scene: Scene) -> None:
    cable = scene.draw.random() < 0.2
    rnic = scene.rnic()
    direction = 2 * int(scene.wiring.cables[rnic]) + int(scene.draw.random() < 0.5) if cable else scene.direction()
    loss = share_of_loss(scene)
    corrupt(scene, direction, loss)
    alike: tuple[Name, ...] = scene.alike(np.array([direction]), parts=True)
    if cable:
        alike = (("rnic", scene.wiring.rnics[rnic]), *alike)
    scene.blame(
        "loss", "underlay", "link", scene.wiring.links[direction // 2],
        f"{100 * loss:.1f} % of what arrives at {scene.wiring.receiver(direction)} has bit errors",
        right=(("port", scene.wiring.receiver(direction)),), alike=alike,
    )  # fmt: skip


def share_of_loss(scene: Scene) -> float:
    """1 to 30 %, log-uniform: what errors cost before somebody takes the link down."""
    return float(np.exp(scene.draw.uniform(np.log(0.01), np.log(0.3))))


def severity(scene: Scene, least: float = 0.01) -> float:
    """From ``least`` to all, log-uniform; everything in one case of six."""
    return 1.0 if scene.draw.random() < 1 / 6 else float(np.exp(scene.draw.uniform(np.log(least), 0.0)))


def corrupt(scene: Scene, direction: int, loss: float, *, failure: int = 0) -> None:
    """Small packets of a direction die with ``loss``, full-size ones likelier; the receiving end counts them."""
    scene.lose([direction], loss, flows=~scene.flows.full, failure=failure)
    scene.lose([direction], 1 - (1 - loss) ** 3, flows=scene.flows.full, failure=failure)
    port = scene.wiring.receiver(direction)
    errors = float(np.exp(scene.draw.uniform(np.log(3.0), np.log(3000.0))))
    if port in scene.wiring.ports:
        scene.count(FCS_ERRORS, port, rate=errors)
        scene.count(RECEIVE_ERRORS, port, rate=errors)
        scene.count(SYMBOL_ERRORS, port, rate=3 * errors)
    else:
        scene.count(RNIC_CRC_ERRORS, port, rate=errors)


@failure("switch-port-down", "a port between switches loses carrier for good", row=2, symptom="unreachable")
def switch_port_down(scene: Scene) -> None:
    link = scene.fabric_link(least=4)
    scene.dead([link], scene.clock.injected, until=scene.clock.repaired)
    a, b = scene.wiring.ends[link]
    scene.down([link], scene.clock.during)
    scene.blame(
        "unreachable", "underlay", "link", scene.wiring.links[link], f"no carrier between {a} and {b}",
        right=(("port", a), ("port", b)), alike=scene.alike(both_ways([link]), parts=True),
    )  # fmt: skip


@failure("switch-port-flapping", "a switch port goes down again and again", row=3, symptom="flap")
def switch_port_flapping(scene: Scene) -> None:
    cable = scene.draw.random() < 0.5
    rnic = scene.rnic()
    link = int(scene.wiring.cables[rnic]) if cable else scene.fabric_link()
    period = float(scene.draw.uniform(4.0, 12.0))
    windows = scene.flapping(period, period * float(scene.draw.uniform(0.15, 0.35)))
    scene.lose(both_ways([link]), 1.0, windows=windows)
    scene.down([link], windows)
    port, other = scene.wiring.ends[link][1], scene.wiring.ends[link][0]
    if not cable and scene.draw.random() < 0.5:
        port, other = other, port
    right: list[Name] = [("link", scene.wiring.links[link])]
    alike = scene.alike(both_ways([link]))
    if not cable:
        right.append(("port", other))
    else:
        alike = (("rnic", other), *alike)
    scene.blame(
        "flap", "underlay", "port", port, f"{port} loses carrier every {period:.1f} s", right=right, alike=alike
    )


@failure("switch-offline", "a switch crashes", row=4, symptom="unreachable")
def switch_offline(scene: Scene) -> None:
    leaves, spines = scene.wiring.tier("leaf"), scene.wiring.tier("spine")
    leaf = scene.draw.random() < 0.5
    switch = str(scene.draw.choice(leaves if leaf else spines))
    directions = scene.wiring.directions_at(switch)
    scene.distinct(directions)
    links = sorted({int(each) // 2 for each in directions})
    if len(set(scene.flows.source[scene.crossings.requests(directions)].tolist())) < 3:
        raise Redraw
    if leaf:  # nothing goes round the only way to an RNIC; traces end before the leaf
        scene.lose(directions, 1.0)
    else:
        scene.dead(links, scene.clock.injected, until=scene.clock.repaired)
    scene.off(switch)
    scene.blame(
        "unreachable",
        "underlay",
        "switch",
        switch,
        f"{switch} is off",
        alike=twin_leaves(scene, switch, directions) if leaf else cards(scene, switch, directions),
    )


def twin_leaves(scene: Scene, leaf: str, directions: Integers) -> tuple[Name, ...]:
    """Other leaves that all the same requests cross, and no others."""
    own = scene.crossings.requests(directions)
    return tuple(
        ("switch", other)
        for other in scene.wiring.tier("leaf")
        if other != leaf and np.array_equal(own, scene.crossings.requests(scene.wiring.directions_at(other)))
    )


def cards(scene: Scene, switch: str, directions: Integers) -> tuple[Name, ...]:
    """The line card that all of a switch's probed ports are on."""
    own = scene.crossings.requests(directions)
    return tuple(
        part
        for part, links in scene.wiring.parts.items()
        if part[1].startswith(f"{switch}:") and np.array_equal(own, scene.crossings.requests(both_ways(links)))
    )
