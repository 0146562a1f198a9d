"""Failures of what a job depends on outside its fabric: carriers, resolvers."""

from __future__ import annotations

import numpy as np

from lab.simulator.failures.catalogue import failure
from lab.simulator.failures.lookups import RESOLVERS, look_up
from lab.simulator.failures.scene import Scene
from lab.simulator.failures.wiring import CARRIER, Sizes, both_ways

_TIMEOUT_MICROSECONDS = 2e6


@failure("transit-path-change", "a route to another site moves to a carrier that loses packets", symptom="path_change",
         sizes=Sizes(transit=True))  # fmt: skip
def transit_path_change(scene: Scene) -> None:
    """The second carrier is farther away and loses 5 to 8 % of packets each way; nothing of the fabric has failed."""
    first, second = scene.wiring.tier(CARRIER)
    longer = scene.microseconds(200.0, 3000.0)
    always = ((scene.clock.begin - 60.0, scene.clock.end + 60.0),)
    near = scene.microseconds(300.0, 2000.0)
    for carrier, wait in ((first, near), (second, near + longer)):
        # Out by one link, home by the same: half of the way is each link's.
        scene.delay(scene.wiring.directions_at(carrier), wait / 4, windows=always, spread=0.02, failure=None)
    links = [link for link, pair in enumerate(scene.wiring.nodes) if second in pair]
    loss = float(scene.draw.uniform(0.05, 0.08))
    scene.lose(both_ways(links[:1]), loss)
    scene.routes.append((scene.clock.injected, scene.way(carrier=1)))
    if scene.clock.repaired is not None:
        scene.routes.append((scene.clock.repaired, scene.first))
    scene.blame("path_change", "underlay", "provider", second,
                f"traffic to the second site moved to {second}: {longer:.0f} us more, {100 * loss:.1f} % lost",
                right=(("switch", second),))  # fmt: skip


@failure("dns-overload", "a resolver is overwhelmed by endpoints that start at once", symptom="resolution")
def dns_overload(scene: Scene) -> None:
    """Hosts look names up at two resolvers; one answers late, with SERVFAIL, or not at all."""
    draw, clock = scene.draw, scene.clock
    victim = str(draw.choice(list(RESOLVERS)))
    silent, failing = float(draw.uniform(0.05, 0.5)), float(draw.uniform(0.0, 0.2))
    scene.lookups = look_up(draw, list(scene.wiring.hosts), clock.begin, clock.end)
    at = (scene.lookups.time >= clock.injected) & (scene.lookups.time < clock.over)
    hit = np.flatnonzero(at & (np.array(scene.lookups.resolver) == victim))
    late = scene.microseconds(20_000.0, 300_000.0)
    for row in hit.tolist():
        wait = float(draw.lognormal(np.log(late), 1.0))
        chance = draw.random()
        error = "timeout" if chance < silent or wait > _TIMEOUT_MICROSECONDS else None
        if error is None and chance < silent + failing:
            error = "servfail"
        scene.lookups.error[row] = error
        scene.lookups.latency[row] = np.nan if error else scene.lookups.latency[row] + wait
    scene.affected_lookups = hit
    scene.blame("resolution", "service", "resolver", victim, f"{victim} answers {late / 1000:.0f} ms late or never")
