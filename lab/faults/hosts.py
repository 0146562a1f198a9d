"""Faults of hosts and RNICs: no power, a dead or slow RNIC, a changed address, an agent that hangs."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path

from lab.counters.control import Counters
from lab.errors import LabError
from lab.faults.base import Fault, Kind, Parameter, Site, Value, register
from lab.faults.flows import LOSSLESS_DSCP
from lab.faults.links import drop_arriving
from lab.faults.overlay import end_processes
from lab.faults.ports import states
from lab.network import delay, overlay
from lab.network.delay import Stage
from lab.network.design import OVERLAY, Design, Host
from lab.network.fabric import MANAGEMENT_PORT, rnic_routes
from lab.sandbox.netns import NAMESPACES

DEAD_TABLE = "dead_{}"
CLASS_TABLE = "class_{}"
FIRST_QUEUE = 100  # of the delay stages on leaves; two for each port
AGENT = "exporter.cli"


@register
class HostOff(Kind):
    name = "host-off"
    help = "a host loses its power: every process on it ends, containers included, and its links lose carrier"
    target = "host"

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        rnics = (design.rnic_end(f"{fault.target}:{rnic.name}") for rnic in design.host(fault.target).rnics)
        return states(rnics) | {f"the state of {c.name}" for c in design.containers if c.host == fault.target}

    def inflict(self, site: Site, fault: Fault) -> None:
        host = site.design.host(fault.target)
        for container in site.design.containers:
            if container.host == host.name:
                end_processes(container.namespace)
        end_processes(host.namespace)
        for device in (MANAGEMENT_PORT, *(rnic.netdev for rnic in host.rnics)):
            site.run(host.name, ["ip", "link", "set", "dev", device, "down"])
        for container in site.design.containers:
            if container.host == host.name and (NAMESPACES / container.namespace).exists():
                for interface in container.interfaces:
                    site.run(container.namespace, ["ip", "link", "set", "dev", interface.netdev, "down"])

    def mend(self, site: Site, fault: Fault) -> None:
        """Power returns. Agents do not: whoever had started them starts them again."""
        host = site.design.host(fault.target)
        site.run(host.name, ["ip", "link", "set", "dev", MANAGEMENT_PORT, "up"])
        _raise_rnics(site, host, [rnic.name for rnic in host.rnics])
        for container in site.design.containers:
            if container.host == host.name and (NAMESPACES / container.namespace).exists():
                for interface in container.interfaces:
                    site.run(container.namespace, ["ip", "link", "set", "dev", interface.netdev, "up"])
                    way = ["ip", "route", "replace", str(OVERLAY), "dev", interface.netdev]
                    site.run(container.namespace, [*way, "table", str(overlay.FIRST_TABLE + interface.rail)])


@register
class RnicDown(Kind):
    name = "rnic-down"
    help = "an RNIC's port goes down: the host's end first, so that the switch loses carrier"
    target = "rnic"

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        return states([design.rnic_end(fault.target)])

    def inflict(self, site: Site, fault: Fault) -> None:
        site.link(site.design.rnic_end(fault.target), "down")

    def mend(self, site: Site, fault: Fault) -> None:
        end = site.design.rnic_end(fault.target)
        _raise_rnics(site, site.design.host(end.node), [end.port])


@register
class RnicFlap(Kind):
    name = "rnic-flap"
    help = "an RNIC's port goes down and up, again and again"
    target = "rnic"
    parameters = (
        Parameter("period", "from one fall to the next", "s", default=4.0, lowest=0.2, highest=3600),
        Parameter("down", "of each period", "s", default=1.0, lowest=0.05, highest=3600),
    )

    def check(self, design: Design, fault: Fault) -> None:  # noqa: ARG002
        if fault.number("down") >= fault.number("period"):
            raise LabError("a port that flaps comes back", "down must be shorter than period")

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        return states([design.rnic_end(fault.target)])

    def inflict(self, site: Site, fault: Fault) -> None:
        site.stop(fault)
        words = [RnicDown.name, fault.target, f"{fault.number('period'):g}", f"{fault.number('down'):g}"]
        site.spawn_module(fault, "lab.faults.flapping", "--directory", str(site.directory), *words)

    def mend(self, site: Site, fault: Fault) -> None:
        site.stop(fault)
        RnicDown().mend(site, fault)


@register
class RnicDead(Kind):
    name = "rnic-dead"
    help = "an RNIC's hardware fails: the link light stays on, no packet passes, the device vanishes from the host"
    target = "rnic"

    def inflict(self, site: Site, fault: Fault) -> None:
        near = site.design.rnic_end(fault.target)
        for end in (near, site.design.far_end(near)):
            drop_arriving(site, end, DEAD_TABLE, "")
        Counters(site.directory, site.design).remove_rnic(near.node, near.port, fault.name)

    def mend(self, site: Site, fault: Fault) -> None:
        near = site.design.rnic_end(fault.target)
        for end in (near, site.design.far_end(near)):
            site.drop_table(end.node, "netdev", DEAD_TABLE.format(end.netdev))
        Counters(site.directory, site.design).clear(fault.name)

    def dropped(self, site: Site, fault: Fault) -> int:
        near = site.design.rnic_end(fault.target)
        ends = (near, site.design.far_end(near))
        return sum(site.counted(end.node, DEAD_TABLE.format(end.netdev)) for end in ends)


@register
class BondError(Kind):
    name = "bond-error"
    help = "an RNIC's two ports do not bond: the device has carrier and no address"
    target = "rnic"

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        return states([design.rnic_end(fault.target)])

    def inflict(self, site: Site, fault: Fault) -> None:
        end = site.design.rnic_end(fault.target)
        site.run(end.node, ["ip", "addr", "flush", "dev", end.netdev])

    def mend(self, site: Site, fault: Fault) -> None:
        end = site.design.rnic_end(fault.target)
        _raise_rnics(site, site.design.host(end.node), [end.port])


@register
class GidChange(Kind):
    name = "gid-change"
    help = "the host's network service restarts and an RNIC's GIDs move: RoCE packets die, TCP and ICMP live"
    target = "rnic"
    parameters = (
        Parameter("dscp", "class of the RoCE packets", default=float(LOSSLESS_DSCP), highest=63, is_whole=True),
    )

    def inflict(self, site: Site, fault: Fault) -> None:
        end = site.design.rnic_end(fault.target)
        match = f"ip protocol udp ip dscp {fault.number('dscp'):g}"
        drop_arriving(site, end, CLASS_TABLE, match)
        counters = Counters(site.directory, site.design)
        counters.clear(fault.name)
        # The entry for RoCE v2 goes from index 3 to where the queue pairs do not look for it.
        counters.change_gid(end.node, end.port, 3, "", fault.name)

    def mend(self, site: Site, fault: Fault) -> None:
        end = site.design.rnic_end(fault.target)
        site.drop_table(end.node, "netdev", CLASS_TABLE.format(end.netdev))
        Counters(site.directory, site.design).clear(fault.name)

    def dropped(self, site: Site, fault: Fault) -> int:
        end = site.design.rnic_end(fault.target)
        return site.counted(end.node, CLASS_TABLE.format(end.netdev))


@register
class RnicSlow(Kind):
    name = "rnic-slow"
    help = "an RNIC holds packets back: firmware, PCIe, encapsulation in software"
    target = "rnic"
    parameters = (
        Parameter("microseconds", "delay of each packet", "us", default=500.0, lowest=1, highest=1e7),
        Parameter(
            "packets", "all, those of the overlay, or some flows only", default="all", choices=("all", "vxlan", "flows")
        ),
        Parameter("direction", "both, what arrives, or what leaves", default="both", choices=("both", "in", "out")),
    )

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:  # noqa: ARG002
        return frozenset({f"the delay of {fault.target}"})

    def inflict(self, site: Site, fault: Fault) -> None:
        self.mend(site, fault)
        for stage in self._stages(site.design, fault):
            delay.begin(stage, partial(site.spawn, fault, role="delay"))

    def mend(self, site: Site, fault: Fault) -> None:
        for stage in self._stages(site.design, fault, every=True):
            delay.remove(stage.node, stage.queue)
        site.stop(fault)

    def _stages(self, design: Design, fault: Fault, *, every: bool = False) -> list[Stage]:
        # At the leaf's port, where a kernel's timestamps on the host, like a real RNIC's, have not been taken yet.
        port = design.far_end(design.rnic_end(fault.target))
        place = [end.id for end in design.switch(port.node).ports].index(port.id)
        # A flow is all packets of one 5-tuple, the overlay's outer one included; a fragmented or other packet is none.
        which = {
            "all": "",
            "vxlan": f"udp dport {overlay.VXLAN_PORT}",
            "flows": "meta l4proto udp jhash ip saddr . ip daddr . udp sport . udp dport mod 4 seed 0x5eed == 0",
        }[fault.text("packets")]
        return [
            Stage(
                node=port.node,
                queue=FIRST_QUEUE + 2 * place + number,
                microseconds=fault.number("microseconds"),
                match=f'{name} "{port.netdev}" {which}',
                hook="forward",
            )
            for number, (direction, name) in enumerate((("in", "oifname"), ("out", "iifname")))
            if every or fault.text("direction") in ("both", direction)
        ]


@register
class HostSlow(Kind):
    name = "host-slow"
    help = "a host handles every packet late, whichever RNIC it came by: memory pages, memory controller, firmware"
    target = "host"
    parameters = (Parameter("microseconds", "delay of each packet", "us", default=300.0, lowest=1, highest=1e7),)

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        return frozenset(f"the delay of {part.target}" for part in self._parts(design, fault))

    def inflict(self, site: Site, fault: Fault) -> None:
        self.mend(site, fault)
        for part in self._parts(site.design, fault):
            RnicSlow().inflict(site, part)

    def mend(self, site: Site, fault: Fault) -> None:
        for part in self._parts(site.design, fault):
            RnicSlow().mend(site, part)

    def _parts(self, design: Design, fault: Fault) -> list[Fault]:
        values: dict[str, Value] = {"microseconds": fault.number("microseconds"), "packets": "all", "direction": "in"}
        return [Fault(RnicSlow.name, f"{fault.target}:{rnic.name}", values) for rnic in design.host(fault.target).rnics]


@register
class AgentStop(Kind):
    name = "agent-stop"
    help = "a host's exporter hangs or is killed while the host's own traffic goes on"
    target = "host"
    parameters = (Parameter("how", "hang or kill", default="hang", choices=("hang", "kill")),)

    def inflict(self, site: Site, fault: Fault) -> None:
        host = site.design.host(fault.target)
        agents = _agents(host)
        if not agents:
            raise LabError(f"no exporter runs on {host.name}", "the demo and the scenarios start exporters")
        if fault.text("how") == "kill":
            first = agents[0]
            site.note(fault, {"argv": _words(first, "cmdline"), "environ": _words(first, "environ")})
        for pid in agents:
            with suppress(ProcessLookupError):  # its workers may end with the first
                os.kill(pid, signal.SIGKILL if fault.text("how") == "kill" else signal.SIGSTOP)

    def mend(self, site: Site, fault: Fault) -> None:
        host = site.design.host(fault.target)
        for pid in _agents(host):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        notes = site.notes(fault)
        if notes:
            environ = dict(word.split("=", 1) for word in notes["environ"] if "=" in word)
            log = site.directory / "logs" / f"exporter-{host.name}.log"
            with open(log, "ab") as output:
                subprocess.Popen(
                    ["ip", "netns", "exec", host.namespace, *notes["argv"]],
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )


def _agents(host: Host) -> list[int]:
    """The exporter's processes on a host, the control process first."""
    answer = subprocess.run(["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=True)
    pids = [int(word) for word in answer.stdout.split()]
    ours = [pid for pid in pids if any(word.startswith("exporter.") for word in _words(pid, "cmdline"))]
    return sorted(ours, key=lambda pid: AGENT not in _words(pid, "cmdline"))


def _words(pid: int, name: str) -> list[str]:
    try:
        return [os.fsdecode(word) for word in Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0") if word]
    except OSError:
        return []


def _raise_rnics(site: Site, host: Host, names: list[str]) -> None:
    """Bring RNICs up with address and routes, all of which go with a link or an address."""
    for rnic in host.rnics:
        if rnic.name in names:
            site.run(host.name, ["ip", "link", "set", "dev", rnic.netdev, "up"])
            for line in rnic_routes(rnic):
                site.run(host.name, ["ip", *line.split()])
