"""What a device's interfaces are called, and which of them are ports (IF-MIB, RFC 2863; BRIDGE-MIB, RFC 4188)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from exporter.switches.decoding import Names, clean
from exporter.switches.profile import Profile
from exporter.switches.snmp import NoAnswerError, Oid, Session, SnmpError, Value

IF_NAME: Oid = "1.3.6.1.2.1.31.1.1.1.1"
IF_DESCRIPTION: Oid = "1.3.6.1.2.1.2.2.1.2"
LAST_CHANGE: Oid = "1.3.6.1.2.1.31.1.5.0"
"""ifTableLastChange: sysUpTime when an interface last came or went."""
_IF_TYPE: Oid = "1.3.6.1.2.1.2.2.1.3"
_BRIDGE_PORT: Oid = "1.3.6.1.2.1.17.1.4.1.2"
_TURNS = 20
"""Turns between two readings; a restart, a change that the device tells or an unknown port brings the next forward."""
MOST_INTERFACES = 16_384
MOST_PORTS = 4096
"""No switch has as many; what claims to have is not to take the time and memory of others."""


class Interfaces:
    """Those of one device; ``names`` is what is known of them."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        """``aliases`` is {what the device calls a port: its canonical name}."""
        self.names = Names()
        self._aliases = aliases
        self._left = 0
        self._types: dict[int, Value] = {}
        self._last_change: Value | None = None

    def hurry(self) -> None:
        """Read them anew in the next turn."""
        self._left = 0

    def last_changed(self, told: Value | None) -> None:
        if told != self._last_change:
            self._last_change, self._left = told, 0

    async def learn(self, session: Session, profile: Profile, bridged: bool) -> None:
        """Read them when it is time, and with ``bridged`` the numbers that bridges know them by; raise SnmpError."""
        if self._left > 0 and not self.names.strangers:
            self._left -= 1
            return
        named = dict(await session.walk(IF_NAME))
        described = dict(await session.walk(IF_DESCRIPTION))
        self._types = await _numbers(session, _IF_TYPE, self._types)
        indexes = {_last(oid) for oid in (*named, *described)} | self._types.keys()
        if len(indexes) > MOST_INTERFACES:
            raise SnmpError(f"it has {len(indexes)} interfaces, more than {MOST_INTERFACES}: is it a switch?")
        texts = {
            index: _text(named.get(f"{IF_NAME}.{index}")) or _text(described.get(f"{IF_DESCRIPTION}.{index}"))
            for index in sorted(indexes)
        }
        ports, others = self._sorted(texts, profile)
        bridge_ports = self.names.bridge_ports
        if bridged:
            told = await _numbers(session, _BRIDGE_PORT, bridge_ports)
            bridge_ports = {number: index for number, index in told.items() if isinstance(index, int)}
        names = self.names
        if (ports, others, bridge_ports) != (names.ports, names.others, names.bridge_ports):
            names.ports, names.others, names.bridge_ports = ports, others, bridge_ports
            names.version += 1
        names.strangers = False
        self._left = _TURNS

    def _sorted(self, texts: Mapping[int, str], profile: Profile) -> tuple[dict[int, str], dict[int, str]]:
        """({ifIndex: canonical name} of ports, the same of all else)."""
        pattern = re.compile(profile.port_pattern)
        ports: dict[int, str] = {}
        others: dict[int, str] = {}
        taken: set[str] = set()
        for index, text in texts.items():
            # A device that tells no types at all is taken by the names alone.
            typed = not self._types or self._types.get(index) in profile.port_types
            name = clean(self._aliases.get(text, text))
            # Of two of one name, the first has it.
            if typed and pattern.fullmatch(text) and name not in taken and len(ports) < MOST_PORTS:
                ports[index] = name
                taken.add(name)
            else:
                others[index] = text
        return ports, others


async def _numbers(session: Session, column: Oid, before: Mapping[int, Value]) -> dict[int, Value]:
    """{last number of the index: value}; what was known before where the column is broken: it is not to hide others."""
    try:
        return {_last(oid): value for oid, value in await session.walk(column)}
    except NoAnswerError:
        raise
    except SnmpError:
        return dict(before)


def _last(oid: Oid) -> int:
    return int(oid.rsplit(".", 1)[1])


def _text(value: Value | None) -> str:
    return clean(value.decode("utf-8", "replace")) if isinstance(value, bytes) else ""
