"""Traces of the flows' ways: whole ones, and those that losses, silent switches and policing leave holes in."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from exporter.contracts.names import split_port
from lab.simulator.failures.effects import Effect, at_change
from lab.simulator.failures.habits import Habits
from lab.simulator.failures.scene import TRACE_SECONDS, Scene
from lab.simulator.failures.wiring import Booleans, Floats, Integers

LONG_SECONDS = 600.0  # records of more than that have fewer traces, as many in all
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Traces:
    """One row each (K,): ``route`` indexes ``routes``, which are JSON; ``reached``: the trace came to its end."""

    time: Floats
    path: Integers
    reached: Booleans
    route: Integers
    routes: list[str]


def trace(draw: np.random.Generator, scene: Scene, habits: Habits) -> Traces:
    """Every flow's trace each 30 s: the requests' way at that time, as far as it comes."""
    time, path = _schedule(draw, scene, habits)
    epoch = at_change(scene.routes, time)
    hops = _hop_names(scene, habits)
    code = epoch * scene.flows.number + path
    codes, route = np.unique(code, return_inverse=True)
    ways = [_way(scene, *divmod(int(each), scene.flows.number)) for each in codes.tolist()]
    routes = [json.dumps([hops[direction] for direction in way[:-1]]) for way in ways]

    reached = np.ones(time.size, bool)
    losses = _losses(scene, time, path, epoch)
    holes = bool(scene.silent) or scene.answering < 1.0
    damaged = np.arange(time.size) if holes else np.array(sorted(losses), dtype=np.int64)
    for row in damaged.tolist():
        seen, reached[row] = _damaged(draw, scene, ways[route[row]], losses.get(row, []), hops)
        route[row] = len(routes)
        routes.append(seen)
    return Traces(time, path, reached, route, routes)


def _schedule(draw: np.random.Generator, scene: Scene, habits: Habits) -> tuple[Floats, Integers]:
    flows, clock = scene.flows, scene.clock
    seconds = clock.end - clock.begin
    period = TRACE_SECONDS * max(1.0, seconds / LONG_SECONDS)
    wanted = np.flatnonzero(~flows.full & (habits.overlay_traced | ~flows.overlay))
    turns = np.arange(0.0, seconds, period)
    time = (clock.begin + turns + draw.random((wanted.size, 1)) * period).ravel()
    path = np.repeat(wanted, turns.size)
    kept = time < clock.end
    for silent, (since, until) in scene.absent:
        kept &= ~(silent[path] & (time >= since) & (time < until))
    return time[kept], path[kept]


def _way(scene: Scene, epoch: int, path: int) -> list[int]:
    way = scene.routes[epoch][1].there[path]
    return [direction for direction in way.tolist() if direction >= 0]


def _losses(scene: Scene, time: Floats, path: Integers, epoch: Integers) -> dict[int, list[Effect]]:
    """{row: what its packets meet}, of rows that meet something.

    Losses of no link are the overlay's, which traces of the underlay do not meet, or those of a far end.
    """
    found: dict[int, list[Effect]] = {}
    for effect in scene.effects:
        if effect.loss == 0 or not effect.traced:
            continue
        felt = np.stack([effect.felt(routes)[0] for _, routes in scene.routes])
        if effect.links is None:
            felt = felt & ~scene.flows.overlay
        for row in np.flatnonzero(felt[epoch, path] & effect.active(time)).tolist():
            found.setdefault(row, []).append(effect)
    return found


def _damaged(
    draw: np.random.Generator, scene: Scene, way: list[int], losses: list[Effect], names: list[str]
) -> tuple[str, bool]:
    """The route that is seen, and whether its end was: a hop is silent when all its tries die."""
    survive, hops, reached = 1.0, [], False
    for place, direction in enumerate(way):
        last = place == len(way) - 1
        for effect in losses:
            if direction in effect.links if effect.links is not None else last:
                survive *= 1.0 - effect.loss
        answers = bool(draw.random() >= (1.0 - survive) ** _TRIES)
        if last:
            reached = answers
            break
        switch = scene.wiring.nodes[direction // 2][1 - direction % 2]
        seen = answers and switch not in scene.silent and draw.random() < scene.answering
        hops.append(names[direction] if seen else None)
    if not reached and draw.random() < 0.7:  # some tracers leave out what never answered at the end
        while hops and hops[-1] is None:
            hops.pop()
    return json.dumps(hops), reached


def _hop_names(scene: Scene, habits: Habits) -> list[str]:
    """How a trace names where packets of each direction come in."""
    wiring = scene.wiring
    names = []
    for direction in range(2 * len(wiring.ends)):
        port = wiring.receiver(direction)
        if habits.hops == "port" or port not in wiring.ports:
            names.append(port)
        else:
            names.append(split_port(port)[0] if habits.hops == "switch" else wiring.ports[port].addresses[0])
    return names
