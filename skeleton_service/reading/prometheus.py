"""Throughput from Prometheus: the counters that exporters serve, sample by sample, as rows of the contract.

The raw samples are asked for, not ``rate()``, which would smear a burst over its range. An exporter reads its
counters at whole multiples of its step, so each sample is dated back to the last one: scrapes, which Prometheus
spreads over its interval, then fall on the same instants for all hosts.
"""

from __future__ import annotations

import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from exporter.contracts.catalogue import JOB_PATH_INFO, PROBES_SENT, RNIC_RECEIVE, RNIC_TRANSMIT
from exporter.contracts.codec import ContractError
from skeleton_service.inference.resample import GAP, MAX_RATE
from skeleton_service.inference.series import Floats
from skeleton_service.reading.prometheusapi import Api, quoted

SAMPLES_A_QUERY = 1 << 19
"""Prometheus refuses to load more than 50 million by default, and its answer takes 33 bytes a sample."""

Rnic = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Window:
    """What to ask for: the ``seconds`` before ``end`` (since the epoch; None: now). ``step_seconds`` is how often the
    exporters read their counters. ``token_file`` holds a bearer token on its first line."""

    seconds: float = 900.0
    step_seconds: float = 1.0
    end: float | None = None
    token_file: str | None = None


def read_prometheus(source: str, job: str | None, window: Window) -> Iterator[pa.RecordBatch]:
    """Yield the rates of a job's RNICs in the columns of the throughput contract, host by host.

    The job's RNICs are those that its plan probes from (``fabric_job_path_info``) at the window's start, middle or
    end; containers are named after their hosts, since no series names them. An interval with a counter reset or a
    failed scrape is left out, and so is an RNIC without samples, with a line on standard error. Raises
    ContractError when Prometheus does not answer, or has no such job: then with the jobs that it has.
    """
    end = time.time() if window.end is None else window.end
    api = Api(source, window.token_file)
    moments = [end, end - window.seconds / 2, end - window.seconds]
    job, cluster = _choose(api, job, moments)
    members = _members(api, job, cluster, moments)
    rnics_of: dict[str, set[str]] = defaultdict(set)
    for host, rnic in members:
        rnics_of[host].add(rnic)
    hosts = sorted(rnics_of, key=str.encode)
    series = max(int(SAMPLES_A_QUERY * window.step_seconds / window.seconds), 1)
    share = max(series // (2 * max(map(len, rnics_of.values()))), 1)
    silent = set(members)
    for first in range(0, len(hosts), share):
        some = hosts[first : first + share]
        rates = [
            (rnic, *found)
            for rnic, found in _rates(api, some, cluster, end, window)
            if rnic[1] in rnics_of[rnic[0]] and len(found[0])
        ]
        silent -= {rnic for rnic, *_ in rates}
        if rates:
            yield _batch(job, rates)
    if len(silent) == len(members):
        problem = f"no samples of {RNIC_TRANSMIT.name} of the {len(members)} RNICs of job {job!r} in the window"
        raise ContractError(source, problem, "give the exporters' RNICs a netdev, or set --end and --window")
    if silent:
        names = ", ".join(f"{host}:{rnic}" for host, rnic in sorted(silent))
        print(f"left out: {len(silent)} of {len(members)} RNICs have no samples in {source}: {names}", file=sys.stderr)


def _choose(api: Api, job: str | None, moments: Sequence[float]) -> tuple[str, str]:
    """(job, its cluster, empty where series have no such label)."""

    def found_of(matcher: str) -> set[tuple[str, str]]:
        question = f"group by (training_job, cluster) ({JOB_PATH_INFO.name}{{training_job{matcher}}})"
        return {
            (series.metric["training_job"], series.metric.get("cluster", ""))
            for moment in moments
            for series in api.query(question, moment)
        }

    # Of all jobs only where it is not there, to say which are: others' series are not this question's to load.
    found = (found_of(f"={quoted(job)}") if job else set()) or found_of("!=''")
    jobs = sorted({name for name, _ in found})
    known = f"it has {', '.join(jobs)}" if jobs else f"it has no {JOB_PATH_INFO.name}"
    if job is None and len(jobs) > 1:
        raise ContractError(api.source, f"holds several jobs: {', '.join(jobs)}", "choose one with --job")
    if not jobs or job not in (None, *jobs):
        problem = f"no job {job!r} in the window, {known}" if job else f"no job in the window, {known}"
        raise ContractError(api.source, problem, "a job is known once exporters obey its plan; see --end")
    job = job or jobs[0]
    clusters = sorted(cluster for name, cluster in found if name == job)
    if len(clusters) > 1:
        problem = f"job {job!r} is in several clusters: {', '.join(clusters)}"
        raise ContractError(api.source, problem, "ask the Prometheus of one cluster")
    return job, clusters[0]


def _members(api: Api, job: str, cluster: str, moments: Sequence[float]) -> set[Rnic]:
    """The RNICs that the job's paths start from, at any of the moments: an exporter may have died since."""
    paths = PROBES_SENT.name + _where(cluster, "src_host!=''", "src_rnic!=''")
    own = JOB_PATH_INFO.name + _where(cluster, f"training_job={quoted(job)}")
    question = f"group by (src_host, src_rnic) ({paths} and on (path) {own})"
    members = {
        (series.metric["src_host"], series.metric["src_rnic"])
        for moment in moments
        for series in api.query(question, moment)
    }
    if not members:
        raise ContractError(api.source, f"job {job!r} has no {PROBES_SENT.name}", "scrape its exporters into this one")
    return members


def _rates(
    api: Api, hosts: Sequence[str], cluster: str, end: float, window: Window
) -> Iterator[tuple[Rnic, tuple[Floats, Floats, Floats]]]:
    """Yield ((host, RNIC), (times, transmit rates, receive rates)); an RNIC may come more than once."""
    metrics = "|".join((RNIC_TRANSMIT.name, RNIC_RECEIVE.name))
    one_of = quoted("|".join(re.escape(host) for host in hosts))
    where = _where(cluster, f"__name__=~{quoted(metrics)}", f"host=~{one_of}", "rnic!=''")
    found = api.query(f"{where}[{round(window.seconds * 1000)}ms]", end)
    counters: dict[frozenset[tuple[str, str]], dict[str, tuple[Floats, Floats]]] = defaultdict(dict)
    for series in found:
        name = series.metric.pop("__name__")
        counters[frozenset(series.metric.items())][name] = _samples(series.values)
    for key, both in counters.items():
        if len(both) == 2:
            labels = dict(key)
            yield (
                (labels["host"], labels["rnic"]),
                rates_of_counters(*both[RNIC_TRANSMIT.name], *both[RNIC_RECEIVE.name], window.step_seconds),
            )


def _samples(values: msgspec.Raw) -> tuple[Floats, Floats]:
    """(times, values) of ``[[1.5,"2"],…]``, without a Python object for each."""
    numbers = np.fromstring(bytes(values).translate(None, b'[]"').decode(), sep=",")
    return numbers[::2], numbers[1::2]


def rates_of_counters(
    sent_times: Floats, sent: Floats, received_times: Floats, received: Floats, step: float
) -> tuple[Floats, Floats, Floats]:
    """(ends of intervals, mean rates sent, mean rates received) of two counters.

    Instants that not both counters have are ignored, and all are dated back to a multiple of ``step``
    seconds. Intervals with a reset or a failed scrape are left out.
    """
    times, one, other = np.intersect1d(sent_times, received_times, assume_unique=True, return_indices=True)
    times, first = np.unique(np.floor(times / step + 1e-6) * step, return_index=True)
    if len(times) < 2:
        return (np.empty(0),) * 3
    seconds = np.diff(times)
    rates = [np.diff(counter) / seconds for counter in (sent[one][first], received[other][first])]
    kept = seconds < GAP * np.median(seconds)
    for rate in rates:
        kept &= (rate >= 0) & (rate < MAX_RATE)  # false for NaN, too
    return times[1:][kept], rates[0][kept], rates[1][kept]


def _batch(job: str, rates: Sequence[tuple[Rnic, Floats, Floats, Floats]]) -> pa.RecordBatch:
    counts = [len(times) for _, times, _, _ in rates]
    place = np.repeat(np.arange(len(rates), dtype=np.int32), counts)

    def words(own: Sequence[str]) -> pa.DictionaryArray:
        return pa.array(own).dictionary_encode().take(pa.array(place))

    hosts, rnics = [rnic[0] for rnic, *_ in rates], [rnic[1] for rnic, *_ in rates]
    time_, sent, received = (np.concatenate([row[column] for row in rates]) for column in (1, 2, 3))
    columns = {
        "time": time_,
        "job": words([job] * len(rates)),
        "host": words(hosts),
        "container": words(hosts),
        "rnic": words(rnics),
        "tx_bytes_per_second": sent,
        "rx_bytes_per_second": received,
    }
    return pa.record_batch([pa.array(column) for column in columns.values()], names=list(columns))


def _where(cluster: str, *matchers: str) -> str:
    return "{" + ",".join((f"cluster={quoted(cluster)}", *matchers)) + "}"
