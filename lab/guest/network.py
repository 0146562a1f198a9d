"""RoCEv2 ports and a fabric between them, in a guest.

rxe of Linux 6.1 sends and receives in the first network namespace only (its sockets and route lookups
use init_net), so all ports are there, and the fabric is elsewhere: a namespace with a bridge for each
subnet, and with routing between them. Rules by outgoing interface make packets between two addresses
of the same host leave by one port and come in by the other, through the fabric.

    10.9.0.1 p0 (rxe0) ──── f0 ┐ namespace fabric
    10.9.0.2 p1 (rxe1) ──── f1 ┴ br0 (10.9.0.254)

With ``spines`` each subnet has a leaf of its own, a namespace too, and leaves are joined by as many spines, over which
they spread flows by addresses and ports. Routers answer traces from the address of the port where the packet came in.

    10.9.1.1 p0 (rxe0) ── f0 ─ leaf0: br0 (10.9.1.254) ── spine0 10.8.0.1 ┐
                                                       └─ spine1 10.8.1.1 ┴ leaf1: br1 (10.9.2.254) ─ f1 ── p1 (rxe1)

A port with a VTEP is a VXLAN interface; what is cabled is its underlay, in a namespace of its own:

    10.7.0.1 p0 (rxe0) ┄┄ h0: u0 172.16.0.1 ──── f0 ┐
    10.7.0.2 p1 (rxe1) ┄┄ h1: u1 172.16.0.2 ──── f1 ┴ br0
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from types import TracebackType
from typing import Self

from exporter.contracts.plan import ROCE_PORT
from lab.errors import LabError

FABRIC = "fabric"
SPINES = "10.8.{spine}.{place}/31"
"""Addresses between leaves and spines: of a leaf's cable the even one is the leaf's, the odd one the spine's."""
VNI = 100
PATIENCE = 10.0  # seconds, for one command
FIRST_TABLE = 100
HOST_SETTINGS = {
    "arp_ignore": 1,  # a port answers for its own address only,
    "arp_announce": 2,  # and asks with it
    "accept_local": 1,  # a packet from another port of ours is no forgery
    "rp_filter": 0,
}
ROUTER = {
    "net.ipv4.ip_forward": 1,
    "net.ipv6.conf.all.forwarding": 1,
    "net.ipv4.fib_multipath_hash_policy": 1,  # equal-cost ways by ports too
    "net.ipv4.icmp_errors_use_inbound_ifaddr": 1,
    "net.ipv4.icmp_ratelimit": 0,
}
QUIET_IPV6 = {
    # An address serves at once, without the second of asking whether another has it,
    "net.ipv6.conf.all.accept_dad": 0,
    "net.ipv6.conf.default.accept_dad": 0,
    # and interfaces have none but ours.
    "net.ipv6.conf.default.addr_gen_mode": 1,
}
# Or no IPv6 at all: a switch announces its multicast groups, and netem would drop and count that.
NO_IPV6 = {"net.ipv6.conf.default.disable_ipv6": 1}

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass
class Port:
    """One RoCEv2 port: an RDMA device over a network interface with one address, hence one RoCEv2 GID of it."""

    index: int
    interface: Interface
    vtep: Interface | None = None

    @property
    def device(self) -> str:
        return f"rxe{self.index}"

    @property
    def netdev(self) -> str:
        return f"p{self.index}"

    @property
    def address(self) -> str:
        return str(self.interface.ip)

    @property
    def cable(self) -> str:
        """The fabric's end of the cable: what leaves there goes to this port."""
        return f"f{self.index}"

    @property
    def table(self) -> int:
        return FIRST_TABLE + self.index

    def listed(self) -> bool:
        """Whether a process that looks for the RDMA device finds it."""
        for device in Path("/sys/class/infiniband_verbs").glob("*/ibdev"):
            with suppress(OSError):  # ENODEV: it is just going
                if device.read_text().strip() == self.device:
                    return True
        return False

    def counter(self, name: str) -> int:
        """One of the RDMA device's hardware counters. The kernel reads them anew every 12 ms (``lifespan``)."""
        return int(Path(f"/sys/class/infiniband/{self.device}/ports/1/hw_counters/{name}").read_text())


@dataclass(frozen=True)
class _Station:
    """An interface with an address: what neighbours know by its MAC address."""

    interface: Interface
    netdev: str
    mac: str
    namespace: str | None
    cable: str | None
    """None for one that is not cabled: an overlay's."""


class Fabric:
    """Ports rxe0, rxe1, … with the given addresses (``10.9.0.1/24``), and the fabric between them; a context manager.

    Ports of one subnet share a bridge; between subnets the fabric routes, by way of each subnet's last address.
    ``vteps``, one for each port, puts them behind VXLAN. Without ``static_neighbours`` they find each other by
    ARP and neighbour discovery, which takes a second when it is cold and dies with what is lost. ``spines`` of IPv4.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        vteps: Sequence[str] = (),
        static_neighbours: bool = True,
        mtu: int = 1500,
        spines: int = 0,
    ) -> None:
        underlay: list[Interface | None] = [ipaddress.ip_interface(vtep) for vtep in vteps]
        self.ports = [
            Port(index, ipaddress.ip_interface(address), vtep)
            for index, (address, vtep) in enumerate(zip(addresses, underlay or [None] * len(addresses), strict=True))
        ]
        cabled = [port.vtep or port.interface for port in self.ports]
        self._subnets = sorted({interface.network for interface in cabled}, key=str)
        self._static = static_neighbours
        self._mtu = mtu
        self._spines = spines
        self._removals: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    # What can happen to it.

    def impair(self, port: Port, *netem: str, roce_only: bool = False) -> None:
        """Put what goes to ``port`` through netem: ``"delay", "200us"``; ``"loss", "5%"``; ``"loss", "30%", "ecn"``.

        With ``ecn`` packets that say they can bear marks are marked in place of being dropped (tc-netem(8)).
        ``roce_only``: RoCEv2 over IPv4 alone, nothing else. To change what was put there keeps its counter.
        """
        device, what = port.cable, f"netem limit 100000 {' '.join(netem)}"
        lines = [f"qdisc replace dev {device} root {what}"]
        if roce_only:
            lines = [
                f"qdisc replace dev {device} root handle 1: prio bands 2 priomap {' 0' * 16}",
                f"qdisc replace dev {device} parent 1:2 handle 2: {what}",
                f"filter replace dev {device} parent 1: handle 800::1 prio 1 protocol ip u32 "
                f"match ip protocol 17 0xff match ip dport {ROCE_PORT} 0xffff flowid 1:2",
            ]
        _batch(["tc", "-n", self._leaf_of(port)], lines)

    def heal(self, port: Port) -> None:
        """Take away what ``impair`` did, with its counter."""
        _batch(["tc", "-n", self._leaf_of(port)], [f"qdisc del dev {port.cable} root"])

    def dropped(self, port: Port) -> int:
        """Packets to ``port`` that netem has dropped, or marked, since ``impair``."""
        shown = _run(["tc", "-n", self._leaf_of(port), "-s", "-j", "qdisc", "show", "dev", port.cable])
        return sum(int(each["drops"]) for each in json.loads(shown) if each["kind"] == "netem")

    def received(self, spine: int, leaf: int) -> int:
        """Packets that a spine has received from a leaf."""
        shown = _run(["ip", "-n", f"spine{spine}", "-s", "-j", "link", "show", "dev", f"l{leaf}"])
        return int(json.loads(shown)[0]["stats64"]["rx"]["packets"])

    def change_address(self, port: Port, address: str) -> None:
        """Give ``port`` another address of its subnet, as a new lease or a mended bond does: its GID changes."""
        new = ipaddress.ip_interface(address)
        _batch(["ip"], [f"addr del {port.interface} dev {port.netdev}"])
        port.interface = new
        _batch(["ip"], self._addressed(port))
        if self._static:
            self._introduce()

    def remove_device(self, port: Port) -> None:
        """Take the RDMA device away; the network interface stays.

        rxe cannot take it from a process that has it open, as drivers of hardware do (no disassociate_ucontext):
        from then on no process finds the device, what is open goes on working, and it ends with the last user.
        """
        self._removals[port.device] = subprocess.Popen(["rdma", "link", "delete", port.device])
        deadline = time.monotonic() + PATIENCE
        while port.listed():
            if time.monotonic() > deadline:
                raise LabError(f"{port.device} has not gone within {PATIENCE:g} s")
            time.sleep(0.005)

    def add_device(self, port: Port) -> None:
        """Bring the RDMA device back; raise LabError when a process still has the old one open."""
        try:
            self._removals.pop(port.device).wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{port.device} is still open in a process") from error
        _batch(["rdma"], [f"link add {port.device} type rxe netdev {port.netdev}"])

    # How it is made.

    def _build(self) -> None:
        _route_by_port()
        _batch(["ip"], [f"netns add {name}" for name in self._namespaces()])
        over_ipv6 = any(subnet.version == 6 for subnet in self._subnets)
        for namespace in self._namespaces():
            _set(namespace, QUIET_IPV6 if over_ipv6 else NO_IPV6)
        for router in self._routers():
            _set(router, ROUTER)
        for index, subnet in enumerate(self._subnets):
            lines = [
                # An address of its own, or the bridge would take over that of its first port.
                f"link add br{index} mtu {self._mtu} address {_mac(0xB, index)} type bridge",
                f"addr add {_gateway(subnet)} dev br{index}",
                f"link set br{index} up",
            ]
            _batch(["ip", "-n", self._leaf(index)], lines)
        self._cable_spines()
        for port in self.ports:
            bridge = self._bridge_of(port)
            lines = [
                f"link add {port.cable} mtu {self._mtu} type veth peer name c{port.index}",
                f"link set {port.cable} master br{bridge} up",
                f"link set c{port.index} name {_plug(port)} address {_mac(0xC, port.index)} mtu {self._mtu} "
                f"netns {f'h{port.index}' if port.vtep else 1}",
            ]
            _batch(["ip", "-n", self._leaf_of(port)], lines)
        for port in self.ports:
            if port.vtep:
                self._tunnel(port, port.vtep)
        _batch(["ip"], [line for port in self.ports for line in self._addressed(port)])
        for version in (4, 6):
            rules = [
                f"rule add pref {port.table} {which} lookup {port.table}"
                for port in self._of(version)
                # By its interface, or by its address, as the kernel's own ICMP errors.
                for which in (f"oif {port.netdev}", f"from {port.address} iif lo")
            ]
            _batch(["ip", f"-{version}"], rules)
        if self._static:
            self._introduce()
        _batch(["rdma"], [f"link add {port.device} type rxe netdev {port.netdev}" for port in self.ports])

    def _of(self, version: int) -> list[Port]:
        return [port for port in self.ports if port.interface.version == version]

    def _namespaces(self) -> list[str]:
        return [*self._routers(), *(f"h{port.index}" for port in self.ports if port.vtep)]

    def _routers(self) -> list[str]:
        leaves = dict.fromkeys(self._leaf(index) for index in range(len(self._subnets)))
        return [*leaves, *(f"spine{spine}" for spine in range(self._spines))]

    def _leaf(self, subnet: int) -> str:
        """The namespace of a subnet's bridge."""
        return f"leaf{subnet}" if self._spines else FABRIC

    def _bridge_of(self, port: Port) -> int:
        return self._subnets.index((port.vtep or port.interface).network)

    def _leaf_of(self, port: Port) -> str:
        return self._leaf(self._bridge_of(port))

    def _cable_spines(self) -> None:
        leaves = range(len(self._subnets)) if self._spines else range(0)
        for spine in range(self._spines):
            for leaf in leaves:
                ends = [SPINES.format(spine=spine, place=2 * leaf + end) for end in (0, 1)]
                far = f"peer name l{leaf} mtu {self._mtu} netns spine{spine}"
                cable = f"link add s{spine} mtu {self._mtu} type veth {far}"
                _batch(
                    ["ip", "-n", self._leaf(leaf)],
                    [cable, f"addr add {ends[0]} dev s{spine}", f"link set s{spine} up"],
                )
                lines = [f"addr add {ends[1]} dev l{leaf}", f"link set l{leaf} up"]
                lines.append(f"route add {self._subnets[leaf]} via {ends[0].partition('/')[0]} dev l{leaf}")
                _batch(["ip", "-n", f"spine{spine}"], lines)
        for leaf in leaves:
            vias = [SPINES.format(spine=spine, place=2 * leaf + 1).partition("/")[0] for spine in range(self._spines)]
            hops = " ".join(f"nexthop via {via}" for via in vias)
            others = [subnet for index, subnet in enumerate(self._subnets) if index != leaf]
            _batch(["ip", "-n", self._leaf(leaf)], [f"route add {other} {hops}" for other in others])

    def _tunnel(self, port: Port, vtep: Interface) -> None:
        _batch(
            ["ip", "-n", f"h{port.index}"],
            [
                f"addr add {vtep} dev {_plug(port)}",
                f"link set {_plug(port)} up",
                f"route add default via {_gateway(vtep.network).ip} dev {_plug(port)}",
                f"link add {port.netdev} address {_mac(0xA, port.index)} "
                f"type vxlan id {VNI} local {vtep.ip} dstport 4789",
                # It keeps sending and receiving where it was made.
                f"link set {port.netdev} netns 1",
            ],
        )
        others = [other.vtep.ip for other in self.ports if other.vtep and other is not port]
        _batch(["bridge"], [f"fdb append 00:00:00:00:00:00 dev {port.netdev} dst {other}" for other in others])

    def _addressed(self, port: Port) -> list[str]:
        # With accept_dad 0 as well an IPv6 address is tentative, and no source of a route, until the kernel's worker
        # has looked at it (addrconf_dad_work).
        at_once = " nodad" if port.interface.version == 6 else ""
        lines = [
            f"addr add {port.interface} dev {port.netdev}{at_once}",
            f"link set {port.netdev} up",
            f"route replace {port.interface.network} dev {port.netdev} src {port.address} table {port.table}",
        ]
        if port.vtep is None:
            gateway = _gateway(port.interface.network).ip
            lines.append(f"route replace default via {gateway} dev {port.netdev} src {port.address} table {port.table}")
        return lines

    def _introduce(self) -> None:
        """Tell every neighbour the others' MAC addresses."""
        told: dict[str | None, list[str]] = {}
        for knower, known in permutations(self._stations(), 2):
            if knower.interface.network == known.interface.network:
                told.setdefault(knower.namespace, []).append(_neighbour(known, knower.netdev))
        for station in self._stations():
            if station.cable:
                bridge = self._subnets.index(station.interface.network)
                gateway = _Station(_gateway(self._subnets[bridge]), "", _mac(0xB, bridge), None, None)
                told.setdefault(station.namespace, []).append(_neighbour(gateway, station.netdev))
                told.setdefault(self._leaf(bridge), []).append(_neighbour(station, f"br{bridge}"))
        for namespace, lines in told.items():
            _batch(["ip", *(["-n", namespace] if namespace else [])], lines)

    def _stations(self) -> list[_Station]:
        stations = []
        for port in self.ports:
            plug = _mac(0xC, port.index)
            if port.vtep is None:
                stations.append(_Station(port.interface, port.netdev, plug, None, port.cable))
            else:
                stations.append(_Station(port.interface, port.netdev, _mac(0xA, port.index), None, None))
                stations.append(_Station(port.vtep, _plug(port), plug, f"h{port.index}", port.cable))
        return stations

    def remove(self) -> None:
        """Take everything away that is there, also after a build that failed half-way."""
        _batch(["rdma", "-force"], [f"link delete {port.device}" for port in self.ports], forgiving=True)
        _batch(["ip", "-force"], [f"link del {port.netdev}" for port in self.ports], forgiving=True)
        for version in (4, 6):
            rules = [f"rule del pref {port.table}" for port in self._of(version) for _ in range(2)]
            _batch(["ip", f"-{version}", "-force"], rules, forgiving=True)
        _batch(["ip", "-force"], [f"netns del {namespace}" for namespace in self._namespaces()], forgiving=True)


def addresses(count: int, network: str = "10.9.0.0/24") -> list[str]:
    """The first ``count`` addresses of a network, with its prefix length."""
    subnet = ipaddress.ip_network(network)
    return [f"{subnet[index + 1]}/{subnet.prefixlen}" for index in range(count)]


def _gateway(subnet: ipaddress.IPv4Network | ipaddress.IPv6Network) -> Interface:
    return ipaddress.ip_interface(f"{subnet[-2]}/{subnet.prefixlen}")


def _plug(port: Port) -> str:
    """The cable's end at the port, or at its underlay."""
    return f"u{port.index}" if port.vtep else port.netdev


def _mac(kind: int, index: int) -> str:
    """A locally administered address."""
    return f"02:00:00:00:{kind:02x}:{index:02x}"


def _neighbour(known: _Station, netdev: str) -> str:
    return f"neigh replace {known.interface.ip} dev {netdev} lladdr {known.mac} nud permanent"


def _route_by_port() -> None:
    """Let rules by interface come before the table of local addresses, which else keeps every packet inside."""
    for family in ("-4", "-6"):
        if _run(["ip", family, "rule", "show", "pref", "0"]):
            _batch(["ip", family], ["rule add pref 32000 lookup local", "rule del pref 0"])
    _set(None, QUIET_IPV6)
    for kind in ("all", "default"):
        _set(None, {f"net.ipv4.conf.{kind}.{name}": value for name, value in HOST_SETTINGS.items()})


def _set(namespace: str | None, settings: dict[str, int]) -> None:
    where = ["ip", "netns", "exec", namespace] if namespace else []
    _run([*where, "sysctl", "-qw", *(f"{name}={value}" for name, value in settings.items())])


def _batch(program: Sequence[str], lines: Sequence[str], *, forgiving: bool = False) -> None:
    """Run many commands of ``ip``, ``tc``, ``bridge`` or ``rdma`` in one process: here a process costs milliseconds."""
    if lines:
        _run([*program, "-b", "-"], "\n".join(lines) + "\n", forgiving=forgiving)


def _run(argv: Sequence[str], text: str = "", *, forgiving: bool = False) -> str:
    """Run a command and return what it printed; raise LabError when it fails, unless ``forgiving``, or hangs."""
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        printed, complaint = process.communicate(text, PATIENCE)
    except subprocess.TimeoutExpired as error:  # left alone: what waits for an RDMA device cannot even be killed
        raise LabError(f"{' '.join(argv)} hangs", "does a process have an RDMA device open?") from error
    if process.returncode and not forgiving:
        raise LabError(f"{' '.join(argv)}: {' '.join(complaint.split())}")
    return printed
