"""What exporters tell of a job's paths and the links that these cross, as series for rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from exporter.contracts.catalogue import PATH, PATH_LINK_INFO
from exporter.exposition import Series
from exporter.jobcounts import JobEnds, JobLinks
from exporter.joins import RouteTexts
from exporter.planfile import JobPath
from exporter.store import Store

Sample = tuple[str, dict[str, str], float]
"""Metric, labels and value."""


@dataclass(frozen=True)
class Probed:
    """A path of a job, and the share of its packets that cross each link."""

    path: str
    source: tuple[str, str]
    destination: tuple[str, str]
    """Host and RNIC."""
    probe: str
    dscp: str
    shares: Mapping[str, float]


def route_series(paths: Iterable[Probed]) -> Iterator[Sample]:
    """The links of each path."""
    links = _links(paths)
    for series in (links, *RouteTexts().series(links)):
        yield from _samples(series)


def count_series(job: str, paths: Iterable[Probed]) -> Iterator[Sample]:
    """How many of them there are, by link and by RNIC."""
    paths = list(paths)
    store, ends = Store([(PATH, max(1, len(paths)))]), JobEnds()
    writer = store.writer(PATH)
    for each in paths:
        labels = (each.path, *each.source, *each.destination, each.probe)
        writer.add((*labels, *("0" * len(PATH.hidden_labels))))
    known = {each.path: (JobPath(job, "dp", each.probe, each.dscp),) for each in paths}
    ends.follow(known)
    for series in (*ends.series(store), *JobLinks().series(_links(paths), known)):
        yield from _samples(series)


def _links(paths: Iterable[Probed]) -> Series:
    return Series(PATH_LINK_INFO, [((each.path, link), share) for each in paths for link, share in each.shares.items()])


def _samples(series: Series) -> Iterator[Sample]:
    for labels, value in series.samples:
        yield series.metric.name, dict(zip(series.metric.labels, labels, strict=True)), value
