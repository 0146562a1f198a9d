"""Who is at the other end of each cable: LLDP-MIB (IEEE 802.1AB), lldpRemTable joined with the local ports.

lldpRemTable is indexed by a time mark, a local port number and a number of the neighbour; the mark is when the row
last changed and no part of who it is. A local port number need not be an ifIndex: lldpLocPortTable says which port it
is by name; SONiC's and others' is the ifIndex.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from exporter.switches.decoding import Names, clean
from exporter.switches.snmp import Oid, Session, Value, numbers

_LOCAL: Oid = "1.0.8802.1.1.2.1.3.7.1"
_LOCAL_SUBTYPE, _LOCAL_ID, _LOCAL_DESCRIPTION = (f"{_LOCAL}.{column}" for column in (2, 3, 4))
_REMOTE: Oid = "1.0.8802.1.1.2.1.4.1.1"
_COLUMNS = ("chassis_id_subtype", "chassis_id", "port_id_subtype", "port_id", "port_description", "system_name")
"""Columns 4 to 9."""
_MANAGEMENT: Oid = "1.0.8802.1.1.2.1.4.2.1.4"
LOCAL_CHASSIS_SUBTYPE, LOCAL_CHASSIS, LOCAL_SYSTEM_NAME = (
    "1.0.8802.1.1.2.1.3.1.0",
    "1.0.8802.1.1.2.1.3.2.0",
    "1.0.8802.1.1.2.1.3.3.0",
)
_CHASSIS_MAC, _PORT_MAC = 4, 3
_CHASSIS_ADDRESS, _PORT_ADDRESS = 5, 4
_MAC_BYTES = 6
MOST = 4096
"""Neighbours of one switch; a port has one, unless a hub is between."""


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One row of lldpRemTable, as text."""

    port: str
    """Ours, by its canonical name."""
    chassis_id: str
    chassis_id_subtype: int
    port_id: str
    port_id_subtype: int
    port_description: str
    system_name: str
    management_addresses: tuple[str, ...]

    @property
    def name(self) -> str:
        """What a person calls the neighbour."""
        return self.system_name or self.chassis_id

    @property
    def port_name(self) -> str:
        """What a person calls its port: its name, unless it tells a MAC address and describes the port better."""
        if self.port_id_subtype == _PORT_MAC and self.port_description:
            return self.port_description
        return self.port_id


async def read_neighbors(session: Session, names: Names, aliases: Mapping[str, str] | None = None) -> list[Neighbor]:
    """All neighbours at ports that are known; raise SnmpError.

    ``aliases`` is {what the device calls a port: its canonical name}.
    """
    found: dict[tuple[int, int], dict[str, Value]] = {}
    for number, name in enumerate(_COLUMNS, start=4):
        for oid, value in await session.walk(f"{_REMOTE}.{number}"):
            index = numbers(oid)[len(numbers(_REMOTE)) + 1 :]
            if len(index) == 3 and len(found) < MOST:
                found.setdefault(index[1:], {})[name] = value
    if not found:
        return []
    local = await _local_ports(session, names, aliases or {})
    addresses = await _management_addresses(session)
    neighbors = []
    for key, row in sorted(found.items()):
        port = local.get(key[0])
        if port is None:
            continue
        chassis_kind, port_kind = _number(row.get("chassis_id_subtype")), _number(row.get("port_id_subtype"))
        neighbors.append(
            Neighbor(
                port=port,
                chassis_id=identifier(
                    row.get("chassis_id"), chassis_kind == _CHASSIS_MAC, chassis_kind == _CHASSIS_ADDRESS
                ),
                chassis_id_subtype=chassis_kind,
                port_id=identifier(row.get("port_id"), port_kind == _PORT_MAC, port_kind == _PORT_ADDRESS),
                port_id_subtype=port_kind,
                port_description=identifier(row.get("port_description")),
                system_name=identifier(row.get("system_name")),
                management_addresses=tuple(addresses.get(key, ())),
            )
        )
    return neighbors


async def _local_ports(session: Session, names: Names, aliases: Mapping[str, str]) -> dict[int, str]:
    """{local port number: canonical name}."""
    known = set(names.ports.values())
    told: dict[int, list[str]] = {}
    for column in (_LOCAL_ID, _LOCAL_DESCRIPTION):
        for oid, value in await session.walk(column):
            told.setdefault(int(oid.rsplit(".", 1)[1]), []).append(_canonical(identifier(value), aliases))
    ports = {number: name for number, texts in told.items() for name in texts[::-1] if name in known}
    # Where names say nothing (aliases, MAC addresses), the number is the ifIndex, as nearly every agent has it.
    return names.ports | ports


def _canonical(name: str, aliases: Mapping[str, str]) -> str:
    return aliases.get(name, name)


async def _management_addresses(session: Session) -> dict[tuple[int, int], list[str]]:
    """{(local port number, number of the neighbour): its management addresses}: they are parts of the index."""
    addresses: dict[tuple[int, int], list[str]] = {}
    skipped = len(numbers(_MANAGEMENT))
    for oid, _ in await session.walk(_MANAGEMENT):
        index = numbers(oid)[skipped:]  # time mark, port, neighbour, kind, length, octets
        octets = index[5:]
        if len(index) > 5 and index[4] == len(octets) and len(octets) in (4, 16) and max(octets) < 256:
            own = addresses.setdefault((index[1], index[2]), [])
            if len(own) < 8:
                own.append(str(ipaddress.ip_address(bytes(octets))))
    return addresses


def identifier(value: Value | None, mac: bool = False, address: bool = False) -> str:
    """An identifier as text: octets of a MAC address with colons, of a network address as such; else as it is.

    Some agents send a MAC address as text (SONiC); it is put into lower case.
    """
    if not isinstance(value, bytes):
        return value if isinstance(value, str) else ""
    if mac:
        if len(value) == _MAC_BYTES:
            return value.hex(":")
        return clean(value.decode("utf-8", "replace")).lower().replace("-", ":")
    if address and len(value) in (5, 17):  # IANA's address family first (IEEE 802.1AB, 9.5.2.4)
        return str(ipaddress.ip_address(value[1:]))
    return clean(value.decode("utf-8", "replace").replace("\0", ""))


def _number(value: Value | None) -> int:
    return value if isinstance(value, int) else 0
