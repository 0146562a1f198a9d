"""Finds the path MTU of a path that no longer passes the packets it promises.

Packets leave from the probed flow's own socket, so that every switch sends them where it sends the probes, with
don't-fragment set. They are traces to the responder: answered with 64 bytes and not counted. A large request with a
small reply tests the way there only; the way back is the other end's to probe.

Sizes are tried as in RFC 8899 (PLPMTUD): what nobody answers is too large, whether or not a router says so. Likely
sizes go first, among them what a router reported (RFC 1191), then bisection. What routers say only guides the search
and names the hop: a size counts as passing when it was answered, never for a word.

A lost packet must not be taken for one that was too large. So ten small ones go first and show the path's loss p; then
a size is too large after as many unanswered packets as make p to that power smaller than 1 in 100,000 (five when none
of the ten is lost, 17 when half are). Where more are lost, the search ends without a result: that is loss, or no
reachability, and not MTU.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, NamedTuple

from exporter.contracts.plan import UDP_HEADERS
from exporter.probing.loop import LATEST_NS, Loop, Timer
from exporter.probing.mtu.local import local_mtu
from exporter.probing.mtu.sizes import CALIBRATION, SMALLEST, next_size, packets_needed
from exporter.probing.packet import TRACE, quoted_sequence
from exporter.probing.paths import Path, packet_bytes
from exporter.probing.sockets import IcmpError, send_options
from exporter.probing.udp import FlowSocket, UdpProber, padded
from exporter.store import RowWriter, TableWriter

Kind = Literal["black_hole", "frag_needed", "local"]

LOSSES = 3
"""So many probes of the promised size in a row must be lost before a search begins; one, where a router or our own
interface said that it was too large."""
SPACING_SECONDS = 0.05
MOST_AT_ONCE = 10
"""Searches under way; others wait. With one packet each every ``SPACING_SECONDS`` that is 200 packets a second."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 15.0, 300.0
"""A path that goes on failing is searched again after so long, and twice as long each time that shows the same MTU."""

_SPOILT_TRIES = 5  # of one size, before a search is given up because this host is too busy to judge
_MOST_WORDS = 64
_MOST_HINTED = (
    8  # sizes of a search that hints may choose: they come from the network, and could lead it about for hours
)


class Limit(NamedTuple):
    """What keeps larger packets back; ``hop`` is the router that said so, our own address, or empty."""

    kind: Kind
    hop: str


class _Watched:
    """A path and what is known of its MTU."""

    __slots__ = (
        "failing", "flow", "limit", "local", "losses", "mtu", "path", "promise", "reported", "row", "search", "timer",
        "wait_seconds", "words",
    )  # fmt: skip

    def __init__(self, path: Path, flow: FlowSocket) -> None:
        self.path = path
        self.flow = flow
        self.promise = packet_bytes(path.target)
        self.heal()
        self.row: RowWriter | None = None
        self.search: _Search | None = None
        self.timer: Timer | None = None

    def heal(self) -> None:
        self.failing = False
        self.losses = 0  # in a row, of probes of the promised size
        self.mtu: int | None = None  # as booked
        self.limit: Limit | None = None
        self.wait_seconds = FIRST_WAIT_SECONDS
        self.words: dict[int, str] = {}  # {the largest size that would pass, as a router has it: its address}
        self.reported: int | None = None  # the last of them
        self.local: int | None = None  # our interface's MTU, where it is below the promise

    @property
    def told(self) -> bool:
        return bool(self.words) or self.local is not None

    def hear(self, hop: str, mtu: int, size: int | None) -> None:
        """A router said that a packet, of ``size`` bytes if that is known, was larger than ``mtu`` bytes.

        Old routers name no MTU (RFC 1191, section 4) and some a wrong one: what their word surely means is that
        ``size`` is too large.
        """
        below = self.promise if size is None else size
        limits = [size - 1] if size is not None else []
        if SMALLEST <= mtu < below:
            self.reported = mtu
            limits.append(mtu)
        for limit in limits:
            if limit in self.words or len(self.words) < _MOST_WORDS:
                self.words[limit] = hop


class _Search:
    """A search under way, at one size: ``answered`` of ``sent`` packets of ``wanted``."""

    __slots__ = (
        "answered", "fails", "needed", "passes", "sent", "sequences", "size", "sizes", "spoilt", "spoilt_tries",
        "trial", "wanted", "watched",
    )  # fmt: skip

    def __init__(self, watched: _Watched) -> None:
        self.watched = watched
        self.passes = 0  # the largest size answered; 0 until small packets were
        self.fails = watched.promise + 1
        self.needed = 0  # packets that prove a size too large
        self.sequences: set[int] = set()
        self.sizes = 0  # tried so far
        self.trial = 0  # counts up: what was timed for an earlier one is of no concern
        self.take_up(SMALLEST, CALIBRATION)

    def take_up(self, size: int, wanted: int) -> None:
        self.sizes += 1
        self.size = size
        self.wanted = wanted
        self.spoilt_tries = 0
        self.begin_again()

    def begin_again(self) -> None:
        self.trial += 1
        self.sent = self.answered = 0
        self.spoilt = False  # this host was short of CPU or could not send: silence proves nothing

    def is_at(self, trial: int) -> bool:
        return self.watched.search is self and self.trial == trial


class MtuSearcher:
    """Watches the paths of full-size probes, and searches the MTU of those that fail.

    What it finds is booked on the path (``Path.book_mtu``) and, below the promise, in a row of ``limits`` (the table
    PATH_MTU_LIMIT). ``on_end`` is called when a search has ended, with what limits the path.
    """

    def __init__(
        self,
        loop: Loop,
        prober: UdpProber,
        limits: TableWriter,
        timeout_seconds: float,
        on_end: Callable[[Path, Limit | None], None] = lambda _, __: None,
    ) -> None:
        self._loop = loop
        self._prober = prober
        prober.path_mtu = self
        self._limits = limits
        self._timeout = timeout_seconds
        self._on_end = on_end
        self._watched: dict[Path, _Watched] = {}
        self._by_flow: dict[tuple[FlowSocket, tuple[str, int]], list[_Watched]] = {}
        self._by_sequence: dict[int, _Search] = {}
        self._waiting: OrderedDict[_Watched, None] = OrderedDict()  # first come first; any may leave in O(1)
        self._under_way = 0
        self._last_found: int | None = None  # paths that fail together fail for the same port

    def add(self, path: Path, flow: FlowSocket) -> None:
        watched = self._watched[path] = _Watched(path, flow)
        self._by_flow.setdefault((flow, path.flow.destination), []).append(watched)

    def remove(self, path: Path) -> None:
        watched = self._watched.pop(path, None)
        if watched is None:
            return
        same = self._by_flow[watched.flow, path.flow.destination]
        same.remove(watched)
        if not same:
            del self._by_flow[watched.flow, path.flow.destination]
        self._stop(watched)

    def search(self, path: Path) -> None:
        """Search now, without waiting for losses."""
        watched = self._watched[path]
        if not watched.failing:
            self._fail(watched)

    # ---- what the probes of the promised size tell

    def on_answer(self, path: Path) -> None:
        watched = self._watched.get(path)
        if watched is not None:
            watched.losses = 0
            if watched.failing or watched.mtu is None or watched.told:
                self._heal(watched)

    def on_loss(self, path: Path, starved: bool) -> None:
        watched = self._watched.get(path)
        if watched is None or starved:
            return
        watched.losses += 1
        if not watched.failing and (watched.losses >= LOSSES or watched.told):
            self._fail(watched)

    def on_too_large_here(self, path: Path, mtu: int) -> None:
        """Our own interface refused a probe of the promised size: its MTU is ``mtu``."""
        watched = self._watched.get(path)
        if watched is not None:
            watched.local = mtu

    def on_too_big(self, flow: FlowSocket, error: IcmpError, path: Path | None) -> None:
        """A router said that a packet of ``path``, or of a search, or of one of this flow, was too large."""
        sequence = quoted_sequence(error.quoted)
        if path is not None:
            watched = self._watched.get(path)
            if watched is not None:
                watched.hear(error.offender, error.mtu, watched.promise)
            return
        search = None if sequence is None else self._by_sequence.get(sequence)
        if search is not None:
            if error.destination[0] == search.watched.path.target.destination_address:
                search.watched.hear(error.offender, error.mtu, search.size)
                if error.mtu:
                    search.watched.path.book_reported_mtu(error.mtu)
        elif sequence is None:  # a router may quote 8 bytes of our packet (RFC 792): the ports, and nothing of ours
            for watched in self._by_flow.get((flow, error.destination), ()):
                watched.hear(error.offender, error.mtu, None)

    # ---- a search

    def _fail(self, watched: _Watched) -> None:
        watched.failing = True
        self._book(watched, None, None)
        self._queue(watched)

    def _heal(self, watched: _Watched) -> None:
        """Packets of the promised size pass."""
        searched = watched.failing
        self._stop(watched)
        watched.heal()
        self._book(watched, watched.promise, None)
        if searched:
            self._on_end(watched.path, None)

    def _stop(self, watched: _Watched) -> None:
        if watched.timer is not None:
            self._loop.cancel(watched.timer)
            watched.timer = None
        if watched.search is not None:
            self._leave(watched.search)
        self._waiting.pop(watched, None)
        if watched.row is not None:
            self._limits.remove(watched.row)
            watched.row = None
        self._begin_waiting()

    def _queue(self, watched: _Watched) -> None:
        watched.timer = None
        self._waiting[watched] = None
        self._begin_waiting()

    def _begin_waiting(self) -> None:
        while self._waiting and self._under_way < MOST_AT_ONCE:
            watched, _ = self._waiting.popitem(last=False)
            self._under_way += 1
            watched.search = _Search(watched)
            self._send_soon(watched.search)

    def _leave(self, search: _Search) -> None:
        """The search is over."""
        self._forget(search)
        search.watched.search = None
        self._under_way -= 1

    def _forget(self, search: _Search) -> None:
        for sequence in search.sequences:
            del self._by_sequence[sequence]
        search.sequences.clear()

    def _send_soon(self, search: _Search, seconds: float = SPACING_SECONDS) -> None:
        trial = search.trial
        self._loop.after(seconds, lambda: self._send(search) if search.is_at(trial) else None)

    def _send(self, search: _Search) -> None:
        """Send the next packet of this size, and see to what follows."""
        search.spoilt |= self._loop.late_ns > LATEST_NS
        target = search.watched.path.target
        sequence = self._prober.next_sequence()
        parts = padded(self._prober.codec.request(TRACE, sequence, 0), search.size - UDP_HEADERS)
        destination = (target.destination_address, target.destination_port)
        try:
            search.watched.flow.send(parts, send_options(target.traffic_class), destination)
        except OSError as error:
            if error.errno == errno.EMSGSIZE and self._is_too_large_here(search):
                self._judge(search, passed=False)
                return
            search.spoilt = True
        self._by_sequence[sequence] = search
        search.sequences.add(sequence)
        search.sent += 1
        if search.sent < search.wanted:
            self._send_soon(search)
        else:
            trial = search.trial
            self._loop.after(self._timeout, lambda: self._on_timeout(search, trial))

    def _is_too_large_here(self, search: _Search) -> bool:
        """Whether our own interface takes no packet of this size: a socket also repeats what routers said."""
        target = search.watched.path.target
        mtu = local_mtu(target.source_address, target.destination_address)
        if mtu is None or mtu >= search.size:
            return False
        search.watched.local = mtu
        return True

    def on_reply(self, sequence: int, address: tuple[str, int]) -> bool:
        search = self._by_sequence.get(sequence)
        if search is None:
            return False
        target = search.watched.path.target
        if address != (target.destination_address, target.destination_port):
            return False
        del self._by_sequence[sequence]
        search.sequences.remove(sequence)
        search.answered += 1
        if search.passes:
            self._judge(search, passed=True)
        elif search.answered == CALIBRATION:
            self._calibrate(search)
        return True

    def _on_timeout(self, search: _Search, trial: int) -> None:
        if search.is_at(trial):
            search.watched.flow.drain()  # a reply may lie in the socket that came in time
        if not search.is_at(trial):
            return
        if search.spoilt or self._loop.late_ns > LATEST_NS:
            self._try_again(search)
        elif search.passes:
            self._judge(search, passed=False)
        else:
            self._calibrate(search)

    def _try_again(self, search: _Search) -> None:
        search.spoilt_tries += 1
        if search.spoilt_tries > _SPOILT_TRIES:
            self._end(search, search.watched.mtu)  # what was known stays
            return
        self._forget(search)
        search.begin_again()
        self._send_soon(search, LATEST_NS / 1e9)

    def _calibrate(self, search: _Search) -> None:
        needed = packets_needed(CALIBRATION - search.answered)
        if needed is None:
            self._end(search, None)
            return
        search.needed = needed
        search.passes = SMALLEST
        self._forget(search)
        self._try(search, search.watched.promise)

    def _try(self, search: _Search, size: int) -> None:
        search.take_up(size, search.needed)
        self._send_soon(search)

    def _judge(self, search: _Search, *, passed: bool) -> None:
        """The size under trial passes, or is too large."""
        self._forget(search)
        watched = search.watched
        if passed:
            search.passes = search.size
        else:
            search.fails = search.size
        if search.passes >= watched.promise:
            self._heal(watched)
            return
        known = (watched.reported, watched.local, watched.mtu, self._last_found)
        hints = tuple(mtu for mtu in known if mtu) if search.sizes < _MOST_HINTED else ()
        size = next_size(search.passes, search.fails, hints)
        if size is None:
            self._end(search, search.passes)
        else:
            self._try(search, size)

    def _end(self, search: _Search, mtu: int | None) -> None:
        """Book ``mtu``, and search again later: what limits a path may change while it fails."""
        watched = search.watched
        self._leave(search)
        limit = None if mtu is None else self._limit(watched, mtu)
        # A dead path is looked at often: a port that was replaced may come back with another MTU.
        same = mtu is not None and (mtu, limit) == (watched.mtu, watched.limit)
        watched.wait_seconds = min(2 * watched.wait_seconds, LONGEST_WAIT_SECONDS) if same else FIRST_WAIT_SECONDS
        self._last_found = mtu or self._last_found
        self._book(watched, mtu, limit)
        watched.timer = self._loop.after(watched.wait_seconds, lambda: self._queue(watched))
        self._on_end(watched.path, limit)
        self._begin_waiting()

    def _limit(self, watched: _Watched, mtu: int) -> Limit:
        if watched.local == mtu:
            return Limit("local", watched.path.target.source_address)
        if mtu in watched.words:
            return Limit("frag_needed", watched.words[mtu])
        return Limit("black_hole", "")

    def _book(self, watched: _Watched, mtu: int | None, limit: Limit | None) -> None:
        if mtu != watched.mtu or mtu is None:
            watched.path.book_mtu(mtu)
        if limit != watched.limit or (limit is None) != (watched.row is None):
            if watched.row is not None:
                self._limits.remove(watched.row)
                watched.row = None
            if limit is not None:
                watched.row = self._limits.add((watched.path.target.path, limit.kind, limit.hop))
        watched.mtu, watched.limit = mtu, limit
