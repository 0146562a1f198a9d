"""The kernel's VXLAN tables by rtnetlink, and the overlay entries that they amount to (bridge(8), ip-neighbour(8)).

An entry is an address, its MAC (a neighbour of the tunnel, of its bridge, or of an interface upon that), and the way of
the MAC (the tunnel's forwarding database). No privilege is needed.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from exporter.contracts.addresses import canonical
from exporter.contracts.overlay import LOCAL, Entry
from exporter.overlay.settings import OverlayPort

_MASTER, _OFFLOADED = 0x04, 0x20  # NTF_*: include/uapi/linux/neighbour.h
_INCOMPLETE, _FAILED, _NOARP, _PERMANENT = 0x01, 0x20, 0x40, 0x80  # NUD_*
_TICKS_PER_SECOND = 100
_EVERYBODY = "00:00:00:00:00:00"
"""The MAC of where frames go that no entry has."""


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
    """Where a tunnel sends it; None of a bridge's port."""
    vni: int | None = None
    by_bridge: bool = False
    own: bool = False
    """The port's own address."""
    offloaded: bool = False
    seconds: float = 0.0
    """Since it changed."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    device: int
    address: str
    mac: str


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
    """(VNI, address) of neighbours whose MAC has no way."""


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
    """The entries of ``host`` at Unix time ``now``.

    ``offloaded`` is None where the driver says so of none. What is local is what ``ports`` name: the kernel does not
    know containers.
    """
    found = Forwarding()
    tunnels = {index: device for index, device in tables.devices.items() if device.is_tunnel}
    by_mac = _by_mac(tables, tunnels)
    told = any(way.offloaded for ways in by_mac.values() for way in ways)
    bridges = {device.name: device.bridge for device in tables.devices.values() if device.bridge is not None}
    own = {(bridges[port.name], port.address) for port in ports if port.name in bridges}  # tenants' addresses overlap
    for neighbour in tables.neighbours:
        for index, tunnel in tunnels.items():
            if not _speaks_for(neighbour.device, index, tables.devices) or (tunnel.bridge, neighbour.address) in own:
                continue
            ways = by_mac.get((index, neighbour.mac), [])
            behind = tunnel.bridge is not None and any(
                way.mac == neighbour.mac for way in _by_bridge(tables, tunnel.bridge, but=index)
            )
            if not ways and tunnel.vni is not None and not behind:
                found.unresolved.append((tunnel.vni, neighbour.address))
            for way in ways:
                vni = way.vni if way.vni is not None else tunnel.vni
                if vni is not None:
                    found.entries.append(
                        Entry(
                            host=host,
                            table="vswitch",
                            vni=vni,
                            dst=neighbour.address,
                            dst_mac=neighbour.mac,
                            next=way.vtep,
                            offloaded=way.offloaded if told else None,
                            time=now - way.seconds,
                        )
                    )
    found.entries.extend(_local(tables, host, ports, now))
    return found


def _local(tables: Tables, host: str, ports: Sequence[OverlayPort], now: float) -> Iterator[Entry]:
    """Entries of the containers behind this host's own ports."""
    vnis = {
        device.bridge: device.vni for device in tables.devices.values() if device.is_tunnel and device.vni is not None
    }
    by_name = {device.name: (index, device) for index, device in tables.devices.items()}
    for port in ports:
        index, device = by_name.get(port.name, (-1, Device("")))
        vni = vnis.get(device.bridge) if device.bridge is not None else None
        if vni is None:
            continue
        behind = [way for way in tables.ways if way.device == index and way.by_bridge and not way.own]
        yield Entry(
            host=host,
            table="vswitch",
            vni=vni,
            dst=port.address,
            dst_mac=behind[0].mac if behind else None,
            next=LOCAL + port.container,
            in_port=port.name,
            time=now,
        )


def _by_mac(tables: Tables, tunnels: Mapping[int, Device]) -> dict[tuple[int, str], list[Way]]:
    """{(tunnel, MAC): its ways}, flooding left out."""
    found: dict[tuple[int, str], list[Way]] = {}
    for way in tables.ways:
        if way.device in tunnels and way.vtep is not None and way.mac != _EVERYBODY:
            found.setdefault((way.device, way.mac), []).append(way)
    return found


def _by_bridge(tables: Tables, bridge: int, *, but: int) -> Iterator[Way]:
    for way in tables.ways:
        device = tables.devices.get(way.device)
        if way.by_bridge and way.device != but and device is not None and device.bridge == bridge:
            yield way


def _speaks_for(device: int, tunnel: int, devices: Mapping[int, Device]) -> bool:
    """Whether a device's neighbours are behind a tunnel: it is the tunnel, its bridge, or an interface upon that."""
    bridge = devices[tunnel].bridge
    upon = devices[device].upon if device in devices else None
    return device == tunnel or (bridge is not None and bridge in (device, upon))


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
    changed = (get("NDA_CACHEINFO") or {}).get("ndm_updated", 0)
    return Way(
        device=message["ifindex"],  # type: ignore[index]
        mac=mac,
        vtep=canonical(vtep) if vtep else None,
        vni=get("NDA_SRC_VNI") or get("NDA_VNI"),
        by_bridge=get("NDA_MASTER") is not None or bool(flags & _MASTER),
        own=bool(state & _PERMANENT) and not state & _NOARP,
        offloaded=bool(flags & _OFFLOADED),
        seconds=changed / _TICKS_PER_SECOND,
    )


def _neighbour(message: object) -> Neighbour | None:
    get, state = message.get_attr, message["state"]  # type: ignore[attr-defined,index]
    address, mac = get("NDA_DST"), get("NDA_LLADDR")
    if address is None or mac is None or state & (_INCOMPLETE | _FAILED):
        return None
    return Neighbour(device=message["ifindex"], address=canonical(address), mac=mac)  # type: ignore[index]


def read_forwarding(host: str, ports: Sequence[OverlayPort]) -> Forwarding:
    """The entries of ``host`` as the kernel has them now. Raise OSError."""
    return forwarding(read_tables(), host, ports, time.time())
