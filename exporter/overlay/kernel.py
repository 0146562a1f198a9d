"""The kernel's VXLAN tables by rtnetlink, and the overlay entries that they amount to (bridge(8), ip-neighbour(8)).

An entry is an address, its MAC (a neighbour of the tunnel, of its bridge, or of an interface upon that), and the way of
the MAC (the tunnel's forwarding database). No privilege is needed.

Only what a controller has put there is a table that can lack something. What the kernel has learnt from packets is a
cache: a peer that is silent is absent from it.
"""

from __future__ import annotations

import errno
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from exporter.contracts.addresses import canonical
from exporter.contracts.overlay import LOCAL, Entry
from exporter.overlay.settings import OverlayPort

_MASTER, _LEARNT_OUTSIDE, _OFFLOADED = 0x04, 0x10, 0x20  # NTF_*: include/uapi/linux/neighbour.h
_INCOMPLETE, _FAILED, _NOARP, _PERMANENT = 0x01, 0x20, 0x40, 0x80  # NUD_*
_TICKS_PER_SECOND = 100
_EVERYBODY = "00:00:00:00:00:00"
"""The MAC of where frames go that no entry has."""
_GROUP_BIT = 1


@dataclass(frozen=True, slots=True)
class Device:
    """A network device: a VXLAN tunnel (``vni`` where it has one alone), a bridge, or a port of one."""

    name: str
    is_tunnel: bool = False
    vni: int | None = None
    bridge: int | None = None
    """Index of the bridge that it is a port of."""
    upon: int | None = None
    """Index of the device that it is an interface upon (a VLAN's, on a bridge)."""


@dataclass(frozen=True, slots=True)
class Way:
    """An entry of a forwarding database."""

    device: int
    mac: str
    vtep: str | None = None
    """Where a tunnel sends it; None of a bridge's port, and of a tunnel's entry for a group of next hops."""
    vni: int | None = None
    by_bridge: bool = False
    own: bool = False
    """The port's own address."""
    managed: bool = True
    """Put there, not learnt from packets."""
    offloaded: bool = False
    seconds: float = 0.0
    """Since it changed."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    device: int
    address: str
    mac: str
    managed: bool = True
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Tables:
    """What the kernel told, all at about one time."""

    devices: Mapping[int, Device]
    ways: Sequence[Way]
    neighbours: Sequence[Neighbour]


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Overlay entries of a host."""

    entries: list[Entry] = field(default_factory=list)
    unresolved: list[tuple[int, str]] = field(default_factory=list)
    """(VNI, address) of what was put there as a neighbour, and whose MAC has no way."""
    complete: bool = False
    """Whether a destination without an entry has none, rather than that nobody knows."""
    problems: list[str] = field(default_factory=list)
    """What of the configured ports is not so."""


def read_tables() -> Tables:
    """Ask the kernel. Raise OSError."""
    from pyroute2 import IPRoute, NetlinkError  # noqa: PLC0415 - 15 MB, which only this process needs

    try:
        with IPRoute() as route:
            devices = {link["index"]: _device(link) for link in route.get_links()}
            ways = [way for message in route.fdb("dump") if (way := _way(message)) is not None]
            neighbours = [
                neighbour
                for family in (2, 10)  # AF_INET, AF_INET6
                for message in route.get_neighbours(family=family)
                if (neighbour := _neighbour(message)) is not None
            ]
    except NetlinkError as error:
        raise OSError(error.code or errno.EIO, str(error)) from error
    return Tables(devices, ways, neighbours)


def forwarding(tables: Tables, host: str, ports: Sequence[OverlayPort], now: float) -> Forwarding:
    """The entries of ``host`` at Unix time ``now``, after they were read.

    ``offloaded`` is None where the driver says so of none. What is local is what ``ports`` name: the kernel does not
    know containers.
    """
    tunnels = {index: device for index, device in tables.devices.items() if device.is_tunnel}
    on_bridge: Counter[int | None] = Counter(device.bridge for device in tunnels.values())
    ways, behind = _index(tables, tunnels)
    told = any(way.offloaded for own in ways.values() for way in own)
    problems: list[str] = []
    local = list(_local(tables, host, ports, now, problems))
    own = {(entry.vni, entry.dst) for entry in local}  # tenants' addresses overlap
    found: list[Entry] = []
    unresolved: list[tuple[int, str]] = []
    named: set[tuple[int, str]] = set()
    managed = bool(tunnels) and all(way.managed and way.vtep is not None for each in ways.values() for way in each)
    for neighbour in tables.neighbours:
        for index in _tunnels_of(neighbour.device, tables.devices, tunnels, on_bridge):
            vni, chosen = tunnels[index].vni, ways.get((index, neighbour.mac), [])
            named.add((index, neighbour.mac))
            if vni is not None and (vni, neighbour.address) in own:
                continue
            managed = managed and neighbour.managed
            elsewhere = behind.get((tunnels[index].bridge, neighbour.mac), set()) - {index}
            if not chosen and not elsewhere and vni is not None and neighbour.managed:
                unresolved.append((vni, neighbour.address))
            for way in chosen:
                number = way.vni if way.vni is not None else vni
                if number is not None and way.vtep is not None:
                    found.append(
                        Entry(
                            host=host,
                            table="vswitch",
                            vni=number,
                            dst=neighbour.address,
                            dst_mac=neighbour.mac,
                            next=way.vtep,
                            offloaded=way.offloaded if told else None,
                            time=now - min(way.seconds, neighbour.seconds),
                        )
                    )
    complete = (
        managed
        and bool(ways)
        and named >= set(ways)  # each way has an address
        and bool(local)
        and not problems
        and all(device.vni and (device.bridge is None or on_bridge[device.bridge] == 1) for device in tunnels.values())
    )
    return Forwarding([*found, *local], unresolved, complete, problems)


def _local(tables: Tables, host: str, ports: Sequence[OverlayPort], now: float, problems: list[str]) -> Iterator[Entry]:
    """Entries of the containers behind this host's own ports; what is wrong with a port is added to ``problems``."""
    vnis: dict[int, set[int]] = defaultdict(set)
    for device in tables.devices.values():
        if device.is_tunnel and device.bridge is not None and device.vni is not None:
            vnis[device.bridge].add(device.vni)
    by_name = {device.name: (index, device) for index, device in tables.devices.items()}
    macs: dict[int, str] = {}
    for way in tables.ways:
        if way.by_bridge and not way.own:
            macs.setdefault(way.device, way.mac)
    for port in ports:
        index, device = by_name.get(port.name, (-1, Device("")))
        numbers = vnis.get(device.bridge, set()) if device.bridge is not None else set()
        if device.bridge is None:
            problems.append(f"port {port.name}: there is no such device in a bridge")
            continue
        shared = any(each.is_tunnel and each.vni is None for each in tables.devices.values())
        if port.vni is not None and port.vni not in numbers and not shared:
            problems.append(f"port {port.name}: vni {port.vni} is of no tunnel in its bridge")
            continue
        vni = port.vni if port.vni is not None else next(iter(numbers)) if len(numbers) == 1 else None
        if vni is None:
            problems.append(f"port {port.name}: its bridge has {len(numbers) or 'no'} tunnels with a vni: name it")
            continue
        yield Entry(
            host=host,
            table="vswitch",
            vni=vni,
            dst=port.address,
            dst_mac=macs.get(index),
            next=LOCAL + port.container,
            in_port=port.name,
            time=now,
        )


def _index(
    tables: Tables, tunnels: Mapping[int, Device]
) -> tuple[dict[tuple[int, str], list[Way]], dict[tuple[int | None, str], set[int]]]:
    """{(tunnel, MAC): its ways}, flooding left out, and {(bridge, MAC): ports that it is behind}."""
    ways: dict[tuple[int, str], list[Way]] = defaultdict(list)
    behind: dict[tuple[int | None, str], set[int]] = defaultdict(set)
    for way in tables.ways:
        device = tables.devices.get(way.device)
        if device is None or _is_for_many(way.mac):
            continue
        if way.by_bridge:
            behind[device.bridge, way.mac].add(way.device)
        elif way.device in tunnels:
            ways[way.device, way.mac].append(way)
    return ways, behind


def _is_for_many(mac: str) -> bool:
    return mac == _EVERYBODY or bool(int(mac[:2], 16) & _GROUP_BIT)


def _tunnels_of(
    device: int, devices: Mapping[int, Device], tunnels: Mapping[int, Device], on_bridge: Mapping[int | None, int]
) -> Iterator[int]:
    """Tunnels that a device's neighbours are behind: it is the tunnel, its bridge, or an interface upon that.

    Behind a bridge of several tunnels nobody can tell which.
    """
    if device in tunnels:
        yield device
        return
    upon = devices[device].upon if device in devices else None
    for index, tunnel in tunnels.items():
        if tunnel.bridge is not None and tunnel.bridge in (device, upon) and on_bridge[tunnel.bridge] == 1:
            yield index


def _device(link: object) -> Device:
    get, nested = link.get_attr, link.get_nested  # type: ignore[attr-defined]
    kind = nested("IFLA_LINKINFO", "IFLA_INFO_KIND")
    vni = nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_VXLAN_ID") if kind == "vxlan" else None
    return Device(
        name=get("IFLA_IFNAME"),
        is_tunnel=kind == "vxlan",
        vni=vni or None,  # 0 of one whose entries have each their own
        bridge=get("IFLA_MASTER"),
        upon=get("IFLA_LINK"),
    )


def _way(message: object) -> Way | None:
    get = message.get_attr  # type: ignore[attr-defined]
    mac = get("NDA_LLADDR")
    if mac is None:
        return None
    state, flags = message["state"], message["flags"]  # type: ignore[index]
    vtep = get("NDA_DST")
    return Way(
        device=message["ifindex"],  # type: ignore[index]
        mac=mac,
        vtep=canonical(vtep) if vtep else None,
        vni=get("NDA_SRC_VNI") or get("NDA_VNI"),
        by_bridge=get("NDA_MASTER") is not None or bool(flags & _MASTER),
        own=bool(state & _PERMANENT) and not state & _NOARP,
        managed=_is_managed(state, flags),
        offloaded=bool(flags & _OFFLOADED),
        seconds=_seconds(message),
    )


def _neighbour(message: object) -> Neighbour | None:
    get, state = message.get_attr, message["state"]  # type: ignore[attr-defined,index]
    address, mac = get("NDA_DST"), get("NDA_LLADDR")
    if address is None or mac is None or state & (_INCOMPLETE | _FAILED):
        return None
    if _is_for_many(mac) or ip_address(address).is_multicast or ip_address(address).is_link_local:
        return None
    return Neighbour(
        device=message["ifindex"],  # type: ignore[index]
        address=canonical(address),
        mac=mac,
        managed=_is_managed(state, message["flags"]),  # type: ignore[index]
        seconds=_seconds(message),
    )


def _is_managed(state: int, flags: int) -> bool:
    return bool(state & (_PERMANENT | _NOARP) or flags & _LEARNT_OUTSIDE)


def _seconds(message: object) -> float:
    """Since it changed."""
    about = message.get_attr("NDA_CACHEINFO") or {}  # type: ignore[attr-defined]
    return float(about.get("ndm_updated", 0)) / _TICKS_PER_SECOND
