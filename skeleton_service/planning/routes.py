"""What planning asks of the ways between RNICs, worked out once for each pair of leaves."""

from __future__ import annotations

from collections.abc import Iterable

from exporter.contracts.fabric import Fabric
from exporter.contracts.names import split_link

Leaves = tuple[str, str]


class Routes:
    """Answers in O(1) but for the first pair between two leaves, which costs O(links between them)."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._counts: dict[Leaves, int] = {}
        self._core_mtus: dict[Leaves, int | None] = {}

    def count(self, source: str, destination: str) -> int:
        """Equal-cost paths between two RNICs; 0 when there is none."""
        leaves = self._leaves(source, destination)
        if leaves not in self._counts:
            self._counts[leaves] = self._fabric.path_count(source, destination)
        return self._counts[leaves]

    def mtu(self, source: str, destination: str, promised: int) -> int:
        """The largest packet that the ports on the way are meant to pass, in bytes; never more than is promised."""
        leaves = self._leaves(source, destination)
        own = [link for link in map(self._fabric.link_of, (source, destination)) if link is not None]
        if leaves not in self._core_mtus:
            between = self._fabric.possible_links(source, destination).difference(own)
            self._core_mtus[leaves] = min(self._mtus(between), default=None)
        core = self._core_mtus[leaves]
        return min([promised, *self._mtus(own), *([] if core is None else [core])])

    def _leaves(self, source: str, destination: str) -> Leaves:
        return self._fabric.leaf_of(source), self._fabric.leaf_of(destination)

    def _mtus(self, links: Iterable[str]) -> list[int]:
        """MTUs of the switch ports at the ends of these links, where the topology says."""
        ports = (self._fabric.port(end) for link in links for end in split_link(link))
        return [port.mtu for port in ports if port is not None and port.mtu is not None]
