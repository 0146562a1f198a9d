"""What counters show when nothing is wrong: a job's bytes, marks and pauses, and strays that mean nothing."""

from __future__ import annotations

import numpy as np

from exporter.contracts.catalogue import RNIC_MTU, RNIC_RECEIVE, RNIC_TRANSMIT, RNIC_UP
from exporter.contracts.counters import (
    BGP_ESTABLISHED,
    BGP_TRANSITIONS,
    ECN_MARKED,
    FCS_ERRORS,
    FRAME_TOO_LONGS,
    PFC_PAUSED,
    PFC_PAUSING,
    PFC_RECEIVED,
    PFC_SENT,
    QUEUE_DROPPED,
    RNIC_ACK_TIMEOUTS,
    RNIC_CNP_HANDLED,
    RNIC_CNP_SENT,
    RNIC_CRC_ERRORS,
    RNIC_ECN_MARKED,
    RNIC_LINK_DOWNS,
    RNIC_OUT_OF_SEQUENCE,
    RNIC_PFC_PAUSED,
    RNIC_PFC_PAUSING,
    RNIC_PFC_RECEIVED,
    RNIC_PFC_SENT,
    RNIC_SEQUENCE_ERRORS,
    RNIC_STALLED_READ_RATIO,
    RNIC_STALLED_READS,
    RNIC_STALLED_WRITE_RATIO,
    RNIC_STALLED_WRITES,
    RNIC_STORM_WARNINGS,
    STATUS_CHANGES,
    SYMBOL_ERRORS,
    WATCHDOG_STUCK,
)
from exporter.contracts.switch_counters import SWITCH_REACHABLE
from lab.simulator.failures.counters import Readings
from lab.simulator.failures.effects import Health
from lab.simulator.failures.story import (
    LOSSLESS,
    RECEIVE_DISCARDS,
    RECEIVE_ERRORS,
    SWITCH_MTU,
    SWITCH_RECEIVE,
    SWITCH_TRANSMIT,
    SWITCH_UP,
    TRANSMIT_DISCARDS,
)
from lab.simulator.failures.wiring import CARRIER, MTU_BYTES, Booleans, Floats, Wiring

PAUSE_SECONDS = 2e-5  # of a frame: a good part of the longest that it can ask for at 400 Gb/s
RNIC_MTU_BYTES = 9000.0

_STRAY_PORTS = (  # metric, queue, the share of ports that count, at most how many a second
    (FCS_ERRORS, None, 0.05, 0.02),
    (RECEIVE_ERRORS, None, 0.05, 0.02),
    (SYMBOL_ERRORS, None, 0.1, 0.1),
    (FRAME_TOO_LONGS, None, 0.0, 0.0),
    (RECEIVE_DISCARDS, None, 0.1, 0.1),
    (TRANSMIT_DISCARDS, None, 0.1, 0.2),
    (QUEUE_DROPPED, 0, 0.1, 0.2),
    (QUEUE_DROPPED, LOSSLESS, 0.02, 0.05),
    (WATCHDOG_STUCK, LOSSLESS, 0.0, 0.0),
    (STATUS_CHANGES, None, 0.0, 0.0),
)
_STRAY_RNICS = (
    (RNIC_CRC_ERRORS, 0.05, 0.02),
    (RNIC_OUT_OF_SEQUENCE, 0.3, 0.2),
    (RNIC_SEQUENCE_ERRORS, 0.3, 0.2),
    (RNIC_ACK_TIMEOUTS, 0.1, 0.02),
    (RNIC_LINK_DOWNS, 0.0, 0.0),
    (RNIC_STORM_WARNINGS, 0.0, 0.0),
    (RNIC_STALLED_READS, 0.1, 0.05),
    (RNIC_STALLED_WRITES, 0.1, 0.05),
)


def add_noise(readings: Readings, wiring: Wiring, health: Health, vlan: int, unmarked: list[str]) -> None:
    """Every series that a case can have; ports ``unmarked`` (``node:port``) mark nothing."""
    busy = _busy(readings, health)
    _add_bytes(readings, busy)
    _add_pauses(readings, health, busy)
    _add_marks(readings, health, busy, [readings.number(*port.split(":", 1)) for port in unmarked])
    _add_strays(readings, wiring, vlan)
    _add_states(readings)
    _add_sessions(readings, wiring)


def _busy(readings: Readings, health: Health) -> Floats:
    """(owners, samples): the share of each reading's interval that an all-reduce filled."""
    times, period = readings.owner_times, readings.period
    fine = np.linspace(times.min() - period, times.max(), 512)
    iteration = np.maximum(np.searchsorted(health.iterations, fine, side="right") - 1, 0)
    inside = (fine - health.iterations[iteration]) < health.duty * health.period
    total = np.concatenate([[0.0], np.cumsum(inside)])
    step = fine[1] - fine[0]
    low = np.clip(np.round((times - period - fine[0]) / step).astype(int), 0, fine.size - 1)
    high = np.clip(np.round((times - fine[0]) / step).astype(int) + 1, 1, fine.size)
    share: Floats = (total[high] - total[low]) / np.maximum(high - low, 1)
    return share


def _add_bytes(readings: Readings, busy: Floats) -> None:
    """What one end of a cable sends the other receives."""
    number = readings.far.size
    speed = readings.draw.uniform(5e9, 4e10, (number, 1))
    sent = speed * busy[:number] * readings.period + readings.draw.uniform(1e5, 1e6, (number, 1))
    received = np.where(readings.far[:, None] >= 0, sent[readings.far], sent)
    for owners, metrics in (
        (readings.rnics, (RNIC_TRANSMIT.name, RNIC_RECEIVE.name)),
        (readings.ports, (SWITCH_TRANSMIT, SWITCH_RECEIVE)),
    ):
        for metric, grown in zip(metrics, (sent, received), strict=True):
            readings.grow(metric, owners, grown[owners])


def _add_pauses(readings: Readings, health: Health, busy: Floats) -> None:
    """A third of all ends pause their neighbours in the bursts, some often."""
    number = readings.far.size
    pausing = (readings.draw.random((number, 1)) < 0.3) * np.exp(readings.draw.normal(0.0, 1.0, (number, 1)))
    sent = readings.arrivals(np.arange(number), 4.0 * health.load * pausing * busy[:number])
    received = np.where(readings.far[:, None] >= 0, sent[readings.far], 0.0)
    for owners, metrics in (
        (readings.rnics, (RNIC_PFC_SENT, RNIC_PFC_RECEIVED, RNIC_PFC_PAUSING, RNIC_PFC_PAUSED)),
        (readings.ports, (PFC_SENT, PFC_RECEIVED, PFC_PAUSING, PFC_PAUSED)),
    ):
        frames = (sent, received, sent * PAUSE_SECONDS, received * PAUSE_SECONDS)
        for metric, grown in zip(metrics, frames, strict=True):
            readings.grow(metric, owners, grown[owners], priority=LOSSLESS)


def _add_marks(readings: Readings, health: Health, busy: Floats, unmarked: list[int]) -> None:
    """Queues mark in the bursts; receivers notify senders."""
    ports, rnics = readings.ports, readings.rnics
    hot = np.exp(readings.draw.normal(0.0, 1.0, (ports.size, 1))) * ~np.isin(ports, unmarked)[:, None]
    marks = readings.arrivals(ports, 30.0 * health.load * hot * busy[ports])
    readings.grow(ECN_MARKED, ports, marks, queue=LOSSLESS)
    for metric in (RNIC_ECN_MARKED, RNIC_CNP_SENT, RNIC_CNP_HANDLED):
        readings.grow(metric, rnics, readings.arrivals(rnics, 10.0 * health.load * busy[rnics]))


def _add_strays(readings: Readings, wiring: Wiring, vlan: int) -> None:
    draw = readings.draw

    def stray(number: int, share: float, most: float) -> Floats:
        some: Booleans = draw.random((number, 1)) < share
        rates: Floats = some * draw.random((number, 1)) * most
        return rates

    for name, queue, share, most in _STRAY_PORTS:
        grown = readings.arrivals(readings.ports, stray(readings.ports.size, share, most))
        readings.grow(name, readings.ports, grown, queue=queue)
    for name, share, most in _STRAY_RNICS:
        grown = readings.arrivals(readings.rnics, stray(readings.rnics.size, share, most))
        readings.grow(name, readings.rnics, grown)
    leaves = set(wiring.tier("leaf"))
    own = np.array([readings.number(*port.split(":", 1)) for port in wiring.ports if port.partition(":")[0] in leaves])
    grown = readings.arrivals(own, stray(own.size, 0.02, 0.05))
    readings.grow(QUEUE_DROPPED, own, grown, queue=LOSSLESS, vlan=vlan)


def _add_states(readings: Readings) -> None:
    one = np.ones((1, 1))
    readings.add(SWITCH_UP, readings.ports, one)
    readings.add(SWITCH_MTU, readings.ports, one * MTU_BYTES)
    readings.add(SWITCH_REACHABLE.name, readings.switches, one)
    readings.add(RNIC_UP.name, readings.rnics, one)
    readings.add(RNIC_MTU.name, readings.rnics, one * RNIC_MTU_BYTES)
    for metric in (RNIC_STALLED_READ_RATIO, RNIC_STALLED_WRITE_RATIO):
        stalled = readings.draw.beta(0.3, 20.0, (readings.rnics.size, readings.samples))
        readings.add(metric, readings.rnics, np.round(stalled, 2))


def _add_sessions(readings: Readings, wiring: Wiring) -> None:
    """BGP between the switches at both ends of a link, each named by the other's address."""
    polled = {each.name for each in wiring.topology.switches if each.tier != CARRIER}
    owners, peers = [], []
    cables = set(wiring.cables.tolist())
    for number, pair in enumerate(wiring.ends):
        for near, far in (pair, pair[::-1]):
            if number not in cables and near.partition(":")[0] in polled:
                owners.append(readings.number(near.partition(":")[0]))
                peers.append(wiring.ports[far].addresses[0])
    own = np.array(owners)
    established = readings.draw.integers(1, 5, (own.size, 1)).astype(float)
    readings.add(BGP_ESTABLISHED, own, np.ones((1, 1)), peers=peers)
    readings.add(BGP_TRANSITIONS, own, established, peers=peers)
