"""What the service tells of itself: the metrics of ``exporter.contracts.service_metrics``, by client_python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from exporter.contracts import service_metrics as declared
from exporter.contracts.metric import Metric

WAITS = "plans"
"""The request that waits on purpose: how long it took says nothing."""


class Metrics:
    """All of a process, which has one of these."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        disable_created_metrics()  # type: ignore[no-untyped-call] # a series beside each counter, which nobody asks for
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self.requests = self._counter(declared.REQUESTS)
        self.durations = self._histogram(declared.REQUEST_DURATION)
        self.plans = self._counter(declared.PLANS_MADE)
        self.plan_failures = self._counter(declared.PLAN_FAILURES)
        self.plan_duration = self._histogram(declared.PLAN_DURATION)

    def _counter(self, metric: Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self._registry)

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(metric.name, metric.help, metric.labels, registry=self._registry, buckets=metric.buckets)

    def gauge(self, metric: Metric, value: Callable[[], float]) -> None:
        """Asked for whenever somebody reads."""
        Gauge(metric.name, metric.help, registry=self._registry).set_function(value)

    def also(self, collector: Collector) -> None:
        """Tell what this one collects as well."""
        self._registry.register(collector)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    @contextmanager
    def planning(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        except BaseException:
            self.plan_failures.inc()
            raise
        self.plans.inc()
        self.plan_duration.observe(time.perf_counter() - begun)

    async def count(self, message: Message, scope: Scope) -> None:
        """Before each part of an answer is sent."""
        if message["type"] == "http.response.start":
            self.requests.labels(_name(scope), str(message["status"])).inc()

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Times what ``app`` answers."""

        async def timed(scope: Scope, receive: Receive, send: Send) -> None:
            begun = time.perf_counter()
            try:
                await app(scope, receive, send)
            finally:
                if (request := _name(scope)) != WAITS:
                    self.durations.labels(request).observe(time.perf_counter() - begun)

        return timed


def _name(scope: Scope) -> str:
    """Of the handler: paths hold names of hosts and jobs, and whatever strangers ask for."""
    handler = scope.get("route_handler")
    return str(handler.handler_name) if handler is not None else "none"
