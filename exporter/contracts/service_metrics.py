"""Metrics of the skeleton service, and of an exporter's talk with it."""

from __future__ import annotations

from exporter.contracts.metric import Kind, Metric, table


def _service(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.exporter.service.{name}", kind, unit, (), text, "1")


SERVICE_ANSWERED = _service(
    "answered.timestamp", "gauge", "s", "Unix time at which the skeleton service last answered as it should."
)
SERVICE_FAILURES = _service(
    "failures", "counter", "{request}", "Requests to the skeleton service that it did not answer, or refused."
)
SERVICE_PLANS = _service("plans", "gauge", "{plan}", "Plans that the skeleton service has given this host.")
SERVICE = table("service", (), SERVICE_ANSWERED, SERVICE_FAILURES, SERVICE_PLANS)

_DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def _served(
    name: str, kind: Kind, unit: str, text: str, labels: tuple[str, ...] = (), buckets: tuple[float, ...] = ()
) -> Metric:
    return Metric(f"fabric.service.{name}", kind, unit, labels, text, "1", buckets)


JOBS = _served("jobs", "gauge", "{job}", "Jobs that run, as the service knows.")
AGENTS = _served("agents", "gauge", "{agent}", "Exporters that have said what they are.")
WAITING = _served("waiting.requests", "gauge", "{request}", "Exporters that wait for other plans now.")
REQUESTS = _served(
    "requests", "counter", "{request}", "Requests that were answered, by what they asked for and by HTTP status.",
    ("request", "status"),
)  # fmt: skip
REQUEST_DURATION = _served(
    "request.duration", "histogram", "s", "From a request to its answer; waiting for other plans is not among them.",
    ("request",), _DURATIONS,
)  # fmt: skip
PLANS_MADE = _served("plans", "counter", "{plan}", "Plans of jobs that were made, or made anew.")
PLAN_FAILURES = _served("plan.failures", "counter", "{plan}", "Plans that could not be made: the one before stays.")
PLAN_DURATION = _served(
    "plan.duration", "histogram", "s", "From a change of a job to its plan for all of its hosts.", (), _DURATIONS
)
PLAN_QUEUE = _served("plan.queue", "gauge", "{plan}", "Plans that are made, or wait to be.")
FIRST_EXPIRES = _served(
    "plan.expires.timestamp", "gauge", "s", "Unix time at which the first plan of a job that runs lapses."
)
REFUSED_FILES = _served("refused.job_files", "gauge", "{file}", "Job files that are wrong now.")
REFUSED_PODS = _served(
    "refused.pod_jobs",
    "gauge",
    "{job}",
    "Jobs of pods that are wrong now, and what else the API server does not tell: watches, keys of tokens.",
)
REFUSED_RULES = _served(
    "refused.rules", "gauge", "{job}", "Jobs whose rules could not be put where Prometheus has them from."
)
RELOAD_REFUSED = _served(
    "reload.refused", "gauge", "", "1 while the configuration that was last to be taken anew is wrong, else 0."
)
SUSPECT_SCORE = Metric(
    "fabric.suspect.score", "gauge", "", ("training_job", "layer", "kind", "component"),
    "How sure the service is, by probe records of a job that something hurts, that this is broken now: 0 to 1.", "1",
)  # fmt: skip
SERVED: tuple[Metric, ...] = (
    JOBS, AGENTS, WAITING, REQUESTS, REQUEST_DURATION, PLANS_MADE, PLAN_FAILURES, PLAN_DURATION, PLAN_QUEUE,
    FIRST_EXPIRES, REFUSED_FILES, REFUSED_PODS, REFUSED_RULES, RELOAD_REFUSED,
    SUSPECT_SCORE,
)  # fmt: skip
"""What ``skeleton-service serve`` tells of itself."""
