"""What metrics there are, their kinds and labels: the catalogue, other exporters' names, and what rules record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Literal

import yaml

from exporter.contracts.catalogue import CATALOGUE
from exporter.contracts.label_values import LABEL_VALUES
from exporter.contracts.service_metrics import SERVED
from skeleton_service.lint.nearest import nearest

Kind = Literal["counter", "gauge", "histogram", "unknown"]
OURS = "fabric_"

TARGET_LABELS = frozenset(("cluster", "job", "instance"))
"""What every scrape adds; ``cluster`` where the scrape configuration is as docs/rules.md has it."""
KUBERNETES_LABELS = frozenset(
    ("namespace", "pod", "container", "service", "endpoint", "node", "prometheus", "prometheus_replica", "replica")
)
"""What scrape configurations for Kubernetes add as a rule; Prometheus Operator does."""

_MOST_COMPARED, _MOST_NAMES = 200, 1000


@dataclass(frozen=True, slots=True)
class Info:
    kind: Kind
    labels: frozenset[str] | None
    """Those of the exporter, without what scraping adds; None where they are not known."""
    source: str


def dialect_metrics(document: Mapping[str, Iterable[Mapping[str, list[str]]]]) -> Iterator[tuple[str, Info]]:
    """Names and facts of dialects.yaml. ``labels`` may be missing: then they are not known."""
    for dialect, tables in document.items():
        for table in tables:
            labels = frozenset(table["labels"]) if "labels" in table else None
            kinds: tuple[Kind, ...] = ("counter", "gauge", "histogram", "unknown")
            for kind in kinds:
                for name in table.get(kind, ()):
                    yield from _series(name, Info(kind, labels, dialect))


def _series(name: str, info: Info) -> Iterator[tuple[str, Info]]:
    """The series of a metric: a histogram has three kinds of them."""
    if info.kind != "histogram":
        yield name, info
        return
    labels = info.labels
    yield f"{name}_bucket", Info("counter", None if labels is None else labels | {"le"}, info.source)
    for suffix in ("_sum", "_count"):
        yield name + suffix, Info("counter", labels, info.source)


@cache
def _known() -> tuple[Mapping[str, Info], Mapping[str, Info], frozenset[str]]:
    """Series by name; prefixes of families whose names are not all known; names of histograms."""
    document = yaml.safe_load((files("skeleton_service.lint") / "dialects.yaml").read_text(encoding="utf-8"))
    known = dict(dialect_metrics(document["metrics"]))
    histograms = {
        name for tables in document["metrics"].values() for table in tables for name in table.get("histogram", ())
    }
    own = [(metric, "fabric-exporter") for metric in CATALOGUE] + [(metric, "skeleton-service") for metric in SERVED]
    for metric, source in own:
        known |= dict(_series(metric.name, Info(metric.kind, frozenset(metric.labels), source)))
        if metric.kind == "histogram":
            histograms.add(metric.name)
    families = {prefix: Info("unknown", None, dialect) for dialect, prefix in document["families"].items()}
    return known, families, frozenset(histograms)


def _first_word(name: str) -> str:
    return re.split("[_:]", name, maxsplit=1)[0]


def listed(names: Iterable[str]) -> str:
    """A dozen of them at most."""
    ordered = sorted(names)
    return ", ".join(ordered[:12]) + (" and more" if len(ordered) > 12 else "")


class Metrics:
    """All that is known without the rules: built once, asked often."""

    def __init__(self, target_labels: Iterable[str] = ()) -> None:
        self._known, self._families, self._histograms = _known()
        self.target_labels = TARGET_LABELS | KUBERNETES_LABELS | frozenset(target_labels)
        self._compared: dict[str, str] = {}

    def get(self, name: str) -> Info | None:
        info = self._known.get(name)
        if info is not None:
            return info
        return next((info for prefix, info in self._families.items() if name.startswith(prefix)), None)

    def values(self, name: str, label: str) -> frozenset[str] | None:
        """The values that the catalogue has of a label; None where it has none, and of other exporters."""
        values = LABEL_VALUES.get(self._base(name), {}).get(label)
        return None if values is None else frozenset(values)

    def _base(self, name: str) -> str:
        """A histogram's name, of a name of its series."""
        base, _, suffix = name.rpartition("_")
        return base if suffix in ("bucket", "sum", "count") and base in self._histograms else name

    def own(self, labels: frozenset[str]) -> frozenset[str]:
        """Labels without those that scraping adds to every series, where there are others."""
        return labels - (self.target_labels - {"cluster"}) or labels

    def having(self, labels: frozenset[str]) -> str:
        """A remedy for a label that is not among them."""
        few = self.own(labels)
        said = f"it has {listed(few)}" if few else "it has no labels"
        return f"{said}; where scraping adds it, name it by --target-label" if labels >= self.target_labels else said

    def is_histogram(self, name: str) -> bool:
        return name in self._histograms

    def like(self, name: str, recorded: Iterable[str]) -> str:
        """The known name that is most like this one, or nothing. Of very many different names the last go without."""
        if name not in self._compared:
            if len(self._compared) >= _MOST_COMPARED:
                return ""
            first = _first_word(name)  # another exporter's, or of another level, is not what was meant
            names = [each for each in (*self._known, *islice(recorded, _MOST_NAMES)) if _first_word(each) == first]
            self._compared[name] = nearest(name, names, cutoff=0.75)
        return self._compared[name]
