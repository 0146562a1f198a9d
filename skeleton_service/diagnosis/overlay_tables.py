"""The tables of an overlay state, indexed: what a host's table says of a destination, and for how long it has.

A fact holds over a span of time, and facts are compared only where their spans meet: a table read in the middle of
churn is no inconsistency. Two successive snapshots that agree span the time between them; where they differ, there
is no fact. A single snapshot spans its own moment, or, if the writer tells when an entry last changed, the time since
the change has had a chance to reach every other table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, KeysView, Sequence
from dataclasses import dataclass
from operator import itemgetter

from exporter.contracts.overlay import Entry, OverlayState, TableName

SETTLING_SECONDS = 5.0
"""How long a change may take to reach every table."""
APART_SECONDS = 2.0
"""Tables read no farther apart are compared as if read at once."""

Destination = tuple[int, str]
"""VNI and overlay address: tenants may use the same addresses."""

_Reading = dict[Destination, list[Entry]]


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds since the epoch. One that ends before it starts meets none: what it is of has not settled."""

    start: float
    end: float


def meet(*spans: Span) -> bool:
    """Whether there was a time that all spans have, or nearly so."""
    if any(span.start > span.end for span in spans):
        return False
    return max(span.start for span in spans) <= min(span.end for span in spans) + APART_SECONDS


@dataclass(frozen=True, slots=True)
class Fact:
    """What a table says of a destination. Without entries: the table was read, and has none."""

    entries: tuple[Entry, ...]
    span: Span


class Table:
    """One table of one host: its readings, in the order of their times."""

    def __init__(self, readings: dict[float, _Reading], incomplete: Collection[float] = ()) -> None:
        """``incomplete``: times of the readings of which what is absent is unknown."""
        in_order = sorted(readings.items(), key=itemgetter(0))
        self._complete = in_order[-1][0] not in incomplete
        self.times = [time for time, _ in in_order]
        self._readings = [reading for _, reading in in_order]

    @property
    def destinations(self) -> KeysView[Destination]:
        """Those that the last reading has entries for."""
        return self._readings[-1].keys()

    def deliveries(self) -> Iterator[tuple[Destination, str]]:
        """Each container that the last reading delivers to, with the destination."""
        for destination, entries in self._readings[-1].items():
            for entry in entries:
                if (container := entry.container) is not None:
                    yield destination, container

    def fact(self, destination: Destination) -> Fact | None:
        """What the table is known to say; None where its last two readings differ, or it says nothing of absence."""
        entries: Sequence[Entry] = self._readings[-1].get(destination, ())
        if not entries and not self._complete:
            return None
        if len(entries) > 1:
            entries = sorted(entries, key=_content)
        last = first = len(self.times) - 1
        while first and self._content(first - 1, destination) == [_content(entry) for entry in entries]:
            first -= 1
        if last and first == last:
            return None
        read, since = self.times[last], self.times[first]
        changed = max((entry.time for entry in entries), default=read)
        start = min(changed, since) + SETTLING_SECONDS
        if changed == read:  # nobody tells when: it may be old even at its first reading
            start = min(start, read)
        return Fact(tuple(entries), Span(start, read))

    def history(self, destination: Destination) -> list[list[Entry]]:
        """The entries for it in each reading."""
        return [reading.get(destination, []) for reading in self._readings]

    def _content(self, reading: int, destination: Destination) -> list[tuple[str, str, bool]]:
        return sorted(_content(entry) for entry in self._readings[reading].get(destination, ()))


def _content(entry: Entry) -> tuple[str, str, bool]:
    return entry.next or "", entry.in_port or "", bool(entry.offloaded)


def index_tables(state: OverlayState) -> dict[tuple[str, TableName], Table]:
    """{(host, table): it}. Entries of a time that no listed snapshot has are of the first one after it; where none
    is, of one that is not listed. O(entries)."""
    readings: dict[tuple[str, TableName], dict[float, _Reading]] = defaultdict(dict)
    for snapshot in state.snapshots:
        readings[snapshot.host, snapshot.table][snapshot.time] = {}
    incomplete: dict[tuple[str, TableName], set[float]] = defaultdict(set)
    for snapshot in state.snapshots:
        if not snapshot.complete:
            incomplete[snapshot.host, snapshot.table].add(snapshot.time)
    listed = {table: sorted(own) for table, own in readings.items()}
    for entry in state.entries:
        table = (entry.host, entry.table)
        own, time = readings[table], entry.time
        if time not in own:
            times = listed.get(table, [])
            place = bisect_left(times, time)
            time = times[place] if place < len(times) else time
        own.setdefault(time, {}).setdefault((entry.vni, entry.dst), []).append(entry)
    return {table: Table(own, incomplete.get(table, ())) for table, own in readings.items()}
