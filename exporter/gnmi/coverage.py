"""Which signals a switch tells, for its coverage. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from exporter.contracts.metric import Metric
from exporter.contracts.switch_counters import (
    PFC_PAUSED,
    PFC_PAUSING,
    PFC_RECEIVED,
    PFC_SENT,
    PORT_FCS_ERRORS,
    PORT_FRAME_TOO_LONGS,
    PORT_RECEIVE,
    PORT_TRANSMIT,
    PORT_UP,
    PRIORITY_LOSSLESS,
    QUEUE_BYTES,
    QUEUE_DEPTH,
    QUEUE_DROPPED,
    QUEUE_ECN_ENABLED,
    QUEUE_ECN_MARKED,
    QUEUE_PACKETS,
    QUEUE_PEAK,
    SIGNALS,
    SWITCH_BGP,
    SWITCH_DSCP_PRIORITY,
    WATCHDOG_SHUT,
    WATCHDOG_STUCK,
)
from exporter.gnmi.tree import Dialect, Rows

_TOLD_BY: Mapping[str, frozenset[Metric]] = {
    "ports": frozenset({PORT_RECEIVE, PORT_TRANSMIT, PORT_UP}),
    "mac_errors": frozenset({PORT_FCS_ERRORS, PORT_FRAME_TOO_LONGS}),
    "pfc": frozenset({PFC_RECEIVED, PFC_SENT}),
    "pfc_duration": frozenset({PFC_PAUSED, PFC_PAUSING}),
    "pfc_watchdog": frozenset({WATCHDOG_STUCK, WATCHDOG_SHUT}),
    "ecn": frozenset({QUEUE_ECN_MARKED}),
    "queues": frozenset({QUEUE_PACKETS, QUEUE_BYTES}),
    "queue_drops": frozenset({QUEUE_DROPPED}),
    "buffers": frozenset({QUEUE_DEPTH, QUEUE_PEAK}),
    "bgp": frozenset(SWITCH_BGP.metrics),
    "settings": frozenset({PRIORITY_LOSSLESS, QUEUE_ECN_ENABLED, SWITCH_DSCP_PRIORITY}),
}


def signals_in(rows: Rows) -> frozenset[str]:
    """The signals of which a row tells something."""
    told = {metric for labelled in rows.values() for values in labelled.values() for metric in values}
    return frozenset(signal for signal, metrics in _TOLD_BY.items() if metrics & told)


def coverage(
    dialect: Dialect, told: Collection[str], before: Collection[str], disabled: Collection[str]
) -> dict[str, str]:
    """{signal: state}, of all signals. What was told ``before`` and no longer is, is stale."""
    states = {}
    for signal in SIGNALS:
        if signal in told:
            states[signal] = "supported"
        elif signal in before:
            states[signal] = "stale"
        elif signal in disabled and signal in dialect.signals:
            states[signal] = "disabled"
        else:
            states[signal] = "absent"
    return states
