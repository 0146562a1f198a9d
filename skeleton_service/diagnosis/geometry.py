"""Which links the packets of a path cross, there and back, and with what probability."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from exporter.contracts.fabric import Fabric
from skeleton_service.diagnosis.observations import Egresses, Flow, Trace

NOWHERE = 0
"""The way that crosses nothing."""
UNKNOWN = -1
"""In place of the number of a way."""
MOST_ROUTES = 8
"""Of a flow that are remembered: the last ones."""


class Between(NamedTuple):
    """The ways of packets that nobody traced: the way between the two leaves, and the ends that lead to them."""

    way: int
    first: int
    last: int
    """Numbers of ends, -1 where there is none: what the source's cable and the destination's leaf send out of."""


class Geometry:
    """Routes as they were traced, and equal-cost shares where nobody traced: for each direction of each flow.

    A way is a set of egress ends that packets may leave by, with the probability of each; ends and ways have numbers.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.ends: list[str] = []
        self._number: dict[str, int] = {}
        self._routes: dict[Flow, list[tuple[float, Egresses]]] = defaultdict(list)
        self._beside: dict[Flow, Flow] = {}
        """The flow traced last among those that differ in their destination ports."""
        self._clear()

    def _clear(self) -> None:
        self._traced: dict[Egresses, int] = {}
        self._shares: dict[tuple[str, str], int] = {}
        self._start, self._end, self._share = array("q", (0, 0)), array("i"), array("d")
        self._homeward = np.array([UNKNOWN])
        self._matrix: sparse.csr_matrix | None = None

    def learn(self, traces: Sequence[Trace]) -> Collection[Flow]:
        """Keep these routes, which are in order of time, unless they repeat the last; return the flows that changed."""
        changed: dict[Flow, None] = {}  # in order, so that ends and ways have the same numbers each time
        for time, flow, egresses in traces:
            known = self._routes[flow]
            if not known or known[-1][1] != egresses:
                known.append((time, egresses))
                del known[:-MOST_ROUTES]
                changed[flow] = None
                self._beside[flow._replace(destination_port=None)] = flow
        return changed

    def forget(self, flows: Collection[Flow], before: float) -> None:
        """Keep the routes of these flows, to any port, and those seen later than that. Ways lose their numbers."""
        for flow in [each for each, known in self._routes.items() if known[-1][0] < before]:
            portless = flow._replace(destination_port=None)
            if portless not in flows:
                del self._routes[flow]
                if self._beside.get(portless) == flow:
                    del self._beside[portless]
        self._clear()

    def routes(self, flow: Flow) -> Sequence[tuple[float, Egresses]]:
        """(first seen, route) of the flow, in order of time; traces that tell no destination port serve any."""
        plain = flow._replace(follows=False)
        known = self._routes.get(plain) or self._routes.get(plain._replace(destination_port=None))
        if not known and flow.follows:
            known = self._routes.get(self._beside.get(plain._replace(destination_port=None), plain))
        return known or ()

    def route_at(self, flow: Flow, time: float) -> Egresses | None:
        """The route last seen at that time; the first one ever where none had been seen; None without a trace."""
        known = self.routes(flow)
        if not known:
            return None
        return known[max(0, bisect_right(known, time, key=lambda each: each[0]) - 1)][1]

    def changed(self, flow: Flow, since: float, until: float) -> tuple[float, Egresses, Egresses] | None:
        """(when it was seen, old route, new one) of the last change of route that was seen within the time."""
        known = self.routes(flow)
        for (_, old), (time, new) in zip(reversed(known[:-1]), reversed(known[1:]), strict=True):
            if since <= time <= until:
                return time, old, new
        return None

    def along(self, route: Egresses) -> int:
        """The way of a traced packet: each link for sure."""
        if route not in self._traced:
            self._traced[route] = self._add((end, 1.0) for end in route)
        return self._traced[route]

    def mirrors(self) -> NDArray[np.int64]:
        """(ways,) the way back over the same links; ``UNKNOWN`` for shares, and for traces without an end."""
        known = len(self._homeward)
        if known < len(self._start) - 1:
            fresh = [(way, route) for route, way in self._traced.items() if way >= known]
            back = [(way, self._reversed(route)) for way, route in fresh]
            homeward = np.full(len(self._start) - 1, UNKNOWN)
            homeward[:known] = self._homeward
            for way, number in back:
                homeward[way] = number
            self._homeward = homeward
        return self._homeward

    def _reversed(self, route: Egresses) -> int:
        ends = [self.fabric.far_end(end) for end in reversed(route)]
        whole = [end for end in ends if end is not None]
        if len(whole) < len(ends) or not ends or ends[0] not in self.fabric.interfaces:
            return UNKNOWN
        return self._add((end, 1.0) for end in whole)

    def between(self, source: str, destination: str) -> Between:
        """The ways of a packet that nobody traced: the shares of equal-cost routing."""
        near, far = self.fabric.leaf_of(source), self.fabric.leaf_of(destination)
        last = self.fabric.far_end(destination)
        if (near, far) not in self._shares:
            shares = self.fabric.egress_shares(source, destination)
            self._shares[near, far] = (
                self._add((end, share) for end, share in shares.items() if end not in (source, last))
                if source in shares
                else -1
            )
        way = self._shares[near, far]
        if way < 0 or source == destination or last is None:
            return Between(NOWHERE, -1, -1)
        return Between(way, self.number(source), self.number(last))

    def number(self, end: str) -> int:
        if end not in self._number:
            self._number[end] = len(self.ends)
            self.ends.append(end)
        return self._number[end]

    def matrix(self) -> sparse.csr_matrix:
        """(ways, ends) probability to leave by each end."""
        if self._matrix is None or self._matrix.shape != (len(self._start) - 1, len(self.ends)):
            parts = np.array(self._share), np.array(self._end), np.array(self._start)
            self._matrix = sparse.csr_matrix(parts, shape=(len(self._start) - 1, len(self.ends)))
        return self._matrix

    def spread(self) -> NDArray[np.bool_]:
        """(ways,) whether packets may take one way or another."""
        split = np.concatenate([[0], np.cumsum(np.array(self._share) < 1)])
        start = np.array(self._start)
        result: NDArray[np.bool_] = split[start[1:]] > split[start[:-1]]
        return result

    def _add(self, ends: Iterable[tuple[str, float]]) -> int:
        for end, share in ends:
            self._end.append(self.number(end))
            self._share.append(share)
        self._start.append(len(self._end))
        return len(self._start) - 2
