"""What ``make bench-alerts`` prints, and its bars. Pure but for printing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.markdown import begin, head, row, say, verdict

LONGEST = {"fast": 8.0, "stock": 75.0}
"""Seconds from the first lost probe to the notification, p95, by profile."""
MOST_MISSED = 0.1
"""Share of the evaluations that Prometheus may leave out: rules that are not evaluated are silent in any hour."""
Verdicts = list[tuple[bool, str]]


def quantile(values: Iterable[float], share: float) -> float:
    """The nearest-rank quantile; NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def healthy(told: dict[str, Any]) -> Verdicts:
    minutes = told["seconds"] / 60
    begin(
        "A healthy lab",
        f"{minutes:g} minutes with a job running, seed {told['seed']}: {told['exporters']} exporters, "
        f"{told['series']} series, {told['rules']} rules. Load {quantile(told['load'], 0.5):.1f} in the median, "
        f"{max(told['load']):.1f} at most; all probers together woke late {quantile(told['late'], 0.5):.1f} times a "
        f"second in the median, {max(told['late']):.1f} at most. {_evaluations(told)}",
    )
    head("alert", "state", "times", "components", "longest, s")
    alerts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for alert in told["alerts"]:
        alerts.setdefault((alert["name"], alert["state"]), []).append(alert)
    for (name, state), those in sorted(alerts.items()):
        components = Counter(each["labels"].get("component", "") for each in those)
        longest = max(each["last"] - each["first"] for each in those)
        row(name, state, str(len(those)), ", ".join(f"{c} {n}" for c, n in components.most_common(3)), f"{longest:.0f}")
    firing = sorted({name for name, state in alerts if state == "firing"})
    return [
        (not firing, f"{len(firing)} alerts fired in {minutes:g} healthy minutes {', '.join(firing)}".rstrip()),
        (not told["notified"], f"{len(told['notified'])} notifications in {minutes:g} healthy minutes"),
        (told["missed"] <= MOST_MISSED, f"{told['missed']:.1%} of the evaluations left out, bar {MOST_MISSED:.0%}"),
    ]


def _evaluations(told: dict[str, Any]) -> str:
    return f"All rules once took {told['evaluation']:.2f} s; {told['missed']:.1%} of the evaluations were left out."


def incidents(plays: Sequence[dict[str, Any]]) -> Verdicts:
    begin("The five incidents", "Seconds are from the injection to the notification of the incident's own alert.")
    head("incident", "own alert", "component", "truth", "s", "notifications", "others told", "load")
    verdicts: Verdicts = []
    for play in plays:
        name, judged = play["scenario"], play["verdict"]
        if judged is None:
            row(name, "not played", *[""] * 6)
            verdicts.append((False, f"{name} could not be played to its end"))
            continue
        others = sorted(
            {told["labels"]["alertname"] for group in play["notified"] for told in group["firing"]} - {judged["own"]}
        )
        seconds = "" if judged["seconds"] is None else f"{judged['seconds']:.1f}"
        component, truth = (" ".join(each) for each in (judged["component"], play["right"][0]))
        load = f"{play['load'].get('injected', math.nan):.1f}"
        row(name, judged["own"], component, truth, seconds, str(judged["groups"]), ", ".join(others), load)
        verdicts.append((bool(judged["own"]), f"{name} fires its own alert"))
        verdicts.append((judged["right"], f"{name} names a right component"))
        verdicts.append((judged["groups"] == 1, f"{name} is told in {judged['groups']} notifications"))
    return verdicts


def latency(told: dict[str, Any]) -> Verdicts:
    profile, faults, timing = told["profile"], told["faults"], told["timing"]
    seen = [each for each in faults if "notified" in each["moments"]]
    loads = [each["load"] for each in faults]
    begin(
        f"From the first lost probe to the notification: {profile} intervals",
        f"{len(faults)} faults of random links, every other one a link that loses all, the others 20 to 40 %. Scraped "
        f"and evaluated every {timing['scrape']}, window {timing['window']}, for {timing['for']}, group_wait "
        f"{timing['group_wait']}. Load {quantile(loads, 0.5):.1f} in the median, {max(loads, default=math.nan):.1f} at "
        f"most. {_evaluations(told)} Seconds since the first lost probe was sent.",
    )
    head("", "faults", "p50", "p95", "max")
    for hop in told["hops"]:
        values = [each["moments"][hop] for each in seen if hop in each["moments"]]
        row(hop, str(len(values)), *(f"{quantile(values, share):.1f}" for share in (0.5, 0.95, 1.0)))
    say("In the order of the faults:", "")
    head("loss, %", "link", *told["hops"], "also named", "load")
    for each in faults:
        moments = (f"{each['moments'][hop]:.1f}" if hop in each["moments"] else "" for hop in told["hops"])
        row(f"{each['percent']:.0f}", each["link"], *moments, ", ".join(each["also named"]), f"{each['load']:.1f}")
    notified = [each["moments"]["notified"] for each in seen]
    p95, bound = quantile(notified, 0.95), LONGEST[profile]
    wrong = sum(bool(each["also named"]) for each in faults)
    say(f"{wrong} of {len(faults)} faults had another link named as well.")
    return [
        (len(seen) == len(faults), f"{len(seen)} of {len(faults)} faults were told of ({profile})"),
        (p95 <= bound, f"first lost probe to notification, p95 {p95:.1f} s, bar {bound:g} s ({profile})"),
    ]


def end(verdicts: Verdicts) -> int:
    say(*(verdict(good, text) for good, text in verdicts))
    return 0 if all(good for good, _ in verdicts) else 1
