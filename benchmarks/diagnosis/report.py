"""The tables of the diagnosis benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan
from statistics import fmean

from benchmarks.diagnosis.cost import Cost, measure
from benchmarks.diagnosis.large import HOSTS, RAILS, SECONDS
from benchmarks.diagnosis.rivals import RIVALS
from benchmarks.diagnosis.run import OURS, Run
from benchmarks.diagnosis.tally import Tally, bins, brier, tally
from benchmarks.markdown import begin, head, row, say

PER = 10_000
"""False alarms are given per so many hours of a path."""


def share(value: float) -> str:
    return "" if isnan(value) else f"{value:.1%}"


def seconds(value: float) -> str:
    return "" if isnan(value) else f"{value:.1f}"


def ours(runs: Iterable[Run]) -> Tally:
    return tally([each.judgement for each in runs])


def classes(groups: Iterable[tuple[str, list[Run]]]) -> list[Run]:
    """Print a line for each class of failures as it comes, and one for all; give all runs."""
    begin(
        "Failures, class by class",
        "*Precision*: of the reports, those about something true; *false*: the others.",
        "*Twice*: right, but told already; counted apart.",
        "*Recall*: of what is true, what was reported.",
        "*Top-1*: of what was reported, the share whose first component is right, ambiguous answers apart.",
        "*Ambiguous*: no data of the case tells two or three components apart, and all of them were named.",
        "*To detect*: seconds from the fault to its report, mean and 95th percentile; *third probe*: from the third",
        "probe that met it.",
        "*Named*: of all that is true, found or missed, the share named right or ambiguous; beside it that of simpler",
        "methods, an RNIC's cable being right for the RNIC.",
    )
    head(
        *("class", "runs", "found", "false", "twice", "precision", "recall", "top-1", "ambiguous", "symptom", "layer"),
        *("to detect, s", "95 %", "third probe", "named", *RIVALS),
    )
    every: list[Run] = []
    for name, runs in groups:
        _line(f"`{name}`", runs)
        every += runs
    _line("**all**", every)
    return every


def hindsight(runs: Sequence[Run]) -> float:
    """How many failures are also reported from records that end when they are said to be detected; gives the share."""
    in_time = [one for each in runs for one in each.in_time]
    value = sum(in_time) / len(in_time) if in_time else float("nan")
    say(f"Of {len(in_time)} failures found {share(value)} are reported from the records until their detection, too.")
    return value


def _line(name: str, runs: Sequence[Run]) -> None:
    total = ours(runs)
    row(
        name,
        str(len(runs)),
        f"{len(total.found)} of {total.true}",
        str(total.false),
        str(total.duplicates),
        *map(share, (total.precision, total.recall, total.top_1)),
        str(total.ambiguous),
        *map(share, (total.symptom, total.layer)),
        *map(seconds, (total.mean_seconds, total.p95_seconds, total.mean_seconds_after_third_probe)),
        share(total.named),
        *(share(tally([each.alike[rival] for each in runs]).named) for rival in RIVALS),
    )


def distractors(groups: Iterable[tuple[str, list[Run]]]) -> list[Run]:
    """The same where nothing is broken: what is reported is false."""
    begin("Where nothing is broken", f"*Rate*: false alarms per {PER:,} hours of a path.")
    head("class", "runs", "hours of a path", "false alarms", "rate", *(f"{rival}, rate" for rival in RIVALS))
    every: list[Run] = []
    for name, runs in groups:
        _quiet(f"`{name}`", runs)
        every += runs
    _quiet("**all**", every)
    return every


def _quiet(name: str, runs: Sequence[Run]) -> None:
    hours = sum(each.path_hours for each in runs)
    false = [ours(runs).false, *(tally([each.alike[rival] for each in runs]).false for rival in RIVALS)]
    rates = (PER * count / hours if hours else float("nan") for count in false)
    row(name, str(len(runs)), f"{hours:,.0f}", str(false[0]), *(f"{rate:.2f}" for rate in rates))


def methods(runs: Sequence[Run]) -> None:
    """Ours beside the simpler methods, on all failures and on those that these are made for."""
    begin(
        "Beside simpler methods",
        "The same records, judged alike: an RNIC's cable is right for the RNIC, and a port's for the port.",
        "*Voting*: 007 (NSDI'18). *Set cover*: deTector's PLL (ATC'17).",
        "*Loss of links*: cases where all that is true is loss or silence of a link, a port or an RNIC.",
    )
    head("cases", "method", "runs", "precision", "recall", "top-1", "named")
    for title, some in (("loss of links", [each for each in runs if each.link_loss]), ("all", runs)):
        for method in (OURS, *RIVALS):
            total = tally([each.alike[method] for each in some])
            figures = (total.precision, total.recall, total.top_1, total.named)
            row(title, method, str(len(some)), *map(share, figures))


def confidence(runs: Sequence[Run]) -> float:
    """Whether confidence is the chance of being right, over all reports; gives the Brier score."""
    begin("Is the confidence true", "All reports, false ones too. *Right*: the component is that of a true failure.")
    head("confidence", "reports", "mean", "right")
    claims = [claim for each in runs for claim in each.judgement.claims]
    for number, some in enumerate(bins(claims)):
        if some:
            mean, right = fmean(claim.confidence for claim in some), fmean(claim.right for claim in some)
            row(f"{number / 10:.1f} to {(number + 1) / 10:.1f}", str(len(some)), f"{mean:.3f}", share(right))
    score, rate = brier(claims), fmean(claim.right for claim in claims) if claims else float("nan")
    say(f"Brier score {score:.4f}; {rate * (1 - rate):.4f} for who always says {rate:.3f}, the share that is right.")
    return score


def cost(sizes: Iterable[int]) -> list[Cost]:
    """What a diagnosis of so many paths takes; one line each."""
    begin(
        "Cost",
        f"{HOSTS * RAILS:,} RNICs, {SECONDS} s of records, a probe of each path a second, and a line card of a spine",
        "that dies halfway, under a tenth of the paths. Processor seconds of one thread from records in memory to the",
        "verdict, and the most memory beside the records, with what the formula in `losses.py` allows.",
        "*Localisation*: one (the median of five), of all that failed. *Named*: the line card was.",
    )
    head(
        *("paths", "of them fail", "records", "seconds", "localisation, s", "bytes a path", "allowed", "named"),
        *(f"{rival}, s" for rival in RIVALS),
    )
    costs = []
    for paths in sizes:
        one = measure(paths)
        row(
            *(f"{number:,}" for number in (one.paths, one.failing, one.records)),
            f"{one.seconds:.1f}",
            f"{one.localisation:.2f}",
            f"{one.bytes_per_path:,.0f}",
            f"{one.formula:,.0f}",
            "yes" if one.named else "no",
            *(f"{one.rivals[rival]:.1f}" for rival in RIVALS),
        )
        costs.append(one)
    return costs
