"""The overlay: containers on the hosts, joined per tenant by VXLAN over the RNICs (RFC 7348).

Each host has per tenant a bridge, the virtual switch, and one VXLAN device. A container has an
interface per RNIC, and what comes from it is encapsulated with that RNIC's address: a mark set where
the packet enters the host chooses the routing table. There is no flooding and no learning. What is
known of remote containers is put there by hand, as a controller would: their addresses (for the
device to answer ARP), their place behind the tunnel, and the RNIC their packets go to.

Two tables hold that knowledge, as on hosts whose RNICs encapsulate in hardware. What the virtual
switch *wants* is kept per host in a file, what the fast path *holds* is the kernel's own forwarding
table (``bridge fdb``). Their difference is a fault of its own (lab.faults.overlay).
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from exporter.contracts.overlay import Entry, OverlayState, Snapshot
from lab.errors import LabError
from lab.network.design import OVERLAY, OVERLAY_OVERHEAD, Container, Design, Host, Interface, Tenant
from lab.sandbox.netns import inside

VXLAN_PORT = 4789
FIRST_MARK = 1  # packets from rail r carry the mark FIRST_MARK + r
FIRST_TABLE = 100  # the hosts' routing tables, one per rail
MARK_PRIORITY = 50  # before the rules by source address
TABLE = "overlay"


@dataclass(frozen=True)
class Way:
    """Where a remote interface is: what one host has to know of it."""

    tenant: Tenant
    container: Container
    interface: Interface
    vtep: str  # address of the RNIC behind which it is


def bridge(tenant: Tenant) -> str:
    return f"br-{tenant.vni}"


def tunnel(tenant: Tenant) -> str:
    return f"vx-{tenant.vni}"


def host_side(design: Design, container: Container, interface: Interface) -> str:
    """Name of the host's end of a container's interface."""
    number = [tenant.name for tenant in design.tenants].index(container.tenant)
    return f"t{number}r{interface.rail}"


def tenant_of(design: Design, container: Container) -> Tenant:
    return next(tenant for tenant in design.tenants if tenant.name == container.tenant)


def ways(design: Design, host: Host) -> Iterator[Way]:
    """Every interface of the other hosts' containers, with the RNIC to send to."""
    address = {(each.name, rnic.name): rnic.address for each in design.hosts for rnic in each.rnics}
    for tenant in design.tenants:
        for container in tenant.containers:
            if container.host != host.name:
                for interface in container.interfaces:
                    yield Way(tenant, container, interface, address[container.host, interface.rnic])


def build(design: Design, directory: Path) -> None:
    """Make bridges, tunnels, containers and tables on every host; the fabric must be cabled."""
    if not design.tenants:
        return
    (directory / "overlay").mkdir(exist_ok=True)
    # As few processes as can be: a lab of 16 hosts would otherwise start hundreds.
    batch("ip", [f"netns add {container.namespace}" for container in design.containers])
    batch("ip", [line for container in design.containers for line in _cables(design, container)])
    for host in design.hosts:
        own = [container for container in design.containers if container.host == host.name]
        known = list(ways(design, host))
        batch(
            "ip", [*_tunnels(design, host, known), *(line for each in own for line in _attach(design, each))], host.name
        )
        entries = [*_known(design, known), *(line for each in own for line in _learnt(design, each))]
        batch("bridge", entries, host.name)
        _mark(design, host.name, own)
        write_wanted(directory, host.name, wanted_entries(design, host))
    for container in design.containers:
        _address(container)


def raise_container(design: Design, container: Container) -> None:
    """Build one container anew; its namespace must be there."""
    batch("ip", _cables(design, container))
    batch("ip", _attach(design, container), container.host)
    batch("bridge", _learnt(design, container), container.host)
    _mark(design, container.host, [each for each in design.containers if each.host == container.host])
    _address(container)


def _tunnels(design: Design, host: Host, known: list[Way]) -> list[str]:
    """``ip`` words for the host's bridges, tunnels, routing by mark, and remote addresses, which the tunnels answer."""
    mtu = design.mtu - OVERLAY_OVERHEAD
    lines = []
    for tenant in design.tenants:
        lines += [
            f"link add {bridge(tenant)} mtu {mtu} type bridge mcast_snooping 0",
            f"link add {tunnel(tenant)} mtu {mtu} type vxlan id {tenant.vni} dstport {VXLAN_PORT} nolearning proxy "
            "tos inherit",  # the fabric sees the class of what is inside
            f"link set {tunnel(tenant)} master {bridge(tenant)} up",
            f"link set {bridge(tenant)} up",
        ]
    for rnic in host.rnics:
        mark, table = FIRST_MARK + rnic.rail, FIRST_TABLE + rnic.rail
        lines.append(f"rule add fwmark {mark} lookup {table} priority {MARK_PRIORITY + rnic.rail}")
    for way in known:
        device = tunnel(way.tenant)
        lines.append(f"neigh add {way.interface.address} lladdr {way.interface.mac} dev {device} nud permanent")
    return lines


def _known(design: Design, known: list[Way]) -> list[str]:
    """``bridge`` words for where remote containers are."""
    entries = [f"link set dev {tunnel(tenant)} learning off flood off" for tenant in design.tenants]
    for way in known:
        entries += [known_behind(way.interface.mac, tunnel(way.tenant)), encapsulate(way, way.vtep)]
    return entries


def _cables(design: Design, container: Container) -> list[str]:
    """``ip`` words for the container's interfaces."""
    # Without segmentation offload every packet is one on the wire, here as in the fabric.
    each_end = f"mtu {design.mtu - OVERLAY_OVERHEAD} gso_max_segs 1"
    return [
        f"link add name {host_side(design, container, interface)} netns {container.host} {each_end} type veth "
        f"peer name {interface.netdev} netns {container.namespace} {each_end} address {interface.mac}"
        for interface in container.interfaces
    ]


def _attach(design: Design, container: Container) -> list[str]:
    """``ip`` words, on the host, that join the container to its tenant's bridge."""
    master = bridge(tenant_of(design, container))
    return [f"link set {host_side(design, container, each)} master {master} up" for each in container.interfaces]


def _learnt(design: Design, container: Container) -> list[str]:
    """``bridge`` words, on the host, for where its own container is."""
    return [known_behind(each.mac, host_side(design, container, each)) for each in container.interfaces]


def _address(container: Container) -> None:
    """Give the container its addresses and routes."""
    # All interfaces are in one subnet: each is to answer for its own address only, with its own.
    with inside(container.namespace):
        for name, value in (("arp_ignore", "1"), ("arp_announce", "2"), ("rp_filter", "0")):
            Path("/proc/sys/net/ipv4/conf/all", name).write_text(value)
    lines = ["link set lo up"]
    for interface in container.interfaces:
        table = FIRST_TABLE + interface.rail
        lines += [
            f"addr add {interface.address}/{OVERLAY.prefixlen} dev {interface.netdev}",
            f"link set {interface.netdev} up",
            f"route add {OVERLAY} dev {interface.netdev} table {table}",
            f"rule add from {interface.address} lookup {table} priority {table}",
        ]
    batch("ip", lines, container.namespace)


def known_behind(mac: str, device: str) -> str:
    """``bridge`` words: the virtual switch forwards frames for ``mac`` out of ``device``."""
    return f"fdb replace {mac} dev {device} master static"


def encapsulate(way: Way, vtep: str) -> str:
    """``bridge`` words: the tunnel sends frames for a remote interface to ``vtep``."""
    return f"fdb replace {way.interface.mac} dev {tunnel(way.tenant)} dst {vtep} self permanent"


def _mark(design: Design, host: str, containers: list[Container]) -> None:
    """Mark what comes from the host's containers with its rail; containers that are gone have no chain."""
    with inside(host):
        present = {name for _, name in socket.if_nameindex()}
        chains = "".join(
            f"""
            chain {outer} {{
                type filter hook ingress device "{outer}" priority 0;
                meta mark set {FIRST_MARK + interface.rail}
            }}"""
            for container in containers
            for interface in container.interfaces
            if (outer := host_side(design, container, interface)) in present
        )
        script = f"add table netdev {TABLE}\ndelete table netdev {TABLE}\ntable netdev {TABLE} {{{chains}\n}}\n"
        done = subprocess.run(["nft", "-f", "-"], input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"nft on {host}: {' '.join(done.stderr.split())}")


# ---- the two tables, as the overlay contract has them


def wanted_file(directory: Path, host: str) -> Path:
    return directory / "overlay" / f"{host}.json"


def wanted_entries(design: Design, host: Host) -> list[Entry]:
    """What the host's virtual switch wants when all is well."""
    entries = [
        Entry(
            host=host.name,
            table="vswitch",
            vni=way.tenant.vni,
            dst=way.interface.address,
            dst_mac=way.interface.mac,
            next=way.vtep,
            offloaded=True,
            time=0.0,
        )
        for way in ways(design, host)
    ]
    for tenant in design.tenants:
        for container in tenant.containers:
            if container.host == host.name:
                entries += [
                    Entry(
                        host=host.name,
                        table="vswitch",
                        vni=tenant.vni,
                        dst=interface.address,
                        dst_mac=interface.mac,
                        next=f"local:{container.name}",
                        in_port=host_side(design, container, interface),
                        time=0.0,
                    )
                    for interface in container.interfaces
                ]
    return entries


def wanted(directory: Path, host: str) -> list[Entry]:
    """The virtual switch's table as it stands; empty in a lab without an overlay."""
    if not wanted_file(directory, host).exists():
        return []
    return msgspec.json.decode(wanted_file(directory, host).read_bytes(), type=list[Entry])


def write_wanted(directory: Path, host: str, entries: list[Entry]) -> None:
    new = wanted_file(directory, host).with_suffix(".new")
    new.write_bytes(msgspec.json.encode(entries))
    new.replace(wanted_file(directory, host))


def held(design: Design, host: str, now: float) -> list[Entry]:
    """What the fast path of a host holds, read from the kernel: tunnel entries and local interfaces."""
    with inside(host):
        answer = subprocess.run(["bridge", "-j", "fdb", "show"], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise LabError(f"bridge fdb on {host}: {' '.join(answer.stderr.split())}")
    table = json.loads(answer.stdout or "[]")
    tunnels = {tunnel(tenant): tenant for tenant in design.tenants}
    interfaces = {
        interface.mac: (container, interface) for container in design.containers for interface in container.interfaces
    }
    entries = []
    for row in table:
        container, interface = interfaces.get(row.get("mac", ""), (None, None))
        if container is None or interface is None:
            continue
        tenant = tunnels.get(row["ifname"])
        if tenant is not None and "dst" in row:
            following = row["dst"]
        elif container.host == host and row.get("master") and "static" in (row.get("state"), *row.get("flags", ())):
            tenant, following = tenant_of(design, container), f"local:{container.name}"
        else:
            continue
        entries.append(
            Entry(
                host=host,
                table="rnic",
                vni=tenant.vni,
                dst=interface.address,
                dst_mac=interface.mac,
                next=following,
                time=now,
            )
        )
    return entries


def state(design: Design, directory: Path, now: float) -> OverlayState:
    """Both tables of every host, read now (seconds since the epoch); hosts that are off are left out."""
    entries: list[Entry] = []
    snapshots: list[Snapshot] = []
    for host in design.hosts:
        rows = [msgspec.structs.replace(entry, time=now) for entry in wanted(directory, host.name)]
        try:
            rows += held(design, host.name, now)
        except LabError:
            continue
        entries += rows
        snapshots += [Snapshot(host=host.name, table="vswitch", time=now)]
        snapshots += [Snapshot(host=host.name, table="rnic", time=now)]
    return OverlayState(version=1, snapshots=tuple(snapshots), entries=tuple(entries))


def batch(program: str, lines: list[str], namespace: str | None = None) -> None:
    """Run many ``ip`` or ``bridge`` commands in one process; raise LabError with the first complaint."""
    argv = [program, *(["-n", namespace] if namespace else []), "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{program} on {namespace or 'the sandbox'}: {' '.join(done.stderr.split())}")
