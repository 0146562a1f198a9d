"""DNS probes: names resolved as a stub resolver would, one query at a time, at a rate that has a ceiling.

Each query has a socket of its own, connected to the resolver: a new source port as well as a new identifier, so that
an answer cannot be forged without seeing the query (RFC 5452), and answers of others never arrive. Round trips are
from kernel timestamps, like those of UDP probes: a starved prober does not make a resolver slow.

A truncated answer is asked for again over TCP (RFC 7766), which is counted and timed apart.
"""

from __future__ import annotations

import errno
import random
import secrets
import socket
import time
import zlib
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from itertools import product

from exporter.contracts.catalogue import (
    DNS,
    DNS_ANSWER_TABLE,
    DNS_BUCKETS,
    DNS_DURATION_TABLE,
    DNS_QUERIES,
    DNS_RCODES,
    DNS_REJECTED,
    DNS_RESOLUTION_FAILURES,
    DNS_RESOLUTION_QUERIES,
    DNS_RESOLUTIONS,
    DNS_RTT,
    DNS_TCP_FAILURES,
    DNS_TCP_QUERIES,
    DNS_TCP_RTT,
    DNS_TIMEOUTS,
    DNS_TRUNCATED,
    DNS_UNREACHABLE,
    DNS_UNSENT,
)
from exporter.probing.dns.message import NOERROR, NXDOMAIN, REFUSED, SERVFAIL, Answer, decode_answer, encode_query
from exporter.probing.loop import Loop, Readable, Timer
from exporter.probing.phase import next_due
from exporter.probing.settings import DnsSettings
from exporter.probing.sockets import TransmitTime, error_queue, open_flow, receive
from exporter.results import ANSWERED, LOOKUP, LOOKUP_FAILURES, ResultRing
from exporter.store import RowWriter, Store

_QUERIES = DNS.metrics.index(DNS_QUERIES)
_TIMEOUTS = DNS.metrics.index(DNS_TIMEOUTS)
_UNREACHABLE = DNS.metrics.index(DNS_UNREACHABLE)
_UNSENT = DNS.metrics.index(DNS_UNSENT)
_TRUNCATED = DNS.metrics.index(DNS_TRUNCATED)
_REJECTED = DNS.metrics.index(DNS_REJECTED)
_RESOLUTIONS = DNS.metrics.index(DNS_RESOLUTIONS)
_RESOLUTION_FAILURES = DNS.metrics.index(DNS_RESOLUTION_FAILURES)
_RESOLUTION_QUERIES = DNS.metrics.index(DNS_RESOLUTION_QUERIES)
_RTT = DNS.metrics.index(DNS_RTT)
_TCP_QUERIES = DNS.metrics.index(DNS_TCP_QUERIES)
_TCP_FAILURES = DNS.metrics.index(DNS_TCP_FAILURES)
_TCP_RTT = DNS.metrics.index(DNS_TCP_RTT)
_DURATION_SUM = len(DNS_BUCKETS) + 1

_RCODES = {NOERROR: "noerror", NXDOMAIN: "nxdomain", SERVFAIL: "servfail", REFUSED: "refused"}
_GO_ON = frozenset({NOERROR, NXDOMAIN, SERVFAIL})
"""Without an address, these send a stub resolver (glibc's) on through its search list; all else ends it."""

_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})
_BATCH = 16
_DRAIN = 4096
_LONGEST = 16_384
"""Bytes of an answer over TCP: a thousand addresses. Longer ones are legal up to 65,535, and hold up the loop."""


def _failure(answer: Answer) -> str | None:
    """Why the answer to a query holds no address (exporter.results.LOOKUP_FAILURES); None where it does."""
    if answer.truncated:
        return "truncated"
    rcode = _RCODES.get(answer.rcode, "other")
    if rcode != "noerror":
        return rcode
    return None if answer.addresses else "nodata"


class Lookup:
    """One name at one resolver: where its figures go, and how far its resolution is."""

    __slots__ = ("_answers", "_durations", "_results", "_row", "address", "asked", "candidates", "due_ns")

    def __init__(
        self,
        address: tuple[str, int],
        candidates: tuple[str, ...],
        row: RowWriter,
        answers: dict[str, RowWriter],
        durations: RowWriter,
        results: ResultRing,
    ) -> None:
        self.address = address
        self.candidates = candidates
        self.due_ns = 0
        self.asked = 0
        """Candidates that the resolution under way has asked for."""
        self._row = row
        self._answers = answers
        self._durations = durations
        self._results = results

    def count(self, *columns: int) -> None:
        self._row.begin()
        for column in columns:
            self._row.add(column)
        self._row.end()

    def record(self, unix_ns: int, failure: str | None, seconds: float = 0.0) -> None:
        """Leave a probe record of the query sent at ``unix_ns``."""
        outcome = ANSWERED if failure is None else LOOKUP_FAILURES[failure]
        self._results.append(LOOKUP | self._row.identity, unix_ns, int(seconds * 1e9), outcome)

    def book_tcp_answer(self, seconds: float) -> None:
        self._row.begin()
        self._row.set(_TCP_RTT, seconds)
        self._row.end()

    def book_answer(self, answer: Answer, seconds: float) -> None:
        row = self._row
        row.begin()
        row.set(_RTT, seconds)
        row.add(_TRUNCATED, answer.truncated)
        row.end()
        answers = self._answers[_RCODES.get(answer.rcode, "other")]
        answers.begin()
        answers.add(0)
        answers.end()
        self._durations.begin()
        self._durations.add(bisect_left(DNS_BUCKETS, seconds))
        self._durations.add(_DURATION_SUM, seconds)
        self._durations.end()

    def book_end(self, found: bool) -> None:
        """The resolution under way is over."""
        row = self._row
        row.begin()
        row.add(_RESOLUTIONS)
        row.add(_RESOLUTION_FAILURES, not found)
        row.set(_RESOLUTION_QUERIES, self.asked)
        row.end()
        self.asked = 0


class _Query(Readable):
    """One query under way. It calls ``ended`` once, with the answer or None, after it has booked what became of it."""

    _socket: socket.socket
    _timer: Timer

    def __init__(self, loop: Loop, lookup: Lookup, message: bytes, ended: Callable[[Answer | None], None]) -> None:
        self._loop = loop
        self._lookup = lookup
        self._message = message
        self._ended = ended

    def fileno(self) -> int:
        return self._socket.fileno()

    def _end(self, answer: Answer | None) -> None:
        self._loop.cancel(self._timer)
        self._loop.forget(self)
        self._socket.close()
        self._ended(answer)


class _UdpQuery(_Query):
    """One datagram. What comes and is no answer to it is counted, and does not end it."""

    def __init__(
        self, loop: Loop, lookup: Lookup, message: bytes, timeout_seconds: float, ended: Callable[[Answer | None], None]
    ) -> None:
        """Raise OSError when the host cannot send."""
        super().__init__(loop, lookup, message, ended)
        self._kernel_ns = 0
        # The route to the resolver chooses the address.
        self._socket = open_flow("::" if ":" in lookup.address[0] else "0.0.0.0", 0)  # noqa: S104
        try:
            self._socket.connect(lookup.address)
            self._peer = self._socket.getpeername()[:2]  # as the kernel writes it: IPv6 has many ways
            self._unix_ns, self._monotonic_ns = time.time_ns(), loop.clock()
            self._socket.send(self._message)
        except OSError:
            self._socket.close()
            raise
        lookup.count(_QUERIES)
        loop.watch(self)
        self._timer = loop.after(timeout_seconds, self._on_timeout)

    def on_input(self) -> None:
        self._take_in(_BATCH)

    def _take_in(self, limit: int) -> bool:
        """Read what has come, at most ``limit`` datagrams; return whether the query still waits."""
        self.on_error()
        if self._socket.fileno() >= 0:
            self._read(limit)
        return self._socket.fileno() >= 0

    def on_output(self) -> None:
        """Never asked for: a datagram socket is written without waiting."""

    def on_error(self) -> None:
        for item in error_queue(self._socket, _BATCH):
            if isinstance(item, TransmitTime):
                self._kernel_ns = item.sent_ns
            elif item.kind == "refused" and item.offender == self._peer[0].partition("%")[0]:
                # Only the resolver's own host can say so; what routers say may pass, or be forged.
                self._lookup.count(_UNREACHABLE)
                self._lookup.record(self._unix_ns, "unreachable")
                self._end(None)
                return

    def _read(self, limit: int) -> None:
        for datagram in receive(self._socket, limit):
            answer = decode_answer(self._message, datagram.data) if datagram.address == self._peer else None
            if answer is None:
                self._lookup.count(_REJECTED)
                continue
            seconds = self._seconds(datagram.received_ns)
            self._lookup.book_answer(answer, seconds)
            self._lookup.record(self._unix_ns, _failure(answer), seconds)
            self._end(answer)
            return

    def _seconds(self, received_ns: int | None) -> float:
        elapsed = self._loop.clock() - self._monotonic_ns
        if received_ns:
            between = received_ns - (self._kernel_ns or self._unix_ns)
            # Kernel times are wall-clock: a step between the two shows as a time that cannot be.
            if 0 < between <= elapsed:
                elapsed = between
        return elapsed / 1e9

    def _on_timeout(self) -> None:
        # After a stall the answer may lie in the socket, behind forged ones: it is read before a timeout is booked.
        if self._take_in(_DRAIN):
            self._lookup.count(_TIMEOUTS)
            self._lookup.record(self._unix_ns, "timeout")
            self._end(None)


class _TcpQuery(_Query):
    """One connection, one answer."""

    def __init__(
        self, loop: Loop, lookup: Lookup, message: bytes, timeout_seconds: float, ended: Callable[[Answer | None], None]
    ) -> None:
        """Raise OSError when the host cannot connect."""
        super().__init__(loop, lookup, message, ended)
        self._timeout_seconds = timeout_seconds
        self._received = bytearray()
        self._unix_ns, self._monotonic_ns = time.time_ns(), loop.clock()
        self._socket = socket.socket(socket.AF_INET6 if ":" in lookup.address[0] else socket.AF_INET)
        try:
            self._socket.setblocking(False)
            error = self._socket.connect_ex(lookup.address)
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, "cannot connect")
        except OSError:
            self._socket.close()
            raise
        lookup.count(_TCP_QUERIES)
        loop.watch(self, output=True)
        self._timer = loop.after(timeout_seconds, self._on_timeout)

    def on_output(self) -> None:
        """Connected, or not. The answer has a timeout of its own, so that a stall before the query is no failure."""
        self._loop.cancel(self._timer)
        self._timer = self._loop.after(self._timeout_seconds, self._on_timeout)
        self._loop.forget(self)
        try:
            self._socket.send(len(self._message).to_bytes(2, "big") + self._message)  # whole: its buffer is empty
        except OSError:
            self._fail()
        else:
            self._loop.watch(self)

    def on_error(self) -> None:
        self.on_input()  # which raises it, after an answer that came before

    def on_input(self) -> None:
        try:
            data = self._socket.recv(2 + _LONGEST - len(self._received))
        except BlockingIOError:
            return
        except OSError:
            self._fail()
            return
        self._received += data
        length = int.from_bytes(self._received[:2], "big")  # RFC 1035, 4.2.2
        if not data or (len(self._received) >= 2 and length > _LONGEST):
            self._fail()
        elif len(self._received) >= 2 + length > 2:
            answer = decode_answer(self._message, bytes(self._received[2 : 2 + length]))
            if answer is None or answer.truncated:
                self._fail()
            else:
                seconds = (self._loop.clock() - self._monotonic_ns) / 1e9
                self._lookup.book_tcp_answer(seconds)
                self._lookup.record(self._unix_ns, _failure(answer), seconds)
                self._end(answer)

    def _on_timeout(self) -> None:
        self.on_input()  # after a stall the answer may lie in the socket
        if self._socket.fileno() >= 0:
            self._fail()

    def _fail(self) -> None:
        self._lookup.count(_TCP_FAILURES)
        self._lookup.record(self._unix_ns, "tcp failed")
        self._end(None)


class DnsProber:
    """Resolves every name at every resolver once a period.

    At most one query of a lookup is under way, and all of them together keep ``max_queries_per_second``: what would
    exceed it waits for its turn. The lookups of a host share the period evenly and hosts shift it by their name, with
    a little chance in each period, so that neither one host nor a cluster asks in a burst.
    """

    def __init__(self, loop: Loop, settings: DnsSettings, host: str, store: Store, results: ResultRing) -> None:
        self._loop = loop
        self._timeout_seconds = settings.timeout_seconds
        self._period_ns = int(settings.period_seconds * 1e9)
        self._gap_ns = int(1e9 / settings.max_queries_per_second)
        self._free_ns = 0  # when the next query may be sent
        self._waiting: deque[tuple[Lookup, bytes]] = deque()  # with the query to repeat over TCP, if any
        rows, answers, durations = store.writer(DNS), store.writer(DNS_ANSWER_TABLE), store.writer(DNS_DURATION_TABLE)
        histograms = {label: durations.add((host, label)) for label, _, _ in settings.resolvers}
        # Names outside: one resolver's lookups are as far apart as can be.
        self._lookups = [
            Lookup(
                (address, port),
                candidates,
                rows.add((host, label, name, address, str(port))),
                {rcode: answers.add((host, label, name, rcode)) for rcode in DNS_RCODES},
                histograms[label],
                results,
            )
            for (name, candidates), (label, address, port) in product(settings.names, settings.resolvers)
        ]
        self._jitter_ns = self._period_ns // max(10, len(self._lookups))
        self._shift = zlib.crc32(host.encode()) / 2**32

    def start(self) -> None:
        for place, lookup in enumerate(self._lookups):
            phase = (place / len(self._lookups) + self._shift) % 1
            lookup.due_ns = next_due(phase, self._period_ns, self._loop.clock(), time.time_ns())
            self._schedule(lookup)

    def _schedule(self, lookup: Lookup) -> None:
        jitter = random.randrange(self._jitter_ns)  # noqa: S311 - spreads load, protects nothing
        self._loop.at(lookup.due_ns + jitter, lambda: self._begin(lookup))

    def _begin(self, lookup: Lookup) -> None:
        # A resolver so slow that the last resolution still runs is not asked more for it.
        if not lookup.asked:
            self._ask_next(lookup)
        lookup.due_ns += self._period_ns
        now = self._loop.clock()
        while lookup.due_ns <= now:  # starved for over a period: say so, never send in a clump
            lookup.count(_UNSENT)
            lookup.due_ns += self._period_ns
        self._schedule(lookup)

    def _ask_next(self, lookup: Lookup) -> None:
        lookup.asked += 1
        self._queue(lookup)

    def _queue(self, lookup: Lookup, over_tcp: bytes = b"") -> None:
        self._waiting.append((lookup, over_tcp))
        if len(self._waiting) == 1:
            self._loop.at(max(self._free_ns, self._loop.clock()), self._send_one)

    def _send_one(self) -> None:
        lookup, over_tcp = self._waiting.popleft()
        self._free_ns = self._loop.clock() + self._gap_ns
        if self._waiting:
            self._loop.at(self._free_ns, self._send_one)
        if over_tcp:
            self._send_over_tcp(lookup, over_tcp)
            return
        name = lookup.candidates[lookup.asked - 1]
        if name.startswith("*."):
            name = f"{secrets.token_hex(8)}{name[1:]}"
        message = encode_query(secrets.randbits(16), name)
        try:
            _UdpQuery(self._loop, lookup, message, self._timeout_seconds, lambda a: self._on_end(lookup, message, a))
        except OSError as error:
            if error.errno in _NO_ROUTE:
                lookup.count(_QUERIES, _UNREACHABLE)
                lookup.record(time.time_ns(), "unreachable")
                lookup.book_end(found=False)
            else:  # ENOBUFS, EPERM, EMFILE, ...: the host's trouble
                lookup.count(_UNSENT)
                lookup.asked = 0

    def _send_over_tcp(self, lookup: Lookup, message: bytes) -> None:
        try:
            _TcpQuery(self._loop, lookup, message, self._timeout_seconds, lambda a: self._on_end(lookup, message, a))
        except OSError as error:
            if error.errno in (*_NO_ROUTE, errno.ECONNREFUSED):
                lookup.count(_TCP_QUERIES, _TCP_FAILURES)
                lookup.record(time.time_ns(), "tcp failed")
                lookup.book_end(found=False)
            else:
                lookup.count(_UNSENT)
                lookup.asked = 0

    def _on_end(self, lookup: Lookup, message: bytes, answer: Answer | None) -> None:
        if answer is not None and answer.truncated:  # what it holds is more than fits
            self._queue(lookup, over_tcp=message)
            return
        found = answer is not None and _failure(answer) is None
        may_go_on = answer is not None and answer.rcode in _GO_ON and lookup.asked < len(lookup.candidates)
        if not found and may_go_on:
            self._ask_next(lookup)
        else:
            lookup.book_end(found)
