"""Faults of ports: down, flapping, a wrong MTU on one, on a breakout group or on a line card."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from lab.errors import LabError
from lab.faults.base import Fault, Kind, Parameter, Site, register
from lab.network.design import Design, End
from lab.sandbox.netns import NAMESPACES

SMALLEST_MTU = 68  # RFC 791
MTU = Parameter("mtu", "the MTU it gets", "bytes", default=1500.0, lowest=SMALLEST_MTU, highest=9000, is_whole=True)


@register
class PortDown(Kind):
    name = "port-down"
    help = "take a switch's port down: its other end loses carrier"
    target = "port"

    def check(self, design: Design, fault: Fault) -> None:
        switch_port(design, fault.target, "rnic-down is for RNICs")

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        return states([design.end(fault.target)])

    def inflict(self, site: Site, fault: Fault) -> None:
        site.link(site.design.end(fault.target), "down")

    def mend(self, site: Site, fault: Fault) -> None:
        site.link(site.design.end(fault.target), "up")


@register
class PortFlap(Kind):
    name = "port-flap"
    help = "a switch's port goes down and up, again and again"
    target = "port"
    parameters = (
        Parameter("period", "from one fall to the next", "s", default=4.0, lowest=0.2, highest=3600),
        Parameter("down", "of each period", "s", default=1.0, lowest=0.05, highest=3600),
    )

    def check(self, design: Design, fault: Fault) -> None:
        switch_port(design, fault.target, "rnic-flap is for RNICs")
        if fault.number("down") >= fault.number("period"):
            raise LabError("a port that flaps comes back", "down must be shorter than period")

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        return states([design.end(fault.target)])

    def inflict(self, site: Site, fault: Fault) -> None:
        site.stop(fault)
        words = [PortDown.name, fault.target, f"{fault.number('period'):g}", f"{fault.number('down'):g}"]
        site.spawn_module(fault, "lab.faults.flapping", "--directory", str(site.directory), *words)

    def mend(self, site: Site, fault: Fault) -> None:
        site.stop(fault)
        PortDown().mend(site, fault)


@register
class PortMtu(Kind):
    name = "port-mtu"
    help = "set the MTU of one port only: longer packets die there, whichever way they go"
    target = "port"
    parameters = (MTU,)

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        return _mtus([design.end(fault.target)])

    def inflict(self, site: Site, fault: Fault) -> None:
        set_mtu(site, [site.design.end(fault.target)], fault.number("mtu"))

    def mend(self, site: Site, fault: Fault) -> None:
        restore_mtu(site, [site.design.end(fault.target)])


class _GroupMtu(Kind):
    """The MTU of every port in use of a group of ports of one switch."""

    field: ClassVar[str]
    parameters = (MTU,)

    def resolve(self, design: Design, target: str) -> str:
        switch, joint, group = target.partition(":")
        groups = self._groups(design.switch(switch).ports)
        if not joint or group not in groups:
            there = ", ".join(f"{switch}:{each}" for each in groups) or "none"
            raise LabError(f"there is no {self.target} {target!r}", f"those of {switch}: {there}")
        return target

    def ports(self, design: Design, target: str) -> list[End]:
        switch, _, group = target.partition(":")
        return self._groups(design.switch(switch).ports)[group]

    def _groups(self, ports: Iterable[End]) -> dict[str, list[End]]:
        groups: dict[str, list[End]] = {}
        for end in ports:
            group = getattr(end, self.field)
            if group is not None:
                groups.setdefault(group, []).append(end)
        return groups

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        return _mtus(self.ports(design, fault.target))

    def inflict(self, site: Site, fault: Fault) -> None:
        set_mtu(site, self.ports(site.design, fault.target), fault.number("mtu"))

    def mend(self, site: Site, fault: Fault) -> None:
        restore_mtu(site, self.ports(site.design, fault.target))


@register
class BreakoutMtu(_GroupMtu):
    name = "breakout-mtu"
    help = "set the MTU of all ports of a breakout group, SWITCH:GROUP: the lanes of one cage"
    target = "breakout group"
    field = "breakout_group"


@register
class LinecardMtu(_GroupMtu):
    name = "linecard-mtu"
    help = "set the MTU of all ports of a line card, SWITCH:LINECARD, as after a swap without its configuration"
    target = "line card"
    field = "linecard"


def switch_port(design: Design, name: str, remedy: str) -> End:
    """The switch's port called ``name``; raise LabError when it is an RNIC's."""
    end = design.end(name)
    if end.node not in {switch.name for switch in design.switches}:
        raise LabError(f"{name} is not a switch's port", remedy)
    return end


def states(ends: Iterable[End]) -> frozenset[str]:
    """Up or down, as ``Kind.changes`` has it."""
    return frozenset(f"the state of {end.id}" for end in ends)


def _mtus(ends: Iterable[End]) -> frozenset[str]:
    return frozenset(f"the MTU of {end.id}" for end in ends)


def set_mtu(site: Site, ends: list[End], mtu: float) -> None:
    for end in ends:
        site.link(end, "mtu", f"{mtu:g}")


def restore_mtu(site: Site, ends: list[End]) -> None:
    set_mtu(site, ends, site.design.mtu)
    # What hosts have learnt of the smaller MTU would outlive the fault by ten minutes.
    namespaces = [host.namespace for host in site.design.hosts] + [each.namespace for each in site.design.containers]
    for namespace in namespaces:
        if (NAMESPACES / namespace).exists():  # a container may be gone
            site.run(namespace, ["ip", "route", "flush", "cache"])
