"""The paths that are probed, by number, and what each crosses and ends at: arrays, for there are very many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from skeleton_service.diagnosis.geometry import NOWHERE, UNKNOWN, Geometry
from skeleton_service.diagnosis.observations import Flow, Path

BETWEEN = " <-> "
"""Joins the two names of what is between them."""

EndKind = Literal["host", "vswitch", "container", "pair", "hosts"]
"""``pair`` is what is between two RNICs, ``hosts`` what is between two hosts."""
Key = tuple[EndKind, str]

SHARES = -1
"""In place of the number of a way: nobody traced it, and each of the equal-cost ways has its share."""

_MOST_KEYS = 8
_PATH = np.dtype(
    [
        ("keys", np.int32, _MOST_KEYS),
        ("ways", np.int32, 2),
        ("ends", np.int32, (2, 2)),
        ("route", np.int32),
        ("moved", np.bool_),
        ("kind", np.int16),
        ("overlay", np.bool_),
        ("large", np.bool_),
    ]
)


class Kind(NamedTuple):
    """Of a path's probes: all that a partial fault may tell apart."""

    rdma: bool
    overlay: bool
    dscp: int | None
    large: bool
    """Full-size probes."""


class PathIndex:
    """Paths are numbered as they come. ``version`` changes with anything that is said of them."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.version = 0
        self.kinds: list[Kind] = []
        self.mirrored = False
        """Whether replies are taken to come back over the links of their requests: ``suspects.case_of``;"""
        self.mirrors_sure = False
        """and whether that is beyond doubt."""
        self._clear()

    def _clear(self) -> None:
        self.astray = np.zeros(0, np.int64)
        """Numbers of pairs of ``leaves`` between which they do not all the same: ``suspects.wiser`` finds them out."""
        self.paths: list[Path] = []
        self.number: dict[Path, int] = {}
        self.names: list[Key] = []
        """The components at the ends of paths, by their number."""
        self._key: dict[Key, int] = {}
        self._by_flow: dict[Flow, list[int]] = defaultdict(list)
        """Paths by their flow, whatever the destination port."""
        self._rows = np.zeros(0, _PATH)

    def __len__(self) -> int:
        return len(self.paths)

    def add(self, paths: Iterable[Path]) -> NDArray[np.int64]:
        """Number these paths, new ones after all others."""
        numbers, fresh = [], []
        for path in paths:
            number = self.number.get(path)
            if number is None:
                number = self.number[path] = len(self.paths)
                self.paths.append(path)
                fresh.append(self._row(path))
                self._by_flow[_portless(path.flow)].append(number)
            numbers.append(number)
        if fresh:
            self.version += 1
            first, room = len(self.paths) - len(fresh), len(self._rows)
            if len(self.paths) > room:
                more = max(len(self.paths) - room, room // 4)
                self._rows = np.concatenate([self._rows, np.zeros(more, _PATH)])
            self._rows[first : len(self.paths)] = np.array(fresh, _PATH)
        return np.array(numbers, np.int64)

    def reroute(self, flow: Flow) -> Sequence[int]:
        """Say anew which way the paths of a flow take; returns them."""
        numbers = self._by_flow.get(_portless(flow), ())
        for number in numbers:
            self._rows[["route", "moved"]][number] = self._routed(self.paths[number].flow)
        self.version += bool(numbers)
        return numbers

    def keep(self, kept: NDArray[np.int64], before: float) -> None:
        """Forget all paths but these, which are numbered anew in this order, and routes of others seen before then."""
        paths = [self.paths[number] for number in kept.tolist()]
        self.geometry.forget({_portless(path.flow) for path in paths}, before)
        self._clear()
        self.add(paths)
        self.version += 1

    @property
    def keys(self) -> NDArray[np.int32]:
        """(paths, 8) numbers of the components at the ends of each, -1 where there are fewer."""
        return self._rows["keys"][: len(self.paths)]

    @property
    def kind(self) -> NDArray[np.int16]:
        """(paths,) which of ``kinds``."""
        return self._rows["kind"][: len(self.paths)]

    @property
    def overlay(self) -> NDArray[np.bool_]:
        return self._rows["overlay"][: len(self.paths)]

    @property
    def large(self) -> NDArray[np.bool_]:
        return self._rows["large"][: len(self.paths)]

    @property
    def route(self) -> NDArray[np.int32]:
        """(paths,) the way that each was last seen to take."""
        return self._rows["route"][: len(self.paths)]

    def leaves(self, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
        """Of each of these paths a number that all have, and no others, that lead between the same two leaves."""
        between: NDArray[np.int32] = self._rows["ways"][numbers].min(axis=1)
        return between

    def moved(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these paths were seen to take several routes."""
        moved: NDArray[np.bool_] = self._rows["moved"][numbers]
        return moved

    def way_at(self, numbers: NDArray[np.int64], time: NDArray[np.float64]) -> NDArray[np.int64]:
        """The way that each of these paths took at a time of its own."""
        ways = self._rows["route"][numbers].astype(np.int64)
        for place in np.flatnonzero(self.moved(numbers)).tolist():
            route = self.geometry.route_at(self.paths[numbers[place]].flow, float(time[place]))
            ways[place] = SHARES if route is None else self.geometry.along(route)
        return ways

    def crossing(
        self, path: NDArray[np.int64], way: NDArray[np.int64], there: NDArray[np.bool_], back: NDArray[np.bool_]
    ) -> sparse.csr_matrix:
        """(rows, egress ends) probability that packets of a path leave by an end, ``there`` by a way, and ``back``."""
        rows = self._rows[path]
        shared = there & (way == SHARES)
        outward = np.where(shared, rows["ways"][:, 0], np.where(there, way, NOWHERE))
        homeward, traced = np.where(back, rows["ways"][:, 1], NOWHERE), np.zeros(len(path), bool)
        if self.mirrored:
            mirror = self.geometry.mirrors()[np.where(way == SHARES, NOWHERE, way)]
            traced = back & (way != SHARES) & (mirror != UNKNOWN) & ~np.isin(rows["ways"].min(axis=1), self.astray)
            homeward = np.where(traced, mirror, homeward)
        matrix = self.geometry.matrix()
        cables = np.where(np.stack([shared, back & ~traced], axis=1)[:, :, None], rows["ends"], -1).reshape(
            len(path), 4
        )
        row, place = np.nonzero(cables >= 0)
        values = np.ones(len(row)), (row, cables[row, place])
        return matrix[outward] + matrix[homeward] + sparse.csr_matrix(values, shape=(len(path), matrix.shape[1]))

    def spread(self, path: NDArray[np.int64], way: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether packets of these paths may go one way or another."""
        spread: NDArray[np.bool_] = self.geometry.spread()[np.where(way == SHARES, self._rows["ways"][path, 0], way)]
        return spread

    @staticmethod
    def components(path: Path) -> Iterator[Key]:
        """The components at the ends of a path."""
        hosts = path.hosts
        for host in sorted(set(hosts)):
            yield "host", host
            if path.flow.overlay:
                yield "vswitch", host
        for container in sorted({c for h, c in zip(hosts, path.containers, strict=True) if c and c != h}):
            yield "container", container
        first, second = sorted((path.flow.source, path.flow.destination))
        yield "pair", f"{first}{BETWEEN}{second}"
        first, second = sorted(hosts)
        yield "hosts", f"{first}{BETWEEN}{second}"

    def _row(self, path: Path) -> tuple[object, ...]:
        keys = []
        for key in self.components(path):
            if key not in self._key:
                self._key[key] = len(self.names)
                self.names.append(key)
            keys.append(self._key[key])
        keys += [-1] * (_MOST_KEYS - len(keys))
        flow = path.flow
        out, home = (
            self.geometry.between(*ends) for ends in ((flow.source, flow.destination), (flow.destination, flow.source))
        )
        kind = Kind(path.task == "RDMA_PING", flow.overlay, path.dscp, path.task == "MTU")
        if kind not in self.kinds:
            self.kinds.append(kind)
        ends = ((out.first, out.last), (home.first, home.last))
        place = self.kinds.index(kind)
        return (keys, (out.way, home.way), ends, *self._routed(flow), place, flow.overlay, kind.large)

    def _routed(self, flow: Flow) -> tuple[int, bool]:
        """The last way, and whether there were others."""
        routes = self.geometry.routes(flow)
        return (self.geometry.along(routes[-1][1]), len(routes) > 1) if routes else (SHARES, False)


def _portless(flow: Flow) -> Flow:
    return flow._replace(destination_port=None, follows=False)
