"""What the prober knows of one path, and how an answer or a loss is booked."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Literal, NamedTuple

from exporter.contracts.catalogue import PATH, RTT_BUCKETS
from exporter.contracts.plan import ROCE_PORT, UDP_HEADERS, Target
from exporter.probing.packet import PACKET_BYTES
from exporter.results import ANSWERED, LOST, REFUSED, REPLY_LOST, RESTARTED, ResultRing
from exporter.store import RowWriter

_COLUMN = {metric.otel_name.removeprefix("fabric.path."): index for index, metric in enumerate(PATH.metrics)}
SENT = _COLUMN["probes.sent"]
LOSSES = _COLUMN["probes.lost"]
LOST_RETURN = _COLUMN["probes.lost_return"]
REFUSALS = _COLUMN["probes.refused"]
UNSENT = _COLUMN["probes.unsent"]
RTT_LAST = _COLUMN["rtt"]
LAST_REPLY = _COLUMN["last_reply.timestamp"]
RESTARTS = _COLUMN["responder.restarts"]
MTU_REPORTED = _COLUMN["mtu.reported"]
MTU = _COLUMN["mtu"]
MTU_PROMISED = _COLUMN["mtu.promised"]
ROUTE_CHANGES = _COLUMN["route.changes"]
ROUTE_HASH = _COLUMN["route.hash"]
TCP_SYN_RETRANSMITS = _COLUMN["tcp.syn.retransmits"]
TCP_RETRANSMITS = _COLUMN["tcp.retransmits"]
TCP_RESETS = _COLUMN["tcp.resets"]
TCP_ECHO_RTT = _COLUMN["tcp.echo.rtt"]
ECN_MARKED = _COLUMN["ecn.marked"]

RESTART_NS = 5_000_000_000
"""A responder that died is back within so long; a longer silence is more than its restart (a host, or the network)."""

_RTT_SUM = len(RTT_BUCKETS) + 1


class Flow(NamedTuple):
    """What ECMP hashes on."""

    source_address: str
    source_port: int
    destination_address: str
    destination_port: int
    protocol: Literal["udp", "tcp"]

    @property
    def destination(self) -> tuple[str, int]:
        return (self.destination_address, self.destination_port)


def packet_bytes(target: Target) -> int:
    """The IP packet that a UDP probe of the target is: a small payload is filled up to the probe's own header."""
    return max(target.payload_bytes, PACKET_BYTES) + UDP_HEADERS


def flow_of(target: Target) -> Flow:
    return Flow(
        target.source_address,
        target.source_ports[0],
        target.destination_address,
        ROCE_PORT if target.probe == "rdma" else target.destination_port,
        "tcp" if target.probe == "tcp" else "udp",
    )


class Path:
    """State of one probed path. Owned by the prober's single thread.

    Loss on the way back is told from loss on the way there by the responder's own count of requests
    (RFC 5357): what it answered and we did not hear was lost on the way back. What is not proven so is
    taken to be lost on the way there, which is also right at once when nothing comes back at all.
    """

    __slots__ = (
        "_afresh", "_answers", "_answers_before", "_histogram", "_losses", "_missed", "_results", "_silent_since_ns",
        "_stream", "_unanswered",
        "flow", "last_loss_ns", "on_loss", "row", "target", "token",
    )  # fmt: skip

    def __init__(self, target: Target, token: int, row: RowWriter, histogram: RowWriter, results: ResultRing) -> None:
        self.target = target
        self.flow = flow_of(target)
        self.token = token
        self.row = row
        self.last_loss_ns = 0  # monotonic; 0 = never
        self.on_loss: Callable[[], None] | None = None
        self._histogram = histogram
        self._results = results
        self._stream: tuple[int, int] | None = None
        self._answers_before = 0  # the responder's count when we first heard of it
        self._answers = 0  # replies heard since then
        self._losses = 0  # losses booked since then
        self._missed = 0  # of these, booked as lost on the way back
        self._afresh = False  # whether the next reply begins the comparison anew
        self._unanswered = 0  # losses since the last reply
        self._silent_since_ns = 0  # the first of them, monotonic
        # Absent, not 0: no responder counts handshakes, nothing else has segments, only RDMA looks at marks.
        counts = (LOST_RETURN,) if target.probe == "tcp" else (TCP_SYN_RETRANSMITS, TCP_RETRANSMITS, TCP_RESETS)
        for column in counts if target.probe == "rdma" else (*counts, ECN_MARKED):
            row.set(column, math.nan)
        if target.probe == "mtu":
            row.set(MTU_PROMISED, packet_bytes(target))

    def follow(self, target: Target, histogram: RowWriter) -> None:
        """Serve another job or role from now on; everything known of the path stays."""
        self.target = target
        self._histogram = histogram

    def book_sent(self) -> None:
        row = self.row
        row.begin()
        row.add(SENT)
        row.end()

    def book_unsent(self, times: int = 1) -> None:
        """The host could not send: its own trouble, never booked as loss."""
        self.row.begin()
        self.row.add(UNSENT, times)
        self.row.end()

    def book_answer(self, rtt_ns: int | None, time_ns: int, starved: bool = False) -> None:
        """The probe sent at ``time_ns`` was answered; None is a round trip that nobody knows.

        That of a starved probe may hold our own delay: its record says so, and no metric of round trips has it.
        """
        row = self.row
        rtt = None if rtt_ns is None or starved else rtt_ns / 1e9
        row.begin()
        if rtt is not None:
            row.set(RTT_LAST, rtt)
        row.set(LAST_REPLY, time_ns / 1e9)
        row.end()
        if rtt is not None:
            histogram = self._histogram
            histogram.begin()
            histogram.add(bisect_left(RTT_BUCKETS, rtt))
            histogram.add(_RTT_SUM, rtt)
            histogram.end()
        self._results.append(row.identity, time_ns, rtt_ns or 0, ANSWERED, starved)

    def book_marked(self) -> None:
        """The probe that is answered now was marked by a congested queue, on the way there or back."""
        self.row.begin()
        self.row.add(ECN_MARKED)
        self.row.end()

    def book_syn_retransmits(self, segments: int) -> None:
        self.row.begin()
        self.row.add(TCP_SYN_RETRANSMITS, segments)
        self.row.end()

    def book_echo(self, rtt_ns: int | None, segments: int) -> None:
        """The echo of a connection has ended; ``segments`` were sent again. No round trip: it was not answered."""
        self.row.begin()
        self.row.add(TCP_RETRANSMITS, segments)
        self.row.set(TCP_ECHO_RTT, math.nan if rtt_ns is None else rtt_ns / 1e9)
        self.row.end()

    def book_reset(self) -> None:
        self.row.begin()
        self.row.add(TCP_RESETS)
        self.row.end()

    def reconcile(self, answered: int, epoch: int, stream: int) -> None:
        """A reply came in: compare the responder's count ``answered`` of our requests with the replies heard.

        Only losses already booked are moved to the way back, so that a reply that overtakes another
        counts as nothing. Losses right before another boot epoch are the responder's: their records say so.
        """
        row = self.row
        before = self._stream
        self.notice_epoch(epoch, stream)
        if before != self._stream or self._afresh:
            self._afresh = False
            self._answers_before, self._answers = answered - 1, 1
            self._losses = self._missed = 0
            return
        self._answers += 1
        missed = min(answered - self._answers_before - self._answers, self._losses)
        if missed > self._missed:
            row.begin()
            row.add(LOST_RETURN, missed - self._missed)
            row.end()
            for _ in range(missed - self._missed):
                self._results.append(row.identity, 0, 0, REPLY_LOST)
            self._missed = missed

    def notice_epoch(self, epoch: int, stream: int = 0) -> None:
        """A reply of the responder that started at ``epoch`` came in; another one than before restarted."""
        unanswered, self._unanswered = self._unanswered, 0
        if self._stream is not None and self._stream[0] != epoch:
            self.row.begin()
            self.row.add(RESTARTS)
            self.row.end()
            if self.last_loss_ns - self._silent_since_ns <= RESTART_NS:
                for _ in range(unanswered):
                    self._results.append(self.row.identity, 0, 0, RESTARTED)
        self._stream = (epoch, stream)

    def book_loss(self, time_ns: int, now_ns: int, starved: bool = False) -> None:
        """No reply within the timeout. ``time_ns`` is when it was sent (Unix), ``now_ns`` monotonic."""
        self.last_loss_ns = now_ns
        self._losses += 1
        if not self._unanswered:
            self._silent_since_ns = now_ns
        self._unanswered += 1
        self.row.begin()
        self.row.add(LOSSES)
        self.row.end()
        self._results.append(self.row.identity, time_ns, 0, LOST, starved)
        if self.on_loss is not None:
            self.on_loss()

    def leave_unjudged(self, time_ns: int) -> None:  # noqa: ARG002 - for those who follow single probes
        """Book nothing of the probe that was sent at ``time_ns`` (Unix): we stood still for too long to tell.

        The responder may have counted it, which must not pass for another's lost reply.
        """
        self._afresh = True

    def leave_question(self, time_ns: int, *, answered: bool) -> None:
        """Book nothing of the RDMA probe due at ``time_ns`` (Unix): in its place we asked who answers there.

        ``answered``: we were told. If not, we stood still for too long to tell.
        """

    def book_refusal(self, time_ns: int) -> None:
        """The far host answered that nobody listens: the network carried the probe."""
        self.row.begin()
        self.row.add(REFUSALS)
        self.row.end()
        self._results.append(self.row.identity, time_ns, 0, REFUSED)

    def book_reported_mtu(self, mtu: int) -> None:
        self.row.begin()
        self.row.set(MTU_REPORTED, mtu)
        self.row.end()

    def book_mtu(self, mtu: int | None) -> None:
        """The largest IP packet shown to pass; None while that is not known."""
        self.row.begin()
        self.row.set(MTU, float("nan") if mtu is None else mtu)
        self.row.end()

    def book_route(self, route_hash: float, *, changed: bool) -> None:
        """A complete trace, NaN where the flow is sprayed; ``changed`` when it differs from the one before."""
        self.row.begin()
        self.row.set(ROUTE_HASH, route_hash)
        if changed:
            self.row.add(ROUTE_CHANGES)
        self.row.end()
