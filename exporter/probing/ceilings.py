"""How much of a plan is sent: ceilings in packets a second, shared fairly by the paths under them."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from exporter.contracts.codec import ContractError
from exporter.contracts.plan import Target
from exporter.probing.packet import PACKET_BYTES

PacketsPerSecond = Annotated[float, Meta(ge=1, le=1_000_000)]

PACKETS_PER_SECOND_PER_SWITCH = 1.0
"""Packets of traces that end at one switch, which polices its answers to all agents together, often at 100/s."""
_HANDSHAKE, _ECHO = 3, 2
"""Packets of a TCP probe: SYN, ACK and RST; and where an echo is asked for, the request and an ACK of its reply."""


class Transit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What lies behind a thin or paid-for link, such as a carrier between two sites."""

    prefixes: tuple[str, ...]
    """IPv4 prefixes of the destinations behind it; a destination in those of several is under the ceilings of all."""
    packets_per_second: PacketsPerSecond


class Ceilings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that one exporter's probes may send, whatever a plan says."""

    packets_per_second: PacketsPerSecond = 10_000.0
    packets_per_second_per_destination: PacketsPerSecond = 1000.0
    trace_packets_per_second_per_switch: Annotated[float, Meta(ge=0.01, le=10_000)] = PACKETS_PER_SECOND_PER_SWITCH
    transits: tuple[Transit, ...] = ()


def check_ceilings(ceilings: Ceilings, source: str) -> None:
    """Raise ContractError for a prefix that is none."""
    for number, transit in enumerate(ceilings.transits):
        for prefix in transit.prefixes:
            try:
                ipaddress.IPv4Network(prefix)
            except ValueError as error:
                where = f"field 'probing.ceilings.transits[{number}].prefixes'"
                raise ContractError(source, f"{where}: {prefix!r} is no IPv4 prefix", "such as 10.8.0.0/16") from error


def packets_per_second(target: Target) -> float:
    """What the probes of a target send, without replies, traces and greetings."""
    packets = 1
    if target.probe == "tcp":
        packets = _HANDSHAKE + (_ECHO if target.payload_bytes >= PACKET_BYTES else 0)
    return packets / target.period_seconds


def shares(targets: Sequence[Target], ceilings: Ceilings) -> dict[str, float]:
    """{path: the share of its probes that is sent, above 0, at most 1}. O(targets x transits).

    All paths under a ceiling that the plan exceeds are thinned alike, so that none starves for another. Ceilings are
    applied from the narrowest to the widest, each to what those before it have left.
    """
    share = {target.path: 1.0 for target in targets}
    towards: dict[str, list[Target]] = defaultdict(list)
    for target in targets:
        towards[target.destination_address].append(target)
    for own in towards.values():
        _thin(share, own, ceilings.packets_per_second_per_destination)
    for transit in ceilings.transits:
        networks = [ipaddress.IPv4Network(prefix) for prefix in transit.prefixes]
        crossing = [target for address, own in towards.items() if _is_within(address, networks) for target in own]
        _thin(share, crossing, transit.packets_per_second)
    _thin(share, targets, ceilings.packets_per_second)
    return share


def _is_within(address: str, networks: Iterable[ipaddress.IPv4Network]) -> bool:
    return any(ipaddress.ip_address(address) in network for network in networks)


def _thin(share: dict[str, float], targets: Sequence[Target], ceiling: float) -> None:
    """Lower the shares of these targets alike until they send ``ceiling`` packets a second at most."""
    rate = sum(packets_per_second(target) * share[target.path] for target in targets)
    if rate > ceiling:
        for target in targets:
            share[target.path] *= ceiling / rate


class Thinning:
    """Which of a path's probes are sent when its share is below 1: as evenly as whole probes allow.

    ``place`` (0 to below 1) is where in its turn a path begins, so that paths thinned alike take turns.
    """

    __slots__ = ("_credit", "share")

    def __init__(self, share: float, place: float) -> None:
        self.share = share
        self._credit = place

    def sends(self) -> bool:
        """Whether the probe that is due now is sent: of n in a row, n x share, rounded up or down."""
        if self.share >= 1:
            return True
        self._credit += self.share
        if self._credit < 1:
            return False
        self._credit -= 1
        return True
