"""Faults of the resolver: more questions than it has places for."""

from __future__ import annotations

from lab.errors import LabError
from lab.faults.base import Fault, Kind, Parameter, Site, register
from lab.network import resolver
from lab.network.design import Design


@register
class ResolverBurst(Kind):
    name = "resolver-burst"
    help = "jobs whose endpoints all register and resolve at once, one job after the other, until healed"
    target = "host"
    parameters = (
        Parameter("endpoints", "endpoints of each job", default=500.0, lowest=1, highest=20_000, is_whole=True),
        Parameter("pause", "time between two jobs", "s", default=1.0, highest=3600),
    )

    def resolve(self, design: Design, target: str) -> str:
        host = resolver.plan(design).host
        if target != host:
            raise LabError(f"{target!r} is no resolver", f"perhaps {host!r}")
        return target

    def inflict(self, site: Site, fault: Fault) -> None:
        self.mend(site, fault)
        endpoints, pause = (f"{fault.number(name):g}" for name in ("endpoints", "pause"))
        words = ["--directory", str(site.directory), "--endpoints", endpoints, "--repeat", pause]
        # Its log holds a line for each job: what became of its messages and lookups.
        site.spawn_module(fault, "lab.network.registration", *words)

    def mend(self, site: Site, fault: Fault) -> None:
        site.stop(fault)
