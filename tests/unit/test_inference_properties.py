"""What must not matter to inference: names, order, scale, the hour, what is said twice, and who stands idle beside.

Each example is a simulated job, drawn from a case and a seed, and the same job told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.contracts.skeleton import Skeleton
from exporter.contracts.topology import Host, Rnic, Topology
from lab.simulator import CASES, Simulation, simulate
from skeleton_service.inference import Source, Throughput, infer
from skeleton_service.reading.throughput import from_table

SOME = tuple(name for name in CASES if name != "containers-share-hosts")
"""Which local RNICs of two containers meet follows the order of rails where containers share hosts."""

examples = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)


class Which(NamedTuple):
    case: str
    seed: int
    ranks: bool


@cache
def drawn(which: Which) -> Simulation:
    case = CASES[which.case]
    return simulate(replace(case, hosts=(max(8, case.hosts[0]), 14)), which.seed, seconds=300, ranks=which.ranks)


@cache
def expected_of(which: Which) -> Skeleton:
    job = drawn(which)
    return infer(job.throughput, job.topology)


jobs = st.builds(Which, st.sampled_from(SOME), st.integers(0, 3), st.booleans())
orders = st.integers(0, 2**32)


class Job(NamedTuple):
    throughput: Throughput
    topology: Topology


@dataclass(frozen=True, slots=True)
class Answer:
    """A skeleton without what may change with names: the order of things, and the direction of the pipeline."""

    groups: frozenset[tuple[str, frozenset[str]]]
    edges: frozenset[tuple[str, frozenset[str]]]
    stages: frozenset[frozenset[tuple[str, int | None]]]
    replicas: frozenset[frozenset[str]]
    degrees: tuple[int, int] | None
    fallback: str | None


def answer(skeleton: Skeleton, name: Callable[[str], str] = lambda text: text) -> Answer:
    found = skeleton.parallelism
    stages = {name(end.id): end.stage for end in skeleton.endpoints}
    last = max((stage for stage in stages.values() if stage is not None), default=0)
    mirrored = {end: None if stage is None else last - stage for end, stage in stages.items()}
    of_replica: dict[int | None, set[str]] = {}
    for end in skeleton.endpoints:
        of_replica.setdefault(end.replica, set()).add(name(end.id))
    return Answer(
        groups=frozenset((group.role, frozenset(map(name, group.members))) for group in skeleton.groups),
        edges=frozenset((edge.role, frozenset((name(edge.a), name(edge.b)))) for edge in skeleton.edges),
        stages=frozenset((frozenset(stages.items()), frozenset(mirrored.items()))),
        replicas=frozenset(map(frozenset, of_replica.values())),
        degrees=(found.dp, found.pp) if found else None,
        fallback=skeleton.fallback,
    )


def assert_same(found: Skeleton, expected: Skeleton, name: Callable[[str], str] = lambda text: text) -> None:
    """``name`` is what each endpoint of ``expected`` is called in ``found``."""
    assert answer(found) == answer(expected, name)
    assert found.confidence == pytest.approx(expected.confidence, abs=0.005)
    assert (found.period_seconds or 0.0) == pytest.approx(expected.period_seconds or 0.0, rel=0.01)


def arranged(throughput: Throughput, order: np.ndarray, sources: list[Source]) -> Throughput:
    """The rows in another order, row n being called ``sources[n]``."""
    return replace(
        throughput,
        endpoints=tuple(sources[row] for row in order.tolist()),
        tx=throughput.tx[order],
        rx=throughput.rx[order],
    )


@examples
@given(jobs, orders)
def test_the_order_of_rows_does_not_matter(which: Which, order: int) -> None:
    job, random = drawn(which), np.random.default_rng(order)
    rows = random.permutation(len(job.throughput.endpoints))
    shuffled = arranged(job.throughput, rows, list(job.throughput.endpoints))
    assert_same(infer(shuffled, job.topology), expected_of(which))


@examples
@given(jobs, orders)
def test_names_of_hosts_and_containers_do_not_matter(which: Which, order: int) -> None:
    """The series of one host under another's name, and everything sorted by the new names."""
    job, random = drawn(which), np.random.default_rng(order)
    hosts = [host.name for host in job.topology.hosts]
    other = dict(zip(hosts, random.permutation(hosts).tolist(), strict=True))
    sources = [
        replace(source, host=other[source.host], container=f"x-{other[source.host]}-{source.container[-3:]}")
        for source in job.throughput.endpoints
    ]
    by_name = np.array(sorted(range(len(sources)), key=lambda row: (sources[row].host, sources[row].id)))
    topology = msgspec.structs.replace(
        job.topology,
        hosts=tuple(msgspec.structs.replace(host, name=other[host.name]) for host in job.topology.hosts),
        links=(),
    )
    name = {old.id: new.id for old, new in zip(job.throughput.endpoints, sources, strict=True)}
    found = infer(arranged(job.throughput, by_name, sources), topology)
    assert_same(found, expected_of(which), name.__getitem__)


@examples
@given(jobs, orders)
def test_names_of_rnics_do_not_matter(which: Which, order: int) -> None:
    """Every RNIC by the name of another of its host, the rail staying with the card."""
    job, random = drawn(which), np.random.default_rng(order)
    names = sorted({rnic.name for host in job.topology.hosts for rnic in host.rnics})
    other = dict(zip(names, random.permutation(names).tolist(), strict=True))

    def renamed(host: Host) -> Host:
        cards = [msgspec.structs.replace(rnic, name=other[rnic.name]) for rnic in host.rnics]
        return msgspec.structs.replace(host, rnics=tuple(sorted(cards, key=lambda rnic: rnic.name)))

    topology = msgspec.structs.replace(job.topology, hosts=tuple(map(renamed, job.topology.hosts)), links=())
    sources = [replace(source, rnic=other[source.rnic]) for source in job.throughput.endpoints]
    by_name = np.array(sorted(range(len(sources)), key=lambda row: sources[row].id))
    name = {old.id: new.id for old, new in zip(job.throughput.endpoints, sources, strict=True)}
    found = infer(arranged(job.throughput, by_name, sources), topology)
    assert_same(found, expected_of(which), name.__getitem__)


@examples
@given(jobs, st.floats(-3, 3).map(lambda power: float(10**power)))
def test_the_unit_of_throughput_does_not_matter(which: Which, factor: float) -> None:
    job = drawn(which)
    by = np.float32(factor)
    scaled = replace(job.throughput, tx=job.throughput.tx * by, rx=job.throughput.rx * by)
    assert_same(infer(scaled, job.topology), expected_of(which))


@examples
@given(jobs, st.floats(-1e9, 1e9))
def test_the_hour_does_not_matter(which: Which, seconds: float) -> None:
    job = drawn(which)
    expected = expected_of(which)
    found = infer(replace(job.throughput, times=job.throughput.times + round(seconds)), job.topology)
    assert found.window.start - expected.window.start == round(seconds)
    assert found == msgspec.structs.replace(expected, window=found.window)


@settings(examples, max_examples=10)
@given(jobs, orders)
def test_what_is_said_twice_or_in_another_order_is_said_once(which: Which, order: int) -> None:
    job, random = drawn(which), np.random.default_rng(order)
    table = job.table()
    some = random.choice(len(table), size=len(table) // 3, replace=False)
    twice = pa.concat_tables([table, table.take(pa.array(some))])
    found = infer(from_table(twice.take(pa.array(random.permutation(len(twice))))), job.topology)
    assert found == infer(from_table(table), job.topology)


def beside(job: Throughput, topology: Topology, idle: list[Source], rails: list[int], rate: float) -> Job:
    """The job with ``idle`` RNICs on ``rails`` beside it, which carry ``rate`` bytes per second."""
    own: dict[str, list[Rnic]] = {host.name: list(host.rnics) for host in topology.hosts}
    for number, (source, rail) in enumerate(zip(idle, rails, strict=True)):
        address = f"192.0.{number // 250}.{number % 250 + 1}"
        own.setdefault(source.host, []).append(Rnic(name=source.rnic, rail=rail, ip=address))
    hosts = tuple(Host(name=name, rnics=tuple(rnics)) for name, rnics in own.items())
    rates = np.random.default_rng(0).exponential(rate, (2, len(idle), len(job.times))).astype(np.float32)
    return Job(
        replace(
            job,
            endpoints=(*job.endpoints, *idle),
            tx=np.concatenate((job.tx, rates[0])),
            rx=np.concatenate((job.rx, rates[1])),
        ),
        Topology(version=1, hosts=hosts, switches=(), links=()),
    )


def known_pairs(skeleton: Skeleton) -> set[frozenset[str]]:
    """Without those of endpoints that were hardly observed: they may talk to anyone on their rail, whoever that is."""
    return {frozenset((a, b)) for a, b, role in skeleton.pairs() if role != "basic"}


@examples
@given(jobs, st.sampled_from([0.0, 40.0, 2e4]))
def test_an_idle_host_adds_no_pair(which: Which, rate: float) -> None:
    job, expected = drawn(which), expected_of(which)
    rails = sorted({end.rail for end in job.truth.endpoints if end.rail is not None})
    idle = [Source(host="idle", container="idle", rnic=f"idle_{rail}") for rail in rails]
    more = beside(job.throughput, job.topology, idle, rails, rate)
    found = infer(more.throughput, more.topology)
    assert {end.id for end in found.endpoints} == {source.id for source in more.throughput.endpoints}
    assert found.fallback == expected.fallback
    if expected.fallback is None:  # else whole rails are probed, idle RNICs and all
        assert known_pairs(found) == known_pairs(expected)
        assert all(end.stage is None for end in found.endpoints if end.host == "idle")


@pytest.mark.parametrize("case", ["one-rnic", "two-rnics", "1f1b"])
def test_a_rail_on_which_everyone_is_idle_adds_no_pair(case: str) -> None:
    """A host's other RNICs are up and carry a few packets each second, none of them the job's."""
    which = Which(case, 1, ranks=False)
    job, expected = drawn(which), expected_of(which)
    containers = sorted({(source.host, source.container) for source in job.throughput.endpoints})
    idle = [Source(host=host, container=container, rnic="other") for host, container in containers]
    more = beside(job.throughput, job.topology, idle, [99] * len(idle), 40.0)
    found = infer(more.throughput, more.topology)
    assert found.fallback == expected.fallback
    assert known_pairs(found) == known_pairs(expected)
