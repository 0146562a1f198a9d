"""What a job's reliable connections (RC) would meet: a small WRITE, a large one, and a READ that fetches it back.

Datagrams show what is lost. A job's queue pairs have that sent again, until the retries are exhausted and the job ends;
and where the path carries less than both ports' MTU, only their large messages fail. So each round goes from small to
large, and each operation waits for the one before: the one that fails says what does not pass. A queue pair that failed
is of no more use; another is connected, after pauses that double while rounds fail.

What exhausts the retries may be a responder that has gone, which is no failure of the network. So that is judged when
the responder has answered the question for another connection: whether it still served the one that failed.
"""

from __future__ import annotations

import itertools
import random
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from exporter.contracts.catalogue import (
    MOST_CONNECTIONS,
    RELIABLE,
    RELIABLE_CONNECTED,
    RELIABLE_CONNECTIONS,
    RELIABLE_FAILURE,
    RELIABLE_MISMATCHES,
    RELIABLE_MTU,
    RELIABLE_OPERATION,
    RELIABLE_OPERATIONS,
    RELIABLE_REASONS,
    RELIABLE_SERVING,
)
from exporter.contracts.plan import Target
from exporter.probing.loop import LATEST_NS, Loop, Timer
from exporter.probing.packet import CHALLENGE, OPEN
from exporter.rdma.connecting import NO_CHALLENGE, NOT_YET, End, Message
from exporter.rdma.device import STARVED_NS
from exporter.rdma.ports import VerbsError
from exporter.rdma.prober import flow_label
from exporter.rdma.reliable import REASONS, Memory, ReliableDevice, ReliablePair, Way
from exporter.rdma.settings import Reliable
from exporter.rdma.verbs import PyverbsError, constants
from exporter.store import RowWriter, Store, StoreFullError, TableWriter

SMALL_BYTES = 64
_SHORTEST_SECONDS, _LONGEST_SECONDS = 1.0, 32.0
"""Pauses before another connection; where the period is longer, that."""
_EXCHANGE_SECONDS = 1.0
"""For the four packets before a connection."""
_REFUSED_NS = 2_000_000_000
"""A refusal holds for so long."""
_GRACE_SECONDS = 2.0
"""An operation that has not come to an end so long after its retries must be exhausted never will."""
_STEP = 64
"""Each round writes other bytes: so many further on in what is random. So the far end sees that it is used."""
_READ = RELIABLE_OPERATIONS.index("read")
_CONNECTED = RELIABLE.metrics.index(RELIABLE_CONNECTED)
_CONNECTIONS = RELIABLE.metrics.index(RELIABLE_CONNECTIONS)
_MTU = RELIABLE.metrics.index(RELIABLE_MTU)
_MISMATCHES = RELIABLE.metrics.index(RELIABLE_MISMATCHES)
_STARTED, _RETRANSMITTED, _DURATION = range(len(RELIABLE_OPERATION.metrics))

Labels = tuple[str, ...]


class Rows:
    """What is told of one connection."""

    def __init__(self, tables: Tables, labels: Labels) -> None:
        """Raise StoreFullError or ValueError."""
        self._made: list[tuple[TableWriter, RowWriter]] = []
        try:
            self.connection = self._add(tables.connections, labels)
            self.operations = [self._add(tables.operations, (*labels, each)) for each in RELIABLE_OPERATIONS]
            self._failures = {
                (number, reason): self._add(tables.failures, (*labels, name, reason))
                for number, name in enumerate(RELIABLE_OPERATIONS)
                for reason in RELIABLE_REASONS
            }
        except (StoreFullError, ValueError):
            self.remove()
            raise
        self.connection.set(_CONNECTED, 0)

    def _add(self, table: TableWriter, labels: Labels) -> RowWriter:
        row = table.add(labels)
        self._made.append((table, row))
        return row

    def remove(self) -> None:
        for table, row in self._made:
            table.remove(row)

    def book_failure(self, operation: int, reason: str) -> None:
        book(self._failures[operation, reason], 0)


class Tables:
    """Where the connections of all RNICs are told; one each of a store."""

    def __init__(self, store: Store) -> None:
        self.connections = store.writer(RELIABLE)
        self.operations = store.writer(RELIABLE_OPERATION)
        self.failures = store.writer(RELIABLE_FAILURE)
        self.serving = store.writer(RELIABLE_SERVING)


def book(row: RowWriter, column: int) -> None:
    row.begin()
    row.add(column)
    row.end()


@dataclass(eq=False, slots=True)
class _Connection:
    target: Target
    """Of those that need the connection, the one whose flow it follows."""
    rows: Rows
    pair: ReliablePair | None = None
    other: End = NOT_YET
    asked: int = 0
    """Number under which the other end is being asked; 0 = it is not."""
    operation: int = 0
    identifier: int = 0
    """Of the operation under way; 0 = none."""
    offset: int = 0
    """Of the bytes that are written, in what is random."""
    posted_ns: int = 0
    due_ns: int = 0
    failures: int = 0
    """In a row."""
    exhausted: int | None = None
    """The operation whose retries were exhausted, until it is known why."""
    timer: Timer | None = None
    turn: int = 0
    """Grows with each timer: one that was taken back in its own slot runs still."""


class ReliableProber:
    """The connections of one RNIC, to the destinations of its RDMA paths.

    They keep their rows while the device is closed. ``send`` is given a message and an address.
    """

    def __init__(
        self,
        loop: Loop,
        settings: Reliable,
        labels: Callable[[Target], Labels],
        tables: Tables,
        send: Callable[[Message, str], None],
        tell: Callable[[str], None],
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._labels = labels
        self._tables = tables
        self._send = send
        self._tell = tell
        self._spread = spread
        self._device: ReliableDevice | None = None
        self._source: Memory | None = None
        self._connections: dict[Labels, _Connection] = {}
        self._asking: dict[int, _Connection] = {}
        self._under_way: dict[int, _Connection] = {}
        self._numbers: Iterator[int] = itertools.count(secrets.randbits(48) + 1)
        self._identifiers: Iterator[int] = itertools.count(1)
        self._refused: dict[str, int] = {}  # address -> when nobody listened there, monotonic ns

    def follow(self, targets: Iterable[Target]) -> None:
        """Have a connection for each destination and traffic class of these."""
        wanted: dict[Labels, Target] = {}
        for target in sorted(targets, key=lambda each: each.source_ports):
            wanted.setdefault(self._labels(target), target)
        if len(wanted) > MOST_CONNECTIONS:
            self._tell(f"of {len(wanted)} reliable connections of an RNIC {MOST_CONNECTIONS} are made, and no more")
            wanted = dict(sorted(wanted.items())[:MOST_CONNECTIONS])
        for labels in self._connections.keys() - wanted.keys():
            connection = self._connections.pop(labels)
            self._let_go(connection)
            connection.rows.remove()
        for labels, target in wanted.items():
            known = self._connections.get(labels)
            if known is not None:
                known.target = target
                continue
            try:
                made = self._connections[labels] = _Connection(target, Rows(self._tables, labels))
            except (StoreFullError, ValueError) as error:
                self._tell(f"no reliable connection to {target.destination_address}: {error}")
                continue
            self._ask_after(made, self._first_pause())

    def open(self, device: ReliableDevice) -> None:
        """Use ``device`` from now on, until ``close``; raise VerbsError."""
        self._source = device.memory(2 * self._settings.bytes)
        self._source.bytes[:] = secrets.token_bytes(2 * self._settings.bytes)
        self._device = device
        for connection in self._connections.values():
            connection.failures = 0
            self._ask_after(connection, self._first_pause())

    def close(self) -> None:
        """The device is about to be closed, and all queue pairs with it."""
        for connection in self._connections.values():
            self._judge(connection, "other")  # it may have been the device's own doing
            self._let_go(connection)
        self._device = self._source = None

    def _first_pause(self) -> float:
        """Connections share a period evenly."""
        return self._spread() * self._settings.period_seconds

    # ---- connecting

    def _after(self, connection: _Connection, due_ns: int, action: Callable[[_Connection], None]) -> None:
        """The one thing that happens next to a connection, unless something else does."""
        self._cancel(connection)
        turn = connection.turn

        def run() -> None:
            if connection.turn == turn:
                connection.timer = None
                action(connection)

        connection.timer = self._loop.at(due_ns, run)

    def _cancel(self, connection: _Connection) -> None:
        connection.turn += 1
        if connection.timer is not None:
            self._loop.cancel(connection.timer)
            connection.timer = None

    def _in(self, seconds: float) -> int:
        return self._loop.clock() + int(seconds * 1e9)

    def _ask_after(self, connection: _Connection, seconds: float) -> None:
        if self._device is not None:
            self._after(connection, self._in(seconds), self._ask)

    def _ask(self, connection: _Connection) -> None:
        connection.asked = next(self._numbers)
        self._asking[connection.asked] = connection
        self._tell_other(connection, NO_CHALLENGE, NOT_YET)
        self._after(connection, self._in(_EXCHANGE_SECONDS), self._on_silence)

    def _on_silence(self, connection: _Connection) -> None:
        if self._loop.late_ns > LATEST_NS:  # the answer may lie in the socket
            self._let_go(connection)
            self._ask_after(connection, 0)
            return
        refused_ns = self._refused.get(connection.target.destination_address)
        is_refused = refused_ns is not None and self._loop.clock() - refused_ns < _REFUSED_NS
        self._judge(connection, "no_responder" if is_refused else "retry_exceeded")
        self._reconnect(connection)

    def _tell_other(self, connection: _Connection, challenge: bytes, end: End) -> None:
        target = connection.target
        message = Message(OPEN, target.traffic_class, connection.asked, challenge, end)
        self._send(message, target.destination_address)

    def on_answer(self, message: Message, address: str) -> None:
        """A challenge, or a connection that is accepted."""
        connection = self._asking.get(message.number)
        if connection is None or self._device is None or connection.target.destination_address != address:
            return
        try:
            if message.kind == CHALLENGE and connection.exhausted is not None:
                served, failed = message.end, connection.other
                self._judge(connection, "retry_exceeded" if served[:2] == failed[:2] else "no_responder")
                self._reconnect(connection)
            elif message.kind == CHALLENGE and connection.pair is None:
                connection.pair = self._device.pair(self._settings.bytes, serves=False)
                self._tell_other(connection, message.challenge, connection.pair.end(self._device.mtu()))
            elif message.kind != CHALLENGE and connection.pair is not None and message.end.is_sound():
                self._connect(connection, connection.pair, message.end, self._device.mtu())
        except (PyverbsError, VerbsError) as error:
            self._tell(f"no reliable connection to {address}: {error}")
            self._reconnect(connection)

    def _connect(self, connection: _Connection, pair: ReliablePair, other: End, mtu: int) -> None:
        if not SMALL_BYTES <= other.length <= self._settings.bytes or other.mtu > mtu:
            return  # nothing that our responder says
        target = connection.target
        way = Way(target.destination_address, target.traffic_class, flow_label(target.source_ports[0]))
        pair.connect(other, way, other.mtu, self._settings)
        del self._asking[connection.asked]
        connection.asked, connection.other = 0, other
        row = connection.rows.connection
        row.begin()
        row.set(_CONNECTED, 1)
        row.add(_CONNECTIONS)
        row.set(_MTU, other.mtu)
        row.end()
        connection.due_ns = self._loop.clock()
        self._begin(connection)

    def has_asked(self, number: int, address: str) -> bool:
        connection = self._asking.get(number)
        return connection is not None and connection.target.destination_address == address

    def on_refusal(self, address: str) -> None:
        """Nobody listens there; a host says so once a second and no more often, whoever asked (icmp(7))."""
        known = {each.target.destination_address for each in self._connections.values()}
        if address in known:
            self._refused = {each: at for each, at in self._refused.items() if each in known}
            self._refused[address] = self._loop.clock()

    @staticmethod
    def _judge(connection: _Connection, reason: str) -> None:
        """Say why the retries of the last connection were exhausted, if they were."""
        if connection.exhausted is not None:
            connection.rows.book_failure(connection.exhausted, reason)
            connection.exhausted = None

    def _let_go(self, connection: _Connection) -> None:
        """Of the queue pair, and of all that is under way."""
        self._cancel(connection)
        self._asking.pop(connection.asked, None)
        self._under_way.pop(connection.identifier, None)
        connection.asked = connection.identifier = 0
        connection.rows.connection.set(_CONNECTED, 0)
        if connection.pair is not None and self._device is not None:
            self._device.retire(connection.pair)
        connection.pair = None

    def _reconnect(self, connection: _Connection) -> None:
        self._let_go(connection)
        first = max(_SHORTEST_SECONDS, self._settings.period_seconds)
        pause = min(first * 2**connection.failures, max(first, _LONGEST_SECONDS))
        connection.failures = min(connection.failures + 1, 16)
        self._ask_after(connection, pause * (1 + self._spread()) / 2)

    # ---- operations

    def _begin(self, connection: _Connection) -> None:
        """A round."""
        connection.offset = (connection.offset + _STEP) % self._settings.bytes
        self._post(connection, 0)

    def _post(self, connection: _Connection, operation: int) -> None:
        pair, source = connection.pair, self._source
        if pair is None or source is None:
            return
        identifier = connection.identifier = next(self._identifiers)
        self._under_way[identifier] = connection
        connection.operation, connection.posted_ns = operation, self._loop.clock()
        try:
            if operation == _READ:
                pair.read(identifier, connection.other)
            else:
                length = SMALL_BYTES if operation == 0 else connection.other.length
                pair.write(identifier, source, connection.offset, length, connection.other)
        except PyverbsError as error:  # whether the device is broken its completion queue says
            self._tell(f"a reliable connection to {connection.target.destination_address} ends: {error}")
            self._on_failure(connection, "other")
            return
        book(connection.rows.operations[operation], _STARTED)
        self._after(connection, self._in(self._settings.longest_seconds + _GRACE_SECONDS), self._give_up)

    def _give_up(self, connection: _Connection) -> None:
        self._on_failure(connection, "other")

    def on_completion(self, identifier: int, status: int) -> None:
        """An operation has come to an end, with this ibv_wc_status."""
        connection = self._under_way.pop(identifier, None)
        if connection is None:
            return  # of a queue pair that is closed meanwhile
        connection.identifier = 0
        if status != constants.IBV_WC_SUCCESS:
            self._on_failure(connection, REASONS.get(status, "other"))
            return
        self._book_success(connection)
        if connection.operation != _READ:
            self._post(connection, connection.operation + 1)
            return
        self._compare(connection)
        connection.failures = 0
        period_ns = int(self._settings.period_seconds * 1e9)
        now = self._loop.clock()
        connection.due_ns += (max(now - connection.due_ns, 0) // period_ns + 1) * period_ns
        self._after(connection, connection.due_ns, self._begin)

    def _on_failure(self, connection: _Connection, reason: str) -> None:
        if reason != "retry_exceeded":
            connection.rows.book_failure(connection.operation, reason)
            self._reconnect(connection)
            return
        self._let_go(connection)
        connection.exhausted = connection.operation
        self._ask_after(connection, 0)  # the pause comes after the answer

    def _book_success(self, connection: _Connection) -> None:
        found_ns, posted_ns = self._loop.clock(), connection.posted_ns
        earliest_ns = max(self._loop.awake_since_ns, posted_ns)  # a busy process finds it later than it came
        row = connection.rows.operations[connection.operation]
        row.begin()
        if earliest_ns - posted_ns > self._settings.ack_timeout_ns:
            row.add(_RETRANSMITTED)
        if found_ns - earliest_ns <= STARVED_NS:
            row.set(_DURATION, (found_ns - posted_ns) / 1e9)
        row.end()

    def _compare(self, connection: _Connection) -> None:
        pair, source = connection.pair, self._source
        if pair is None or source is None:
            return
        start, length = connection.offset, connection.other.length
        if pair.memory.bytes[:length] != source.bytes[start : start + length]:
            book(connection.rows.connection, _MISMATCHES)
