"""Jobs without a parallel structure: debugging, single-host jobs side by side, parameter sweeps."""

from __future__ import annotations

import numpy as np

from lab.simulator.case import Structure
from lab.simulator.job import log_uniform
from lab.simulator.traffic import RX, TX, Traffic


def play(structure: Structure, traffic: Traffic, storage: Traffic, link: float, draw: np.random.Generator) -> None:
    """Play one job whose units are single RNICs (``traffic``) of containers (``storage``)."""
    if structure == "debug":
        play_bursts(traffic, storage.host.size, link, draw)
    elif structure == "independent":
        play_independent(storage, draw)
    else:
        play_sweep(storage, draw)


def play_bursts(traffic: Traffic, containers: int, link: float, draw: np.random.Generator) -> None:
    """Someone tries things out: now and then some bytes between two containers, on some of their rails."""
    rails = traffic.host.size // containers
    number = draw.poisson(containers * traffic.seconds / log_uniform(draw, (15.0, 120.0)))
    source = draw.integers(containers, size=number)
    destination = (source + draw.integers(1, containers, size=number)) % containers
    begin = draw.uniform(0, traffic.seconds, (1, number))
    size = np.exp(draw.uniform(np.log(1e7), np.log(2e10), (1, number)))
    seconds = size / (link * draw.uniform(0.1, 1.0, (1, number)))
    first = draw.integers(rails, size=number)
    last = np.minimum(first + draw.integers(1, rails + 1, size=number), rails)
    for rail in range(rails):
        on = (first <= rail) & (rail < last)
        a, b = source[on] * rails + rail, destination[on] * rails + rail
        traffic.transfer("debug", a, b, begin[:, on], seconds[:, on], size[:, on])


def play_independent(storage: Traffic, draw: np.random.Generator) -> None:
    """Each host has its own single-host job: it reads its data in its own, irregular rhythm."""
    for container in range(storage.host.size):
        gaps = draw.gamma(4, log_uniform(draw, (3.0, 60.0)) / 4, size=int(storage.seconds / 2) + 1)
        _read(storage, container, np.cumsum(gaps), log_uniform(draw, (5e7, 4e9)), draw)


def play_sweep(storage: Traffic, draw: np.random.Generator) -> None:
    """Each host trains the same model with other parameters: a batch per iteration, now and then a checkpoint."""
    batch = log_uniform(draw, (5e7, 4e9))
    for container in range(storage.host.size):
        period = log_uniform(draw, (4.0, 60.0))
        number = int(storage.seconds / period) + 2
        moments = draw.uniform(0, period) + np.cumsum(period * (1 + 0.02 * draw.standard_normal(number)))
        _read(storage, container, moments - period, batch, draw)
        saved = moments[:: int(draw.integers(5, 20))]
        where = np.full(saved.size, container)
        storage.outside(TX, where, saved[None, :], float(draw.uniform(2, 10)), log_uniform(draw, (1e9, 2e10)))


def _read(
    storage: Traffic,
    container: int,
    moments: np.ndarray[tuple[int], np.dtype[np.float64]],
    size: float,
    draw: np.random.Generator,
) -> None:
    speed = log_uniform(draw, (3e8, 4e9))
    sizes = size * (1 + 0.05 * draw.standard_normal((1, moments.size)).clip(-3, 3))
    storage.outside(RX, np.full(moments.size, container), moments[None, :], sizes / speed, sizes)
