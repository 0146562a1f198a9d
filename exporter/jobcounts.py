"""How many paths of a job cross each link and end at each RNIC, of those that one exporter probes.

Who asks for all paths of a job reads one number a link, not each pair of a path and a link: in a rule that is a
fraction of the time, and no join.
"""

from __future__ import annotations

from collections import defaultdict

from exporter.contracts.catalogue import JOB_LINK_PATHS, JOB_LINK_PATHS_VARIANCE, JOB_RNIC_PATHS, PATH
from exporter.exposition import Series
from exporter.joins import Join
from exporter.planfile import NO_JOBS, JobsOfPaths
from exporter.store import Store

_SOURCE = PATH.labels.index("src_host")
_DESTINATION = PATH.labels.index("dst_host")


class JobEnds(Join):
    """Counts the paths of each job that are probed, by the RNICs that they start and end at."""

    def __init__(self) -> None:
        super().__init__(PATH)
        self._jobs = NO_JOBS

    def follow(self, jobs: JobsOfPaths) -> None:
        self._jobs, self._versions = jobs, None

    def _make(self, *stores: Store) -> list[Series]:
        counts: dict[tuple[str, ...], int] = defaultdict(int)
        for row in (row for store in stores for row in store.read(PATH)):
            for known in self._jobs.get(row.labels[0], ()):
                for end, place in (("source", _SOURCE), ("destination", _DESTINATION)):
                    counts[known.job, end, row.labels[place], row.labels[place + 1], known.dscp] += 1
        return [Series(JOB_RNIC_PATHS, [(labels, float(count)) for labels, count in counts.items()])]


class JobLinks:
    """Sums the shares of paths' packets over each link, from the series of the links that paths cross."""

    def __init__(self) -> None:
        self._seen: tuple[Series, tuple[JobsOfPaths, ...]] | None = None
        self._series: list[Series] = []

    def series(self, links: Series, *known: JobsOfPaths) -> list[Series]:
        """Of PATH_LINK_INFO; ``known`` tells jobs and classes. The same objects again for the same arguments."""
        if (
            self._seen is None
            or self._seen[0] is not links
            or any(one is not other for one, other in zip(self._seen[1], known, strict=True))
        ):
            self._seen, self._series = (links, known), self._make(links, known)
        return self._series

    @staticmethod
    def _make(links: Series, known: tuple[JobsOfPaths, ...]) -> list[Series]:
        paths: dict[tuple[str, ...], float] = defaultdict(float)
        variance: dict[tuple[str, ...], float] = defaultdict(float)
        for (path, link), share in links.samples:
            for job, _, probe, dscp in next((each[path] for each in known if path in each), ()):
                paths[job, probe, dscp, link] += share
                if share != 1.0:
                    variance[job, probe, dscp, link] += share - share * share
        return [Series(JOB_LINK_PATHS, list(paths.items())), Series(JOB_LINK_PATHS_VARIANCE, list(variance.items()))]
