"""Series of a /metrics page by family, beside the catalogue's formulas worked out for a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from exporter.contracts.catalogue import CATALOGUE, MOST_ROUTE_CHANGES, RTT, SERIES_TERMS
from exporter.contracts.plan import Target

_HISTOGRAMS = {RTT.name + suffix: RTT.name for suffix in ("_bucket", "_sum", "_count")}
_NAMES = {metric.name for metric in CATALOGUE}


def count_series(page: str) -> Counter[str]:
    """Series of the catalogue's families; what the process says of itself (process_*, target_info) is left out."""
    counted: Counter[str] = Counter()
    for line in page.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        name = _HISTOGRAMS.get(name, name)
        if name in _NAMES:
            counted[name] += 1
    return counted


def terms_of(probed: Iterable[Target], rnics: int, links_a_path: int, processes: int) -> dict[str, int]:
    """Values of the formulas' terms on a host that probes these and polls no switch."""
    targets = [target for target in probed if target.active]
    return dict.fromkeys(SERIES_TERMS, 0) | {
        "paths": len(targets),
        "mtu paths": sum(target.probe == "mtu" for target in targets),
        "traced paths": len(targets),
        "changed paths": min(len(targets), MOST_ROUTE_CHANGES),
        "tcp paths": sum(target.probe == "tcp" for target in targets),
        "links a path": links_a_path,
        "rnics": rnics,
        "roles": len({target.role for target in targets}),
        "probe types": len({target.probe for target in targets}),
        "processes": processes,
    }


def bounds(terms: Mapping[str, int]) -> dict[str, int]:
    return {metric.name: metric.series_bound(terms) for metric in CATALOGUE}
