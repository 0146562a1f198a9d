"""What the probes of one path came to. Times are in seconds, ratios 0 to 1; None is absent, not 0."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from exporter.probe.units import seconds
from exporter.probing.mtu.search import Kind

Outcome = Literal["answered", "lost", "refused"]

WINDOW = 10_000
"""Percentiles are of so many last round trips: a run may last for days."""
_HOP_WINDOW = 1000
_RECENT = 120  # samples kept for the sparkline: more than a line of a terminal holds


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One probe that has ended."""

    number: int
    """Of the path's probes, from 0."""
    time: float
    """When it was sent, Unix."""
    outcome: Outcome
    rtt_seconds: float | None
    """None when lost, or answered only when the kernel sent the SYN again. A closed TCP port has a round trip."""
    starved: bool
    """Sent or judged over 5 ms late because this host was busy: its round trip may be the host's, not the network's."""


class RoundTrips(msgspec.Struct, frozen=True, kw_only=True):
    """Round trips in seconds; percentiles by nearest rank over the last ``WINDOW``."""

    last: float
    min: float
    median: float
    p90: float
    p99: float
    max: float


class HopRoundTrips(msgspec.Struct, frozen=True, kw_only=True):
    """Round trips to one hop in seconds, over the last ``_HOP_WINDOW`` answers."""

    min: float
    median: float
    max: float

    @staticmethod
    def of(values: Iterable[float]) -> HopRoundTrips | None:
        """None for none."""
        ordered = sorted(values)
        if not ordered:
            return None
        return HopRoundTrips(min=ordered[0], median=ordered[(len(ordered) - 1) // 2], max=ordered[-1])

    def text(self) -> str:
        return "/".join(seconds(value) for value in (self.min, self.median, self.max))


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One hop of a traced flow: how many traces came to it, and which addresses answered, most often first."""

    traces: int
    addresses: dict[str, int]
    rtt_seconds: HopRoundTrips | None
    """With the router's time to answer, for which it has no haste: only what later hops share is the path's."""


class PathMtu(msgspec.Struct, frozen=True, kw_only=True):
    """What a search found of a path's MTU. Sizes are of whole IP packets, in bytes."""

    bytes: int | None
    """The largest that passes; None where small packets fail as well (then it is loss, not MTU) or nobody can tell."""
    tried_bytes: int
    """What was asked for: nothing larger is tried."""
    kind: Kind | None
    """Why larger ones do not pass: they vanish, a router said so, or this host's interface is smaller."""
    hop: str | None
    """Who said so: the router, or our own address."""
    roce_path_mtu: int
    """The largest RoCE path MTU whose packets pass, 256 to 4096; 0 when none does."""

    def __str__(self) -> str:
        if self.bytes is None:
            return "no MTU was found: most small packets are lost as well, or this host was too busy to tell"
        roce = f"RoCE fits at path MTU {self.roce_path_mtu}" if self.roce_path_mtu else "RoCE fits at no path MTU"
        if self.kind is None:
            return f"packets of {self.bytes} bytes pass; {roce}"
        why = {
            "black_hole": "larger ones vanish without a word (black hole)",
            "frag_needed": f"{self.hop} said that larger ones are too large (frag needed)",
            "local": "this host's own interface takes none larger",
        }[self.kind]
        return f"packets of at most {self.bytes} bytes pass, not {self.tried_bytes}: {why}; {roce}"


class PathSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A path and its numbers so far."""

    destination: str
    """As it was given: a name or an address."""
    destination_address: str
    destination_port: int
    source_address: str
    source_port: int
    sent: int
    answered: int
    """Probes with a round trip; the reset of a closed TCP port is one."""
    lost: int
    lost_return: int | None
    """Of these, lost on the way back, by the responder's count; None for tcp, which nobody counts."""
    refused: int
    unsent: int
    """This host could not send them: never loss."""
    unjudged: int
    """Sent, but this process stood still for so long that nobody can tell what became of them: never loss."""
    starved: int
    lost_ratio: float | None
    """Of the probes that have ended."""
    mtu_reported_bytes: int | None
    """The last MTU that a router, or this host, said a probe was too large for."""
    rtt_seconds: RoundTrips | None
    echoes: int | None = None
    """Connections whose echo was answered and timed; None where none was asked for. It and the next four are tcp's."""
    echo_rtt_seconds: RoundTrips | None = None
    syn_retransmits: int | None = None
    """SYNs that the kernel sent again, answered then or not."""
    retransmits: int | None = None
    """Echo requests that the kernel sent again."""
    resets: int | None = None
    """Connections reset after their handshake."""
    hops: tuple[Hop, ...] | None
    """Only for trace."""
    path_mtu: PathMtu | None = None
    """Only for mtu, once its search has ended."""
    device: str | None = None
    """The RDMA device that probes. The rest is of rdma alone."""
    timestamps: str | None = None
    """Who knows when a reply came: ``hardware``, the device, or ``software``, this process."""
    introduced: bool | None = None
    """Whether the destination has told its queue pair, over UDP."""
    ecn_marked: int | None = None
    """Of the answered, marked by a congested queue there or back (RFC 3168)."""

    @property
    def name(self) -> str:
        """What tells it from the other paths of a run."""
        return f"{self.destination} from port {self.source_port}"


def label(some: Sequence[PathSummary], paths: Sequence[PathSummary]) -> str:
    """Names of ``some`` of the ``paths`` of a run: a destination alone stands for all its paths."""
    names = []
    for destination in dict.fromkeys(path.destination for path in some):
        own = [path for path in some if path.destination == destination]
        everything = len(own) == sum(path.destination == destination for path in paths)
        names.extend([destination] if everything else [path.name for path in own])
    return ", ".join(names)


class _HopTally:
    def __init__(self) -> None:
        self._traces = 0
        self._addresses: Counter[str] = Counter()
        self._rtts: deque[float] = deque(maxlen=_HOP_WINDOW)

    def add(self, address: str | None, rtt_ns: int | None) -> None:
        self._traces += 1
        if address is not None:
            self._addresses[address] += 1
        if rtt_ns is not None:
            self._rtts.append(rtt_ns / 1e9)

    def hop(self) -> Hop:
        trips = HopRoundTrips.of(self._rtts)
        return Hop(traces=self._traces, addresses=dict(self._addresses.most_common()), rtt_seconds=trips)


class Tally:
    """Counts the samples of one path: one thread adds, another reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._window: deque[float] = deque()
        self._sorted: list[float] = []
        self._recent: deque[Sample] = deque(maxlen=_RECENT)
        self._last = self._min = self._max = math.nan
        self._outcomes: Counter[Outcome] = Counter()
        self._starved = 0
        self._hops: list[_HopTally] = []

    def add(self, sample: Sample) -> None:
        """Count one probe. O(WINDOW) memory moves at worst, microseconds."""
        with self._lock:
            self._outcomes[sample.outcome] += 1
            self._starved += sample.starved
            self._recent.append(sample)
            if sample.rtt_seconds is not None:
                self._add_round_trip(sample.rtt_seconds)

    def _add_round_trip(self, rtt: float) -> None:
        self._last = rtt
        self._min = rtt if not self._window else min(self._min, rtt)
        self._max = rtt if not self._window else max(self._max, rtt)
        self._window.append(rtt)
        insort(self._sorted, rtt)
        if len(self._window) > WINDOW:
            del self._sorted[bisect_left(self._sorted, self._window.popleft())]

    def add_trace(self, hops: Sequence[str | None], rtts_ns: Sequence[int | None]) -> None:
        """Count one trace: the address that answered at each hop and its round trip, None for silence."""
        with self._lock:
            self._hops.extend(_HopTally() for _ in range(len(hops) - len(self._hops)))
            for tally, address, rtt_ns in zip(self._hops, hops, rtts_ns, strict=False):
                tally.add(address, rtt_ns)

    @property
    def ended(self) -> int:
        return self._outcomes.total()

    def counts(self) -> dict[Outcome, int]:
        return dict(self._outcomes)

    @property
    def starved(self) -> int:
        return self._starved

    def recent(self) -> list[Sample]:
        """The last samples, oldest first."""
        with self._lock:
            return list(self._recent)

    def round_trips(self) -> RoundTrips | None:
        with self._lock:
            if not self._sorted:
                return None
            return RoundTrips(
                last=self._last,
                min=self._min,
                median=self._percentile(0.5),
                p90=self._percentile(0.9),
                p99=self._percentile(0.99),
                max=self._max,
            )

    def _percentile(self, share: float) -> float:
        return self._sorted[math.ceil(share * len(self._sorted)) - 1]

    def hops(self, destination: str) -> tuple[Hop, ...]:
        """The hops so far, up to ``destination``.

        Silence at the end, which may well be no hop, is left out, and so is a destination after itself: where its
        first answers were lost, the trace went on to it with a greater hop limit.
        """
        with self._lock:
            hops = [tally.hop() for tally in self._hops]
        while hops and not hops[-1].addresses:
            hops.pop()
        while len(hops) > 1 and hops[-1].addresses.keys() <= {destination} and destination in hops[-2].addresses:
            hops.pop()
        return tuple(hops)
