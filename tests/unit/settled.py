"""A fabric whose switches and RNICs tell settings, as readings, as counter samples and as a page that is scraped."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from exporter.contracts import rnic_counters as rnics
from exporter.contracts import switch_counters as switches
from exporter.contracts.catalogue import RNIC_MTU
from exporter.contracts.metric import Metric
from exporter.contracts.topology import Topology
from skeleton_service.verification.readings import SETTINGS, Reading, Subject

NOW = 1_760_000_000.0
METRICS = {metric.name: metric for metric in SETTINGS}


def settings(topology: Topology) -> list[Reading]:
    """All that there is to tell, as examples/intent.yaml means it."""
    return [
        Reading(metric.name, node, port, subject, value, NOW) for metric, node, port, subject, value in _all(topology)
    ]


def _all(topology: Topology) -> Iterator[tuple[Metric, str, str | None, Subject, float]]:
    for switch in topology.switches:
        for port in switch.ports:
            yield switches.PORT_MTU, switch.name, port.name, None, 9216
            yield switches.PORT_ENABLED, switch.name, port.name, None, 1
            yield switches.PORT_SPEED, switch.name, port.name, None, 50e9
            yield switches.PORT_PFC_MODE, switch.name, port.name, None, 1
            for priority in range(8):
                yield switches.PRIORITY_LOSSLESS, switch.name, port.name, priority, float(priority == 3)
            for queue in (0, 3):
                yield switches.QUEUE_ECN_ENABLED, switch.name, port.name, queue, float(queue == 3)
            yield switches.QUEUE_ECN_LOW, switch.name, port.name, 3, 150_016
            yield switches.QUEUE_ECN_HIGH, switch.name, port.name, 3, 1_500_000
        for dscp, priority in ((26, 3), (48, 6)):
            yield switches.SWITCH_DSCP_PRIORITY, switch.name, None, dscp, priority
        yield switches.BGP_ENABLED, switch.name, None, "10.9.0.1", 1
        yield switches.BGP_ESTABLISHED, switch.name, None, "10.9.0.1", 1
        yield switches.BGP_HOLD, switch.name, None, "10.9.0.1", 9
        yield switches.BGP_KEEPALIVE, switch.name, None, "10.9.0.1", 3
        yield switches.SWITCH_REACHABLE, switch.name, None, None, 1
    for host in topology.hosts:
        for rnic in host.rnics:
            yield RNIC_MTU, host.name, rnic.name, None, 9000
            yield rnics.ACTIVE_MTU, host.name, rnic.name, None, 4096
            yield rnics.TRUSTS_DSCP, host.name, rnic.name, None, 1
            for priority in range(8):
                yield rnics.PFC_ENABLED, host.name, rnic.name, priority, float(priority == 3)
            yield rnics.ECN_NP_ENABLED, host.name, rnic.name, 3, 1
            yield rnics.ECN_RP_ENABLED, host.name, rnic.name, 3, 1
            for dscp, priority in ((26, 3), (48, 6)):
                yield rnics.DSCP_PRIORITY, host.name, rnic.name, dscp, priority


def without(readings: Iterable[Reading], *metrics: Metric, node: str | None = None) -> list[Reading]:
    names = {metric.name for metric in metrics}
    return [each for each in readings if each.metric not in names or node not in (None, each.node)]


def changed(
    readings: Iterable[Reading],
    metric: Metric,
    value: float,
    *,
    node: str,
    ports: Iterable[str] | None = None,
    subject: Subject = None,
) -> list[Reading]:
    """With another value of one setting; it must have been there."""
    wanted = None if ports is None else set(ports)
    readings = list(readings)
    new = [
        replace(each, value=value)
        if each.metric == metric.name
        and each.node == node
        and (wanted is None or each.port in wanted)
        and subject in (None, each.subject)
        else each
        for each in readings
    ]
    assert new != readings
    return new


def write_samples(path: Path, readings: Iterable[Reading]) -> Path:
    """As counter samples, which have no column for a DSCP."""
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["time", "metric", "node", "port", "priority", "queue", "peer", "value"])
        for each in readings:
            labels = METRICS[each.metric].labels
            if "dscp" not in labels:
                cells = [each.subject if label in labels else "" for label in ("priority", "queue", "peer")]
                table.writerow([each.time, each.metric, each.node, each.port or "", *cells, each.value])
    return path


def page(readings: Iterable[Reading]) -> str:
    """As exporters serve them."""
    return "".join(f"{line}\n" for line in _lines(readings))


def _lines(readings: Iterable[Reading]) -> Iterator[str]:
    for each in readings:
        labels = METRICS[each.metric].labels
        values = [value for value in (each.node, each.port, each.subject) if value is not None]
        pairs = ",".join(f'{label}="{value}"' for label, value in zip(labels, values, strict=True))
        yield f"{each.metric}{{{pairs}}} {each.value}"
