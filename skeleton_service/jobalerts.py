"""Alerts that fire, in PromQL, and whom they hurt: one of a cable names no job, but the job's paths cross it."""

from __future__ import annotations

FIRING = 'ALERTS{alertstate="firing", severity=~"critical|warning", alertname=~"Fabric.+"}'
"""Alerts that somebody is told of."""


def firing(*alternatives: str) -> str:
    """Of those alerts the ones that meet any of these matchers."""
    return " or ".join(FIRING.replace("}", f", {each}}}") for each in alternatives) if alternatives else FIRING


def _joined(job_label: str, paths: str) -> list[tuple[str, str, str]]:
    """(alerts, labels that they share, paths of jobs): how an alert finds whom it hurts without naming them.

    ``job_label`` is a matcher of the alerts, ``paths`` those of what counts a job's paths.
    """
    alerts = firing(job_label)
    # Of the links that alerts point at: all, given another label at each step, take ten times as long.
    suspected = f'on (cluster, link) label_replace({alerts}, "link", "$1", "suspect", "(.+)")'
    crossed = f"(job_link:fabric_job_paths:count{paths} and {suspected})"
    cables = f'label_replace({crossed}, "suspect", "$1", "link", "(.+)")'
    ports = f"job_switch_port:fabric_job_paths:count{paths}"
    return [
        (alerts, "cluster, suspect", cables),
        (firing(f'{job_label}, rnic!=""'), "cluster, host, rnic", f"job_rnic:fabric_job_paths:count{paths}"),
        (firing(f'{job_label}, switch_port!=""'), "cluster, switch, switch_port", ports),
        (firing(f'{job_label}, switch!="", switch_port=""'), "cluster, switch", ports),
    ]


def of_job(job: str) -> str:
    """Alerts that name a job, or something that its paths cross."""
    crossed = (
        f"{alerts} and on ({labels}) {paths}"
        for alerts, labels, paths in _joined('training_job=""', f'{{training_job="{job}"}}')
    )
    return " or ".join((firing(f'training_job="{job}"'), *crossed))


def jobs_hurt(*alternatives: str) -> str:
    """1 for each job that an alert names, or whose paths cross what it names; of alerts that meet these matchers."""
    more = "".join(f", {each}" for each in alternatives)
    joined = _joined(f'training_job=""{more}', "")
    found = (
        firing(f'training_job!=""{more}'),
        *(f"{paths} and on ({labels}) {alerts}" for alerts, labels, paths in joined),
    )
    return " or ".join(f"group by (cluster, training_job) ({each})" for each in found)


JOBS_HURT = jobs_hurt()


def since(alerts: str = FIRING) -> str:
    """When each of these alerts became true, in seconds since 1970."""
    return f"ALERTS_FOR_STATE and ignoring (alertstate) ({alerts})"


def principal() -> str:
    """Of each suspect the gravest alert: critical before warning, a component before its paths."""
    ranked = " or ".join(
        f"{rank} * {each}"
        for rank, each in (
            (4, firing('severity="critical", component_kind!="path"')),
            (3, firing('severity="critical", component_kind="path"')),
            (2, firing('severity="warning", component_kind!="path"')),
            (1, firing('severity="warning", component_kind="path"')),
        )
    )
    labels = "suspect, component_kind, component, symptom, alertname, severity, training_job, link, switch, host"
    return f"topk by (cluster, suspect) (1, max by (cluster, {labels}) ({ranked}))"
