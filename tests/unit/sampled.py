"""Counter samples of a small fabric for tests: healthy ones with a job's bursts, to be spoilt series by series."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from exporter.contracts import catalogue, counters, switch_counters
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import split_port
from skeleton_service.reading.counters import KINDS

BEGIN, STEP, READINGS = 1_760_000_000.0, 5.0, 60
FAULT = 30
"""The first reading that a fault of the tests shows in."""


class Of(NamedTuple):
    """A series: the end may be a node alone."""

    metric: str
    end: str
    priority: int | None = None
    queue: int | None = None
    vlan: int | None = None
    peer: str | None = None


Readings = dict[Of, list[float | None]]
"""Values of each series, one every STEP seconds; None where there is none."""


def healthy(fabric: Fabric, seed: int = 0) -> Readings:
    """All that a fabric serves while a job with an iteration of six readings runs; every port has some of it."""
    draw = np.random.default_rng(seed)
    busy = np.arange(READINGS) % 6 < 2  # two readings of communication, four of computation
    readings: Readings = {}

    def count(of: Of, a_reading: float, idle: float = 0.0) -> None:
        rises = draw.poisson(np.where(busy, a_reading, idle))
        readings[of] = [float(value) for value in draw.integers(10**6) + np.cumsum(rises)]

    def constant(of: Of, value: float) -> None:
        readings[of] = [value] * READINGS

    for switch in fabric.topology.switches:
        constant(Of(switch_counters.SWITCH_REACHABLE.name, switch.name), 1)
        for port in switch.ports:
            end = f"{switch.name}:{port.name}"
            constant(Of(switch_counters.PORT_UP.name, end), 1)
            constant(Of(switch_counters.PORT_ENABLED.name, end), 1)
            constant(Of(switch_counters.PORT_MTU.name, end), 9216)
            constant(Of(switch_counters.PORT_SPEED.name, end), 50e9)
            constant(Of(counters.STATUS_CHANGES, end), 3)
            constant(Of(counters.WATCHDOG_STUCK, end, queue=3), 0)
            count(Of(switch_counters.PORT_RECEIVE.name, end), 1e9, 1e6)
            count(Of(counters.FCS_ERRORS, end), 0.05, 0.05)  # stray: one in a hundred seconds
            count(Of(switch_counters.PORT_RECEIVE_DISCARDS.name, end), 30)
            count(Of(counters.QUEUE_PACKETS, end, queue=3), 1e6, 1e3)
            count(Of(counters.QUEUE_DROPPED, end, queue=0), 15)
            count(Of(counters.ECN_MARKED, end, queue=3), 5e3, 3)
            count(Of(counters.PFC_SENT, end, 3), 300)
            count(Of(counters.PFC_RECEIVED, end, 3), 300)
            constant(Of(counters.FRAME_TOO_LONGS, end), 0)
    for interface in fabric.interfaces.values():
        constant(Of(catalogue.RNIC_UP.name, interface.id), 1)
        constant(Of(catalogue.RNIC_MTU.name, interface.id), 9000)
        constant(Of(counters.RNIC_LINK_DOWNS, interface.id), 1)
        constant(Of(catalogue.RDMA_GID_CHANGES.name, interface.id), 0)
        constant(Of(counters.RNIC_STALLED_WRITE_RATIO, interface.id), 0.01)
        constant(Of(counters.RNIC_CNP_IGNORED, interface.id), 0)
        count(Of(catalogue.RNIC_TRANSMIT.name, interface.id), 1e9, 1e6)
        count(Of(counters.RNIC_CNP_SENT, interface.id), 5e3, 3)
        count(Of(counters.RNIC_OUT_OF_SEQUENCE, interface.id), 5)
        count(Of(counters.RNIC_PFC_SENT, interface.id, 3), 20)
        readings[Of(counters.RNIC_PFC_PAUSING, interface.id, 3)] = (
            np.cumsum(draw.uniform(0, 0.01, READINGS)) + 3
        ).tolist()
    return readings


def rise(readings: Readings, of: Of, a_reading: float, first: int = FAULT, last: int = READINGS) -> None:
    """Let a counter rise by so much more in each reading from ``first`` to before ``last``."""
    values = readings.setdefault(of, [0.0] * READINGS)
    for number in range(first, READINGS):
        value = values[number]
        if value is not None:
            values[number] = value + a_reading * (min(number, last - 1) - first + 1)


def become(readings: Readings, of: Of, value: float | None, first: int = FAULT, last: int = READINGS) -> None:
    """Let a gauge have another value, or no reading, from ``first`` to before ``last``."""
    readings.setdefault(of, [1.0] * READINGS)[first:last] = [value] * (last - first)


def silence(readings: Readings, which: Callable[[Of], bool], first: int = FAULT, last: int = READINGS) -> None:
    for of in filter(which, readings):
        become(readings, of, None, first, last)


def time_of(number: int) -> float:
    return BEGIN + number * STEP


def table(readings: Readings) -> pa.Table:
    """As ``read_counters`` gives them."""
    rows = []
    for of, values in readings.items():
        node, port = split_port(of.end) if ":" in of.end else (of.end, None)
        rows += [
            (time_of(number), of.metric, node, port, *of[2:], value)
            for number, value in enumerate(values)
            if value is not None
        ]
    columns = zip(*rows, strict=True)
    return pa.table({name: pa.array(each, kind) for (name, kind), each in zip(KINDS.items(), columns, strict=True)})
