"""How many series an exporter may have: the catalogue's formulas, in PromQL, of what it says that it measures."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.contracts.catalogue import CATALOGUE, SERIES_TERMS

MOST: Mapping[str, int] = {
    "links a path": 8,
    "priorities": 8,
    "dscps": 64,
    "signals": 10,
    "gids": 32,
    "vlans": 256,
    "roles": 6,
    "probe types": 4,
    "resolvers": 8,
    "names": 16,
    "overlay tables": 2,
    "inconsistencies": 3,
    "processes": 8,
    "priorities of a switch": 8,
    "queues of a switch": 16,
    "vlans of a switch": 64,
    "lanes of a port": 9,
    "cpus of a switch": 8,
    "control plane classes of a switch": 64,
    "tables of a switch": 24,
    "notifications of a switch": 64,
}
"""Of each of what is counted; as SERIES_TERMS says, and of what that leaves open more than any box has."""
COUNTED: Mapping[str, frozenset[str]] = {
    "max by (job, instance) (fabric_exporter_paths)": frozenset(
        {"paths", "traced paths", "changed paths", "mtu paths", "tcp paths", "rdma paths", "connections"}
    ),
    "count by (job, instance) (fabric_rnic_info)": frozenset({"rnics"}),
    "count by (job, instance) (fabric_switch_reachable)": frozenset({"switches"}),
    "count by (job, instance) (fabric_switch_port_up)": frozenset(
        {
            "switch ports", "bgp sessions of a switch", "switch ends of links", "attached rnics", "attached hosts",
            "listed ports", "listed addresses",
        }
    ),
}  # fmt: skip
"""{what an exporter has: the terms that are at most as many}"""


def series_each() -> tuple[Mapping[str, int], int]:
    """({expression: series of each thing that it counts}, series of an exporter that has none)."""

    def total(one: frozenset[str]) -> int:
        terms = {term: MOST.get(term, int(term in one)) for term in SERIES_TERMS}
        return sum(metric.series_bound(terms) for metric in CATALOGUE)

    own = total(frozenset())
    return {expression: total(terms) - own for expression, terms in COUNTED.items()}, own


def budget() -> str:
    """Series by job and instance."""
    each, own = series_each()
    some = " + ".join(f"({number} * {counted} or on (job, instance) {_NONE})" for counted, number in each.items())
    return f"({some} + {own})"


_NONE = "0 * max by (job, instance) (fabric_exporter_paths)"
