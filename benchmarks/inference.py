"""What inference finds, and what it costs: ``python -m benchmarks.inference [--quick] [--seeds N] [--sections ...]``.

On simulated jobs (docs/simulator.md), whose truth is known. Sections:

cases        recall, surplus, groups, fallbacks and probes of each case, 900 s at 1 s, without ranks and with
probes       directed pairs against full mesh and the basic list at 512, 1,024 and 2,048 RNICs, beside the paper's
length       the same job seen for 2 to 30 iterations
confidence   held-out jobs of all cases, lengths, steps, noise: is the confidence the chance of being right?
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
from benchmarks.inferred_jobs import Outcome, bins, brier, mixed, outcomes, pairs, watched
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
    print(f"\nCases: {extent.seeds} jobs each, 900 s at 1 s; '+' is with ranks, surplus is pairs inferred per true one")
    print(
        f"{'':26}{'recall':^14}{'recall+':^14}{'surplus':^14}{'surplus+':^14}{'groups exact':^13}{'fallback':^12}"
        "probes of full  of basic\n"
        f"{'':26}{'mean':>7}{'min':>7}{'mean':>7}{'min':>7}{'mean':>7}{'max':>7}{'mean':>7}{'max':>7}"
        f"{'':>7}{'+':>6}{'':>6}{'+':>6}{'':>8}{'+':>7}{'':>6}{'+':>6}"
    )
    recalls = []
    for name, case in CASES.items():
        judged = [outcomes(simulate(case, seed, ranks=True)) for seed in range(extent.seeds)]
        plain, told = [each[0] for each in judged], [each[1] for each in judged]
        if case.structure == "training":
            recalls += [each.recall for each in plain]
        figures = ""
        for some in (plain, told):
            figures += _mean_and(min, [each.recall for each in some])
        for some in (plain, told):
            figures += _mean_and(max, [each.surplus for each in some])
        for some in (plain, told):
            figures += f"{share(some, lambda each: each.exact_groups):6.0%} "
        for some in (plain, told):
            figures += f"{share(some, lambda each: each.fallback):5.0%} "
        for some in (plain, told):
            figures += f"{fmean(each.of_full_mesh for each in some):7.1%}"
        for some in (plain, told):
            figures += f"{fmean(each.of_basic for each in some):6.0%}"
        print(f"{name:26}{figures}", flush=True)
    mean = fmean(recalls)
    return [verdict(mean >= LOWEST_RECALL, f"mean recall without ranks {mean:.4f}, at least {LOWEST_RECALL}")]


def _mean_and(extreme: Callable[[list[float]], float], values: list[float]) -> str:
    return f"{fmean(values):7.3f}{extreme(values):7.3f}"


def share(judged: Sequence[Outcome], is_so: Callable[[Outcome], bool]) -> float:
    return fmean(is_so(each) for each in judged)


def probes(extent: Extent) -> list[str]:
    del extent
    print(
        "\nProbes: directed RNIC pairs per round, tensor parallelism over the eight RNICs of a host.\n"
        "An RNIC probes its targets one after the other, so that a round takes as long as the targets of one"
    )
    print(
        f"{'RNICs':>7}{'dp x pp':>10}{'full mesh':>12}{'basic':>10}{'inferred':>10}{'with ranks':>12}"
        f"{'targets an RNIC':>17}{'against full mesh':>19}{'basic':>9}{'paper':>9}"
    )
    for rnics, paper in PAPER.items():
        replicas, stages = DEGREES[rnics]
        case = replace(CASES["1f1b"], pipeline=(stages, stages))
        plain, told = outcomes(simulate(case, 1, hosts=replicas * stages, ranks=True))
        full, basic = rnics * (rnics - 1), 2 * told.basic
        print(
            f"{rnics:7,}{replicas:>6} x {stages:<2}{full:11,}{basic:10,}{2 * plain.inferred:10,}"
            f"{2 * told.inferred:12,}{2 * told.inferred / rnics:17.0f}"
            f"{2 * told.inferred / full - 1:+19.1%}{told.of_basic - 1:+9.1%}{paper:+9.1%}",
            flush=True,
        )
    print(
        f"the paper's probes per round at 2,048 RNICs, against full mesh: {PAPER_PROBES:+.1%} (its unit is not stated)"
    )
    return []


def length(extent: Extent) -> list[str]:
    number = len(WATCHED) * extent.watched_seeds
    print(f"\nLength: {number} jobs of {len(WATCHED)} cases at 1 s, without ranks and with (+)")
    print(
        f"{'iterations':>10}{'recall':>9}{'+':>7}{'all pairs':>11}{'+':>6}{'surplus':>9}{'+':>7}{'groups':>8}{'+':>6}"
        f"{'fallback':>10}{'+':>6}{'confidence':>12}{'+':>6}"
    )
    for iterations in ITERATIONS:
        judged = [outcomes(watched(name, seed, iterations)) for name in WATCHED for seed in range(extent.watched_seeds)]
        both = [[each[way] for each in judged] for way in (0, 1)]
        columns: list[tuple[Callable[[Outcome], float], str]] = [
            (lambda each: each.recall, "8.3f"),
            (lambda each: float(each.recall == 1), "8.0%"),
            (lambda each: each.surplus, "8.2f"),
            (lambda each: float(each.exact_groups), "7.0%"),
            (lambda each: float(each.fallback), "8.0%"),
            (lambda each: each.confidence, "9.3f"),
        ]
        figures = "".join(f"{fmean(map(value, some)):{form}}" for value, form in columns for some in both)
        print(f"{iterations:10}{figures}", flush=True)
    return []


def confidence(extent: Extent) -> list[str]:
    print(
        f"\nConfidence: {extent.mixed_jobs} held-out jobs of all cases, 20 to 900 s at steps of 0.2 to 15 s,\n"
        "noise 1x to 8x, up to 30 % missing, clocks up to 100 ms apart, half of them with ranks.\n"
        "Right: a structure found, and no pair missed"
    )
    judged = [mixed(number) for number in range(extent.mixed_jobs)]
    print(f"{'confidence':>12}{'jobs':>7}{'mean':>8}{'right':>8}")
    for number, some in enumerate(bins(judged, 10)):
        if some:
            mean, right = fmean(each.confidence for each in some), share(some, lambda each: each.right)
            print(f"{number / 10:7.1f}-{(number + 1) / 10:.1f} {len(some):7}{mean:8.3f}{right:8.1%}")
    rate, score = share(judged, lambda each: each.right), brier(judged)
    claimed = [each for each in judged if not each.fallback]
    made_up = sum(not each.structured for each in claimed)
    print(
        f"Brier score {score:.4f}; {rate * (1 - rate):.4f} for who always says the mean, {rate:.3f}\n"
        f"Structures claimed: {len(claimed)}, of jobs without one {made_up}; Brier score {brier(claimed):.4f}, "
        f"{recall_of('of the wrong ones', [each for each in claimed if not each.right])}\n"
        f"Structures not found: {recall_of('of the basic list', [e for e in judged if e.fallback and e.structured])}"
    )
    return [verdict(score <= HIGHEST_BRIER, f"Brier score {score:.4f}, at most {HIGHEST_BRIER}")]


def recall_of(whom: str, judged: Sequence[Outcome]) -> str:
    recalls = [each.recall for each in judged]
    return f"recall {whom} ({len(recalls)}) mean {fmean(recalls):.3f}, min {min(recalls):.3f}" if recalls else "none"


def scale(extent: Extent) -> list[str]:
    print("\nScale: skeleton-service infer, 900 s at 1 s from Parquet, one thread")
    print(
        f"{'RNICs':>7}{'dp x pp':>12}{'file MB':>9}{'seconds':>9}{'CPU s':>8}{'peak MiB':>10}{'exponent':>10}  recall"
    )
    costs: list[Cost] = []
    for rnics in extent.sizes:
        with TemporaryDirectory() as name:
            directory = Path(name)
            cost = measure(rnics, directory)
            truth, found = (pairs(read_skeleton(directory / f"{of}.json")) for of in ("truth", "skeleton"))
        grown = growth(costs[-1].rnics, costs[-1].processor_seconds, rnics, cost.processor_seconds) if costs else 0.0
        costs.append(cost)
        replicas, stages = DEGREES[rnics]
        print(
            f"{rnics:7,}{replicas:>7} x {stages:<3}{cost.megabytes_of_file:8.0f}{cost.seconds:9.1f}"
            f"{cost.processor_seconds:8.1f}{cost.mebibytes:10,.0f}{f'{grown:10.2f}' if grown else '':>10}"
            f"{len(truth & found) / len(truth):8.4f}",
            flush=True,
        )
    first, last = costs[0], costs[-1]
    exponent = growth(first.rnics, first.processor_seconds, last.rnics, last.processor_seconds)
    return [
        verdict(
            exponent <= LARGEST_EXPONENT, f"CPU grows with RNICs to the {exponent:.2f}, at most {LARGEST_EXPONENT}"
        ),
        verdict(
            last.seconds <= LONGEST_SECONDS,
            f"{last.rnics:,} RNICs in {last.seconds:.0f} s, at most {LONGEST_SECONDS:.0f}",
        ),
    ]


def growth(small: int, cost: float, large: int, more: float) -> float:
    """The exponent of a power law through two measurements."""
    return log(more / cost) / log(large / small)


def verdict(good: bool, text: str) -> str:
    return f"{'good' if good else 'MISSED'}: {text}"


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
    print("\n" + "\n".join([*verdicts, f"{time.monotonic() - began:.0f} s"]))
    return int(any(line.startswith("MISSED") for line in verdicts))


if __name__ == "__main__":
    sys.exit(main())
