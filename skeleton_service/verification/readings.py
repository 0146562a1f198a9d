"""The settings that switches and RNICs tell, as they were last read: out of counter samples or out of Prometheus."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from exporter.contracts import rnic_counters as rnic
from exporter.contracts import switch_counters as switch
from exporter.contracts.catalogue import RNIC_MTU
from exporter.contracts.codec import ContractError
from exporter.contracts.metric import Metric
from skeleton_service.reading.counters import read_counters
from skeleton_service.reading.prometheusapi import Api

SETTINGS: tuple[Metric, ...] = (
    switch.PORT_MTU,
    switch.PORT_ENABLED,
    switch.PORT_SPEED,
    switch.PORT_PFC_MODE,
    switch.PRIORITY_LOSSLESS,
    switch.QUEUE_ECN_ENABLED,
    switch.QUEUE_ECN_LOW,
    switch.QUEUE_ECN_HIGH,
    switch.SWITCH_DSCP_PRIORITY,
    switch.BGP_ENABLED,
    switch.BGP_ESTABLISHED,
    switch.BGP_HOLD,
    switch.BGP_KEEPALIVE,
    switch.SWITCH_REACHABLE,
    RNIC_MTU,
    rnic.ACTIVE_MTU,
    rnic.PFC_ENABLED,
    rnic.TRUSTS_DSCP,
    rnic.DSCP_PRIORITY,
    rnic.ECN_NP_ENABLED,
    rnic.ECN_RP_ENABLED,
)
"""What verification compares, and what it needs to know whether to compare it."""

_STATES = {
    each.name for each in (switch.PORT_ENABLED, switch.BGP_ENABLED, switch.BGP_ESTABLISHED, switch.SWITCH_REACHABLE)
}
_NODES, _PORTS = ("switch", "host"), ("switch_port", "rnic")
_SUBJECTS = ("priority", "queue", "dscp", "peer")
"""Labels that tell apart what one port or switch says of several things."""

Subject = int | str | None
"""Priority, queue, DSCP or peer that a reading is about, whichever its metric has."""


@dataclass(frozen=True, slots=True)
class Reading:
    """``port`` is None of what a switch tells as a whole; ``time`` is in seconds since the epoch."""

    metric: str
    node: str
    port: str | None
    subject: Subject
    value: float
    time: float


class Readings:
    """The last reading of each setting."""

    def __init__(self, readings: Iterable[Reading], since: float = -math.inf) -> None:
        """Of readings of one setting the last one counts; those before ``since`` count for nothing."""
        self._last: dict[str, dict[tuple[str, str | None, Subject], Reading]] = defaultdict(dict)
        self.too_old: dict[str, float] = {}
        """{node that told something, but all of it before ``since``: when it last did}."""
        for reading in readings:
            if reading.time < since:
                self.too_old[reading.node] = max(reading.time, self.too_old.get(reading.node, -math.inf))
                continue
            own = self._last[reading.metric]
            key = (reading.node, reading.port, reading.subject)
            if key not in own or own[key].time <= reading.time:
                own[key] = reading
        for own in self._last.values():
            for node, _, _ in own:
                self.too_old.pop(node, None)

    def get(self, metric: Metric, node: str, port: str | None = None, subject: Subject = None) -> Reading | None:
        return self._last[metric.name].get((node, port, subject)) if metric.name in self._last else None

    def of(self, metric: Metric) -> Iterable[Reading]:
        """All readings of a metric."""
        return self._last[metric.name].values() if metric.name in self._last else ()

    def nodes(self) -> set[str]:
        """Whoever tells anything."""
        return {node for own in self._last.values() for node, _, _ in own}

    def telling_settings(self) -> set[str]:
        """Whoever tells more than whether it, its ports and its sessions are up."""
        return {node for metric, own in self._last.items() if metric not in _STATES for node, _, _ in own}


def _subject_of(metric: Metric) -> str | None:
    return next((label for label in metric.labels if label in _SUBJECTS), None)


def read_samples(sources: Sequence[str | Path]) -> list[Reading]:
    """The settings among counter samples; raise ContractError.

    Samples have no column for a DSCP, so maps of DSCPs are not told by files.
    """
    return readings_of(read_counters(sources))


def readings_of(table: pa.Table) -> list[Reading]:
    """The settings among the rows of a table of counter samples. O(rows)."""
    known = {metric.name: metric for metric in SETTINGS if "dscp" not in metric.labels}
    table = table.filter(pc.is_in(table["metric"], pa.array(list(known))))
    readings = []
    for row in table.to_pylist():
        metric = known[row["metric"]]
        label = _subject_of(metric)
        subject = None if label is None else row[label]
        has_port = any(each in _PORTS for each in metric.labels)
        # A row without what its metric is told apart by says nothing, nor does one of a single VLAN.
        if (label is not None and subject is None) or (has_port and not row["port"]) or row["vlan"] is not None:
            continue
        port = row["port"] if has_port else None
        readings.append(Reading(row["metric"], row["node"], port, subject, row["value"], row["time"]))
    return readings


def ask_prometheus(
    source: str, at: float, *, token_file: str | None = None, cluster: str | None = None
) -> list[Reading]:
    """The settings as a Prometheus has them at a time, in seconds since the epoch; raise ContractError.

    Two instant queries a metric. Prometheus itself forgets what was not scraped for five minutes. A reading has the
    time of its scrape, or of the poll before: a poller is scraped with what it last read, whenever that was.
    """
    api = Api(source, token_file, too_much="ask a Prometheus that may load more samples")
    polled = _polls(api, at)
    readings: list[Reading] = []
    clusters: set[str] = set()
    for metric in SETTINGS:
        node, *_ = (label for label in metric.labels if label in _NODES)
        port = next((label for label in metric.labels if label in _PORTS), None)
        subject = _subject_of(metric)
        stamps = api.instant(f"timestamp({metric.name})", at)
        times = {frozenset(labels.items()): value for labels, value in stamps}
        for labels, value in api.instant(metric.name, at):
            labels.pop("__name__", None)
            own = labels.get("cluster", "")
            if cluster not in (None, own):
                continue
            clusters.add(own)
            about: Subject = None if subject is None else labels.get(subject, "")
            if subject not in (None, "peer"):
                about = int(str(about)) if str(about).isdecimal() else None
            name = labels.get(node, "")
            if not math.isfinite(value) or not name or (subject is not None and about is None):
                continue
            time = min(times.get(frozenset(labels.items()), at), polled.get(name, at))
            of_port = None if port is None else labels.get(port, "")
            readings.append(Reading(metric.name, name, of_port, about, value, time))
    if len(clusters) > 1:
        names = ", ".join(sorted(each or "one without a name" for each in clusters))
        raise ContractError(source, f"holds several clusters: {names}", "choose one with --cluster")
    if cluster is not None and not readings:
        raise ContractError(source, f"tells no setting of cluster {cluster!r}", "is it the external label's value?")
    return readings


def _polls(api: Api, at: float) -> dict[str, float]:
    """{switch: time since which all of its tables were read}: the oldest of them, for nobody knows which is meant."""
    polled: dict[str, float] = {}
    for labels, value in api.instant(f"min by (switch) ({switch.TABLE_TIME.name})", at):
        polled[labels.get("switch", "")] = value
    for labels, value in api.instant(f"min by (switch) ({switch.SWITCH_POLL_TIME.name})", at):
        polled.setdefault(labels.get("switch", ""), value)
    return polled
