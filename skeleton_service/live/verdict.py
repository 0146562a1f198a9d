"""Is it the network? What Prometheus has recorded and fires, put into one answer for a job. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from exporter.contracts.diagnosis import Failure
from skeleton_service.jobalerts import of_job, since
from skeleton_service.reading.prometheusapi import quoted

Answer = Literal["network", "unclear", "no evidence", "unknown"]
MEASURING = frozenset({"agent"})
"""Kinds of components that are no part of the network: what fires of them says that less is known."""
STARVED_SHARE = 0.5
"""Of a job's hosts: with more of them short of CPU its round trips say nothing."""

LOSES = 0.05
"""Share of a path's probes: with more of them lost it hurts."""
SURE = 0.5
"""A component that a diagnosis is less sure of answers nothing."""
_NETWORK = frozenset({"underlay", "overlay", "rnic"})
"""Layers of a diagnosis that are the network's."""
_MOST_PATHS = 500

Series = Sequence[tuple[Mapping[str, str], float]]
"""(labels, value) of each series of an answer."""


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """What an alert points at."""

    kind: str
    component: str
    symptom: str
    alert: str
    severity: str
    since: float
    """Unix seconds."""
    cluster: str = ""
    link: str = ""
    switch: str = ""
    host: str = ""
    jobs: tuple[str, ...] = ()
    """That it hurts, as far as they were asked for."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    job: str
    time: float
    answer: Answer
    summary: str
    """One sentence for a person."""
    suspects: tuple[Suspect, ...] = ()
    """The oldest first."""
    failures: tuple[Failure, ...] = ()
    """Found in the job's probe records, the surest first; where the service diagnoses jobs."""
    paths_probed: int | None = None
    """None where nobody says."""
    paths_losing: int = 0
    paths_slow: int = 0
    hosts_starved: int = 0
    but: tuple[str, ...] = ()
    """What makes the answer less sure than it looks."""


def questions(job: str) -> Mapping[str, str]:
    """{name: PromQL} of all that a verdict needs."""
    own = f"{{training_job={quoted(job)}}}"
    return {
        "alerts": since(of_job(quoted(job)[1:-1])),
        "probed": f"sum(job_dscp:fabric_job_paths:count{own})",
        "losing": f"count(job_path:fabric_path_forward_loss:ratio_rate{own} > {LOSES})",
        "slow": f"count(job_path:fabric_path_rtt_slow:seconds{own})",
        "learnt": f"count(fabric_path_rtt_threshold_seconds{own})",
        "starved": f"count(count by (src_host) (job_host:fabric_prober_starved:info{own}))",
    }


def hurting() -> str:
    """PromQL: of each job how many paths lose probes or are slow."""
    return f"count by (training_job) ({_hurt('')})"


def hurting_paths(job: str) -> str:
    """PromQL: such paths of one job, of many some."""
    return f"topk({_MOST_PATHS}, {_hurt(f'training_job={quoted(job)}')})"


def _hurt(job: str) -> str:
    lost = f"job_path:fabric_path_forward_loss:ratio_rate{{{job}}} > {LOSES}"
    return f"max by (training_job, path) ({lost} or job_path:fabric_path_rtt_slow:seconds{{{job}}})"


def suspect_of(labels: Mapping[str, str], began: float, jobs: Sequence[str] = ()) -> Suspect:
    """Of an alert's labels."""
    return Suspect(
        kind=labels.get("component_kind", ""),
        component=labels.get("component", ""),
        symptom=labels.get("symptom", ""),
        alert=labels.get("alertname", ""),
        severity=labels.get("severity", ""),
        since=began,
        cluster=labels.get("cluster", ""),
        link=labels.get("link", ""),
        switch=labels.get("switch", ""),
        host=labels.get("host", ""),
        jobs=tuple(jobs),
    )


def verdict(job: str, hosts: int, told: Mapping[str, Series], now: float, failures: Sequence[Failure] = ()) -> Verdict:
    """``told`` are the answers to ``questions``; ``hosts`` is how many the job has; ``failures`` what is diagnosed."""
    numbers = {name: int(told[name][0][1]) if told[name] else None for name in ("probed", "losing", "slow", "starved")}
    probed, losing, slow, starved = (numbers[name] for name in ("probed", "losing", "slow", "starved"))
    fired = sorted((suspect_of(labels, began) for labels, began in told["alerts"]), key=lambda each: each.since)
    suspects = tuple(each for each in fired if each.kind not in MEASURING)
    but = [f"{each.alert} fires of {each.component}" for each in fired if each.kind in MEASURING]
    named = sorted(
        (each for each in failures if each.component.kind not in MEASURING),
        key=lambda each: (each.layer not in _NETWORK, -each.confidence),
    )
    but += [f"probe records say of {each.component.name}: {each.symptom}" for each in failures if each not in named]
    if starved:
        but.append(f"probers of {starved} of {hosts} hosts are short of CPU: their round trips are left out")
    if probed and not told["learnt"]:
        but.append("no path has learnt yet what is usual: slowness cannot be told")
    answer: Answer
    if suspects:
        first = suspects[0]
        others = f", and {len(suspects) - 1} more" if len(suspects) > 1 else ""
        answer, summary = "network", f"{first.kind} {first.component}: {first.symptom} ({first.alert}{others})"
    elif named and named[0].confidence >= SURE:
        found = named[0]
        answer = "network" if found.layer in _NETWORK else "unclear"
        summary = (
            f"{found.component.kind} {found.component.name}: {found.symptom} "
            f"({found.confidence:.0%} sure by probe records; no alert names a component)"
        )
    elif not probed:
        answer, summary = "unknown", "no exporter tells of a path of this job"
    elif losing or slow:
        hurt = " and ".join(f"{count} {what}" for count, what in ((losing, "lose probes"), (slow, "are slow")) if count)
        answer, summary = "unclear", f"of {probed} paths {hurt}, and no component explains it yet"
    elif starved and starved > STARVED_SHARE * hosts:
        answer, summary = "unknown", f"probers of {starved} of {hosts} hosts are short of CPU"
    else:
        answer, summary = (
            "no evidence",
            f"none of {probed} paths loses probes or is slow, and no alert concerns the job",
        )
    return Verdict(
        job=job,
        time=now,
        answer=answer,
        summary=summary,
        suspects=suspects,
        failures=tuple(failures),
        paths_probed=probed,
        paths_losing=losing or 0,
        paths_slow=slow or 0,
        hosts_starved=starved or 0,
        but=tuple(dict.fromkeys(but)),
    )
