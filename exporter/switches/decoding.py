"""From the index of a row to labels: which port, priority, queue, VLAN or peer it is of (RFC 2578, 7.7)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from exporter.switches.profile import Part

MAIN_VRF = 254
"""Linux' main routing table, which is the default VRF."""
_LONGEST_REST = 18  # numbers: of a VRF, a kind and an IPv6 address
MOST_TEXT = 64  # bytes of a name; a DisplayString may have 255 (RFC 2863), no port's name has


@dataclass(frozen=True, slots=True)
class Selection:
    """What of the device is wanted; None is all of it."""

    priorities: frozenset[int] | None = None
    queues: frozenset[int] | None = None


@dataclass(slots=True)
class Names:
    """What the device's numbers stand for."""

    ports: dict[int, str] = field(default_factory=dict)
    """{ifIndex: canonical name}, of ports alone."""
    others: dict[int, str] = field(default_factory=dict)
    """The same of every other interface of the device."""
    bridge_ports: dict[int, int] = field(default_factory=dict)
    """{bridge port: ifIndex} (dot1dBasePortIfIndex)."""
    version: int = 0
    """Changes with any of these."""
    strangers: bool = False
    """Set when an index had an ifIndex that is in neither: names are to be read anew."""

    def port(self, index: int) -> str | None:
        name = self.ports.get(index)
        if name is None and index not in self.others:
            self.strangers = True
        return name


class BadIndexError(ValueError):
    """An index that its MIB does not admit."""


Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decoded:
    labels: Labels
    case: int | None


def clean(text: str) -> str:
    """A name as a label: printable, without what only looks empty, at most 64 bytes."""
    printable = "".join(character for character in text if character.isprintable()).strip()
    return printable.encode("utf-8", "ignore")[:MOST_TEXT].decode("utf-8", "ignore").strip()


def decode_index(parts: Sequence[Part], index: Sequence[int], names: Names, selection: Selection) -> Decoded | None:
    """Labels of a row in the order of ``parts``; None for a row that is not wanted. Raise ValueError."""
    labels: list[str] = []
    case: int | None = None
    place = 0
    for part in parts:
        taken, place = _take(part, index, place)
        if part.equals and taken[0] not in part.equals:
            return None
        label: str | None
        match part.part:
            case "any" | "constant":
                continue
            case "case":
                case = taken[0]
                continue
            case "port":
                label = names.port(taken[0])
            case "bridge_port":
                port = names.bridge_ports.get(taken[0])
                label = names.port(port) if port is not None else None
            case "priority":
                number = _within(taken[0] - part.minus, 0, 7, "priority")
                label = str(number) if selection.priorities is None or number in selection.priorities else None
            case "queue":
                number = taken[0] - part.minus
                if not 0 <= number <= 63:  # sums and other totals lie outside
                    return None
                label = str(number) if selection.queues is None or number in selection.queues else None
            case "vlan":
                label = str(_within(taken[0], 1, 4094, "VLAN"))
            case "cpu":
                label = ".".join(map(str, taken))
            case "peer_vrf":
                label = _vrf_peer(taken, names)
            case _:
                label = _ADDRESS[part.part](taken)
        if label is None:
            return None
        labels.append(label)
    if place != len(index):
        raise BadIndexError(f"{len(index) - place} numbers too many")
    return Decoded(tuple(labels), case)


def _take(part: Part, index: Sequence[int], place: int) -> tuple[Sequence[int], int]:
    """What of the index is the part's, and where the next begins; raise ValueError for one cut short."""
    rest = index[place:]
    if part.part in ("cpu", "peer_afi", "peer_vrf"):
        length = len(rest)
        if length > _LONGEST_REST:
            raise BadIndexError(f"{length} numbers are no {part.part}")
    elif part.part == "peer_inet":
        length = 2 + rest[1] if len(rest) > 1 else 2
    elif part.part == "text":
        length = 1 + rest[0] if rest else 1
    else:
        length = {"peer_ipv4": 4}.get(part.part, 1)
    if length == 0 or length > len(rest):
        raise BadIndexError(f"cut short at {part.part}")
    return rest[:length], place + length


def _within(number: int, least: int, most: int, what: str) -> int:
    if not least <= number <= most:
        raise BadIndexError(f"{what} {number}")
    return number


def _address(octets: Sequence[int]) -> str:
    if len(octets) not in (4, 16) or any(octet > 255 for octet in octets):
        raise BadIndexError(f"{len(octets)} octets are no IP address")
    return str(ipaddress.ip_address(bytes(octets)))


def _vrf_peer(index: Sequence[int], names: Names) -> str | None:
    """CUMULUS-BGPVRF-MIB: VRF, kind of peer (0 interface, 1 IPv4, 2 IPv6), its octets; an interface as its ifIndex."""
    if len(index) < 6:
        raise BadIndexError("cut short at peer_vrf")
    vrf, kind, octets = index[0], index[1], index[2:]
    if kind == 0:
        number = int.from_bytes(bytes(octet & 255 for octet in octets), "big")
        peer = names.port(number) or names.others.get(number) or f"ifindex-{number}"
    else:
        peer = _address(octets)
    return peer if vrf == MAIN_VRF else f"vrf-{vrf}/{peer}"


_ADDRESS: dict[str, Callable[[Sequence[int]], str]] = {
    "peer_ipv4": _address,
    "peer_inet": lambda index: _address(index[2:]),
    "peer_afi": lambda index: _address(index[1:]),
    "text": lambda index: clean(bytes(number & 255 for number in index[1:]).decode("utf-8", "replace")),
}
