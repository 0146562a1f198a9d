"""Distractors: what looks like a failure and is none."""

from __future__ import annotations

import numpy as np

from exporter.contracts.counters import ECN_MARKED, PFC_RECEIVED, PFC_SENT
from exporter.contracts.overlay import Entry
from lab.simulator.failures.catalogue import distractor
from lab.simulator.failures.flows import LOSSLESS_DSCP, Kinds
from lab.simulator.failures.lookups import look_up
from lab.simulator.failures.routing import Hashing
from lab.simulator.failures.scene import Scene
from lab.simulator.failures.story import LOSSLESS


@distractor("clean", "nothing happens")
def clean(scene: Scene) -> None:
    """The job runs, with its bursts, stray errors and hosts that are busy now and then."""
    if scene.draw.random() < 0.2:
        scene.lookups = look_up(scene.draw, list(scene.wiring.hosts), scene.clock.begin, scene.clock.end)


@distractor("burst-congestion", "each iteration's all-reduce fills the queues", slow=True)
def burst_congestion(scene: Scene) -> None:
    """From the first record to the last, in the job's own period."""
    scene.load = float(scene.draw.uniform(5.0, 20.0))


@distractor("ecmp-rehash", "routes change and nothing is lost", slow=True)
def ecmp_rehash(scene: Scene) -> None:
    """Switches hash with another seed: as many hops, other cables, round trips differ by less than 2 us."""
    own, scene.load = scene.hashing, 0.1  # other queues would shift them more
    other = Hashing(own.seed ^ int(scene.draw.integers(1, 2**60)), own.symmetric, own.resilient)
    scene.routes.append((scene.clock.injected, scene.way(hashing=other)))


@distractor("checkpoint-traffic", "hosts write to storage and queues grow everywhere", slow=True)
def checkpoint_traffic(scene: Scene) -> None:
    """Bursts of 20 to 90 s, heavy-tailed; the least round trips stay what they were."""
    clock = scene.clock
    windows = [(clock.injected, clock.injected + float(scene.draw.uniform(20.0, 90.0)))]
    if scene.draw.random() < 0.6:
        earlier = clock.begin + float(scene.draw.uniform(20.0, 150.0))
        windows.insert(0, (earlier, earlier + float(scene.draw.uniform(20.0, 90.0))))
    directions = np.arange(2 * len(scene.wiring.ends))
    busy = directions[scene.draw.random(directions.size) < scene.draw.uniform(0.4, 1.0)]
    lossless = scene.flows.dscp == LOSSLESS_DSCP
    share = float(scene.draw.uniform(0.05, 0.3))
    scene.delay(busy, scene.microseconds(15.0, 120.0), windows=tuple(windows), flows=lossless, spread=1.0, share=share,
                failure=None)  # fmt: skip
    for port in scene.draw.choice(sorted(scene.wiring.ports), len(scene.wiring.ports) // 2, replace=False).tolist():
        scene.count(ECN_MARKED, port, rate=float(scene.draw.exponential(300.0)), queue=LOSSLESS, windows=tuple(windows))
        for metric in (PFC_SENT, PFC_RECEIVED):
            rate = float(scene.draw.exponential(20.0))
            scene.count(metric, port, rate=rate, priority=LOSSLESS, windows=tuple(windows))


@distractor("maintenance-drain", "a switch or a host is drained for maintenance")
def maintenance_drain(scene: Scene) -> None:
    """Routes leave a spine first, or probes of a host stop first; then its ports go down. The topology says so."""
    clock = scene.clock
    later = ((clock.injected + 10.0, clock.end),)
    if scene.draw.random() < 0.5:
        spine = str(scene.draw.choice(scene.wiring.tier("spine")))
        links = sorted({int(each) // 2 for each in scene.wiring.directions_at(spine)})
        scene.routes.append((clock.injected, scene.way(links)))
        scene.down(links, later)
        scene.drained.add(spine)
        return
    host = scene.host()
    own = scene.wiring.hosts[host]
    scene.absent.append((scene.flows.touching(own), (clock.injected, clock.end)))
    scene.down([int(scene.wiring.cables[rnic]) for rnic in own], later)
    scene.tables.gone.add(host)
    scene.drained.add(host)


@distractor("container-churn", "containers come and go, in order", kinds=Kinds(overlay=True))
def container_churn(scene: Scene) -> None:
    """Their probes, and those to them, end before they do; their entries leave every table."""
    clock = scene.clock
    containers = sorted(set(scene.job.container))
    number = int(scene.draw.integers(1, len(containers) // 2 + 1))
    leaving = scene.draw.choice(containers, number, replace=False).tolist()
    gone: set[str] = set()
    for container in leaving:
        owned = scene.owned(container)
        touched = scene.flows.overlay & scene.flows.touching(owned)
        moment = float(scene.draw.uniform(clock.begin + 10.0, clock.end - 10.0))
        comes = scene.draw.random() < 0.4  # it appears; else it leaves
        scene.absent.append((touched, (clock.begin, moment) if comes else (moment, clock.end)))
        if not comes:
            gone |= {scene.job.overlay[rnic] for rnic in owned}

    def left(entry: Entry) -> Entry | None:
        return None if entry.dst in gone else entry

    for host in scene.wiring.hosts:
        for table in ("vswitch", "rnic"):
            scene.tables.edit(host, table, left)


@distractor("stray-loss", "a packet in 10,000 to 100,000 is lost, anywhere")
def stray_loss(scene: Scene) -> None:
    scene.stray = 10.0 ** float(scene.draw.uniform(-5.0, -4.0))
