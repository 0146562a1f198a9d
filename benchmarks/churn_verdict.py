"""What an hour of churn measured, against the bounds: series, rows, sizes, sockets and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.simulated_fleet import JOB_CONTAINERS, PATHS_PER_PAIR, RNICS, SOURCE_PORTS
from benchmarks.watched_exporter import Measurement, Scrape
from exporter.contracts.catalogue import CATALOGUE
from exporter.probing.settings import RESULT_CAPACITY


@dataclass(slots=True)
class Hour:
    minutes: int
    watched: list[str]
    measured: dict[int, list[Measurement]] = field(default_factory=dict)
    """By simulated second, one for each watched host."""
    scrapes: list[Scrape] = field(default_factory=list)
    """Of all watched hosts in turn."""
    streams_bound: list[int] = field(default_factory=list)
    """Paths towards each watched host that began within the responder's memory, at most."""
    generations: list[int] = field(default_factory=list)
    created: int = 0
    ended: int = 0
    jobs: int = 0
    simulated: float = 0.0
    """Seconds on the fleet's clock."""
    seconds: float = 0.0


class Verdict(NamedTuple):
    name: str
    values: list[str]
    """At each checkpoint."""
    bound: str
    held: bool


PATHS = (JOB_CONTAINERS - 1) * RNICS * PATHS_PER_PAIR
FLOWS = (JOB_CONTAINERS - 1) * RNICS * len(SOURCE_PORTS)
_TRACED = FLOWS + (JOB_CONTAINERS - 1) * RNICS  # those of handshakes too, which leave the first port
_MB = 1_000_000
_LATE_GROWTH = 16 * _MB  # a machine under load keeps more or less of what an answer took; a leak took 33


def _row(
    name: str,
    measured: list[Measurement],
    value: Callable[[Measurement], int],
    bound: Callable[[Measurement], int],
    text: str = "",
) -> Verdict:
    """One line whose bound is a number, or is worked out for each checkpoint's plan (then ``text`` says how)."""
    values = [value(one) for one in measured]
    limits = [bound(one) for one in measured]
    shown = [f"{v:,}/{limit:,}" if text else f"{v:,}" for v, limit in zip(values, limits, strict=True)]
    held = all(v <= limit for v, limit in zip(values, limits, strict=True))
    return Verdict(name, shown, text or f"{limits[0]:,}", held)


def _family_verdicts(measured: list[Measurement]) -> list[Verdict]:
    """Series by family, those of one table and formula together."""
    families: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for metric in CATALOGUE:
        if any(one.scrape.bounds[metric.name] for one in measured):
            families.setdefault((metric.series, metric.labels), []).append(metric.name)
    rows = []
    for (formula, _), names in families.items():
        many = len(names) > 1
        name = f"{_common_start(names)}* ({len(names)})" if many else names[0]

        def total(one: Measurement, names: list[str] = names) -> int:
            return sum(one.scrape.series.get(name, 0) for name in names)

        def limit(one: Measurement, names: list[str] = names) -> int:
            return sum(one.scrape.bounds[name] for name in names)

        rows.append(_row(f"series {name}", measured, total, limit, formula + (", each" if many else "")))
    return rows


def _common_start(names: list[str]) -> str:
    first, last = min(names), max(names)
    return first[: next((at for at in range(len(first)) if not last.startswith(first[: at + 1])), len(first))]


def _every_page(scrapes: list[Scrape], checkpoints: int) -> Verdict:
    broken = {name for scrape in scrapes for name, count in scrape.series.items() if count > scrape.bounds[name]}
    most = max((sum(scrape.series.values()) for scrape in scrapes), default=0)
    fullest = max((sum(scrape.series.values()) / sum(scrape.bounds.values()) for scrape in scrapes), default=0.0)
    values = [""] * (checkpoints - 2) + [f"{len(scrapes)} pages", f"most {most:,}"]
    text = f"broken: {', '.join(sorted(broken))}" if broken else f"fullest {fullest:.0%} of its formulas"
    return Verdict("every family on every page", values, text, not broken)


def _prober_verdicts(measured: list[Measurement], streams: int) -> list[Verdict]:
    sockets = RNICS * len(SOURCE_PORTS) + 2 * RNICS + (JOB_CONTAINERS - 1) * RNICS + 1
    bounds = {
        "paths": PATHS,
        "histograms": RNICS * 3 * 3,
        "flow sockets": RNICS * len(SOURCE_PORTS),
        "probes outstanding": 9 * PATHS,  # the time-out over the shortest period, and one more
        "probes by age": 9 * PATHS,
        "probes awaiting a timestamp": 256 * RNICS * len(SOURCE_PORTS),
        "traced flows": _TRACED,
        "traces under way": _TRACED,
        "timers": 10 * PATHS + 2 * _TRACED,  # next turns, time-outs of what was sent; traces and their hops
        "watched sockets": sockets,
        "responder streams": streams,
        "connections held": 64 * RNICS,
    }
    rows = [
        _row("rows path", measured, lambda one: one.rows["path"], lambda one: one.terms["paths"], "paths"),
        _row(
            "rows rtt",
            measured,
            lambda one: one.rows["rtt"],
            lambda one: one.terms["rnics"] * one.terms["roles"] * one.terms["probe types"],
            "rnics x roles x probe types",
        ),
        _row(
            "rows route", measured, lambda one: one.rows["route"], lambda one: one.terms["traced paths"], "traced paths"
        ),
    ]
    for name, bound in bounds.items():
        rows.append(_sized(f"prober {name}", measured, name, bound))
    rows.append(
        _row("prober descriptors", measured, lambda one: one.prober.descriptors, lambda _: sockets + 64 * RNICS + 10)
    )
    rows.append(_memory("prober memory, MB", [one.prober.resident for one in measured], 12))
    return rows


def _sized(title: str, measured: list[Measurement], name: str, bound: int) -> Verdict:
    return _row(title, measured, lambda one: one.prober_sizes[name], lambda _: bound)


def _control_verdicts(measured: list[Measurement]) -> list[Verdict]:
    def size(name: str) -> Callable[[Measurement], int]:
        return lambda one: one.control_sizes[name]

    return [
        _row("control label texts", measured, size("label texts"), lambda _: PATHS + RNICS * 9 + RNICS + 4),
        _row(
            "control line pieces",
            measured,
            size("line pieces"),
            lambda one: 2 * sum(one.scrape.bounds.values()),
            "2 x series",
        ),
        _row("control routes resolved", measured, size("routes resolved"), lambda _: _TRACED),
        _row(
            "control paths of records",
            measured,
            size("records' paths"),
            lambda _: PATHS + RESULT_CAPACITY + 1024,
        ),
        _row("control descriptors", measured, lambda one: one.control.descriptors, lambda _: 24),
        _memory("control memory, MB", [one.control.resident for one in measured], 64),
    ]


def _memory(name: str, resident: list[int], allowance: int) -> Verdict:
    """Resident sets against the first and an allowance in MB; and after half of the time they grow little more.

    The prober's allowance is for the ring of results (65,536 x 40 bytes), the streams of ten minutes and the rows; the
    control process' for an answer of /v1/probe-records, about a kilobyte a result while it is made.
    """
    limit = resident[0] + allowance * _MB
    half = resident[len(resident) // 2] + _LATE_GROWTH
    return Verdict(
        name,
        [f"{value / _MB:.1f}" for value in resident],
        f"start + {allowance}, half + {_LATE_GROWTH // _MB}",
        max(resident) <= limit and resident[-1] <= half,
    )


def verdicts(hour: Hour, host: int) -> list[Verdict]:
    measured = [hosts[host] for hosts in hour.measured.values()]
    scrapes = hour.scrapes[host :: len(hour.watched)]
    return [
        *_family_verdicts(measured),
        _every_page(scrapes, len(measured)),
        *_prober_verdicts(measured, hour.streams_bound[host]),
        *_control_verdicts(measured),
    ]
