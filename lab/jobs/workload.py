"""A job's throughput without a network: the transfers of its iterations, summed into samples.

For tests and examples. The same schedule moves real bytes in ``lab.jobs.traffic``.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa

from lab.jobs.job import Job
from lab.jobs.schedule import draw_iteration


def simulate(
    job: Job,
    *,
    seconds: float,
    step_seconds: float = 1.0,
    start: float = 1_760_000_000.0,
    seed: int | None = None,
    jitter: float = 0.02,
    noise: float = 0.05,
    background: float = 0.01,
    gaps: float = 0.0,
    clock_spread: float = 0.0,
) -> pa.Table:
    """Return the Throughput contract's columns for ``seconds`` of the job, rows by time then endpoint.

    ``noise`` is the relative error of each sample, ``background`` the level of foreign traffic relative
    to the mean, ``gaps`` the share of missing rows, ``clock_spread`` the spread in seconds of the hosts'
    sampling instants within the step. Rates are bytes per second over the interval that ends at ``time``.
    """
    seed = job.seed if seed is None else seed
    draw, noisy = random.Random(seed), np.random.default_rng(seed)
    workers, rails = len(job.workers), len(job.workers[0].nics)
    samples = int(seconds / step_seconds)
    offset = noisy.uniform(0, clock_spread, workers) if clock_spread else np.zeros(workers)
    sums = np.zeros((2, workers, samples))  # tx, rx
    clock = -draw.uniform(0, job.period_seconds)
    while clock < seconds:
        iteration = draw_iteration(job, draw, jitter=jitter)
        for transfer in iteration.transfers:
            begin = clock + transfer.start
            duration = transfer.size / job.bandwidth * (job.data_parallel - 1 if transfer.role == "dp" else 1)
            for direction, worker in enumerate((transfer.source, transfer.destination)):
                _spread(sums[direction, worker], begin - offset[worker], duration, transfer.size, step_seconds)
        clock += iteration.length
    sums /= step_seconds
    rates = np.repeat(sums[:, :, None, :], rails, axis=2)
    rates *= noisy.normal(1, noise, rates.shape).clip(0)
    rates += noisy.exponential(background * max(float(sums.mean()), 1.0), rates.shape)
    nics = [(worker, nic, offset[n]) for n, worker in enumerate(job.workers) for nic in worker.nics]
    times = start + step_seconds * np.arange(1, samples + 1)
    order = np.arange(samples * len(nics))
    if gaps:
        order = order[noisy.random(order.size) >= gaps]
    endpoint, moment = order % len(nics), order // len(nics)
    flat = rates.reshape(2, len(nics), samples)

    def names(values: list[Any]) -> Any:
        return pa.array(values).take(pa.array(endpoint))

    return pa.table(
        {
            "time": times[moment] + np.array([shift for _, _, shift in nics])[endpoint],
            "job": pa.array([job.name]).take(pa.array(np.zeros(order.size, dtype=np.int64))),
            "host": names([worker.host for worker, _, _ in nics]),
            "container": names([worker.container for worker, _, _ in nics]),
            "rnic": names([nic.name for _, nic, _ in nics]),
            "tx_bytes_per_second": flat[0, endpoint, moment],
            "rx_bytes_per_second": flat[1, endpoint, moment],
            "rank": names([worker.rank for worker, _, _ in nics]),
        }
    )


def _spread(sums: np.ndarray[Any, Any], begin: float, duration: float, size: float, step: float) -> None:
    """Add ``size`` bytes to the samples, evenly over [begin, begin + duration]."""
    first, last = int(np.floor(begin / step)), int(np.floor((begin + duration) / step))
    for sample in range(max(first, 0), min(last, sums.size - 1) + 1):
        overlap = min(begin + duration, (sample + 1) * step) - max(begin, sample * step)
        sums[sample] += size * (overlap / duration if duration > 0 else 1.0)
