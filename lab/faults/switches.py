"""Faults of whole switches: a crash, no ICMP, another choice of paths; and the planned drain, which is none."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from lab.errors import LabError
from lab.faults.base import Fault, Kind, Parameter, Site, register
from lab.faults.ports import states
from lab.network import icmp, routing
from lab.network.design import Design, Switch
from lab.network.fabric import MANAGEMENT_PORT
from lab.network.snmp import Agents
from lab.sandbox.daemons import Daemons
from lab.sandbox.netns import inside

ICMP_TABLE = "icmp_blackhole"
SEED = Path("/proc/sys/net/ipv4/fib_multipath_hash_seed")
EVERY = "all"
SETTLE_SECONDS = 1.5


@register
class SwitchOffline(Kind):
    name = "switch-offline"
    help = "a switch crashes: every port loses carrier and its daemons are gone, until it boots again"
    target = "switch"

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        return states(design.switch(fault.target).ports) | {f"the routing of {fault.target}"}

    def inflict(self, site: Site, fault: Fault) -> None:
        switch = site.design.switch(fault.target)
        _set_links(site, switch, "down")  # first: a switch that crashes says goodbye to nobody
        daemons = Daemons(site.directory)
        daemons.end(*daemons.on(switch.namespace))

    def mend(self, site: Site, fault: Fault) -> None:
        """Boot: links, zebra, then what needs zebra, as ``lab.network.fabric`` does. Routing converges after that."""
        switch = site.design.switch(fault.target)
        daemons = Daemons(site.directory)
        those = daemons.on(switch.namespace)
        if any(daemon.off for daemon in those if daemon.name.startswith("zebra-")):
            routing.forget_ready(switch)
        _set_links(site, switch, "up")
        for daemon in sorted(those, key=lambda each: not each.name.startswith("zebra-")):
            daemons.restart(daemon)
            if daemon.name.startswith("zebra-"):
                site.until(lambda: routing.ready(switch), f"zebra of {switch.name} is ready", timeout=20)
        if any(daemon.name.startswith("snmpd-") for daemon in those):
            argv, environ = Agents(site.directory / "snmp").freshen(switch)
            site.run(switch.namespace, ["env", *(f"{name}={value}" for name, value in environ.items()), *argv])


@register
class IcmpBlackhole(Kind):
    """ICMP errors disabled or filtered: traceroute shows ``*``, and a smaller MTU behind it is a black hole."""

    name = "icmp-blackhole"
    help = "a switch forwards and answers echo requests, but sends no ICMP errors: no traceroute, no path MTU"
    target = "switch"

    def inflict(self, site: Site, fault: Fault) -> None:
        site.nft(
            site.design.switch(fault.target).namespace,
            f"""
            add table ip {ICMP_TABLE}
            delete table ip {ICMP_TABLE}
            table ip {ICMP_TABLE} {{
                counter dropped {{ }}
                chain leaving {{
                    type filter hook output priority -20; policy accept;
                    {icmp.ERRORS} counter name dropped drop
                }}
            }}
            """,
        )

    def mend(self, site: Site, fault: Fault) -> None:
        site.drop_table(site.design.switch(fault.target).namespace, "ip", ICMP_TABLE)

    def dropped(self, site: Site, fault: Fault) -> int:
        """ICMP errors not sent; the packets they would have been about are gone anyway."""
        return site.counted(site.design.switch(fault.target).namespace, ICMP_TABLE)


@register
class EcmpRehash(Kind):
    """A changed hash seed or a changed member of the ECMP group: about 1 - 1/n of the flows take another of n paths."""

    name = "ecmp-rehash"
    help = "a switch, or 'all' of them, spreads flows over the equal paths by another hash: flows move"
    target = "switch"
    parameters = (
        Parameter(
            "seed",
            "from which each switch's hash seed is drawn",
            default=1.0,
            lowest=1,
            highest=2**32 - 1,
            is_whole=True,
        ),
    )

    def resolve(self, design: Design, target: str) -> str:
        return EVERY if target == EVERY else design.switch(target).name

    def check(self, design: Design, fault: Fault) -> None:  # noqa: ARG002
        if not SEED.exists():
            raise LabError(
                f"Linux {os.uname().release} cannot change the hash of equal paths",
                "net.ipv4.fib_multipath_hash_seed came with Linux 6.11",
            )

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        return frozenset(f"the hash of {switch.name}" for switch in self._switches(design, fault))

    def inflict(self, site: Site, fault: Fault) -> None:
        for switch in self._switches(site.design, fault):
            draw = random.Random(f"{fault.number('seed'):.0f} {switch.name}")
            self._set(switch, draw.randrange(1, 2**32))

    def mend(self, site: Site, fault: Fault) -> None:
        for switch in self._switches(site.design, fault):
            self._set(switch, 0)  # the seed that the kernel has drawn at boot

    def _switches(self, design: Design, fault: Fault) -> tuple[Switch, ...]:
        return design.switches if fault.target == EVERY else (design.switch(fault.target),)

    def _set(self, switch: Switch, seed: int) -> None:
        with inside(switch.namespace):
            SEED.write_text(f"{seed}\n")


@register
class Drain(Kind):
    """BGP graceful shutdown (RFC 8326): its neighbours prefer every other path, and nothing is lost.

    A leaf has no other path to its hosts: their traffic stays. In the topology file the switch is ``drained``.
    """

    name = "drain"
    help = "take a switch out of service as planned: BGP graceful shutdown, traffic leaves without loss"
    target = "switch"

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:  # noqa: ARG002
        return frozenset({f"the routing of {fault.target}"})  # a switch that is off would boot without the drain

    def inflict(self, site: Site, fault: Fault) -> None:
        self._set(site, fault, "bgp graceful-shutdown")

    def mend(self, site: Site, fault: Fault) -> None:
        self._set(site, fault, "no bgp graceful-shutdown")

    def _set(self, site: Site, fault: Fault, words: str) -> None:
        switch = site.design.switch(fault.target)
        site.vtysh(switch.name, "configure terminal", f"router bgp {switch.asn}", words)
        # While other routes change, bgpd 8.4 leaves the community on some: announced anew when it has settled.
        time.sleep(SETTLE_SECONDS)
        site.vtysh(switch.name, "clear bgp ipv4 unicast * soft out")


def _set_links(site: Site, switch: Switch, state: str) -> None:
    devices = ["lo", MANAGEMENT_PORT, *(end.netdev for end in switch.ports)]
    script = "".join(f"link set dev {device} {state}\n" for device in devices)
    site.run(switch.namespace, ["ip", "-batch", "-"], script)
