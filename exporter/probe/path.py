"""One path of a run: it tallies what the probers of exporter.probing and exporter.rdma book on it."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from exporter.contracts.plan import Target
from exporter.contracts.sizes import roce_path_mtu
from exporter.probe.statistics import Outcome, PathMtu, PathSummary, Sample, Tally
from exporter.probing.mtu.search import Limit
from exporter.probing.paths import (
    ECN_MARKED,
    LOST_RETURN,
    TCP_RESETS,
    TCP_RETRANSMITS,
    TCP_SYN_RETRANSMITS,
    Path,
    packet_bytes,
)
from exporter.probing.tcp.handshake import Handshake
from exporter.probing.udp import FlowSocket
from exporter.results import ResultRing
from exporter.store import RowWriter

if TYPE_CHECKING:
    from exporter.probe.rdma import Rnic


class _Sent(NamedTuple):
    """A probe under way, known by the moment before it was sent."""

    number: int
    before_ns: int


class ProbedPath(Path):
    """A path of the prober that also tells what is booked on it."""

    __slots__ = (
        "_number", "_samples", "_under_way",
        "echoes", "handshake", "introduced", "mtu", "mtu_reported", "on_introduced", "path_mtu", "rnic", "send_rdma",
        "socket", "tally", "unjudged", "unsent",
    )  # fmt: skip

    def __init__(
        self, target: Target, row: RowWriter, histogram: RowWriter, results: ResultRing, samples: Samples
    ) -> None:
        super().__init__(target, secrets.randbits(64), row, histogram, results)
        self.tally, self.echoes = Tally(), Tally()
        self.unsent = self.unjudged = 0
        self.mtu: int | None = None
        self.path_mtu: PathMtu | None = None
        self.mtu_reported: int | None = None
        self.socket: FlowSocket | None = None
        self.handshake: Handshake | None = None
        self.rnic: Rnic | None = None
        self.send_rdma: Callable[[], None] = lambda: None
        self.introduced = False
        self.on_introduced: Callable[[], None] = lambda: None
        """Called when the responder has said who it is, before any probe was sent."""
        self._samples = samples
        self._number = 0
        self._under_way: list[_Sent] = []

    @property
    def started(self) -> int:
        """Probes sent, or tried to."""
        return self._number

    @property
    def sent(self) -> int:
        return self._number - self.unsent

    @property
    def settled(self) -> bool:
        return not self._under_way and (self.handshake is None or not self.handshake.under_way)

    def begin(self) -> None:
        """Call right before a probe is sent: the bookings that follow name it by the time of its sending."""
        self._under_way.append(_Sent(self._number, time.time_ns()))
        self._number += 1

    def book_unsent(self, times: int = 1) -> None:
        super().book_unsent(times)
        self._under_way.pop()
        self.unsent += times

    def book_answer(self, rtt_ns: int | None, time_ns: int, starved: bool = False) -> None:
        super().book_answer(rtt_ns, time_ns, starved)
        self._end("answered", time_ns, None if rtt_ns is None else rtt_ns / 1e9, starved=starved)

    def book_echo(self, rtt_ns: int | None, segments: int) -> None:
        super().book_echo(rtt_ns, segments)
        rtt = None if rtt_ns is None else rtt_ns / 1e9
        outcome: Outcome = "lost" if rtt is None else "answered"
        echo = Sample(number=self._number - 1, time=time.time(), outcome=outcome, rtt_seconds=rtt, starved=False)
        self.echoes.add(echo)

    def book_loss(self, time_ns: int, now_ns: int, starved: bool = False) -> None:
        super().book_loss(time_ns, now_ns, starved)
        self._end("lost", time_ns, None, starved=starved)

    def book_refusal(self, time_ns: int) -> None:
        super().book_refusal(time_ns)
        # A closed TCP port answers the handshake as an open one does. The kernel keeps no time of it: ours is later
        # by the microseconds that it takes to wake up.
        closed = self.target.probe == "tcp"
        self._end("refused", time_ns, max(time.time_ns() - time_ns, 0) / 1e9 if closed else None)

    def book_reported_mtu(self, mtu: int) -> None:
        super().book_reported_mtu(mtu)
        self.mtu_reported = mtu

    def book_mtu(self, mtu: int | None) -> None:
        super().book_mtu(mtu)
        self.mtu = mtu

    def end_search(self, limit: Limit | None) -> None:
        """The search of the MTU has ended: the MTU booked last is what it found."""
        self.path_mtu = PathMtu(
            bytes=self.mtu,
            tried_bytes=packet_bytes(self.target),
            kind=limit.kind if limit else None,
            hop=(limit.hop or None) if limit else None,
            roce_path_mtu=roce_path_mtu(self.mtu or 0),
        )

    def leave_unjudged(self, time_ns: int) -> None:
        super().leave_unjudged(time_ns)
        self._take(time_ns)
        self.unjudged += 1

    def leave_question(self, time_ns: int, *, answered: bool) -> None:
        super().leave_question(time_ns, answered=answered)
        number = self._take(time_ns)
        self._number -= 1  # it was no probe
        self._under_way = [sent._replace(number=sent.number - (sent.number > number)) for sent in self._under_way]
        self.introduced = self.introduced or answered
        if answered and not self._number:
            self.on_introduced()

    def _take(self, time_ns: int) -> int:
        """The number of the probe that was sent at ``time_ns``, which is under way no more."""
        earlier = [sent for sent in self._under_way if sent.before_ns <= time_ns]
        sent = (earlier or self._under_way)[-1]
        self._under_way.remove(sent)
        return sent.number

    def _end(self, outcome: Outcome, time_ns: int, rtt: float | None, *, starved: bool = False) -> None:
        number = self._take(time_ns)
        sample = Sample(number=number, time=time_ns / 1e9, outcome=outcome, rtt_seconds=rtt, starved=starved)
        self.tally.add(sample)
        self._samples.append((self, sample))

    def summary(self, *, traced: bool) -> PathSummary:
        """The numbers so far; may be asked for in another thread."""
        target, counts = self.target, self.tally.counts()
        lost, refused = counts.get("lost", 0), counts.get("refused", 0)
        ended = sum(counts.values())
        tcp, rdma = target.probe == "tcp", target.probe == "rdma"
        return PathSummary(
            destination=target.destination,
            destination_address=target.destination_address,
            destination_port=target.destination_port,
            source_address=target.source_address,
            source_port=target.source_ports[0],
            sent=self.sent,
            answered=counts.get("answered", 0) + (refused if tcp else 0),
            lost=lost,
            lost_return=None if tcp else int(self.row.get(LOST_RETURN)),
            refused=refused,
            unsent=self.unsent,
            unjudged=self.unjudged,
            starved=self.tally.starved,
            lost_ratio=lost / ended if ended else None,
            mtu_reported_bytes=self.mtu_reported,
            rtt_seconds=self.tally.round_trips(),
            echoes=self.echoes.counts().get("answered", 0) if tcp and target.payload_bytes else None,
            echo_rtt_seconds=self.echoes.round_trips(),
            syn_retransmits=int(self.row.get(TCP_SYN_RETRANSMITS)) if tcp else None,
            retransmits=int(self.row.get(TCP_RETRANSMITS)) if tcp else None,
            resets=int(self.row.get(TCP_RESETS)) if tcp else None,
            hops=self.tally.hops(target.destination_address) if traced else None,
            path_mtu=self.path_mtu,
            device=self.rnic.name if self.rnic is not None else None,
            timestamps=self.rnic.timestamps if self.rnic is not None else None,
            introduced=self.introduced if rdma else None,
            ecn_marked=int(self.row.get(ECN_MARKED)) if rdma else None,
        )


Samples = deque[tuple[ProbedPath, Sample]]
