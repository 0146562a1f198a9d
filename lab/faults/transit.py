"""Faults of the way to the second site: routing that goes through another carrier."""

from __future__ import annotations

import subprocess
import time

from lab.errors import LabError
from lab.faults.base import Fault, Kind, Parameter, Site, register
from lab.network import carrier, transit
from lab.network.design import Design, Transit
from lab.sandbox.netns import inside

SETTLE_SECONDS = 10.0


@register
class RouteChange(Kind):
    name = "route-change"
    help = "send the traffic between the sites through another carrier, by BGP local preference at the borders"
    target = "switch"
    parameters = (
        Parameter(
            "direction",
            "away from the fabric, back to it, or both",
            default="both",
            choices=("both", "away", "back"),
        ),
    )

    def resolve(self, design: Design, target: str) -> str:
        name = super().resolve(design, target)
        plan = _transit(design)
        second = plan.carriers[1].switch
        if name != second:
            raise LabError(f"routes cannot change to {name!r}", f"{second!r} is the carrier that is not used")
        return name

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:  # noqa: ARG002
        return frozenset(f"the routing of {border}" for border in _borders(design, "both"))

    def inflict(self, site: Site, fault: Fault) -> None:
        site.note(fault, {"lost": carrier.carried(fault.target).lost})
        chosen = _borders(site.design, fault.text("direction"))
        for border in _borders(site.design, "both"):
            _prefer(site, border, fault.target, forced=border in chosen)
        for border, far in chosen.items():
            if not _settled(site, border, far, fault.target):
                raise LabError(f"{border} does not route through {fault.target} after {SETTLE_SECONDS:g} s")

    def mend(self, site: Site, fault: Fault) -> None:
        borders = _borders(site.design, "both")
        for border in borders:
            _prefer(site, border, fault.target, forced=False)
        for border, far in borders.items():
            _settled(site, border, far, _transit(site.design).carriers[0].switch)

    def dropped(self, site: Site, fault: Fault) -> int:
        """What the carrier has dropped since."""
        return carrier.carried(fault.target).lost - int(site.notes(fault).get("lost", 0))


def _transit(design: Design) -> Transit:
    if design.transit is None:
        raise LabError("this lab has no second site", "python -m lab up --transit")
    return design.transit


def _borders(design: Design, direction: str) -> dict[str, str]:
    """{border whose choice counts: address of the host at the other site}."""
    plan = _transit(design)
    services, store = (design.service_host(name).rnics[0].address for name in (plan.services, plan.store))
    ways = {"away": (plan.border, store), "back": (plan.far_border, services)}
    return dict(ways.values() if direction == "both" else [ways[direction]])


def _prefer(site: Site, border: str, name: str, *, forced: bool) -> None:
    """Let a border prefer a carrier above all others, or as it was designed."""
    preference = transit.FORCED if forced else transit.local_preference(_transit(site.design), name)
    neighbor = transit.sessions_with_carriers(site.design, border)[name]
    site.vtysh(
        border,
        "configure terminal",
        f"route-map {transit.import_map(name)} permit 10",
        f"set local-preference {preference}",
        "end",
        # FRR looks at a changed route-map after five seconds by itself; an operator does not wait either.
        f"clear bgp ipv4 unicast {neighbor} soft in",
    )


def _settled(site: Site, border: str, destination: str, name: str) -> bool:
    """Wait until the kernel's route at a border goes through a carrier; False when it does not."""
    neighbor = transit.sessions_with_carriers(site.design, border)[name]
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        with inside(border):
            route = subprocess.run(["ip", "route", "get", destination], capture_output=True, text=True, check=False)
        if f"via {neighbor} " in route.stdout:
            return True
        time.sleep(0.02)
    return False
