"""What inference finds, and what it costs: ``python -m benchmarks.inference [--quick] [--seeds N] [--sections ...]``.

On simulated jobs (docs/simulator.md), whose truth is known. Prints Markdown: the figures of docs/inference.md.
Sections:

cases        recall, surplus, groups, fallbacks and probes of each case, 900 s at 1 s, without ranks and with
probes       directed pairs against full mesh and the basic list at 512, 1,024 and 2,048 RNICs, beside the paper's
length       the same jobs seen for 2 to 30 iterations
confidence   jobs of all cases, lengths, steps, noise: is the confidence the chance of being right?
scale        seconds and memory of the command at 512 to 32,768 RNICs, from a Parquet file

Fails when a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from benchmarks.inference_at_scale import DEGREES, Cost, measure
from benchmarks.inferred_jobs import HELD_OUT, Outcome, bins, brier, mixed, outcomes, pairs, watched
from benchmarks.markdown import begin, head, row, say, verdict
from exporter.contracts.skeleton import read_skeleton
from lab.simulator import CASES, simulate

ITERATIONS = (2, 3, 5, 10, 20, 30)
WATCHED = ("1f1b", "gpipe", "interleaved", "distributed-optimizer", "overlapped", "mixture-of-experts", "one-rnic")
PAPER = {512: -0.873, 1024: -0.862, 2048: -0.896}
"""SkeletonHunter (SIGCOMM 2025), probing time against the basic list."""

PAPER_PROBES = -0.957
"""The same, probes per round against the full mesh at 2,048 RNICs."""

LOWEST_RECALL = 0.99
"""Mean over all structured jobs of the cases, without ranks."""

HIGHEST_BRIER = 0.15
LARGEST_EXPONENT = 1.3
LONGEST_SECONDS = 300.0
"""At the largest size."""


@dataclass(frozen=True, slots=True)
class Extent:
    seeds: int
    watched_seeds: int
    mixed_jobs: int
    sizes: tuple[int, ...]


FULL = Extent(seeds=24, watched_seeds=8, mixed_jobs=600, sizes=(512, 2048, 8192, 32_768))
QUICK = Extent(seeds=3, watched_seeds=1, mixed_jobs=60, sizes=(512, 2048))


def cases(extent: Extent) -> list[str]:
    begin(
        "Which pairs are found",
        f"{extent.seeds} jobs of each case, of 8 to 64 hosts in most, 900 s at 1 s.",
        "*Recall*: share of the true pairs that were found.",
        "*Surplus*: pairs inferred for each true one.",
        "Both are means, with the worst job in brackets, and those of the basic list where a job fell back.",
        "*Exact*: jobs whose groups are right to the last RNIC.",
        "Where two figures stand, the second is with ranks.",
    )
    head("case", "recall", "with ranks", "surplus", "with ranks", "exact", "fallback", "of full mesh", "of basic list")
    recalls = []
    for name, case in CASES.items():
        both = tuple(
            zip(*(outcomes(simulate(case, HELD_OUT + n, ranks=True)) for n in range(extent.seeds)), strict=True)
        )
        if case.structure == "training":
            recalls += [each.recall for each in both[0]]
        row(
            f"`{name}`",
            *(and_worst(min, [each.recall for each in some]) for some in both),
            *(and_worst(max, [each.surplus for each in some]) for some in both),
            two(both, lambda each: each.exact_groups, ".0%"),
            two(both, lambda each: each.fallback, ".0%"),
            two(both, lambda each: each.of_full_mesh, ".1%"),
            two(both, lambda each: each.of_basic, ".0%"),
        )
    mean = fmean(recalls)
    return [verdict(mean >= LOWEST_RECALL, f"mean recall without ranks {mean:.4f}, at least {LOWEST_RECALL}")]


def probes(extent: Extent) -> list[str]:
    del extent
    begin(
        "Probes saved",
        "Directed RNIC pairs of a round, tensor parallelism over the eight RNICs of a host.",
        "An RNIC probes its targets one after the other, so that a round takes as long as the targets of one.",
        "The paper's figures are probing times against the basic list; its probes of a round against the full mesh at",
        f"2,048 RNICs, in a unit that it does not state, {PAPER_PROBES:+.1%}.",
    )
    head("RNICs", "dp × pp", "full mesh", "basic list", "skeleton", "targets", "on full mesh", "on basic list", "paper")
    for rnics, paper in PAPER.items():
        replicas, stages = DEGREES[rnics]
        case = replace(CASES["1f1b"], pipeline=(stages, stages))
        both = tuple((each,) for each in outcomes(simulate(case, 1, hosts=replicas * stages, ranks=True)))
        full, basic = rnics * (rnics - 1), 2 * both[0][0].basic
        row(
            f"{rnics:,}",
            f"{replicas} × {stages}",
            f"{full:,}",
            f"{basic:,}",
            two(both, lambda each: 2 * each.inferred, ",.0f"),
            two(both, lambda each: 2 * each.inferred / each.rnics, ".0f"),
            two(both, lambda each: each.of_full_mesh - 1, "+.1%"),
            two(both, lambda each: each.of_basic - 1, "+.1%"),
            f"{paper:+.1%}",
        )
    return []


def length(extent: Extent) -> list[str]:
    begin(
        "How long to watch",
        f"{len(WATCHED) * extent.watched_seeds} jobs of {len(WATCHED)} cases at 1 s, seen for so many iterations.",
        "*All pairs*: jobs of which none is missing. Where two figures stand, the second is with ranks.",
    )
    head("iterations", "recall", "all pairs", "surplus", "exact groups", "fallback", "confidence")
    for iterations in ITERATIONS:
        jobs = [watched(name, HELD_OUT + n, iterations) for name in WATCHED for n in range(extent.watched_seeds)]
        both = tuple(zip(*map(outcomes, jobs), strict=True))
        row(
            str(iterations),
            two(both, lambda each: each.recall, ".3f"),
            two(both, lambda each: each.recall == 1, ".0%"),
            two(both, lambda each: each.surplus, ".2f"),
            two(both, lambda each: each.exact_groups, ".0%"),
            two(both, lambda each: each.fallback, ".0%"),
            two(both, lambda each: each.confidence, ".3f"),
        )
    return []


def confidence(extent: Extent) -> list[str]:
    begin(
        "Is the confidence true",
        f"{extent.mixed_jobs} jobs of all cases, 20 to 900 s at steps of 0.2 to 15 s, noise 1 to 8 times the usual,",
        "up to 30 % of the samples missing, clocks up to 100 ms apart, half of them with ranks.",
        "*Right*: a structure was found, and no pair of it is missing; what fell back is never right.",
    )
    judged = [mixed(number) for number in range(extent.mixed_jobs)]
    head("confidence", "jobs", "mean", "right")
    for number, some in enumerate(bins(judged, 10)):
        if some:
            mean, right = fmean(each.confidence for each in some), fmean(each.right for each in some)
            row(f"{number / 10:.1f} to {(number + 1) / 10:.1f}", str(len(some)), f"{mean:.3f}", f"{right:.1%}")
    rate, score = fmean(each.right for each in judged), brier(judged)
    claimed = [each for each in judged if not each.fallback]
    made_up = sum(not each.structured for each in claimed)
    certain = fmean(each.right for each in claimed) if claimed else 0.0
    say(
        f"Brier score {score:.4f}; {rate * (1 - rate):.4f} for who always says {rate:.3f}, the share that is right.",
        f"Structures claimed: {len(claimed)}, of jobs without one {made_up};",
        f"{recall_of('of the wrong ones', [each for each in claimed if not each.right])}.",
        f"Brier score of these alone {brier(claimed) if claimed else 0:.4f};",
        f"{certain * (1 - certain):.4f} for who always says {certain:.3f}.",
        f"Structures not found: {recall_of('of the basic list', [e for e in judged if e.fallback and e.structured])}.",
    )
    return [verdict(score <= HIGHEST_BRIER, f"Brier score {score:.4f}, at most {HIGHEST_BRIER}")]


def recall_of(whom: str, judged: Sequence[Outcome]) -> str:
    recalls = [each.recall for each in judged]
    return f"recall {whom} ({len(recalls)}) {and_worst(min, recalls)}" if recalls else "none"


def scale(extent: Extent) -> list[str]:
    begin(
        "Cost",
        "`skeleton-service infer` on 900 s at 1 s from Parquet, one thread.",
        "*Exponent*: by which power of the number of RNICs processor time has grown since the line above.",
    )
    head("RNICs", "dp × pp", "file, MB", "seconds", "processor seconds", "peak memory, MiB", "exponent", "recall")
    costs: list[Cost] = []
    for rnics in extent.sizes:
        with TemporaryDirectory() as name:
            directory = Path(name)
            cost = measure(rnics, directory)
            truth, found = (pairs(read_skeleton(directory / f"{of}.json")) for of in ("truth", "skeleton"))
        costs.append(cost)
        replicas, stages = DEGREES[rnics]
        row(
            f"{rnics:,}",
            f"{replicas} × {stages}",
            f"{cost.megabytes_of_file:.0f}",
            f"{cost.seconds:.1f}",
            f"{cost.processor_seconds:.1f}",
            f"{cost.mebibytes:,.0f}",
            f"{grown(*costs[-2:]):.2f}" if len(costs) > 1 else "",
            f"{len(truth & found) / len(truth):.4f}",
        )
    exponent, last = grown(costs[0], costs[-1]) if len(costs) > 1 else 0.0, costs[-1]
    longest = f"at most {LONGEST_SECONDS:.0f}"
    return [
        verdict(
            exponent <= LARGEST_EXPONENT, f"CPU grows with RNICs to the {exponent:.2f}, at most {LARGEST_EXPONENT}"
        ),
        verdict(last.seconds <= LONGEST_SECONDS, f"{last.rnics:,} RNICs in {last.seconds:.0f} s, {longest}"),
    ]


def grown(small: Cost, large: Cost) -> float:
    return growth(small.rnics, small.processor_seconds, large.rnics, large.processor_seconds)


def growth(small: int, cost: float, large: int, more: float) -> float:
    """The exponent of a power law through two measurements."""
    return log(more / cost) / log(large / small)


def two(both: Sequence[Sequence[Outcome]], value: Callable[[Outcome], float], form: str) -> str:
    """The means of a figure without ranks and with, once where they read alike."""
    plain, told = (format(fmean(map(value, some)), form) for some in both)
    return plain if plain == told else f"{plain}, {told}"


def and_worst(extreme: Callable[[list[float]], float], values: list[float]) -> str:
    mean, worst = f"{fmean(values):.3f}", f"{extreme(values):.3f}"
    return mean if mean == worst else f"{mean} ({worst})"


SECTIONS = {"cases": cases, "probes": probes, "length": length, "confidence": confidence, "scale": scale}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute: few jobs, up to 2,048 RNICs")
    parser.add_argument("--seeds", type=int, help="jobs of each case")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    options = parser.parse_args()
    extent = QUICK if options.quick else FULL
    if options.seeds:
        extent = replace(extent, seeds=options.seeds)
    began, verdicts = time.monotonic(), []
    for name in options.sections:
        verdicts += SECTIONS[name](extent)
    print("", *verdicts, f"{time.monotonic() - began:.0f} s", sep="\n", file=sys.stderr)
    return int(any(line.startswith("MISSED") for line in verdicts))


if __name__ == "__main__":
    sys.exit(main())
