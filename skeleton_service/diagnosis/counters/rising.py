"""Counters that say by themselves what is wrong: errors, drops, long frames, marks, retransmissions, stalls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from exporter.contracts import catalogue, counters, switch_counters
from exporter.contracts.diagnosis import Component
from exporter.contracts.fabric import Fabric
from skeleton_service.diagnosis.counters.anomaly import Anomaly, Direction, Kind
from skeleton_service.diagnosis.counters.series import Floats, Key, Metric, Samples
from skeleton_service.diagnosis.counters.surges import Bar, Surge, surges

_AN_HOUR = 3600.0
_ITERATION = 60.0  # of a job: longer than most take


@dataclass(frozen=True, slots=True)
class Rule:
    """Which rise of a counter is an anomaly, and how it is called."""

    kind: Kind
    what: str
    metrics: tuple[str, ...]
    bar: Bar
    direction: Direction | None = None


def _traffic(floor: float, least: float, watched: float = 0.0) -> Bar:
    """For what traffic makes: two readings, so that every peer has had one since, and more than the largest of a past
    of three, so that a job's bursts are none; and what many ports have some of is no one's fault."""
    return Bar(floor, least, held=2, past=3, watched=watched, quantile=1.0, alike=0.05)


_STRAY = Bar(1.0, 5)  # IEEE 802.3 asks for a BER below 1e-12: at 400 Gb/s at most 0.4 bits a second
_LOST = _traffic(5.0, 20)
# counters.md 5.3: "no paper gives an absolute surge threshold"; DCQCN allows 20,000 CNPs a second for each flow. 100 a
# second are 1 % of 10,000 packets; what decides is the contrast, and each iteration of a job begins with a burst.
_CONGESTED = _traffic(100.0, 200, _ITERATION)
_ONCE = Bar(0.0, 1)
RULES = (
    Rule("bit_errors", "FCS errors", (counters.FCS_ERRORS, counters.RNIC_CRC_ERRORS), _STRAY, "ingress"),
    Rule("bit_errors", "symbol errors", (counters.SYMBOL_ERRORS, counters.RNIC_SYMBOL_ERRORS), _STRAY, "ingress"),
    Rule("receive_errors", "receive errors", (switch_counters.PORT_RECEIVE_ERRORS.name,), _STRAY, "ingress"),
    Rule(
        "frames_too_long",
        "frames too long",
        (counters.FRAME_TOO_LONGS, counters.RNIC_OVERSIZE, counters.RNIC_OUT_OF_RANGE),
        Bar(0.2, 3),  # 5.5: no port of a fabric with one MTU ever counts these
        "ingress",
    ),
    Rule(
        "discards",
        "receive discards",
        (switch_counters.PORT_RECEIVE_DISCARDS.name, counters.RNIC_RECEIVE_DISCARDS, counters.RNIC_PRIORITY_DISCARDS),
        _LOST,
        "ingress",
    ),
    Rule(
        "discards",
        "transmit discards",
        (switch_counters.PORT_TRANSMIT_DISCARDS.name, counters.RNIC_TRANSMIT_DISCARDS),
        _LOST,
        "egress",
    ),
    # 5.4: any on a lossless queue is wrong; which are lossless is not known here, and a burst fills the others.
    Rule("queue_drops", "packets dropped", (counters.QUEUE_DROPPED,), _traffic(2.0, 10), "egress"),
    Rule("ecn_surge", "packets marked", (counters.ECN_MARKED,), _CONGESTED, "egress"),
    Rule("cnp_surge", "CNPs", (counters.RNIC_CNP_SENT, counters.RNIC_CNP_HANDLED), _CONGESTED),
    Rule("cnp_ignored", "CNPs ignored", (counters.RNIC_CNP_IGNORED,), Bar(1.0, 5, held=2)),
    Rule("retransmission", "packets out of sequence", (counters.RNIC_OUT_OF_SEQUENCE,), _LOST, "ingress"),
    Rule("retransmission", "sequence errors (NAK)", (counters.RNIC_SEQUENCE_ERRORS,), _LOST, "egress"),
    Rule(
        "retransmission",
        "ACK timeouts",
        (counters.RNIC_ACK_TIMEOUTS, counters.RNIC_RETRIES_EXCEEDED),
        _traffic(1.0, 5),
        "egress",
    ),
    # The driver counts seconds in which PCIe was stalled for more than 30 % of the time: one in four of them.
    Rule(
        "pcie_stall", "PCIe stalls", (counters.RNIC_STALLED_READS, counters.RNIC_STALLED_WRITES), Bar(0.25, 2, held=2)
    ),
    Rule("watchdog_stuck", "times stuck", (counters.WATCHDOG_STUCK,), _ONCE, "egress"),
    Rule("gid_change", "GID changes", (catalogue.RDMA_GID_CHANGES.name,), _ONCE),
    Rule("rnic_absent", "device losses", (catalogue.RDMA_DEVICE_LOSSES.name,), _ONCE),
    Rule("mtu_change", "MTU changes", (catalogue.RDMA_MTU_CHANGES.name,), _ONCE),
)
_STALLED = 0.3  # from where the driver itself counts a second as stalled
_STALL_RATIOS = (counters.RNIC_STALLED_READ_RATIO, counters.RNIC_STALLED_WRITE_RATIO)
KNOWN = frozenset(name for rule in RULES for name in rule.metrics) | frozenset(_STALL_RATIOS)
_AT_THE_PORT = frozenset({"bit_errors", "frames_too_long"})  # of an RNIC: its cable is as suspect as itself


def rising(samples: Samples, fabric: Fabric) -> Iterator[Anomaly]:
    """Every episode that a rule finds."""
    for rule in RULES:
        for metric in samples.each(rule.metrics):
            for surge in surges(metric, rule.bar):
                yield _anomaly(rule, surge, fabric)


def _anomaly(rule: Rule, surge: Surge, fabric: Fabric) -> Anomaly:
    key = surge.metric.keys[surge.series]
    return Anomaly(
        kind=rule.kind,
        component=component_of(key, fabric, port=rule.kind in _AT_THE_PORT),
        node=key.node,
        port=key.port,
        start=surge.start,
        proven=surge.known,
        end=surge.end,
        magnitude=surge.rate,
        unit="per second",
        evidence=f"{spelt(key)}: {surge.risen:.0f} {rule.what} in {seconds(surge.seconds)}, {_past(surge)} "
        f"({surge.metric.name})",
        direction=rule.direction,
    )


def component_of(key: Key, fabric: Fabric, *, port: bool = False) -> Component:
    """What a series is of; an RNIC as a ``port`` where its cable is meant as well."""
    if key.vlan is not None:
        return Component(kind="vlan", name=f"{key.node}:{key.vlan}")
    if key.port is None:
        return Component(kind="switch" if key.node in fabric.switches else "host", name=key.node)
    return Component(kind="port" if port or key.node in fabric.switches else "rnic", name=key.end)


def spelt(key: Key) -> str:
    """A series for a person: its port, and the class of traffic where it is of one."""
    named = (("priority", key.priority), ("queue", key.queue), ("VLAN", key.vlan))
    return " ".join([key.end, *(f"{what} {number}" for what, number in named if number is not None)])


def seconds(length: float) -> str:
    return f"{length:.3g} s" if length < _AN_HOUR else f"{length / _AN_HOUR:.1f} h"


def _past(surge: Surge) -> str:
    if not surge.seconds_before:
        return "and nothing was read before"
    before = seconds(surge.seconds_before)
    return f"{surge.risen_before:.0f} in the {before} before" if surge.risen_before else f"none in the {before} before"


def stalled(samples: Samples, fabric: Fabric) -> Iterator[Anomaly]:
    """RNICs whose PCIe is stalled for a large share of the time (gauges), two readings in a row."""
    for name in _STALL_RATIOS:
        metric = samples.get(name)
        for series, first, last in metric.runs(metric.values >= _STALLED):
            key = metric.keys[series]
            highest = _highest_before(metric, series, first)
            if last == first or metric.values[first : first + 2].min() < 2 * highest:
                continue
            mean = float(metric.values[first : last + 1].mean())
            yield Anomaly(
                kind="pcie_stall",
                component=component_of(key, fabric),
                node=key.node,
                port=key.port,
                start=float(metric.times[first]),
                proven=float(metric.times[first + 1]),
                end=None if metric.lasts(last) else float(metric.times[last]),
                magnitude=mean,
                unit="ratio",
                evidence=f"{key.end}: PCIe stalled for {mean:.0%} of the time, at most {highest:.0%} before ({name})",
            )


def _highest_before(metric: Metric, series: int, row: int) -> float:
    own: Floats = metric.values[metric.rows(series).start : row]
    return float(np.max(own, initial=0.0))
