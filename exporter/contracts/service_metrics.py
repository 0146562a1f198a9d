"""Metrics of an exporter's talk with the skeleton service."""

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
