"""From a class and a seed to a case."""

from __future__ import annotations

import zlib
from dataclasses import replace
from itertools import count
from typing import TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from exporter.contracts.diagnosis import Alternative, Component, Diagnosis, Failure
from exporter.contracts.skeleton import Window
from exporter.contracts.topology import Host, Switch, Topology
from lab.simulator.failures.blame import Blame, Redraw
from lab.simulator.failures.case import Case
from lab.simulator.failures.catalogue import CLASSES, FailureClass
from lab.simulator.failures.clock import draw_clock
from lab.simulator.failures.counters import Readings
from lab.simulator.failures.effects import Health, Probes, draw_health, schedule, send
from lab.simulator.failures.flows import draw_flows, draw_job
from lab.simulator.failures.habits import Habits
from lab.simulator.failures.noise import add_noise
from lab.simulator.failures.overlay import Tables
from lab.simulator.failures.records import write_records
from lab.simulator.failures.routing import Hashing
from lab.simulator.failures.scene import Scene
from lab.simulator.failures.traces import trace
from lab.simulator.failures.victims import retransmissions
from lab.simulator.failures.wiring import draw_wiring

THIRD, LEAST_AFFECTED = 2, 6  # the probe that a detection may count from; fewer tell nothing from stray loss
DRIFT_PERIOD = 30.0  # seconds between recorded probes where hours are simulated
_MOST_ATTEMPTS = 60
_Device = TypeVar("_Device", Host, Switch)


def simulate(name: str, seed: int, *, counters: bool | None = None, paper_rate: bool = False) -> Case:
    """Draw one case of a class. Same arguments, same case; counters or not, the same probes.

    ``counters``: whether the case has them; None lets the seed say. ``paper_rate``: each source endpoint probes one of
    its paths a second in turn, as the SkeletonHunter paper does, instead of all of them.
    """
    chosen = CLASSES[name]
    for attempt in count():
        try:
            return _attempt(chosen, seed, attempt, counters, paper_rate)
        except Redraw:
            if attempt == _MOST_ATTEMPTS:
                raise RuntimeError(f"{name}, seed {seed}: nothing that probes show was drawn") from None
    raise AssertionError


def _attempt(chosen: FailureClass, seed: int, attempt: int, counters: bool | None, paper_rate: bool) -> Case:
    streams = np.random.SeedSequence([zlib.crc32(chosen.name.encode()), seed, attempt]).spawn(6)
    world, story, physics, tracing, counting, habit = (np.random.default_rng(stream) for stream in streams)
    drawn_counters = bool(habit.random() < 0.5)
    counted = next(each for each in (chosen.counters, counters, drawn_counters) if each is not None)
    habits = Habits(
        hops=str(habit.choice(["port", "address", "switch"])),
        hosts_known_only=bool(habit.random() < 0.3),
        overlay_traced=bool(habit.random() < 0.6),
        told=bool(habit.random() < 0.6),
    )
    wiring = draw_wiring(world, chosen.sizes)
    if habits.hops == "switch" and len(set(wiring.nodes)) < len(wiring.nodes):
        habits = Habits("port", habits.hosts_known_only, habits.overlay_traced, habits.told)
    job = draw_job(world, wiring, split=bool(world.random() < 0.2))
    flows = draw_flows(world, wiring, job, chosen.kinds, paper_rate=paper_rate)
    if chosen.drift:
        flows = replace(flows, period=flows.period * DRIFT_PERIOD, phase=flows.phase * DRIFT_PERIOD)
    hashing = Hashing(int(world.integers(2**60)), bool(world.random() < 0.3), bool(world.random() < 0.6))
    clock = draw_clock(story, slow=chosen.slow, drift=chosen.drift, heals=not chosen.distractor)
    seen = ~flows.overlay | habits.overlay_traced
    tables = Tables(wiring, job)
    scene = Scene(story, wiring, job, flows, hashing, clock, counted, habits.told, tables, seen)
    chosen.build(scene)
    scene.routes.sort(key=lambda each: each[0])

    period = job.skeleton.period_seconds or 30.0
    health = draw_health(
        physics, flows, len(wiring.ends), len(wiring.rnics), period, clock.begin, clock.end, load=scene.load
    )
    if scene.stray is not None:
        health = replace(health, background_loss=scene.stray)
    time, path = schedule(physics, flows, clock.begin, clock.end, scene.absent)
    probes = send(physics, flows, scene.routes, health, scene.effects, time, path)
    failures = tuple(_failure(scene, chosen, seed, number, blame, probes) for number, blame in enumerate(scene.blames))
    overlaid = bool(flows.overlay.any())
    window = Window(start=clock.begin - 900.0, end=clock.begin, step_seconds=1.0)
    return Case(
        name=chosen.name,
        seed=seed,
        topology=_drained(wiring.topology, scene.drained),
        skeleton=msgspec.structs.replace(job.skeleton, window=window),
        probes=write_records(scene, habits, probes, trace(tracing, scene, habits), scene.lookups),
        counters=_counters(counting, scene, health) if counted else None,
        overlay_before=tables.healthy(clock.begin) if overlaid else None,
        overlay=tables.broken(clock.over - 3.0) if overlaid else None,
        truth=Diagnosis(version=1, failures=failures),
        begin=clock.begin,
        injected=clock.injected,
        repaired=clock.repaired,
        end=clock.end,
    )


def _counters(draw: np.random.Generator, scene: Scene, health: Health) -> pa.Table:
    readings = Readings(draw, scene.wiring, scene.clock.begin, scene.clock.end)
    add_noise(readings, scene.wiring, health, scene.job.vni, scene.story.unmarked)
    retransmissions(scene)
    readings.tell(scene.story)
    return readings.table(scene.story)


def _drained(topology: Topology, names: set[str]) -> Topology:
    if not names:
        return topology

    def state(device: _Device) -> _Device:
        return msgspec.structs.replace(device, state="drained") if device.name in names else device

    hosts, switches = tuple(map(state, topology.hosts)), tuple(map(state, topology.switches))
    return msgspec.structs.replace(topology, hosts=hosts, switches=switches)


def _failure(scene: Scene, chosen: FailureClass, seed: int, number: int, blame: Blame, probes: Probes) -> Failure:
    """The truth, from what the probes really felt; raise Redraw where too few felt it."""
    felt = probes.felt.get(number, np.zeros(0, bool))
    affected = np.flatnonzero(felt)
    moments = probes.time[affected]
    if blame.symptom == "resolution" and scene.lookups is not None:
        moments = np.sort(scene.lookups.time[scene.affected_lookups])
    if moments.size < LEAST_AFFECTED:
        raise Redraw
    flows, job = scene.flows, scene.job
    paths = np.unique(probes.path[affected])
    pairs = {
        (job.endpoint(scene.wiring, source), job.endpoint(scene.wiring, destination))
        for source, destination in zip(flows.source[paths].tolist(), flows.destination[paths].tolist(), strict=True)
    }
    right = [Alternative(kind=kind, name=name, score=1.0) for kind, name in blame.right]
    alike = [Alternative(kind=kind, name=name, score=0.5) for kind, name in blame.alike]
    return Failure(
        id=f"{chosen.name}-{seed}-{number}",
        job=job.name,
        start=scene.clock.injected,
        detected_at=float(moments[THIRD]),
        end=scene.clock.repaired,
        symptom=blame.symptom,
        layer=blame.layer,
        component=Component(kind=blame.kind, name=blame.name),
        alternatives=(*right, *alike),
        confidence=1.0,
        paths=tuple(sorted(pairs)),
        evidence=(blame.description, f"{moments.size} probes on {len(pairs)} pairs felt it"),
    )
