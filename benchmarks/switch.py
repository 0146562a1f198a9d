"""The switch poller: what a row costs beside its rivals, 500 switches on one core, a million series on /metrics.

``make bench-switch`` (``--quick``: fewer switches and shorter; ``--sections rows,fleet,metrics``). Simulated switches
answer on a core of their own; what is measured has another to itself: each client in turn, or the whole exporter, its
control process and its poller together. Exit status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from benchmarks.markdown import begin, head, row, say, verdict
from benchmarks.switch_agents import (
    FIRST_PORT,
    Memory,
    Page,
    PolledFleet,
    agents,
    busy,
    cores,
    memory,
    polled_fleet,
    spent,
)
from benchmarks.switch_rows import RIVAL, WALKER, Asked, Cost, columns, ours, snmp_exporter, snmpbulkwalk

SECTIONS = ("rows", "fleet", "metrics")
STALE = 1.5
"""Periods without a whole poll, by which a switch is stale."""
MOST_SECONDS, SERIES = 1.5, 1_000_000
_SCRAPES = 5
_LONGEST_START = 180.0


@dataclass(frozen=True)
class Sizes:
    ports: int
    priorities: int
    period: float
    turns: int
    """Of each client."""
    polls: int
    """Of each in a turn; those that look at more of the processor's time need fewer."""
    switches: int
    warm: float
    seconds: float
    metrics_switches: int


# ---- rows


def rows(sizes: Sizes) -> list[str]:
    measured, others = cores()
    begin(
        "A row",
        f"One switch of {sizes.ports} ports and {sizes.priorities} priorities. Processor time of the client, "
        f"median of {sizes.turns} turns.",
        "A row is a varbind that was asked for and used: of ours the values of its tables, of snmp_exporter the "
        "samples that it makes of them, of snmpbulkwalk the lines that it prints. snmp_exporter always makes the text, "
        "so ours is judged with the text of every series, all of them changed.",
    )
    costs: dict[str, list[Cost]] = {}
    asked: list[Asked] = []
    with agents(1, sizes.ports, sizes.priorities, others):
        for _ in range(sizes.turns):
            alone, whole, asked = ours("fast", FIRST_PORT, sizes.polls, measured)
            _note(costs, "fabric-exporter, and its text", whole)
            _note(costs, "fabric-exporter, polls alone", alone)
            with snmp_exporter(asked, FIRST_PORT, measured) as rival:
                _note(costs, RIVAL, rival.poll(max(1, sizes.polls // 4)))
            walks, without_start = snmpbulkwalk(asked, FIRST_PORT, max(1, sizes.polls // 20), measured)
            _note(costs, f"{WALKER}, a process a column", walks)
            _note(costs, f"{WALKER}, less its start", without_start)
            standard, _, _ = ours("pysnmp", FIRST_PORT, max(1, sizes.polls // 20), measured)
            _note(costs, "our poller on pysnmp", standard)
    head("client", "rows a poll", "ms a poll", "us a row", f"beside {RIVAL}")
    medians = {name: statistics.median(cost.microseconds for cost in own) for name, own in costs.items()}
    for name, own in costs.items():
        polls = sum(cost.polls for cost in own)
        row(
            name, f"{sum(cost.rows for cost in own) / polls:.0f}",
            f"{1e3 * statistics.median(cost.seconds / cost.polls for cost in own):.1f}",
            f"{medians[name]:.2f}", f"{medians[name] / medians[RIVAL]:.2f}",
        )  # fmt: skip
    walked = [each.rows for each in asked if each.oid in columns(asked)]
    say(f"Columns: {len(walked)}, with {sum(walked)} rows on the agent; and the ports' names.")
    good = medians["fabric-exporter, and its text"] < medians[RIVAL]
    return [verdict(good, "less processor time a row than the rival, text and all")]


def _note(costs: dict[str, list[Cost]], name: str, cost: Cost) -> None:
    costs.setdefault(name, []).append(cost)


# ---- a fleet


@dataclass(frozen=True)
class Window:
    """What some time of polling came to."""

    seconds: float
    polls: float
    rows: float
    late: float
    failures: float
    slowest: float
    stale: set[str]
    control: float
    """Shares of a core."""
    poller: float
    agents: float
    strangers: float
    """Share of the core that is measured on, of processes that have no business there."""


def _total(page: Page, name: str) -> float:
    return sum(page.values[f"fabric_switch_{name}"].values())


def _stale(page: Page, names: Set[str], period: float) -> set[str]:
    """Switches without a whole poll for too long, when the page was asked for; those never read are."""
    seen = page.values["fabric_switch_poll_timestamp_seconds"]
    return {name for name in names if not page.at - seen.get(name, 0.0) <= STALE * period}


def _start(fleet: PolledFleet, period: float, least: float) -> tuple[float, Page]:
    """Let it begin, scraped each period: seconds until every switch had been read, and the last page."""
    began = time.monotonic()
    read = 0.0
    while True:
        time.sleep(period)
        page = fleet.page()
        took = time.monotonic() - began
        if not read and not _stale(page, fleet.names, period):
            read = took
        if read and took >= least:
            return read, page
        if took > _LONGEST_START:
            raise RuntimeError(f"not all switches were read in {took:.0f} s: {fleet.log()[-2000:]}")


def _watch(fleet: PolledFleet, agents_pid: int, core: int, sizes: Sizes) -> tuple[Window, list[Page]]:
    """Scrape each period, as Prometheus does."""
    pids = (fleet.control.pid, fleet.poller, agents_pid)
    first = fleet.page()
    before, before_busy = [spent(pid) for pid in pids], busy(core)
    began, pages = time.monotonic(), []
    ends = began + sizes.seconds
    while time.monotonic() < ends:
        time.sleep(max(0.0, min(sizes.period, ends - time.monotonic())))
        pages.append(fleet.page())
    seconds, last = time.monotonic() - began, pages[-1]
    control, poller, served = (spent(pid) - old for pid, old in zip(pids, before, strict=True))
    strangers = busy(core) - before_busy - control - poller - (served if len(set(cores())) == 1 else 0.0)
    polls = _total(last, "polls_total") - _total(first, "polls_total")
    window = Window(
        seconds=seconds,
        polls=polls,
        rows=polls * statistics.mean(last.values["fabric_switch_poll_rows"].values()),
        late=_total(last, "poll_late_total") - _total(first, "poll_late_total"),
        failures=_total(last, "poll_failures_total") - _total(first, "poll_failures_total"),
        slowest=max(value for page in pages for value in page.values["fabric_switch_poll_duration_seconds"].values()),
        stale={name for page in pages for name in _stale(page, fleet.names, sizes.period)},
        control=control / seconds,
        poller=poller / seconds,
        agents=served / seconds,
        strangers=max(0.0, strangers / seconds),
    )
    return window, pages


def fleet(sizes: Sizes) -> list[str]:
    measured, others = cores()
    begin(
        "A fleet",
        f"{sizes.switches} switches of {sizes.ports} ports and {sizes.priorities} priorities, each polled every "
        f"{sizes.period:g} s; the exporter has one core, and is scraped each period as well. {sizes.seconds:g} s.",
    )
    with (
        tempfile.TemporaryDirectory() as name,
        agents(sizes.switches, sizes.ports, sizes.priorities, others) as served,
        polled_fleet(Path(name), sizes.switches, sizes.period, measured) as running,
    ):
        read, started = _start(running, sizes.period, sizes.warm)
        window, pages = _watch(running, served.pid, measured, sizes)
        memories = {"control": memory(running.control.pid), "poller": memory(running.poller)}
        complaints = len(running.log().splitlines()) - 1
    last = pages[-1]
    head("what", "figure")
    for text, figure in (
        ("polls a second", f"{window.polls / window.seconds:.1f}"),
        ("rows a second", f"{window.rows / window.seconds:,.0f}"),
        ("rows of a poll", f"{window.rows / max(window.polls, 1):.0f}"),
        ("poller, share of a core", f"{window.poller:.2f}"),
        ("control process, share of a core", f"{window.control:.2f}"),
        ("(the simulated switches, of another core)", f"{window.agents:.2f}"),
        ("(others, of the core that is measured on)", f"{window.strangers:.2f}"),
        ("poller, us a row", f"{1e6 * window.poller * window.seconds / max(window.rows, 1):.2f}"),
        ("polls late", f"{window.late:.0f}"),
        ("polls that failed", f"{window.failures:.0f}"),
        ("slowest poll", f"{window.slowest:.2f} s"),
        (f"switches older than {STALE:g} periods at any scrape", f"{len(window.stale)}"),
        ("series", f"{last.series:,}"),
        ("scrape, median", f"{statistics.median(page.seconds for page in pages):.2f} s"),
        *((f"{who}, RSS / PSS", _megabytes(own)) for who, own in memories.items()),
        ("until every switch was read, from the start", f"{read:.0f} s"),
        ("polls late meanwhile", f"{_total(started, 'poll_late_total'):.0f}"),
        ("lines that it said", f"{complaints}"),
    ):
        row(text, figure)
    return [
        verdict(window.late == 0, f"no poll of {window.polls:.0f} late"),
        verdict(not window.stale, f"no switch older than {STALE:g} periods"),
        verdict(window.poller + window.control < 1, "poller and control process within one core"),
    ]


def _megabytes(own: Memory) -> str:
    return f"{own.resident:.0f} / {own.proportional:.0f} MB"


# ---- /metrics


def metrics(sizes: Sizes) -> list[str]:
    measured, others = cores()
    begin(
        "A million series",
        f"{sizes.metrics_switches} switches of the same kind; /metrics is read {_SCRAPES} times while they are polled "
        f"every {sizes.period:g} s, all on one core.",
    )
    with (
        tempfile.TemporaryDirectory() as name,
        agents(sizes.metrics_switches, sizes.ports, sizes.priorities, others),
        polled_fleet(Path(name), sizes.metrics_switches, sizes.period, measured) as running,
    ):
        _, before = _start(running, sizes.period, sizes.warm)
        taken: dict[str, list[tuple[Page, float]]] = {}
        for compressed in (False, True):
            kind = "gzip" if compressed else "plain"
            for _ in range(_SCRAPES):
                time.sleep(sizes.period / 2)
                own = spent(running.control.pid)
                page = running.page(compressed)
                taken.setdefault(kind, []).append((page, spent(running.control.pid) - own))
        after = running.page()
        own_memory = memory(running.control.pid)
    head("answer", "series", "MB", "seconds, median", "seconds, longest", "CPU s of the control process")
    for kind, pages in taken.items():
        seconds = [page.seconds for page, _ in pages]
        row(
            kind, f"{after.series:,}", f"{pages[-1][0].size / 1e6:.0f}", f"{statistics.median(seconds):.2f}",
            f"{max(seconds):.2f}", f"{statistics.median(own for _, own in pages):.2f}",
        )  # fmt: skip
    late = _total(after, "poll_late_total") - _total(before, "poll_late_total")
    polls = _total(after, "polls_total") - _total(before, "polls_total")
    say(
        f"{polls:.0f} polls meanwhile, {late:.0f} of them late, slowest "
        f"{max(after.values['fabric_switch_poll_duration_seconds'].values()):.2f} s. Control process: "
        f"{_megabytes(own_memory)} (RSS / PSS).",
    )
    median = statistics.median(page.seconds for page, _ in taken["plain"])
    bar = MOST_SECONDS * min(1.0, after.series / SERIES)
    return [
        verdict(median <= bar, f"{after.series:,} series within {bar:.2f} s"),
        verdict(late == 0, "no poll late by it"),
    ]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.switch", description=__doc__)
    parser.add_argument("--sections", default=",".join(SECTIONS), help="some of " + ",".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="fewer switches, shorter: for a look, not for figures")
    parser.add_argument("--switches", type=int, help="of the fleet (default: 500)")
    parser.add_argument("--seconds", type=float, help="of the fleet (default: 90)")
    options = parser.parse_args(words)
    quick = options.quick
    sizes = Sizes(
        ports=64,
        priorities=8,
        period=15.0,
        turns=2 if quick else 5,
        polls=41 if quick else 164,
        switches=options.switches or (100 if quick else 500),
        warm=15.0 if quick else 45.0,
        seconds=options.seconds or (45.0 if quick else 90.0),
        metrics_switches=100 if quick else 340,
    )
    sections = options.sections.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}")
    if "rows" in sections and (missing := [name for name in (RIVAL, WALKER) if shutil.which(name) is None]):
        parser.error(f"{' and '.join(missing)} not on PATH: scripts/setup --rivals")
    if len(set(cores())) == 1:
        say("One core for all: the simulated switches take their share of it.")
    run = {"rows": rows, "fleet": fleet, "metrics": metrics}
    verdicts = []
    for section in SECTIONS:
        if section in sections:
            own = run[section](sizes)
            say(*own)
            verdicts += own
    return int(any(text.startswith("MISSED") for text in verdicts))


if __name__ == "__main__":
    sys.exit(main())
