"""The MIB tables in which a switch serves its counters: Arista EOS, or Cisco NX-OS as the second dialect.

Both serve EtherLike-MIB (RFC 3635), which net-snmp has no rows of for veth. Rows are indexed by the ifIndex of
the real interface, so that IF-MIB, which net-snmp serves itself, joins them.

Imported by the SNMP subagent, which starts without site-packages: standard library only, and little of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lab.counters.kernel import Reading
from lab.counters.names import LOSSLESS, PRIORITIES, QUEUES
from lab.counters.switch import Port, Values
from lab.counters.timeline import Timeline

Oid = tuple[int, ...]
Rows = dict[Oid, tuple[str, int]]
"""Type, as pass_persist names it, and value."""

ARISTA, CISCO = "arista-eos", "cisco-nx-os"
DEFAULT = ARISTA
PROFILES = {ARISTA: "arista_eos", CISCO: "cisco_nxos"}
"""{dialect: the exporter's profile that reads it}."""

ENTERPRISES: Oid = (1, 3, 6, 1, 4, 1)
ARISTA_MIBS: Oid = (*ENTERPRISES, 30065, 3)
CISCO_MIBS: Oid = (*ENTERPRISES, 9, 9)
ETHERLIKE: Oid = (1, 3, 6, 1, 2, 1, 10, 7)
SUBTREES = (ETHERLIKE, ENTERPRISES)
"""What a switch's subagent registers, whichever dialect it speaks: one process each. net-snmp's own go first."""
TABLES = (ETHERLIKE, ARISTA_MIBS, CISCO_MIBS)
"""Where there are rows to be walked."""

# ARISTA-QUEUE-MIB, ARISTA-PFC-MIB, ARISTA-QOS-MIB, ARISTA-IF-MIB
A_QUEUE = (*ARISTA_MIBS, 6, 1, 2, 1)
A_QUEUE_PKTS, A_QUEUE_BYTES = (*A_QUEUE, 4), (*A_QUEUE, 5)
A_QUEUE_PKTS_DROPPED, A_QUEUE_BYTES_DROPPED = (*A_QUEUE, 6), (*A_QUEUE, 7)
A_PFC_REQUESTS, A_PFC_INDICATIONS = (*ARISTA_MIBS, 11, 1, 1, 1, 3), (*ARISTA_MIBS, 11, 1, 1, 1, 4)
A_WATCHDOG_STUCK, A_WATCHDOG_RECOVERED = (*ARISTA_MIBS, 11, 1, 2, 1, 4), (*ARISTA_MIBS, 11, 1, 2, 1, 5)
A_ECN_COUNTER_ENABLED, A_ECN_MARKED = (*ARISTA_MIBS, 13, 1, 9, 1, 3), (*ARISTA_MIBS, 13, 1, 9, 1, 4)
A_STATUS_CHANGES = (*ARISTA_MIBS, 15, 1, 1, 1, 8)
UNICAST = 0

# CISCO-SWITCH-QOS-MIB, CISCO-PFC-EXT-MIB
C_QOS_GROUP_STATS = (*CISCO_MIBS, 580, 1, 5, 5, 1, 4)
EGRESS = 2
C_SENT_PKTS, C_SENT_BYTES, C_DROPPED_PKTS, C_DROPPED_BYTES, C_WATCHDOG_DROPPED_PKTS = 1, 2, 5, 6, 20
C_PFC_REQUESTS, C_PFC_INDICATIONS = (*CISCO_MIBS, 813, 1, 1, 1, 1), (*CISCO_MIBS, 813, 1, 1, 1, 2)
C_PRIORITY_REQUESTS, C_PRIORITY_INDICATIONS = (*CISCO_MIBS, 813, 1, 2, 1, 2), (*CISCO_MIBS, 813, 1, 2, 1, 3)
C_WATCHDOG = (*CISCO_MIBS, 813, 1, 3, 1)
C_WATCHDOG_STATE, C_WATCHDOG_SHUTDOWNS, C_WATCHDOG_RESTORES = (*C_WATCHDOG, 2), (*C_WATCHDOG, 3), (*C_WATCHDOG, 4)
C_WATCHDOG_TOTAL_DROPPED = (*C_WATCHDOG, 5)
C_WAIT_RX, C_WAIT_TX = (*CISCO_MIBS, 813, 1, 4, 1, 2), (*CISCO_MIBS, 813, 1, 4, 1, 3)  # microseconds

DOT3_FCS_ERRORS, DOT3_TOO_LONGS, DOT3_SYMBOL_ERRORS = ((*ETHERLIKE, 2, 1, column) for column in (3, 13, 18))
DOT3_HC_FCS_ERRORS, DOT3_HC_TOO_LONGS, DOT3_HC_SYMBOL_ERRORS = ((*ETHERLIKE, 11, 1, column) for column in (2, 4, 6))

_64, _32 = ("counter64", 1 << 64), ("counter", 1 << 32)
_SIGNED = 1 << 31  # of an Integer32 that counts


def rows(timeline: Timeline, switch: str, ports: Sequence[Port], reading: Reading, values: Values, t: float) -> Rows:
    """All rows of a switch in its dialect."""
    dialect = _DIALECTS.get(timeline.dialects.get(switch, DEFAULT), _arista)
    counts_marks = timeline.level(switch, "", "ecn_counting_off", None, t) == 0
    table: Rows = {}

    def put(column: Oid, index: Oid, value: int, kind: tuple[str, int] = _64) -> None:
        table[column + index] = (kind[0], value % kind[1])

    for port in ports:
        link = reading.links.get(port.name)
        if link is None:
            continue

        def value(counter: str, index: int | None = None, name: str = port.name) -> int:
            return values[name, counter, index]

        _etherlike(put, link.ifindex, value)
        dialect(put, link.ifindex, value, counts_marks)
    return table


Put = Callable[..., None]
Value = Callable[..., int]


def _etherlike(put: Put, interface: int, value: Value) -> None:
    for counter, column, high in (
        ("fcs_errors", DOT3_FCS_ERRORS, DOT3_HC_FCS_ERRORS),
        ("frame_too_longs", DOT3_TOO_LONGS, DOT3_HC_TOO_LONGS),
        ("symbol_errors", DOT3_SYMBOL_ERRORS, DOT3_HC_SYMBOL_ERRORS),
    ):
        put(column, (interface,), value(counter), _32)
        put(high, (interface,), value(counter))


def _arista(put: Put, interface: int, value: Value, counts_marks: bool) -> None:
    for priority in PRIORITIES:
        put(A_PFC_REQUESTS, (interface, priority), value("pfc_sent", priority))
        put(A_PFC_INDICATIONS, (interface, priority), value("pfc_received", priority))
    for queue in QUEUES:
        index = (interface, queue, UNICAST)
        put(A_QUEUE_PKTS, index, value("queue_packets", queue))
        put(A_QUEUE_BYTES, index, value("queue_bytes", queue))
        put(A_QUEUE_PKTS_DROPPED, index, value("queue_dropped_packets", queue))
        put(A_QUEUE_BYTES_DROPPED, index, value("queue_dropped_bytes", queue))
        put(A_ECN_COUNTER_ENABLED, (interface, queue), 1 if counts_marks else 2, ("integer", _SIGNED))
        put(A_ECN_MARKED, (interface, queue), value("ecn_marked", queue) if counts_marks else 0)
    for queue in LOSSLESS:  # EOS has rows only where PFC and its watchdog are on
        index = (interface, UNICAST, queue)
        put(A_WATCHDOG_STUCK, index, value("watchdog_stuck", queue), ("integer", _SIGNED))
        put(A_WATCHDOG_RECOVERED, index, value("watchdog_recovered", queue), ("integer", _SIGNED))
    put(A_STATUS_CHANGES, (interface,), value("status_changes"), _32)


def _cisco(put: Put, interface: int, value: Value, _counts_marks: bool) -> None:
    """NX-OS: no ECN marks at all over SNMP, but pause durations and the watchdog's state and drops."""
    put(C_PFC_REQUESTS, (interface,), sum(value("pfc_sent", priority) for priority in PRIORITIES))
    put(C_PFC_INDICATIONS, (interface,), sum(value("pfc_received", priority) for priority in PRIORITIES))
    for priority in PRIORITIES:
        index: Oid = (interface, priority)
        put(C_PRIORITY_REQUESTS, index, value("pfc_sent", priority))
        put(C_PRIORITY_INDICATIONS, index, value("pfc_received", priority))
        put(C_WAIT_RX, index, value("pfc_received_duration", priority))
        put(C_WAIT_TX, index, value("pfc_sent_duration", priority))
    for queue in QUEUES:
        index = (interface, EGRESS, queue)
        put(C_QOS_GROUP_STATS, (*index, C_SENT_PKTS), value("queue_packets", queue))
        put(C_QOS_GROUP_STATS, (*index, C_SENT_BYTES), value("queue_bytes", queue))
        put(C_QOS_GROUP_STATS, (*index, C_DROPPED_PKTS), value("queue_dropped_packets", queue))
        put(C_QOS_GROUP_STATS, (*index, C_DROPPED_BYTES), value("queue_dropped_bytes", queue))
    for queue in LOSSLESS:
        index = (interface, queue)
        stuck, restored = value("watchdog_stuck", queue), value("watchdog_recovered", queue)
        put(C_WATCHDOG_STATE, index, 2 if stuck > restored else 1, ("integer", _SIGNED))  # shutdown, active
        put(C_WATCHDOG_SHUTDOWNS, index, stuck)
        put(C_WATCHDOG_RESTORES, index, restored)
        put(C_WATCHDOG_TOTAL_DROPPED, index, value("watchdog_dropped_packets", queue))
        put(
            C_QOS_GROUP_STATS,
            (interface, EGRESS, queue, C_WATCHDOG_DROPPED_PKTS),
            value("watchdog_dropped_packets", queue),
        )


_DIALECTS = {ARISTA: _arista, CISCO: _cisco}
