"""``simulate``: a case and a seed to a job's throughput, the fabric under it, and the truth about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
import pyarrow as pa

from exporter.contracts.skeleton import Skeleton, Window
from exporter.contracts.topology import Topology
from lab.simulator import structureless, truth
from lab.simulator.case import Case
from lab.simulator.counting import Rnics, count, read_storage
from lab.simulator.iteration import Clockwork
from lab.simulator.job import TrainingJob, draw_job, log_uniform
from lab.simulator.placement import Placement, draw_placement
from lab.simulator.stragglers import draw_stragglers
from lab.simulator.timeline import Timeline, draw_pauses, draw_regimes
from lab.simulator.traffic import Floats, Integers, Journal, Traffic
from lab.simulator.units import number_units
from skeleton_service.inference import Source, Throughput

START = 1_760_000_000.0


@dataclass(frozen=True, slots=True)
class Simulation:
    """One simulated job. ``job`` is what was drawn: degrees, volumes, durations; for structureless ones in name only.

    ``rank`` stands in ``throughput`` only if it was asked for. ``unit`` (endpoints,) is the unit in the journal of
    each row of ``throughput``.
    """

    throughput: Throughput
    topology: Topology
    truth: Skeleton
    structured: bool
    job: TrainingJob
    unit: Integers

    def table(self, *, ranks: bool = False) -> pa.Table:
        """The throughput contract's columns, rows by endpoint and time, without missing ones; names as dictionaries."""
        rates = self.throughput
        present = ~np.isnan(rates.tx)
        endpoint, sample = np.nonzero(present)
        index = pa.array(endpoint.astype(np.int32))
        columns = {
            "time": pa.array(rates.times[sample]),
            "job": pa.DictionaryArray.from_arrays(np.zeros(endpoint.size, np.int32), [rates.job]),
            **{
                name: pa.DictionaryArray.from_arrays(index, [getattr(source, name) for source in rates.endpoints])
                for name in ("host", "container", "rnic")
            },
            "tx_bytes_per_second": pa.array(rates.tx[present].astype(np.float64)),
            "rx_bytes_per_second": pa.array(rates.rx[present].astype(np.float64)),
        }
        if ranks:
            rank = {end.id: end.rank for end in self.truth.endpoints}
            columns["rank"] = pa.array([rank[source.id] for source in rates.endpoints], pa.int64()).take(index)
        return pa.table(columns)


def simulate(
    case: Case,
    seed: int,
    *,
    hosts: int | None = None,
    seconds: float = 900.0,
    step_seconds: float = 1.0,
    ranks: bool = False,
    journal: Journal | None = None,
) -> Simulation:
    """Draw a job of ``case`` from ``seed`` and observe it for ``seconds``.

    The same case, seed and arguments give the same result. Variants of a case (same name, other noise, background or
    counting) are the same job otherwise. ``journal``: for tests of small jobs, see traffic.py. Raises ValueError where
    so many ``hosts`` cannot be divided as the case demands. About O(RNICs x samples + transfers).
    """
    drawn = np.random.SeedSequence([seed, crc32(case.name.encode())]).spawn(6)
    of_job, of_place, of_time, of_play, of_storage, of_counting = map(np.random.default_rng, drawn)
    plain = case.structure != "training"
    job = draw_job(replace(case, pipeline=(1, 1), data_parallel=(1, 1 << 30)) if plain else case, of_job, hosts)
    rank = _ranks(job) if not plain else of_place.permutation(job.containers)
    placement = draw_placement(
        of_place,
        job=job.name,
        containers=job.containers,
        per_host=job.containers_per_host,
        rnics=job.rnics,
        spare=float(of_place.uniform(*case.spare_hosts)),
        rank=rank,
    )
    samples = round(seconds / step_seconds)
    offsets = case.clock_offset_seconds * of_place.standard_normal(len(placement.topology.hosts))
    lanes = job.rnics if plain else job.ranks_per_container
    host_of_unit = np.repeat(placement.host, lanes)
    traffic = Traffic(samples, step_seconds, host_of_unit, offsets[host_of_unit], journal)
    storage = Traffic(samples, step_seconds, placement.host, offsets[placement.host])
    started, ready = _start(case, job.containers, of_time)
    period = None
    if plain:
        structureless.play(case.structure, traffic, storage, job.link, of_play)
    else:
        units = number_units(job.stages, job.replicas, job.ranks_per_container)
        spread = job.experts.imbalance / np.sqrt(2) if job.experts else 0.0
        load = spread * of_time.standard_normal(units.at.shape)
        timeline = Timeline(
            Clockwork(job, units, case.operation_jitter, of_play, load),
            draw_pauses(case, job, of_time),
            draw_stragglers(case, units, of_time),
            traffic,
            storage,
        )
        timeline.play(draw_regimes(case, job, of_time, seconds, ready))
        period = timeline.period()
    read_storage(case.background, storage, of_storage)
    sources, rnics = _endpoints(placement, lanes, ranks=ranks)
    tx, rx = count(case, traffic, storage, rnics, started, of_counting)
    times: Floats = START + step_seconds * np.arange(1, samples + 1, dtype=np.float64)
    window = Window(start=START, end=float(times[-1]), step_seconds=step_seconds)
    return Simulation(
        throughput=Throughput(job=job.name, endpoints=sources, times=times, tx=tx, rx=rx),
        topology=placement.topology,
        truth=truth.structureless(job.name, placement, window)
        if plain
        else truth.structured(job, placement, window, period),
        structured=not plain,
        job=job,
        unit=rnics.unit,
    )


def _ranks(job: TrainingJob) -> Integers:
    """(containers,): node ranks; container c is stage ``c // replicas`` of replica ``c % replicas``."""
    numbers = np.arange(job.containers)
    if job.rank_order == "dp-pp":
        return numbers
    return numbers % job.replicas * job.stages + numbers // job.replicas


def _start(case: Case, containers: int, draw: np.random.Generator) -> tuple[Floats, float]:
    """(when each container appears (containers,), when the job can begin; 0 if it began before the window)."""
    if not case.startup_skew_seconds:
        return np.zeros(containers), 0.0
    # Most are there soon; the last one is late (SkeletonHunter, section 3: minutes).
    started = case.startup_skew_seconds * draw.beta(1, 3, containers)
    return started, float(started.max() + log_uniform(draw, case.initialisation_seconds))


def _endpoints(placement: Placement, lanes: int, *, ranks: bool) -> tuple[tuple[Source, ...], Rnics]:
    """The rows of the result in bytewise order of their names, as a reader of the table would number them."""
    containers, per = placement.rails.shape
    hosts = placement.topology.hosts
    rows = [
        (hosts[placement.host[container]].name, placement.containers[container], placement.rnic(container, local).name)
        for container in range(containers)
        for local in range(per)
    ]
    order = np.array(sorted(range(len(rows)), key=lambda row: tuple(word.encode() for word in rows[row])))
    container, local = order // per, order % per
    sources = tuple(
        Source(host=host, container=name, rnic=rnic, rank=int(placement.rank[row // per]) if ranks else None)
        for row, (host, name, rnic) in ((row, rows[row]) for row in order.tolist())
    )
    unit = container * lanes + local * lanes // per
    return sources, Rnics(unit, container, local, placement.host[container])
