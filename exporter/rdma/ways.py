"""What the RDMA process is told of the topology: for each pair of its plan, where a trace must end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from exporter.contracts.fabric import Fabric
from exporter.contracts.plan import Target
from exporter.rdma.settings import Orders, Way


def orders(targets: tuple[Target, ...], fabric: Fabric | None) -> Orders:
    """These targets with the way of each pair that the topology joins. O(pairs x switches a way + addresses)."""
    return Orders(targets=targets, ways=_ways(targets, fabric) if fabric is not None else ())


def _ways(targets: Sequence[Target], fabric: Fabric) -> tuple[Way, ...]:
    addresses: dict[str, list[str]] = defaultdict(list)
    for address, switch in fabric.switch_addresses.items():
        addresses[switch].append(address)
    ways = []
    for pair in dict.fromkeys((target.source_address, target.destination_address) for target in targets):
        source, destination = (fabric.by_address.get(address) for address in pair)
        hops = fabric.switch_count(source.id, destination.id) if source and destination else 0
        if hops and destination is not None:
            last = tuple(addresses[fabric.leaf_of(destination.id)])
            ways.append(Way(source_address=pair[0], destination_address=pair[1], hops=hops, last_addresses=last))
    return tuple(ways)
