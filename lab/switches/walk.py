"""What a switch answers with: its OIDs in order, each with a typed value that is encoded once."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeAlias

from lab.switches.ber import (
    COUNTERS,
    Oid,
    Tag,
    Value,
    decode_oid,
    encode_integer,
    encode_oid,
    encode_value,
    encode_varbind,
)

UPTIME: Oid = (1, 3, 6, 1, 2, 1, 1, 3, 0)
"""sysUpTime.0"""

Entry: TypeAlias = tuple[Oid, Tag, Value]

_BLOCK = 6
"""Moving counters are encoded anew 2**6 neighbours at a time, when one of them is read."""

_REMEMBERED = 4096
_LARGEST = {tag: turn - 1 for tag, turn in COUNTERS.items()}
_HEADS = {tag: [bytes((tag, size)) for size in range(10)] for tag in COUNTERS}
"""Tag and length of a counter of so many bytes."""

_BYTES = {Tag.OCTET_STRING, Tag.IP_ADDRESS, Tag.OPAQUE}
_NUMBERS = {Tag.INTEGER, Tag.GAUGE32, Tag.TIME_TICKS, *COUNTERS}


class _Shape:
    """The OIDs of a walk and their types. It never changes, so that the copies of a walk share it."""

    def __init__(self, oids: list[Oid], tags: list[Tag], names: list[bytes]) -> None:
        self.oids = oids
        self.tags = tags
        self.names = names
        self.index = {name: number for number, name in enumerate(names)}
        self.uptime = self.index.get(encode_oid(UPTIME), -1)
        self._after: dict[bytes, int] = {}

    def after(self, name: bytes) -> int:
        """Position of the first OID after this one; raise ValueError if it cannot be decoded."""
        position = self.index.get(name)
        if position is not None:
            return position + 1
        position = self._after.get(name)
        if position is None:
            position = bisect_right(self.oids, decode_oid(name))
            if len(self._after) >= _REMEMBERED:  # names come from whoever asks
                self._after.clear()
            self._after[name] = position
        return position


class Walk:
    """The OIDs and values of one switch.

    Any thread may change it while an agent answers from it. Agents do not share one: ``copy`` is cheap.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.lock = threading.RLock()
        self.skipped = 0
        """Lines of the file that could not be read, or that repeat an OID."""
        self.refresh_seconds = 1.0
        """Moving counters change this often, as those that a real agent keeps in a cache do."""
        self._new: dict[Oid, tuple[Tag, Value]] = {}
        self._shape = _Shape([], [], [])
        self._values: list[Value] = []
        self._varbinds: list[bytes] = []
        self._moving: dict[int, list[tuple[int, float]]] = {}
        self._moments: dict[int, float] = {}
        self._elapsed = 0.0
        self._uptime: int | None = None
        for oid, tag, value in entries:
            self.add(oid, tag, value)

    @classmethod
    def from_snmprec(cls, path: Path) -> Walk:
        """Read a recording of snmpsim's: lines of ``oid|tag|value``, where a tag ``4x`` says that the value is in hex.

        A line that cannot be read is left out and counted in ``skipped``, as is a second line of the same OID. So
        are values that one of snmpsim's modules would make (``65:numeric``) and escaped ones (``4e``): there is no
        value in the file to serve.
        """
        walk = cls()
        # Lines end at line feeds alone: a recorded string may hold whatever else Python takes for the end of a line.
        for line in path.read_bytes().split(b"\n"):
            if not line.strip() or line.startswith(b"#"):
                continue
            try:
                oid, tag, value = _parse(line.removesuffix(b"\r").decode("latin-1"))
                if oid in walk._new:
                    raise ValueError("a second line of this OID")
                walk.add(oid, tag, value)
            except ValueError:
                walk.skipped += 1
        return walk

    def copy(self) -> Walk:
        """A walk of the same values that changes on its own; the OIDs are held once."""
        with self.lock:
            self._settle()
            copy = Walk()
            copy.skipped, copy.refresh_seconds = self.skipped, self.refresh_seconds
            copy._shape, copy._moving = self._shape, self._moving
            copy._values, copy._varbinds = self._values.copy(), self._varbinds.copy()
            copy._elapsed, copy._moments = self._elapsed, self._moments.copy()
            return copy

    def __len__(self) -> int:
        with self.lock:
            return len(self._settle().oids)

    def __iter__(self) -> Iterator[Entry]:
        with self.lock:
            shape = self._settle()
            values = [self._value(position) for position in range(len(shape.oids))]
        return zip(shape.oids, shape.tags, values, strict=True)

    def __contains__(self, oid: Oid) -> bool:
        with self.lock:
            return encode_oid(oid) in self._settle().index

    def get(self, oid: Oid) -> Value:
        """The value now; raise KeyError if the walk does not have this OID."""
        with self.lock:
            return self._value(self._position(oid))

    def set(self, oid: Oid, value: Value) -> None:
        """Change a value; its type stays. A moving counter moves on from it."""
        with self.lock:
            position = self._position(oid)
            shape = self._shape
            self._varbinds[position] = encode_varbind(shape.names[position], encode_value(shape.tags[position], value))
            rate = self._rate(position)
            self._values[position] = value - int(rate * self._elapsed) if rate and isinstance(value, int) else value

    def add(self, oid: Oid, tag: Tag, value: Value) -> None:
        """Add an OID, or give one that is there another type and value; raise ValueError if these do not fit."""
        encode_oid(oid)
        encode_value(tag, value)
        with self.lock:
            self._new[oid] = (tag, value)

    def remove(self, prefix: Oid) -> int:
        """Remove an OID or all below it; return how many."""
        with self.lock:
            first, last = self.below(prefix)
            if first < last:
                rates = self._rates()
                shape = self._shape
                keep = [*range(first), *range(last, len(shape.oids))]
                self._rebuild([(shape.oids[n], shape.tags[n], shape.names[n]) for n in keep])
                self._values = [self._values[n] for n in keep]
                self._varbinds = [self._varbinds[n] for n in keep]
                self._move(rates)
            return last - first

    def move(self, rates: Mapping[Oid, float]) -> None:
        """Let counters advance by so much a second; raise KeyError for an OID that is not there."""
        with self.lock:
            for oid in rates:
                if self._settle().tags[self._position(oid)] not in COUNTERS:
                    raise ValueError(f"{oid} is no counter")
            values = {oid: self.get(oid) for oid in rates}
            self._move({**self._rates(), **rates})
            for oid, value in values.items():
                self.set(oid, value)

    def clear_counters(self) -> None:
        """Set all counters to 0, and begin anew to count the time that moving ones have moved."""
        with self.lock:
            shape = self._settle()
            self._elapsed = 0.0
            self._moments.clear()
            for position, tag in enumerate(shape.tags):
                if tag in COUNTERS:
                    self._values[position] = 0
                    self._varbinds[position] = encode_varbind(shape.names[position], encode_integer(tag, 0))

    # What an agent reads by. Positions hold until the walk gets or loses OIDs, so the agent holds the lock.

    def advance_to(self, elapsed: float, uptime: int) -> None:
        """Say how many seconds moving counters have moved, and what sysUpTime is."""
        self._elapsed = elapsed // self.refresh_seconds * self.refresh_seconds
        self._uptime = uptime
        if self._new:
            self._settle()

    def after(self, name: bytes) -> int:
        """Position of the first OID after an encoded one; raise ValueError if it cannot be decoded."""
        return self._shape.after(name)

    def at(self, name: bytes) -> int | None:
        """Position of an encoded OID; raise ValueError if it cannot be decoded."""
        position = self._shape.index.get(name)
        if position is None:  # a device may find it even if it was not encoded in the shortest way
            position = self._shape.index.get(encode_oid(decode_oid(name)))
        return position

    def name(self, position: int) -> bytes:
        """The encoded OID at a position."""
        return self._shape.names[position]

    def below(self, prefix: Oid) -> tuple[int, int]:
        """Positions of an OID and all below it: the first, and the one after the last."""
        oids = self._settle().oids
        return bisect_left(oids, prefix), bisect_left(oids, (*prefix[:-1], prefix[-1] + 1))

    def varbinds(self, first: int, last: int) -> list[bytes]:
        """The encoded varbinds from one position up to another."""
        moving = self._moving
        if moving:
            elapsed = self._elapsed
            for block in range(first >> _BLOCK, (last - 1 >> _BLOCK) + 1):
                if block in moving and self._moments.get(block) != elapsed:
                    self._encode(block)
        uptime = self._shape.uptime
        if first <= uptime < last and self._uptime is not None:
            self._varbinds[uptime] = encode_varbind(
                self._shape.names[uptime], encode_integer(Tag.TIME_TICKS, self._uptime)
            )
        return self._varbinds[first:last]

    def _encode(self, block: int) -> None:
        """Encode the moving counters of a block as they are now."""
        names, tags, elapsed = self._shape.names, self._shape.tags, self._elapsed
        for position, rate in self._moving[block]:
            base = self._values[position]
            if not isinstance(base, int):  # for the type checker: only counters move
                continue
            tag = tags[position]
            number = base + int(rate * elapsed) & _LARGEST[tag]
            size = (number.bit_length() >> 3) + 1
            name = names[position]
            self._varbinds[position] = encode_varbind(name, _HEADS[tag][size] + number.to_bytes(size, "big"))
        self._moments[block] = elapsed

    def _value(self, position: int) -> Value:
        value = self._values[position]
        if position == self._shape.uptime and self._uptime is not None:
            return self._uptime
        rate = self._rate(position)
        if rate and isinstance(value, int):
            return (value + int(rate * self._elapsed)) % COUNTERS[self._shape.tags[position]]
        return value

    def _rate(self, position: int) -> float:
        return next((rate for moved, rate in self._moving.get(position >> _BLOCK, ()) if moved == position), 0.0)

    def _rates(self) -> dict[Oid, float]:
        oids = self._shape.oids
        return {oids[position]: rate for block in self._moving.values() for position, rate in block}

    def _move(self, rates: Mapping[Oid, float]) -> None:
        """Set which counters move; those that are not there any more are forgotten."""
        moving: dict[int, list[tuple[int, float]]] = {}
        for oid, rate in rates.items():
            position = self._shape.index.get(encode_oid(oid))
            if position is not None and self._shape.tags[position] in COUNTERS:
                moving.setdefault(position >> _BLOCK, []).append((position, rate))
        self._moving = moving  # copies may hold the old one
        self._moments = {}

    def _position(self, oid: Oid) -> int:
        position = self._settle().index.get(encode_oid(oid))
        if position is None:
            raise KeyError(oid)
        return position

    def _rebuild(self, entries: list[tuple[Oid, Tag, bytes]]) -> None:
        self._shape = _Shape([e[0] for e in entries], [e[1] for e in entries], [e[2] for e in entries])

    def _settle(self) -> _Shape:
        """Put added OIDs in their places, all at once: sorting is done once for a whole file."""
        if self._new:
            rates = {oid: rate for oid, rate in self._rates().items() if oid not in self._new}
            old = self._shape
            entries = [
                (oid, tag, name, value, varbind)
                for oid, tag, name, value, varbind in zip(
                    old.oids, old.tags, old.names, self._values, self._varbinds, strict=True
                )
                if oid not in self._new
            ]
            for oid, (tag, value) in self._new.items():
                name = encode_oid(oid)
                entries.append((oid, tag, name, value, encode_varbind(name, encode_value(tag, value))))
            entries.sort(key=lambda entry: entry[0])
            self._new = {}
            self._rebuild([entry[:3] for entry in entries])
            self._values = [entry[3] for entry in entries]
            self._varbinds = [entry[4] for entry in entries]
            self._move(rates)
        return self._shape


def _parse(line: str) -> Entry:
    """One line of a recording; raise ValueError if it cannot be read."""
    oid, kind, text = line.split("|", 2)
    hexadecimal = kind.endswith("x")
    tag = Tag(int(kind.removesuffix("x")))
    name = tuple(map(int, oid.split(".")))
    value: Value
    if hexadecimal:
        if tag not in _BYTES:
            raise ValueError(f"{tag.name} in hex")
        value = bytes.fromhex(text)
    elif tag == Tag.IP_ADDRESS:
        value = IPv4Address(text).packed
    elif tag in _BYTES:
        value = text.encode("latin-1")
    elif tag in _NUMBERS:
        value = int(text)
    elif tag == Tag.OID:
        value = tuple(map(int, text.removeprefix(".").split(".")))
    else:
        value = None
    return name, tag, value
