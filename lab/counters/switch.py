"""What the ports of one switch count: the kernel's packets, the healthy share of congestion, the timeline's events.

Imported by the SNMP subagent, which starts without site-packages: standard library only, and little of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lab.counters.kernel import Classes, Link, Reading
from lab.counters.names import CNP_BYTES, CNP_QUEUE, CONTROL_QUEUE, LOSSLESS, PRIORITIES, QUEUES, ROCE_FRAME_BYTES
from lab.counters.timeline import Timeline

ECN_SHARE = 1 / 2000
"""Of the lossless packets that leave towards an RNIC: a healthy job has a little marked; 1 % is a sign of trouble."""
PAUSE_SHARE = 1 / 100_000
"""Of the packets that arrive from an RNIC: pairs of XOFF and XON that the leaf answers bursts with."""
PAUSE_PAIR_MICROSECONDS = 10

Key = tuple[str, str, "int | None"]
"""Port, counter, priority or queue."""
Values = dict[Key, int]


class Port(NamedTuple):
    name: str
    to_host: bool


def marked(lossless_packets: int) -> int:
    """ECN marks among so many packets of a healthy job: the leaf's egress queue and the RNIC behind it agree."""
    return int(lossless_packets * ECN_SHARE)


def pauses(packets: int) -> int:
    """PFC frames with which a leaf answers so many packets from an RNIC; the RNIC counts the same."""
    return 2 * int(packets * PAUSE_SHARE)


def by_queue(classes: Classes, index: int) -> list[tuple[int, int]]:
    """Packets and bytes per queue of one interface; the queue is the DSCP divided by 8."""
    queues = [(0, 0)] * len(QUEUES)
    for (interface, dscp), (packets, octets) in classes.items():
        if interface == index:
            before = queues[dscp >> 3]
            queues[dscp >> 3] = (before[0] + packets, before[1] + octets)
    return queues


def switch_values(timeline: Timeline, switch: str, ports: Sequence[Port], reading: Reading, t: float) -> Values:
    """Every counter of the switch's ports at ``t``; a port whose interface is gone has none."""
    values: Values = {}
    for port in ports:
        link = reading.links.get(port.name)
        if link is not None:
            _port_values(values, timeline, switch, port, link, reading, t)
    return values


def _port_values(
    values: Values, timeline: Timeline, switch: str, port: Port, link: Link, reading: Reading, t: float
) -> None:
    def scripted(counter: str, index: int | None = None) -> int:
        return timeline.total(switch, port.name, counter, index, t)

    healthy_pauses = pauses(link.rx_packets) if port.to_host else 0
    for priority in PRIORITIES:
        own = healthy_pauses if priority == LOSSLESS[0] else 0
        values[port.name, "pfc_received", priority] = scripted("pfc_received", priority)
        values[port.name, "pfc_sent", priority] = scripted("pfc_sent", priority) + own
        values[port.name, "pfc_received_duration", priority] = scripted("pfc_received_duration", priority)
        values[port.name, "pfc_sent_duration", priority] = (
            scripted("pfc_sent_duration", priority) + own // 2 * PAUSE_PAIR_MICROSECONDS
        )
    queues = by_queue(reading.forwarded, link.ifindex)
    dropped_queues = by_queue(reading.dropped, link.ifindex)
    own_packets = by_queue(reading.originated, link.ifindex)
    # Notifications run against the data, of which as much arrived here as there are notifications to send.
    notifications = marked(link.rx_packets)
    for queue in QUEUES:
        packets, octets = queues[queue]
        if queue == CONTROL_QUEUE:
            packets += sum(each[0] for each in own_packets)
            octets += sum(each[1] for each in own_packets)
        if queue == CNP_QUEUE:
            packets, octets = packets + notifications, octets + notifications * CNP_BYTES
        more = scripted("queue_packets", queue)
        dropped = scripted("queue_dropped_packets", queue)
        size = CNP_BYTES if queue == CNP_QUEUE else ROCE_FRAME_BYTES
        values[port.name, "queue_packets", queue] = packets + more
        values[port.name, "queue_bytes", queue] = octets + more * size
        values[port.name, "queue_dropped_packets", queue] = dropped_queues[queue][0] + dropped
        values[port.name, "queue_dropped_bytes", queue] = dropped_queues[queue][1] + dropped * size
        healthy_marks = marked(packets) if port.to_host and queue in LOSSLESS else 0
        values[port.name, "ecn_marked", queue] = scripted("ecn_marked", queue) + healthy_marks
        if queue in LOSSLESS:
            for counter in ("watchdog_stuck", "watchdog_recovered", "watchdog_dropped_packets"):
                values[port.name, counter, queue] = scripted(counter, queue)
    for counter in ("fcs_errors", "symbol_errors", "frame_too_longs"):
        values[port.name, counter, None] = scripted(counter)
    values[port.name, "status_changes", None] = link.status_changes
