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
    _batch("ip", [f"netns add {container.namespace}" for container in design.containers])
    for host in design.hosts:
        raise_host(design, directory, host)
    for container in design.containers:
        raise_container(design, container)


def raise_host(design: Design, directory: Path, host: Host) -> None:
    """Build the host's half: bridges, tunnels, routing by mark, and what it knows of the others."""
    lines = []
    for tenant in design.tenants:
        mtu = design.mtu - OVERLAY_OVERHEAD
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
    known = list(ways(design, host))
    for way in known:
        device = tunnel(way.tenant)
        lines.append(f"neigh add {way.interface.address} lladdr {way.interface.mac} dev {device} nud permanent")
    _batch("ip", lines, host.name)
    entries = [f"link set dev {tunnel(tenant)} learning off flood off" for tenant in design.tenants]
    for way in known:
        entries += [known_behind(way.interface.mac, tunnel(way.tenant)), encapsulate(way, way.vtep)]
    _batch("bridge", entries, host.name)
    write_wanted(directory, host.name, wanted_entries(design, host))


def raise_container(design: Design, container: Container) -> None:
    """Build the container's half; its namespace must be there."""
    cables = []
    addresses = ["link set lo up"]
    for interface in container.interfaces:
        outer = host_side(design, container, interface)
        mtu = design.mtu - OVERLAY_OVERHEAD
        cables += [
            # Without segmentation offload every packet is one on the wire, here as in the fabric.
            f"link add name {outer} netns {container.host} mtu {mtu} gso_max_segs 1 type veth peer name "
            f"{interface.netdev} netns {container.namespace} mtu {mtu} gso_max_segs 1 address {interface.mac}",
        ]
        table = FIRST_TABLE + interface.rail
        addresses += [
            f"addr add {interface.address}/{OVERLAY.prefixlen} dev {interface.netdev}",
            f"link set {interface.netdev} up",
            f"route add {OVERLAY} dev {interface.netdev} table {table}",
            f"rule add from {interface.address} lookup {table} priority {table}",
        ]
    _batch("ip", cables)
    # All interfaces are in one subnet: each is to answer for its own address only, with its own.
    with inside(container.namespace):
        for name, value in (("arp_ignore", "1"), ("arp_announce", "2"), ("rp_filter", "0")):
            Path("/proc/sys/net/ipv4/conf/all", name).write_text(value)
    _batch("ip", addresses, container.namespace)
    tenant = tenant_of(design, container)
    attached = [(host_side(design, container, interface), interface.mac) for interface in container.interfaces]
    _batch("ip", [f"link set {device} master {bridge(tenant)} up" for device, _ in attached], container.host)
    _batch("bridge", [known_behind(mac, device) for device, mac in attached], container.host)
    _mark(design, container)


def known_behind(mac: str, device: str) -> str:
    """``bridge`` words: the virtual switch forwards frames for ``mac`` out of ``device``."""
    return f"fdb replace {mac} dev {device} master static"


def encapsulate(way: Way, vtep: str) -> str:
    """``bridge`` words: the tunnel sends frames for a remote interface to ``vtep``."""
    return f"fdb replace {way.interface.mac} dev {tunnel(way.tenant)} dst {vtep} self permanent"


def _mark(design: Design, container: Container) -> None:
    """Mark what comes from the container with its rail, in a table of the container's own."""
    table = f"{TABLE}_{tenant_of(design, container).vni}"
    chains = "".join(
        f"""
            chain {host_side(design, container, interface)} {{
                type filter hook ingress device "{host_side(design, container, interface)}" priority 0;
                meta mark set {FIRST_MARK + interface.rail}
            }}"""
        for interface in container.interfaces
    )
    script = f"add table netdev {table}\ndelete table netdev {table}\ntable netdev {table} {{{chains}\n}}\n"
    with inside(container.host):
        done = subprocess.run(["nft", "-f", "-"], input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"nft on {container.host}: {' '.join(done.stderr.split())}")


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
    """The virtual switch's table as it stands."""
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


def _batch(program: str, lines: list[str], namespace: str | None = None) -> None:
    """Run many ``ip`` or ``bridge`` commands in one process; raise LabError with the first complaint."""
    argv = [program, *(["-n", namespace] if namespace else []), "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{program} on {namespace or 'the sandbox'}: {' '.join(done.stderr.split())}")
