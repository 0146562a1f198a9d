"""The values of those labels that have few: what a rule may ask for, and a metric can say.

Whatever is named by a site (hosts, ports, paths, profiles) is not here. A label may also be empty, where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from exporter.contracts.catalogue import (
    CATALOGUE,
    DNS_RCODES,
    PATH_MTU_LIMIT_INFO,
    RELIABLE_FAILURES,
    RELIABLE_OPERATIONS,
    RELIABLE_REASONS,
)
from exporter.contracts.metric import Metric
from exporter.contracts.overlay_counters import INCONSISTENCIES, OVERLAY_INCONSISTENT, OVERLAY_LABELS, SOURCES
from exporter.contracts.rnic_counters import FUNCTIONS, RNIC_COVERAGE, SIGNALS
from exporter.contracts.skeleton import Role
from exporter.contracts.switch_counters import (
    NOTIFICATIONS,
    NOTIFICATIONS_REFUSED,
    PROTOCOLS,
    REFUSALS,
    STATES,
    SWITCH_COVERAGE,
)
from exporter.contracts.switch_counters import SIGNALS as SWITCH_SIGNALS

_EVERYWHERE: Mapping[str, tuple[str, ...]] = {
    "role": get_args(Role),
    "probe": ("rdma", "udp", "tcp", "mtu"),
    "priority": tuple(map(str, range(8))),
    "dscp": tuple(map(str, range(64))),
    "outcome": ("reached", "unreachable", "silent"),
    "rcode": DNS_RCODES,
    "timestamps": ("hardware", "software"),
    "operation": RELIABLE_OPERATIONS,
    "function": FUNCTIONS,
    "notification": NOTIFICATIONS,
    "source": PROTOCOLS,
    "state": STATES,
    "end": ("source", "destination"),
}
_OF: Mapping[tuple[Metric, str], tuple[str, ...]] = {
    (PATH_MTU_LIMIT_INFO, "kind"): ("black_hole", "frag_needed", "local"),
    (OVERLAY_INCONSISTENT, "kind"): INCONSISTENCIES,
    (RELIABLE_FAILURES, "reason"): RELIABLE_REASONS,
    (NOTIFICATIONS_REFUSED, "reason"): REFUSALS,
    (RNIC_COVERAGE, "signal"): SIGNALS,
    (SWITCH_COVERAGE, "signal"): SWITCH_SIGNALS,
}


def label_values(metric: Metric) -> Mapping[str, tuple[str, ...]]:
    """{label: its values} of those labels of a metric that have few."""
    found = {}
    for label in metric.labels:
        values = _OF.get((metric, label), _EVERYWHERE.get(label, ()))
        if label == "table" and metric.labels == OVERLAY_LABELS:
            values = SOURCES
        if values:
            found[label] = values
    return found


LABEL_VALUES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    metric.name: values for metric in CATALOGUE if (values := label_values(metric))
}
"""{Prometheus name of a metric: {label: its values}}."""
