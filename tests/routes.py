"""What an exporter tells of the links that a path crosses, beside ``fabric_path_link_info``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from exporter.contracts.catalogue import PATH_LINK_INFO
from exporter.exposition import Series
from exporter.joins import RouteTexts


def route_series(path: str, shares: Mapping[str, float]) -> Iterator[tuple[str, dict[str, str], float]]:
    """(metric, labels, value) of a path that crosses each link with this share of its packets."""
    links = Series(PATH_LINK_INFO, [((path, link), share) for link, share in shares.items()])
    for series in (links, *RouteTexts().series(links)):
        for labels, value in series.samples:
            yield series.metric.name, dict(zip(series.metric.labels, labels, strict=True)), value
