"""What a fault does to the counters of everything it touches: one call gives the events of both ends.

Pure; the numbers follow from the speed of the port (docs/lab-counters.md). Ports, RNICs and links are named as in the
contracts. Give the events to ``Counters.add(*events, fault=name)``, and the packets, if any, to a real fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lab.counters.names import CNP_QUEUE, LOSSLESS, WATCHDOG_SECONDS, full_shut_rate
from lab.counters.timeline import Event
from lab.errors import LabError
from lab.network.design import SPEED_MBPS, Design, End

MICROSECONDS = 1_000_000
PRIORITY = LOSSLESS[0]
FULL_SHUT = full_shut_rate(SPEED_MBPS * 1e6)
"""PFC frames per second that pause one priority of a port of the lab all the time: 298."""
STALLED_PERCENT = 60.0  # of the time in which the PCIe of a slow receiver holds its RNIC back

Events = tuple[Event, ...]


def pause(design: Design, port: str, share: float, *, frames_per_second: float | None = None) -> Events:
    """``port`` pauses its neighbour for ``share`` (0-1) of the time: sent here, received at the other end.

    Without ``frames_per_second`` the least number of frames that does it, each with the longest pause.
    """
    if not 0 < share <= 1:
        raise LabError(f"a port cannot be paused for {share:g} of the time", "more than 0, at most 1")
    here = design.end(port)
    rate = FULL_SHUT * share if frames_per_second is None else frames_per_second
    there = _far(design, here)
    return (
        Event(here.node, here.port, "pfc_sent", PRIORITY, rate=rate),
        Event(here.node, here.port, "pfc_sent_duration", PRIORITY, rate=share * MICROSECONDS),
        Event(there.node, there.port, "pfc_received", PRIORITY, rate=rate),
        Event(there.node, there.port, "pfc_received_duration", PRIORITY, rate=share * MICROSECONDS),
    )


def pfc_storm(
    design: Design, rnic: str, *, watchdog: bool = True, frames_per_second: float = 2000, dropped_per_second: float = 0
) -> Events:
    """A broken RNIC pauses its leaf without end, as in Guo et al. (SIGCOMM 2016): over 2,000 frames per second.

    With the watchdog the leaf's queue is found stuck after 200 ms, its packets are dropped, and it is restored
    200 ms after the storm; without, the leaf pauses whoever sends to it. ``dropped_per_second`` is for a storm without
    traffic: ``lab.counters.queues.drop`` drops, and counts, the real packets.
    """
    own = design.end(rnic)
    leaf = _far(design, own)
    events = [*pause(design, rnic, 1.0, frames_per_second=frames_per_second)]
    events.append(Event(own.node, own.port, "tx_pause_storm_warning_events", once=1, delay=WATCHDOG_SECONDS))
    if not watchdog:
        for port in _others(design, leaf):
            events += pause(design, port.id, 0.8)
        return tuple(events)
    events += [
        Event(leaf.node, leaf.port, "watchdog_stuck", PRIORITY, once=1, delay=WATCHDOG_SECONDS),
        Event(leaf.node, leaf.port, "watchdog_recovered", PRIORITY, once=1, delay=WATCHDOG_SECONDS, at_end=True),
    ]
    if dropped_per_second:
        for counter in ("watchdog_dropped_packets", "queue_dropped_packets"):
            events.append(
                Event(leaf.node, leaf.port, counter, PRIORITY, rate=dropped_per_second, delay=WATCHDOG_SECONDS)
            )
    return tuple(events)


def slow_receiver(design: Design, rnic: str, share: float = 0.3) -> Events:
    """A host cannot take what arrives (PCIe, memory): its RNIC pauses the leaf, no watchdog fires (Bai, NSDI 2023)."""
    own = design.end(rnic)
    return (
        *pause(design, rnic, share),
        Event(own.node, own.port, "outbound_pci_stalled_wr", level=STALLED_PERCENT),
        Event(own.node, own.port, "outbound_pci_stalled_wr_events", rate=50),
        Event(own.node, own.port, "rx_buffer_passed_thres_phy", rate=200),
    )


def incast(
    design: Design,
    rnic: str,
    senders: Sequence[str],
    *,
    marked_per_second: float = 2000,
    pause_share: float = 0.0,
    notifies: bool = True,
    reacts: bool = True,
    ramp: float = 1.0,
) -> Events:
    """Many RNICs send to one: its leaf marks packets, it notifies the ``senders``, and they slow down.

    ``pause_share``: how much the leaf also pauses the RNICs and switches that send through it. Without ``notifies``
    the receiver's notification point is off (marks, no CNP); without ``reacts`` the senders ignore their CNPs.
    """
    own = design.end(rnic)
    leaf = _far(design, own)
    events = [
        Event(leaf.node, leaf.port, "ecn_marked", PRIORITY, rate=marked_per_second, ramp=ramp),
        Event(own.node, own.port, "np_ecn_marked_roce_packets", rate=marked_per_second, ramp=ramp),
        Event(own.node, own.port, "rx_prio_marked", PRIORITY, rate=marked_per_second, ramp=ramp),
    ]
    if notifies:
        events.append(Event(own.node, own.port, "np_cnp_sent", rate=marked_per_second, ramp=ramp))
        each = marked_per_second / max(1, len(senders))
        for sender in senders:
            end = design.end(sender)
            port = _far(design, end)
            handled = "rp_cnp_handled" if reacts else "rp_cnp_ignored"
            events.append(Event(end.node, end.port, handled, rate=each, ramp=ramp))
            events.append(Event(port.node, port.port, "queue_packets", CNP_QUEUE, rate=each, ramp=ramp))
    if pause_share:
        for port in _others(design, leaf):
            events += pause(design, port.id, pause_share)
    return tuple(events)


def queue_drops(
    design: Design, port: str, per_second: float, *, sender: str, receiver: str, lossless: bool = True
) -> Events:
    """A switch port's queue drops packets of one flow: the receiver sees gaps, the sender is told (NAK)."""
    here, source, destination = design.end(port), design.end(sender), design.end(receiver)
    return (
        Event(here.node, here.port, "queue_dropped_packets", PRIORITY if lossless else 0, rate=per_second),
        Event(destination.node, destination.port, "out_of_sequence", rate=per_second),
        Event(source.node, source.port, "packet_seq_err", rate=per_second),
    )


def dirty_link(design: Design, end: str, errors_per_second: float) -> Events:
    """Bad optics or a bad cable: ``end`` receives frames with wrong checksums."""
    here = design.end(end)
    rnic = here.node in {host.name for host in design.hosts}
    names = ("rx_crc_errors_phy", "rx_symbol_err_phy") if rnic else ("fcs_errors", "symbol_errors")
    return (
        Event(here.node, here.port, names[0], rate=errors_per_second),
        Event(here.node, here.port, names[1], rate=3 * errors_per_second),
    )


def too_long(design: Design, port: str, per_second: float, *, senders: Sequence[str] = ()) -> Events:
    """``port`` has the smaller MTU: it drops long frames, and the senders time out without any gap being seen."""
    here = design.end(port)
    rnic = here.node in {host.name for host in design.hosts}
    counter = "rx_oversize_pkts_phy" if rnic else "frame_too_longs"
    events = [Event(here.node, here.port, counter, rate=per_second)]
    for sender in senders:
        end = design.end(sender)
        events.append(Event(end.node, end.port, "local_ack_timeout_err", rate=per_second / len(senders)))
    return tuple(events)


def _far(design: Design, end: End) -> End:
    link = next(link for link in design.links if end.id in (link.a.id, link.b.id))
    return link.b if link.a.id == end.id else link.a


def _others(design: Design, port: End) -> Iterator[End]:
    switch = next(switch for switch in design.switches if switch.name == port.node)
    return (other for other in switch.ports if other.id != port.id)
