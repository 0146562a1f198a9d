"""What the rules cost a real Prometheus: seconds of an evaluation, processor time, memory, at 1,000 to 50,000 paths.

``make bench-rules`` (``--quick``: fewer paths and shorter; ``--sections growth,versions,pack,jobs,literal,profile``;
``--prometheus PATH``, default: all at hand for the versions, the oldest for the rest; ``--json FILE``). Prometheus has
one core, and one processor of Go; the fabric that it scrapes another. Exit status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.markdown import begin, head, row, say, verdict
from benchmarks.prometheus_versions import Version, at_hand, version
from benchmarks.rule_evaluation import Outcome, Timing, measure
from benchmarks.rule_fabric import RuleFabric, fabric
from benchmarks.rule_profile import profile, recording, tables
from benchmarks.switch_agents import cores
from skeleton_service.ruleset import Thresholds, job_rules, static_rules, timing
from skeleton_service.ruleset.literal import LiteralPath, literal_rules

SECTIONS = ("growth", "versions", "pack", "jobs", "literal", "profile")
READ_BY_JOBS = ("fabric-ports.yaml", "fabric-topology.yaml")
"""Files of the static pack whose records the rules of jobs read."""
LARGEST_SHARE = 0.1
"""Of the time, for evaluating all rules over BAR_PATHS at an interval of 15 s."""
BAR_PATHS, BAR_INTERVAL = 10_000, 15.0
LARGEST_GROWTH = 1.5
"""Of what a path costs, from one size to the next."""
_DEAREST = 12
_FILLED = 330.0
"""Seconds after which the static rules' five minutes are full as well, for a profile."""
_HEALTHY_SECONDS = 1.5e-5
"""Round trip in a minute of health, as the fed paths have it."""


@dataclass(frozen=True)
class Sizes:
    growth: tuple[int, ...]
    bar: int
    literal: tuple[int, ...]
    jobs: int
    intervals: tuple[float, ...]


class Runs:
    """Measures, and remembers what it has measured."""

    def __init__(self) -> None:
        self._done: dict[tuple[str, str, int, int, float], Outcome] = {}

    @property
    def outcomes(self) -> dict[str, Outcome]:
        return {
            f"{what}, {paths} paths, {jobs} jobs, {interval:g} s, {number}": outcome
            for (what, number, paths, jobs, interval), outcome in self._done.items()
        }

    def run(self, what: str, of: Version, paths: int, jobs: int, interval: float) -> Outcome:
        key = (what, str(of), paths, jobs, interval)
        if key not in self._done:
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}: {paths:,} paths, {interval:g} s, {of}\n")
            thresholds = Thresholds(scrape_interval=f"{interval:g}s")
            files = rendered(what, paths, jobs, thresholds)
            self._done[key] = measure(of, files, paths, jobs, run_timing(thresholds, interval), say)
        return self._done[key]


def rendered(what: str, paths: int, jobs: int, thresholds: Thresholds) -> Mapping[str, str]:
    """The files of a run: ``generated`` for jobs, with what these read of the pack; the whole ``pack`` beside them; or
    ``literal`` rules, which name each path."""
    if what == "literal":
        return named(fabric(paths, jobs), thresholds)
    files = {name: text for name, text in static_rules(thresholds).items() if what == "pack" or name in READ_BY_JOBS}
    for number in range(jobs):
        files |= job_rules(f"job-{number}", thresholds)
    return files


def named(of: RuleFabric, thresholds: Thresholds) -> Mapping[str, str]:
    """Rules that name each path, with thresholds learnt from the fewest minutes that make one."""
    minutes = (_HEALTHY_SECONDS,) * timing(thresholds).rtt_history_least
    jobs: dict[str, list[LiteralPath]] = {}
    for path in of.paths:
        jobs.setdefault(path.job, []).append(LiteralPath(path.path, minutes))
    files: dict[str, str] = {}
    for job, paths in jobs.items():
        files |= literal_rules(job, paths, thresholds, max_paths=len(paths))
    return files


def run_timing(thresholds: Thresholds, interval: float) -> Timing:
    window = float(timing(thresholds).window.removesuffix("s"))
    # The slowest groups are evaluated once a minute: each is to be seen once at least, after what it records was read.
    minute = math.ceil(60 / interval)
    return Timing(interval, window, idle=3, settling=minute + 2, watched=max(4, minute))


def costs_table(outcomes: Sequence[Outcome]) -> None:
    head(
        "paths", "interval", "Prometheus", "rules", "s an evaluation", "generated", "worst", "of the time",
        "processor s an interval", "us of it a path", "scraping alone", "missed", "load",
    )  # fmt: skip
    for each in outcomes:
        row(
            f"{each.paths:,}", f"{each.interval:g} s", each.version, f"{each.rules:,}", f"{each.seconds:.2f}",
            f"{each.generated:.2f}", f"{each.longest:.2f}", f"{100 * each.share:.1f} %",
            f"{each.processor:.2f}", f"{1e6 * each.processor / each.paths:.0f}", f"{each.scraping:.2f}",
            f"{each.missed:.0f}", f"{each.load:.1f}",
        )  # fmt: skip
    print()
    head("paths", "interval", "Prometheus", "MB", "without rules", "series", "recorded", "KB of rule files")
    for each in outcomes:
        row(
            f"{each.paths:,}", f"{each.interval:g} s", each.version, f"{each.resident:.0f}",
            f"{each.resident_without:.0f}", f"{each.series:,.0f}", f"{each.recorded:,.0f}",
            f"{each.rule_bytes / 1e3:,.0f}",
        )  # fmt: skip


def detail(outcome: Outcome) -> None:
    say(f"Of {outcome.paths:,} paths each {outcome.interval:g} s, by group:")
    print()
    head("group", "seconds")
    for name, seconds in sorted(outcome.groups.items(), key=lambda item: -item[1]):
        row(f"`{name}`", f"{seconds:.3f}")
    say("The dearest rules:")
    print()
    head("rule", "ms")
    for rule in outcome.costs[:_DEAREST]:
        row(f"`{rule.name}`", f"{1e3 * rule.seconds:.0f}")
    say(
        "Alerts that fired: " + (", ".join(f"{name} {count}" for name, count in outcome.firing.items()) or "none") + "."
    )


def sound(outcomes: Sequence[Outcome]) -> str:
    """Whether every rule could be evaluated; else the figures are of something else."""
    failures = sum(outcome.failures for outcome in outcomes)
    return verdict(failures == 0, f"{failures:.0f} evaluations failed")


def within_bar(outcome: Outcome, paths: int) -> str:
    """By the seconds that Prometheus says, each group as often as it is due. What shares its core (scrapes, garbage,
    other work of the machine) lengthens them; evaluations left out would make them too few."""
    limit = LARGEST_SHARE * paths / BAR_PATHS
    return verdict(
        outcome.share <= limit and outcome.missed == 0,
        f"{outcome.version}: evaluating all generated rules over {outcome.paths:,} paths takes "
        f"{100 * outcome.share:.1f} % of the time (bar: {100 * limit:g} %), {outcome.share * BAR_INTERVAL:.2f} s each "
        f"{BAR_INTERVAL:g} s, with {outcome.missed:.0f} evaluations missed; each group once takes "
        f"{outcome.seconds:.2f} s, and the process {outcome.processor:.2f} s more of its core than without rules",
    )


def grown(smaller: Outcome, larger: Outcome) -> str:
    """Whether a path costs the same among more paths. Where evaluations were left out nobody can tell."""
    what = f"each {larger.interval:g} s, of {larger.paths:,} paths one takes"
    if larger.missed and larger.interval < BAR_INTERVAL:
        return f"not judged: {what} what is not known, since {larger.missed:.0f} evaluations were missed"
    ratio = (larger.processor / larger.paths) / max(smaller.processor / smaller.paths, 1e-9)
    return verdict(
        ratio <= LARGEST_GROWTH and larger.missed == 0,
        f"{what} {ratio:.2f} times the processor time of one of {smaller.paths:,} (bar: {LARGEST_GROWTH:g}), "
        f"with {larger.missed:.0f} evaluations missed",
    )


def growth(sizes: Sizes, versions: Sequence[Version], runs: Runs) -> list[str]:
    begin(
        "Growth",
        "The rules generated for one job, all of whose paths are in Prometheus. Seconds are those that Prometheus "
        "says an evaluation of each group took, summed; they wait for scrapes on the same core.",
        "Processor seconds are the process' with rules, less those it took to scrape alone before they were loaded.",
    )
    outcomes = [
        runs.run("generated", versions[0], paths, 1, each) for each in sizes.intervals for paths in sizes.growth
    ]
    costs_table(outcomes)
    detail(runs.run("generated", versions[0], sizes.bar, 1, BAR_INTERVAL))
    told = []
    for interval in sizes.intervals:
        told += [grown(*pair) for pair in pairwise(each for each in outcomes if each.interval == interval)]
    bar = runs.run("generated", versions[0], sizes.bar, 1, BAR_INTERVAL)
    return [
        within_bar(bar, sizes.bar),
        *told,
        sound(outcomes),
    ]


def by_version(sizes: Sizes, versions: Sequence[Version], runs: Runs) -> list[str]:
    begin("Versions", f"The same, {sizes.bar:,} paths each {BAR_INTERVAL:g} s, by each Prometheus at hand.")
    outcomes = [runs.run("generated", each, sizes.bar, 1, BAR_INTERVAL) for each in versions]
    costs_table(outcomes)
    return [*(within_bar(each, sizes.bar) for each in outcomes), sound(outcomes)]


def whole_pack(sizes: Sizes, versions: Sequence[Version], runs: Runs) -> list[str]:
    """What the static pack costs beside them, which grows with hosts and switches; judges nothing but that it runs."""
    begin("The whole pack", f"The static pack beside the rules of one job, {sizes.bar:,} paths.")
    outcomes = [runs.run(what, versions[0], sizes.bar, 1, BAR_INTERVAL) for what in ("generated", "pack")]
    costs_table(outcomes)
    detail(outcomes[1])
    return [sound(outcomes)]


def by_jobs(sizes: Sizes, versions: Sequence[Version], runs: Runs) -> list[str]:
    begin(
        "Jobs",
        f"{sizes.bar:,} paths as one job, and as {sizes.jobs} jobs with a rule file each, in one Prometheus.",
    )
    outcomes = [runs.run("generated", versions[0], sizes.bar, jobs, BAR_INTERVAL) for jobs in (1, sizes.jobs)]
    costs_table(outcomes)
    ratio = outcomes[1].processor / outcomes[0].processor
    good = ratio <= LARGEST_GROWTH
    return [
        verdict(good, f"{sizes.jobs} jobs cost {ratio:.2f} times what one does (bar: {LARGEST_GROWTH:g})"),
        sound(outcomes),
    ]


def literal(sizes: Sizes, versions: Sequence[Version], runs: Runs) -> list[str]:
    begin(
        "Literal rules",
        "Two alerts for each path, its loss and its round trip, with its name and thresholds in the text, and nothing "
        "that finds a link; beside the rules above, which do.",
    )
    pairs = [
        (
            runs.run("generated", versions[0], paths, 1, BAR_INTERVAL),
            runs.run("literal", versions[0], paths, 1, BAR_INTERVAL),
        )
        for paths in sizes.literal
    ]
    costs_table([each for pair in pairs for each in pair])
    joined, named = pairs[-1]
    say(
        f"At {joined.paths:,} paths literal rules are {named.rule_bytes / joined.rule_bytes:,.0f} times the text, "
        f"and take {named.processor / max(joined.processor, 1e-9):.2f} times the processor time."
    )
    return [sound([each for pair in pairs for each in pair])]


def profiles(sizes: Sizes, versions: Sequence[Version], _runs: Runs) -> list[str]:
    """Where to begin when the bar is missed; judges nothing."""
    begin(
        "Profile",
        f"Each expression alone over {sizes.bar:,} paths, by a Prometheus that has stopped to scrape and to evaluate: "
        "processor milliseconds, the least of three.",
    )
    thresholds = Thresholds(scrape_interval=f"{BAR_INTERVAL:g}s")
    files = rendered("pack", sizes.bar, 1, thresholds)
    with recording(versions[0], files, sizes.bar, BAR_INTERVAL) as prometheus:
        time.sleep(_FILLED)
        found = profile(prometheus, files)
    made = sum(each.seconds for each in found if each.file.startswith("fabric-job-"))
    tables(found)
    return [
        f"All groups once: {sum(each.seconds for each in found):.2f} processor seconds, {made:.2f} of them for the "
        f"generated rules (load {os.getloadavg()[0]:.1f})."
    ]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rules", description=__doc__)
    parser.add_argument("--sections", default=",".join(SECTIONS), help="some of " + ",".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="a tenth of the paths: for a look, not for figures")
    parser.add_argument("--prometheus", action="append", type=Path, metavar="PATH", help="a binary; may be repeated")
    parser.add_argument("--intervals", default="15,5", help="seconds, of the growth (default: 15,5)")
    parser.add_argument("--paths", help="of the growth (default: 1000,10000,50000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    options = parser.parse_args(words)
    sections = options.sections.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}")
    try:
        versions = sorted(map(version, options.prometheus)) if options.prometheus else at_hand()
    except OSError as reason:
        parser.error(str(reason))
    if not versions:
        parser.error("no prometheus on PATH (apt: prometheus), nor fetched (make prometheus-versions)")
    divided = 10 if options.quick else 1
    paths = tuple(map(int, options.paths.split(","))) if options.paths else (1_000, BAR_PATHS, 50_000)
    sizes = Sizes(
        growth=tuple(each // divided for each in paths),
        bar=BAR_PATHS // divided,
        literal=(1_000 // divided, BAR_PATHS // divided),
        jobs=10,
        intervals=tuple(map(float, options.intervals.split(","))),
    )
    say(
        f"Prometheus {', '.join(map(str, versions))}; {len(os.sched_getaffinity(0))} cores, load "
        f"{os.getloadavg()[0]:.1f} at the start."
    )
    if len(versions) == 1:
        say("No other version of Prometheus at hand: make prometheus-versions.")
    if len(set(cores())) == 1:
        say("One core for all: the fabric that is scraped takes its share of it.")
    runs = Runs()
    run = {
        "growth": growth,
        "versions": by_version,
        "pack": whole_pack,
        "jobs": by_jobs,
        "literal": literal,
        "profile": profiles,
    }
    verdicts: list[str] = []
    for section in SECTIONS:
        if section in sections:
            own = run[section](sizes, versions, runs)
            say(*own)
            verdicts += own
    if options.json:
        options.json.write_text(json.dumps({key: each.as_json() for key, each in runs.outcomes.items()}, indent=1))
    return int(any(text.startswith("MISSED") for text in verdicts))


if __name__ == "__main__":
    sys.exit(main())
