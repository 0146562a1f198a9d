"""The neighbours file: what switches tell by LLDP of who is at the other end of each cable, as they tell it."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from msgspec import Meta

from exporter.contracts.codec import Contract, ContractError, Version

CHASSIS_MAC, CHASSIS_ADDRESS = 4, 5
PORT_MAC, PORT_ADDRESS, PORT_INTERFACE, PORT_LOCAL = 3, 4, 5, 7
"""LldpChassisIdSubtype and LldpPortIdSubtype (LLDP-MIB): the two count differently."""

Subtype = Annotated[int, Meta(ge=0, le=255)]
Name = Annotated[str, Meta(min_length=1, max_length=300)]


class Neighbor(Contract, frozen=True, kw_only=True):
    """One row of ``lldpRemTable``. Identifiers are as the neighbour sent them: see ``mac`` and ``address``.

    Octets that are no text are written as such: in hexadecimal, or as one character (U+0000 to U+00FF) each.
    """

    chassis_id: str
    chassis_id_subtype: Subtype
    """1 component, 2 interface alias, 3 port component, 4 MAC, 5 network address, 6 interface name, 7 local."""
    port_id: str
    port_id_subtype: Subtype
    """1 interface alias, 2 port component, 3 MAC, 4 network address, 5 interface name, 6 circuit, 7 local."""
    port_description: str | None = None
    system_name: str | None = None
    management_addresses: tuple[str, ...] = ()

    @property
    def chassis_mac(self) -> str | None:
        return mac(self.chassis_id) if self.chassis_id_subtype == CHASSIS_MAC else None

    @property
    def port_mac(self) -> str | None:
        return mac(self.port_id) if self.port_id_subtype == PORT_MAC else None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses by which the neighbour itself can be known, in canonical spelling."""
        given = [*self.management_addresses]
        if self.chassis_id_subtype == CHASSIS_ADDRESS:
            given.append(self.chassis_id)
        return tuple(found for each in given if (found := address(each)) is not None)


class NeighborPort(Contract, frozen=True, kw_only=True):
    """A port of the switch that tells, by its canonical name, and what else its tables say of it."""

    name: Name
    aliases: tuple[str, ...] = ()
    ifindex: int | None = None
    mtu: int | None = None
    speed_mbps: int | None = None
    lag: str | None = None
    neighbors: tuple[Neighbor, ...] = ()


class NeighborSwitch(Contract, frozen=True, kw_only=True):
    """A switch that was asked; ``name`` is that of the topology and of its metrics."""

    name: Name
    address: str | None = None
    """That it was asked at."""
    chassis_id: str | None = None
    sys_name: str | None = None
    ports: tuple[NeighborPort, ...] = ()


class Neighbors(Contract, frozen=True, kw_only=True):
    version: Version
    switches: tuple[NeighborSwitch, ...]


def check_neighbors(neighbors: Neighbors, source: str) -> None:
    """Refuse what types cannot: names that can stand in no topology, and ports told twice."""
    for number, switch in enumerate(neighbors.switches):
        if ":" in switch.name:
            problem = f"field 'switches[{number}]': {switch.name!r} holds a colon"
            raise ContractError(source, problem, "ports are split at the first colon")
        seen: set[str] = set()
        for port in switch.ports:
            if port.name in seen:
                problem = f"field 'switches[{number}]': port {port.name!r} of {switch.name!r} appears twice"
                raise ContractError(source, problem, "names must be unique")
            seen.add(port.name)


_SEPARATORS = re.compile(r"[:\-. ]")
_HEX = re.compile(r"(?:0x)?([0-9a-f]{12})")


def mac(text: str) -> str | None:
    """A MAC address as ``9c:05:91:00:00:01``, from text with any separators, hexadecimal or six octets; else None."""
    if len(text) == 6 and all(ord(letter) < 256 for letter in text):
        digits = text.encode("latin-1").hex()
    else:
        match = _HEX.fullmatch(_SEPARATORS.sub("", text.strip().lower()))
        if match is None:
            return None
        digits = match[1]
    return ":".join(digits[place : place + 2] for place in range(0, 12, 2))


def address(text: str) -> str | None:
    """An IP address in canonical spelling, from text or from octets, before which LLDP puts the family; else None."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        pass
    if all(ord(letter) < 256 for letter in text):
        octets = text.encode("latin-1")
        if len(octets) in (5, 17) and octets[0] == (1 if len(octets) == 5 else 2):  # IANA address family numbers
            return str(ipaddress.ip_address(octets[1:]))
    return None
