"""How many paths of a job cross each link and end at each RNIC, of those that one exporter probes.

Who asks for all paths of a job reads one number a link, not each pair of a path and a link: in a rule that is a
fraction of the time, and no join.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from exporter.contracts.catalogue import JOB_LINK_PATHS, JOB_LINK_PATHS_VARIANCE, JOB_RNIC_PATHS, PATH
from exporter.contracts.plan import Plan
from exporter.exposition import Series
from exporter.joins import Join
from exporter.store import Store

JobPath = tuple[str, str, str]
"""Job, probe type and DSCP of a path."""

NO_CLASSES: Mapping[str, JobPath] = {}

_SOURCE = PATH.labels.index("src_host")
_DESTINATION = PATH.labels.index("dst_host")


def classes(plan: Plan | None) -> dict[str, JobPath]:
    """{path: its job and class} of a plan's targets."""
    if plan is None:
        return {}
    return {target.path: (plan.job, target.probe, str(target.traffic_class >> 2)) for target in plan.targets}


class JobEnds(Join):
    """Counts the paths of the plan's job that are probed, by the RNICs that they start and end at."""

    def __init__(self) -> None:
        super().__init__(PATH)
        self._classes: Mapping[str, JobPath] = {}

    def follow(self, known: Mapping[str, JobPath]) -> None:
        self._classes, self._versions = known, None

    def _make(self, *stores: Store) -> list[Series]:
        counts: dict[tuple[str, ...], int] = defaultdict(int)
        for row in (row for store in stores for row in store.read(PATH)):
            if (known := self._classes.get(row.labels[0])) is not None:
                job, _, dscp = known
                for end, place in (("source", _SOURCE), ("destination", _DESTINATION)):
                    counts[job, end, row.labels[place], row.labels[place + 1], dscp] += 1
        return [Series(JOB_RNIC_PATHS, [(labels, float(count)) for labels, count in counts.items()])]


class JobLinks:
    """Sums the shares of paths' packets over each link, from the series of the links that paths cross."""

    def __init__(self) -> None:
        self._seen: tuple[Series, tuple[Mapping[str, JobPath], ...]] | None = None
        self._series: list[Series] = []

    def series(self, links: Series, *known: Mapping[str, JobPath]) -> list[Series]:
        """Of PATH_LINK_INFO; ``known`` tells jobs and classes. The same objects again for the same arguments."""
        if (
            self._seen is None
            or self._seen[0] is not links
            or any(one is not other for one, other in zip(self._seen[1], known, strict=True))
        ):
            self._seen, self._series = (links, known), self._make(links, known)
        return self._series

    @staticmethod
    def _make(links: Series, known: tuple[Mapping[str, JobPath], ...]) -> list[Series]:
        paths: dict[tuple[str, ...], float] = defaultdict(float)
        variance: dict[tuple[str, ...], float] = defaultdict(float)
        for (path, link), share in links.samples:
            found = next((each[path] for each in known if path in each), None)
            if found is None:
                continue
            key = (*found, link)
            paths[key] += share
            if share != 1.0:
                variance[key] += share - share * share
        return [Series(JOB_LINK_PATHS, list(paths.items())), Series(JOB_LINK_PATHS_VARIANCE, list(variance.items()))]
