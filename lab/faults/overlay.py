"""Faults of the overlay: wrong entries in its tables, flows that are not offloaded, containers that die.

A container is named whose addresses the fault is about; ``at`` is the host whose tables are wrong, or
``all`` other hosts. What the virtual switch wants and what the fast path holds go wrong together, or, for
the faults of offloading, apart (lab.network.overlay).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import ClassVar

import msgspec

from lab.errors import LabError
from lab.faults.base import Fault, Kind, Parameter, Site, register
from lab.network import overlay
from lab.network.design import Design, Tenant
from lab.network.overlay import Way
from lab.network.vswitch import tap
from lab.sandbox.netns import NAMESPACES
from lab.sandbox.processes import started

AT = Parameter("at", "host whose tables are wrong, or all", default="all", is_text=True)
SLOWNESS = Parameter("microseconds", "work per packet in the slow path, beyond the detour", "us", 100.0, highest=1e6)
VLAN_TABLE = "vlan_loss"
LOOP_TABLE = "loop_{}"
LOOPED_PER_SECOND = 200  # a frame in an overlay loop never dies: RFC 7348 has no hop count


class _Entries(Kind):
    """Base of the faults that change entries for one container's addresses on one or all other hosts."""

    target = "container"
    parameters: ClassVar[tuple[Parameter, ...]] = (AT,)

    needs_third_host: ClassVar[bool] = False
    """Whether packets are sent to a host that has nothing to do with them."""

    def check(self, design: Design, fault: Fault) -> None:
        if not _hosts(design, fault):
            raise LabError("no other host has tables", "a lab of two hosts or more")
        if self.needs_third_host and len(design.hosts) < 3:
            raise LabError(f"{self.name} needs a third host to send to", "python -m lab up --hosts-per-pod 3")

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        return frozenset(f"what {host} knows of {fault.target}" for host in _hosts(design, fault))

    def mend(self, site: Site, fault: Fault) -> None:
        """Put back, in both tables, what belongs there."""
        for host in _hosts(site.design, fault):
            _rewrite(site, host, _ways(site.design, host, fault), lambda way: way.vtep)


@register
class EntryMissing(_Entries):
    name = "fdb-missing"
    help = "a host's virtual switch has forgotten where a container is"

    def inflict(self, site: Site, fault: Fault) -> None:
        for host in _hosts(site.design, fault):
            _rewrite(site, host, _ways(site.design, host, fault), lambda _: None)


@register
class EntryWrong(_Entries):
    name = "fdb-wrong"
    needs_third_host = True
    help = "a host's virtual switch sends a container's packets to another host"

    def inflict(self, site: Site, fault: Fault) -> None:
        for host in _hosts(site.design, fault):
            _rewrite(site, host, _ways(site.design, host, fault), partial(_astray, site.design, host))


@register
class EntryLoop(_Entries):
    name = "fdb-loop"
    needs_third_host = True
    help = "two hosts' virtual switches send a container's packets to each other"
    parameters = (Parameter("at", "first of the two hosts", is_text=True),)

    def check(self, design: Design, fault: Fault) -> None:
        if fault.text("at") == "all":
            raise LabError("a loop has two hosts", "name the first; the second is taken from the others")
        super().check(design, fault)

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        tunnel = overlay.tunnel(overlay.tenant_of(design, design.container(fault.target)))
        pair = self._pair(design, fault)
        known = {f"what {host} knows of {fault.target}" for host in pair}
        return frozenset(known | {f"the tunnel {tunnel} of {host}" for host in pair})

    def inflict(self, site: Site, fault: Fault) -> None:
        first, second = self._pair(site.design, fault)
        for here, there in ((first, second), (second, first)):
            addresses = {rnic.name: rnic.address for rnic in site.design.host(there).rnics}
            ways = _ways(site.design, here, fault)
            for tenant in {way.tenant for way in ways}:
                device = overlay.tunnel(tenant)
                # A real switch's tunnel ports forward among themselves; a bridge's do only when told.
                site.run(here, ["bridge", "link", "set", "dev", device, "hairpin", "on"])
                self._limit(site, here, device)
            _rewrite(site, here, ways, partial(_by_rnic, addresses))

    def mend(self, site: Site, fault: Fault) -> None:
        for host in self._pair(site.design, fault):
            ways = _ways(site.design, host, fault)
            _rewrite(site, host, ways, lambda way: way.vtep)
            for tenant in {way.tenant for way in ways}:
                device = overlay.tunnel(tenant)
                site.run(host, ["bridge", "link", "set", "dev", device, "hairpin", "off"])
                site.drop_table(host, "netdev", LOOP_TABLE.format(tenant.vni))

    def dropped(self, site: Site, fault: Fault) -> int:
        tenant = overlay.tenant_of(site.design, site.design.container(fault.target))
        return sum(site.counted(host, LOOP_TABLE.format(tenant.vni)) for host in self._pair(site.design, fault))

    def _pair(self, design: Design, fault: Fault) -> tuple[str, str]:
        first = design.host(fault.text("at")).name
        own = design.container(fault.target).host
        return first, next(host.name for host in design.hosts if host.name not in (first, own))

    def _limit(self, site: Site, host: str, device: str) -> None:
        """Let a loop turn, but not so fast that it takes the machine with it."""
        table = LOOP_TABLE.format(device.removeprefix("vx-"))
        site.nft(
            host,
            f"""
            add table netdev {table}
            delete table netdev {table}
            table netdev {table} {{
                counter dropped {{ }}
                chain looping {{
                    type filter hook ingress device "{device}" priority 0;
                    limit rate over {LOOPED_PER_SECOND}/second burst 20 packets counter name dropped drop
                }}
            }}
            """,
        )


@register
class StaleOffload(_Entries):
    name = "offload-stale"
    needs_third_host = True
    help = "the RNIC still sends a container's packets where it was before; the virtual switch knows better"

    def inflict(self, site: Site, fault: Fault) -> None:
        for host in _hosts(site.design, fault):
            ways = _ways(site.design, host, fault)
            _hold(site, host, ways, partial(_astray, site.design, host))


@register
class NotOffloaded(_Entries):
    name = "offload-missing"
    help = "the RNIC lacks the flows to a container: every packet takes the virtual switch's slow path"
    parameters = (
        AT,
        Parameter(
            "microseconds", "work per packet in the slow path, beyond the detour", "us", default=100.0, highest=1e6
        ),
        Parameter("flows", "which of the container's interfaces", default="all", choices=("all", "some")),
    )

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        # One process holds the taps of a host, and does as much work for each packet as its fault says.
        return super().changes(design, fault) | {f"the slow path of {host}" for host in _hosts(design, fault)}

    def inflict(self, site: Site, fault: Fault) -> None:
        self.mend(site, fault)
        hosts = _hosts(site.design, fault)
        for host in hosts:
            words = ["--directory", str(site.directory), "--host", host]
            site.spawn_module(
                fault, "lab.network.vswitch", *words, "--microseconds", f"{fault.number('microseconds'):g}"
            )
        for host in hosts:
            ways = self._chosen(site.design, host, fault)
            for device in {tap(way.tenant) for way in ways}:
                site.until(partial(_forwards, host, device), f"the slow path of {host} holds {device}")
            _detour(site, host, ways)

    def mend(self, site: Site, fault: Fault) -> None:
        for host in _hosts(site.design, fault):
            _rewrite(site, host, _ways(site.design, host, fault), lambda way: way.vtep)
        site.stop(fault)

    def _chosen(self, design: Design, host: str, fault: Fault) -> list[Way]:
        ways = _ways(design, host, fault)
        return ways if fault.text("flows") == "all" else ways[: max(1, len(ways) // 2)]


@register
class RepeatedOffload(NotOffloaded):
    name = "offload-repeated"
    help = "the RNIC's flows to a container are invalidated again and again: slow, then fast, then slow"
    parameters = (
        AT,
        Parameter(
            "microseconds", "work per packet in the slow path, beyond the detour", "us", default=100.0, highest=1e6
        ),
        Parameter("period", "of one invalidation and renewal", "s", default=2.0, lowest=0.1, highest=3600),
    )

    def inflict(self, site: Site, fault: Fault) -> None:
        super().inflict(site, fault)
        words = ["--directory", str(site.directory), "--period", f"{fault.number('period'):g}", fault.target]
        site.spawn_module(fault, "lab.faults.invalidate", *words, *_hosts(site.design, fault))

    def mend(self, site: Site, fault: Fault) -> None:
        site.stop(fault)  # first, or it would take away what is being put back
        super().mend(site, fault)

    def _chosen(self, design: Design, host: str, fault: Fault) -> list[Way]:
        return _ways(design, host, fault)


@register
class VlanLoss(Kind):
    name = "vlan-loss"
    help = "a switch drops a share of the packets of one tenant's VLAN; the other tenants' pass"
    target = "switch"
    parameters = (
        Parameter("tenant", "whose VLAN", is_text=True),
        Parameter("percent", "share of the packets dropped", "%", default=20.0, lowest=0.0001, highest=100),
    )

    def check(self, design: Design, fault: Fault) -> None:
        self._tenant(design, fault)

    def inflict(self, site: Site, fault: Fault) -> None:
        # The VNI is 4 bytes into what UDP carries; without a number that is always true nft refuses 100 %.
        share = fault.number("percent")
        some = "" if share == 100 else f"numgen random mod 1000000 < {round(share * 10_000)}"
        match = f"udp dport {overlay.VXLAN_PORT} @ih,32,24 {self._tenant(site.design, fault).vni} {some}"
        site.nft(
            fault.target,
            f"""
            add table ip {VLAN_TABLE}
            delete table ip {VLAN_TABLE}
            table ip {VLAN_TABLE} {{
                counter dropped {{ }}
                chain forwarded {{
                    type filter hook forward priority 0;
                    {match} counter name dropped drop
                }}
            }}
            """,
        )

    def mend(self, site: Site, fault: Fault) -> None:
        site.drop_table(fault.target, "ip", VLAN_TABLE)

    def dropped(self, site: Site, fault: Fault) -> int:
        return site.counted(fault.target, VLAN_TABLE)

    def _tenant(self, design: Design, fault: Fault) -> Tenant:
        tenants = {tenant.name: tenant for tenant in design.tenants}
        if fault.text("tenant") not in tenants:
            remedy = "one of " + ", ".join(tenants) if tenants else "python -m lab up --tenants 1"
            raise LabError(f"there is no tenant {fault.text('tenant')!r}", remedy)
        return tenants[fault.text("tenant")]


@register
class ContainerKill(Kind):
    name = "container-kill"
    help = "end a container: its processes and its interfaces; healing makes an empty one in its place"
    target = "container"

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:  # noqa: ARG002
        return frozenset({f"the state of {fault.target}"})

    def inflict(self, site: Site, fault: Fault) -> None:
        container = site.design.container(fault.target)
        end_processes(container.namespace)
        for interface in container.interfaces:
            device = overlay.host_side(site.design, container, interface)
            # A socket held elsewhere would keep the namespace alive: without interfaces it is dead all the same.
            subprocess.run(["ip", "-n", container.host, "link", "del", device], capture_output=True, check=False)
        if (NAMESPACES / container.namespace).exists():
            subprocess.run(["ip", "netns", "del", container.namespace], check=True)

    def mend(self, site: Site, fault: Fault) -> None:
        container = site.design.container(fault.target)
        if not (NAMESPACES / container.namespace).exists():
            subprocess.run(["ip", "netns", "add", container.namespace], check=True)
            overlay.raise_container(site.design, container)


def end_processes(namespace: str, patience: float = 2.0) -> None:
    """Kill every process of a namespace, and wait until none is left."""
    deadline = time.monotonic() + patience
    while pids := _processes(namespace):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def _processes(namespace: str) -> list[int]:
    if not (NAMESPACES / namespace).exists():
        return []
    answer = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    own = os.getpid()
    return [int(word) for word in answer.stdout.split() if int(word) != own and started(int(word))]


# ---- entries


def _hosts(design: Design, fault: Fault) -> list[str]:
    """The hosts whose tables are concerned; the container's own never is."""
    own = design.container(fault.target).host
    at = fault.text("at")
    if at == "all":
        return [host.name for host in design.hosts if host.name != own]
    if design.host(at).name == own:
        raise LabError(f"{fault.target} is on {own} itself", "name another host, or all")
    return [at]


def _ways(design: Design, host: str, fault: Fault) -> list[Way]:
    """What ``host`` has to know of the container's interfaces."""
    return [way for way in overlay.ways(design, design.host(host)) if way.container.name == fault.target]


def _by_rnic(addresses: Mapping[str, str], way: Way) -> str:
    return addresses[way.interface.rnic]


def _astray(design: Design, host: str, way: Way) -> str:
    """The RNIC of a host that has nothing to do with it."""
    other = next(each for each in design.hosts if each.name not in (host, way.container.host))
    return next(rnic.address for rnic in other.rnics if rnic.name == way.interface.rnic)


def _rewrite(site: Site, host: str, ways: list[Way], following: Callable[[Way], str | None]) -> None:
    """Let both tables of a host send each interface's packets to ``following(way)``; None removes the entries."""
    chosen: dict[tuple[int, str | None], Way] = {(way.tenant.vni, way.interface.mac): way for way in ways}
    entries = [e for e in overlay.wanted(site.directory, host) if (e.vni, e.dst_mac) not in chosen]
    for entry in overlay.wanted_entries(site.design, site.design.host(host)):
        way = chosen.get((entry.vni, entry.dst_mac))
        if way is not None and (target := following(way)) is not None:
            entries.append(msgspec.structs.replace(entry, next=target))
    overlay.write_wanted(site.directory, host, entries)
    _hold(site, host, ways, following)


def _forwards(host: str, device: str) -> bool:
    """Whether a device is up and part of a bridge."""
    answer = subprocess.run(["ip", "-n", host, "-j", "link", "show", device], capture_output=True, check=False)
    links = json.loads(answer.stdout or b"[]")
    return any("master" in link and "UP" in link.get("flags", ()) for link in links)


def _hold(site: Site, host: str, ways: list[Way], following: Callable[[Way], str | None]) -> None:
    """The same for the fast path only."""
    for way in ways:
        target, device, mac = following(way), overlay.tunnel(way.tenant), way.interface.mac
        _bridge(site, host, overlay.known_behind(mac, device))
        _bridge(site, host, f"fdb del {mac} dev {device} self", check=False)
        if target is not None:
            _bridge(site, host, overlay.encapsulate(way, target))


def _detour(site: Site, host: str, ways: list[Way]) -> None:
    """Take flows out of the fast path: frames go up to the slow path's tap."""
    for way in ways:
        mac = way.interface.mac
        _bridge(site, host, f"fdb del {mac} dev {overlay.tunnel(way.tenant)} self", check=False)
        _bridge(site, host, overlay.known_behind(mac, tap(way.tenant)))


def _bridge(site: Site, host: str, words: str, *, check: bool = True) -> None:
    try:
        site.run(host, ["bridge", *words.split()])
    except LabError:
        if check:
            raise


def restore(site: Site, host: str, container: str) -> None:
    """Offload the flows to a container again."""
    ways = [way for way in overlay.ways(site.design, site.design.host(host)) if way.container.name == container]
    _hold(site, host, ways, lambda way: way.vtep)


def invalidate(site: Site, host: str, container: str) -> None:
    """Take the flows to a container out of the fast path; the slow path must be running."""
    _detour(site, host, [w for w in overlay.ways(site.design, site.design.host(host)) if w.container.name == container])
