"""What a switch told of itself by gNMI: paths with values, each as old as it is. Pure: no gRPC, no clock.

A *change* is a path and a value, which may be one number or the JSON of a whole subtree. A dialect
(exporter.gnmi.sonic, exporter.gnmi.openconfig) takes it apart into *leaves*, of which a ``Tree`` keeps the newest, and
turns all leaves of a switch into *rows*: the metrics of the contract.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from exporter.contracts.metric import Metric, Table

MOST_LEAVES = 200_000
"""Kept of one switch: 512 ports of 20 queues, and room."""
MOST_JSON_DEPTH = 16
_NAME_BYTES, _TEXT_LETTERS = 64, 256
_MOST = 2.0**64

Keys = tuple[tuple[str, str], ...]
Scalar = str | float
Rows = dict[Table, dict[tuple[str, ...], dict[Metric, float]]]
"""{table: {values of its labels: {metric: value}}}"""


class Element(NamedTuple):
    name: str
    keys: Keys = ()


class Path(NamedTuple):
    """``target`` is the database of a SONiC switch, else mostly empty."""

    target: str
    elements: tuple[Element, ...]


class Change(NamedTuple):
    path: Path
    value: object
    """Parsed JSON, or a scalar."""


class Notification(NamedTuple):
    changes: tuple[Change, ...] = ()
    deleted: tuple[Path, ...] = ()


class Place(NamedTuple):
    """Where a leaf is: names from the root, and the keys of the lists on the way, each once."""

    names: tuple[str, ...]
    keys: Keys = ()

    def holds(self, leaf: Place) -> bool:
        """Whether a leaf is here or below: same names, and the keys that are named here."""
        return leaf.names[: len(self.names)] == self.names and all(key in leaf.keys for key in self.keys)


class Names(NamedTuple):
    """What things are called: the switch, and its ports, {other name: name in the topology}."""

    switch: str
    ports: Mapping[str, str]


class Wanted(NamedTuple):
    """A subscription: each is a stream of its own, so that a switch may refuse one and serve the others."""

    name: str
    target: str
    path: tuple[str, ...]
    interval_seconds: float
    after: Place | None = None
    """Not before the switch has told something that this holds: until then it is of no use, or worse."""


@dataclass(frozen=True)
class Dialect:
    """How switches of a kind lay out what they tell."""

    profile: str
    signals: frozenset[str]
    """Those that a switch of this kind may tell."""
    subscriptions: Callable[[float], tuple[Wanted, ...]]
    """Of the interval in seconds."""
    leaves: Callable[[Change], Iterable[tuple[Place, Scalar]]]
    """The leaves of a change that are of use; names that are no labels are left out."""
    place: Callable[[Path], Place | None]
    """What a deleted path holds; None where it holds nothing of use."""
    rows: Callable[[Mapping[Place, Scalar], Names], Rows]
    disabled: Callable[[Mapping[Place, Scalar], Collection[str]], frozenset[str]]
    """Signals that the switch says to be switched off, by its leaves and the subscriptions that it answered."""


class Tree:
    """The newest leaves of one switch, with the time at which each is too old."""

    def __init__(self, most: int = MOST_LEAVES) -> None:
        self._most = most
        self._leaves: dict[Place, tuple[Scalar, float]] = {}
        self.refused = 0
        """Leaves left out since there were ``most``."""

    def __len__(self) -> int:
        return len(self._leaves)

    def tells(self, place: Place) -> bool:
        return any(place.holds(leaf) for leaf in self._leaves)

    def apply(self, dialect: Dialect, notification: Notification, until: float) -> int:
        """Take over a notification whose values hold ``until``; return the number of its leaves.

        Deletions go first, as gNMI has it (specification 3.5.2.3).
        """
        for path in notification.deleted:
            place = dialect.place(path)
            if place is not None:
                self._leaves = {leaf: value for leaf, value in self._leaves.items() if not place.holds(leaf)}
        told = 0
        for change in notification.changes:
            for place, value in dialect.leaves(change):
                if place not in self._leaves and len(self._leaves) >= self._most:
                    self.refused += 1
                    continue
                self._leaves[place] = value, until
                told += 1
        return told

    def values(self, now: float) -> dict[Place, Scalar]:
        """The leaves that still hold; the others are forgotten."""
        self._leaves = {place: leaf for place, leaf in self._leaves.items() if leaf[1] > now}
        return {place: value for place, (value, _) in self._leaves.items()}


def put(rows: Rows, table: Table, labels: tuple[str, ...], metric: Metric, value: float | None) -> None:
    """Set a value; None is absent, and so is a row without any value."""
    if value is not None:
        rows.setdefault(table, {}).setdefault(labels, {})[metric] = value


def is_name(text: object) -> bool:
    """Whether a stranger's text may be a label: 1 to 64 printable ASCII characters."""
    return isinstance(text, str) and 0 < len(text) <= _NAME_BYTES and text.isascii() and text.isprintable()


def number(value: object) -> float | None:
    """A count or an amount: finite, not negative, at most 2^64; digits in a string are one too. Else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        whole, _, fraction = value.partition(".")
        if not (value.isascii() and whole.isdigit() and (not fraction or fraction.isdigit()) and len(value) <= 40):
            return None
    elif not isinstance(value, int | float):
        return None
    try:
        amount = float(value)
    except OverflowError:
        return None
    return amount if math.isfinite(amount) and 0 <= amount <= _MOST else None


def scalar(value: object) -> Scalar | None:
    """A leaf's value as it is kept, a truth as ``true`` or ``false``; None where it can be none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value if len(value) <= _TEXT_LETTERS else None
    return number(value)


def read_json(data: bytes) -> object:
    """Parse JSON; raise ValueError when it is none, or nested too deeply to be a switch's."""
    try:
        return msgspec.json.decode(data)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error


def flatten(value: object, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Objects within objects -> (names on the way, value); lists of scalars are values. Raise ValueError when deep."""
    if not isinstance(value, dict):
        yield names, value
        return
    if len(names) >= MOST_JSON_DEPTH:
        raise ValueError("JSON is nested too deeply")
    for name, below in value.items():
        yield from flatten(below, (*names, name))
