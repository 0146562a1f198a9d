"""Whether the right component is named: ``python -m benchmarks.diagnosis [--quick] [--runs N] [--classes NAME ...]``.

On simulated faults (docs/simulator.md), whose truth is known, by the rules of docs/diagnosis-benchmark.md. Prints
Markdown. Sections:

classes      what is found, missed, made up and named of each class; simpler methods; is the confidence true?
cost         seconds and memory for 10,000 and 100,000 paths among 4,096 RNICs

Fails when a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import islice
from math import isnan
from pathlib import Path

from benchmarks.diagnosis import report
from benchmarks.diagnosis.run import Run
from benchmarks.diagnosis.simulated import Task, resumed, runs
from benchmarks.diagnosis.tally import Tally
from benchmarks.markdown import say, verdict
from lab.simulator.failures import CLASSES

TUNING_SEEDS = range(1_000_000)
"""Free to look at while a method is worked on. ``--quick`` and the tests draw these."""

REPORT_SEEDS = range(52_000_000, 53_000_000)
"""Never looked at: what is published is measured on these. Once one was, move this on."""

RUNS, QUICK_RUNS = 300, 3

SIZES = (10_000, 100_000)
LONGEST_SECONDS = 60.0
"""At the largest of these numbers of paths: the records' own length."""

LONGEST_LOCALISATION = 1.0
"""Of 10,000 failing paths."""

LOWEST_PRECISION = 0.99
LOWEST_RECALL = 0.995
LOWEST_TOP_1 = 0.97
"""Beyond what SkeletonHunter reports of six months: 98.2, 99.3 and 95.7 % (SIGCOMM 2025)."""


def judged(options: argparse.Namespace) -> list[str]:
    """Simulate, diagnose and judge; print all tables but that of cost."""
    count = options.runs or (QUICK_RUNS if options.quick else RUNS)
    first = (TUNING_SEEDS if options.quick else REPORT_SEEDS).start if options.seeds is None else options.seeds

    def of(names: list[str]) -> Iterator[tuple[str, list[Run]]]:
        tasks = [
            Task(
                name,
                seed,
                counters=False if options.without_counters else None,
                paper_rate=options.paper_rate,
                keep=options.failures,
                replay=options.replay,
            )
            for name in names
            for seed in range(first, first + count)
        ]
        found = resumed(tasks, options.processes, options.json) if options.json else runs(tasks, options.processes)
        return ((name, list(islice(found, count))) for name in names)

    failing = report.classes(of([name for name in options.classes if not CLASSES[name].distractor]))
    every = [*failing, *report.distractors(of([name for name in options.classes if CLASSES[name].distractor]))]
    if options.replay:
        report.hindsight(every)
    report.methods(failing)
    report.confidence(every)
    taken, rows = [each.seconds for each in every], sum(each.rows for each in every)
    say(f"Diagnosed {len(every)} cases of {rows:,} records in {sum(taken):.0f} s; the longest took {max(taken):.1f} s.")
    return verdicts(report.ours(every))


def verdicts(total: Tally) -> list[str]:
    bars = (
        ("precision", total.precision, LOWEST_PRECISION),
        ("recall", total.recall, LOWEST_RECALL),
        ("top-1", total.top_1, LOWEST_TOP_1),
    )
    return [
        verdict(value >= least, f"{name} {value:.4f}, at least {least}")
        for name, value, least in bars
        if not isnan(value)  # of nothing: only cases in which nothing is broken
    ]


def cost(options: argparse.Namespace) -> list[str]:
    *_, last = report.cost(SIZES[:1] if options.quick else SIZES)
    return [
        verdict(
            last.seconds <= LONGEST_SECONDS,
            f"{last.paths:,} paths in {last.seconds:.1f} s, at most {LONGEST_SECONDS:.0f}",
        ),
        verdict(
            last.localisation <= LONGEST_LOCALISATION,
            f"{last.failing:,} failing paths localised in {last.localisation:.2f} s, at most {LONGEST_LOCALISATION}",
        ),
        verdict(
            last.bytes_per_path <= last.formula,
            f"{last.bytes_per_path:,.0f} bytes a path, at most {last.formula:,.0f}",
        ),
    ]


SECTIONS = {"classes": judged, "cost": cost}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.diagnosis",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--classes", nargs="+", choices=CLASSES, default=list(CLASSES), metavar="CLASS")
    parser.add_argument("--runs", type=int, help=f"of each class: {RUNS}, or {QUICK_RUNS}")
    parser.add_argument("--seeds", type=int, metavar="SEED", help="the first of the runs' seeds")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="two minutes, on the seeds that methods are tuned on")
    parser.add_argument(
        "--paper-rate", action="store_true", help="an endpoint probes one path a second, as in the paper"
    )
    parser.add_argument(
        "--without-counters", action="store_true", help="in no case, rather than in those that draw them"
    )
    parser.add_argument("--replay", action="store_true", help="diagnose again from the records until each detection")
    parser.add_argument("--failures", type=Path, metavar="DIR", help="keep the cases that something is wrong with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all judgements, a line each; goes on with a file")
    options = parser.parse_args()
    began = time.monotonic()
    lines = [line for name in options.sections for line in SECTIONS[name](options)]
    print("", *lines, f"{time.monotonic() - began:.0f} s", sep="\n", file=sys.stderr)
    return int(any(line.startswith("MISSED") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
