"""What a notification says, by the table in notifications.yaml: its kind, and the port, priority and peer it names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import msgspec

from exporter.contracts.addresses import canonical
from exporter.contracts.strict import convert_strictly
from exporter.contracts.switch_counters import NOTIFICATIONS
from exporter.traps.ber import Oid, Value
from exporter.traps.message import Notification

_SOURCE = "exporter/traps/notifications.yaml"
_OTHER = "other"
_LONGEST_NAME = 64
_MOST_PRIORITY = 7


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every part of the table: unknown keys are errors."""


class Place(_Section, frozen=True, kw_only=True):
    """Where a notification names something; notifications.yaml says what each field is."""

    object: str
    at: Literal["value", "index"]
    kind: Literal["ifindex", "name", "number", "address", "typed_address"] = msgspec.field(name="is")
    skip: int = 0
    minus: int = 0

    def find(self, variables: tuple[tuple[Oid, Value], ...]) -> Iterator[int | str]:
        """What the variables hold at this place, if anything: a number, a name or an address."""
        prefix = parse_oid(self.object)
        for name, value in variables:
            if name[: len(prefix)] == prefix:
                rest: Value = name[len(prefix) + self.skip :]
                found = self._read(rest if self.at == "index" else value)
                if found is not None:
                    yield found

    def _read(self, value: Value) -> int | str | None:
        if self.kind in ("ifindex", "number"):
            number = value[0] if isinstance(value, tuple) and value else value
            return number - self.minus if isinstance(number, int) else None
        if self.kind == "name":
            return _name(value) if isinstance(value, bytes) else None
        if self.kind == "typed_address":
            if not isinstance(value, tuple) or len(value) < 2 or len(value) != 2 + value[1]:
                return None
            value = value[2:]
        return _address(value)


class Entry(_Section, frozen=True, kw_only=True):
    """One kind of notification."""

    oid: str
    name: str
    source: str
    notification: str
    tested: bool
    port: tuple[Place, ...] = ()
    priority: tuple[Place, ...] = ()
    peer: tuple[Place, ...] = ()


class _Table(_Section, frozen=True, kw_only=True):
    places: dict[str, tuple[Place, ...]]
    notifications: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """Labels of a notification; an empty text is what it does not tell."""

    notification: str
    port: str = ""
    priority: str = ""
    peer: str = ""


@cache
def read_entries() -> Mapping[Oid, Entry]:
    """The table that comes with the exporter, by snmpTrapOID."""
    import yaml  # noqa: PLC0415 - only the process that receives needs it

    text = resources.files("exporter.traps").joinpath("notifications.yaml").read_text()
    table = convert_strictly(yaml.safe_load(text), _Table, _SOURCE)
    entries = {parse_oid(entry.oid): entry for entry in table.notifications}
    if len(entries) != len(table.notifications):
        raise ValueError(f"{_SOURCE}: an oid appears twice")
    if unknown := {entry.notification for entry in entries.values()} - set(NOTIFICATIONS):
        raise ValueError(f"{_SOURCE}: {min(unknown)!r} is no notification that the catalogue knows")
    return entries


def understand(
    notification: Notification,
    entries: Mapping[Oid, Entry],
    ports: Mapping[int, str],
    aliases: Mapping[str, str],
) -> Said:
    """What a notification says of a switch whose ports have these names by ifIndex and by other names.

    A port whose name nobody knows is ``ifindex-17``, so that it is not taken for another.
    """
    entry = entries.get(notification.kind)
    if entry is None:
        return Said(_OTHER)
    said = notification.variables
    return Said(
        entry.notification,
        _port(entry, notification, ports, aliases),
        next((str(each) for place in entry.priority for each in place.find(said) if _is_priority(each)), ""),
        next((str(each) for place in entry.peer for each in place.find(said)), ""),
    )


def _port(entry: Entry, notification: Notification, ports: Mapping[int, str], aliases: Mapping[str, str]) -> str:
    index: int | None = None
    for place in entry.port:
        for found in place.find(notification.variables):
            if isinstance(found, str):
                return aliases.get(found, found)
            if found in ports:
                return ports[found]
            if found > 0 and index is None:
                index = found
    return f"ifindex-{index}" if index is not None else ""


def _is_priority(found: int | str) -> bool:
    return isinstance(found, int) and 0 <= found <= _MOST_PRIORITY


def _name(text: bytes) -> str | None:
    """A name that may be a label, or None: what comes over the network is not copied into one as it is."""
    name = text.rstrip(b"\0").decode("utf-8", "replace").strip()
    return name if name and len(name) <= _LONGEST_NAME and name.isprintable() else None


def _address(value: Value) -> str | None:
    if isinstance(value, tuple):
        if any(number > 255 for number in value):
            return None
        value = bytes(value)
    if not isinstance(value, bytes) or len(value) not in (4, 16):
        return None
    return canonical(str(ipaddress.ip_address(value)))


def parse_oid(text: str) -> Oid:
    return tuple(int(number) for number in text.split("."))
