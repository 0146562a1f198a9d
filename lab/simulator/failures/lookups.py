"""DNS queries of hosts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.simulator.failures.wiring import Floats

RESOLVERS = {"resolver-a": "10.250.0.53", "resolver-b": "10.250.1.53"}
LOOKUP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Lookups:
    """DNS queries of hosts, one row each; ``latency`` in us is NaN where there was no answer."""

    time: Floats
    host: list[str]
    resolver: list[str]
    address: list[str]
    latency: Floats
    error: list[str | None]
    name: list[str]


def look_up(draw: np.random.Generator, hosts: list[str], begin: float, end: float) -> Lookups:
    """Every host asks every resolver for a name each 2 s; both are well, and lose a query in 10,000."""
    resolvers = list(RESOLVERS)
    each = np.arange(begin, end, LOOKUP_SECONDS)
    shape = (len(hosts), len(resolvers), each.size)
    time = (each + draw.uniform(0.0, LOOKUP_SECONDS, (len(hosts), len(resolvers), 1))).ravel()
    host, resolver = (index.ravel() for index in np.indices(shape)[:2])
    latency = (draw.uniform(200.0, 700.0, shape[1])[None, :, None] * draw.lognormal(0.0, 0.25, shape)).ravel()
    lost = draw.random(time.size) < 1e-4
    kept = time < end
    latency[lost] = np.nan
    return Lookups(
        time=time[kept],
        host=[hosts[index] for index in host[kept].tolist()],
        resolver=[resolvers[index] for index in resolver[kept].tolist()],
        address=[RESOLVERS[resolvers[index]] for index in resolver[kept].tolist()],
        latency=latency[kept],
        error=["timeout" if gone else None for gone in lost[kept].tolist()],
        name=[f"worker-{int(number)}.jobs.example" for number in draw.integers(0, 500, int(kept.sum()))],
    )
