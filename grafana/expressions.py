"""PromQL as panels write it, plainly, and as Grafana gets it: of the clusters, jobs and instances that are chosen."""

from __future__ import annotations

from exporter.contracts.catalogue import CATALOGUE
from skeleton_service import jobalerts
from skeleton_service.jobalerts import FIRING
from skeleton_service.lint.parsing import parse
from skeleton_service.lint.syntax import Selector, walk

_STAND_INS = {"$__rate_interval": "1y1w1d1h1m1s01ms", "$__range": "1d1h1m1s"}
"""Durations of the same lengths, so that places stay what they are."""
_ANY_CLUSTER = 'cluster=~"$cluster"'
_SCRAPED = f'{_ANY_CLUSTER}, job=~"$job", instance=~"$instance"'
_OF_EXPORTERS = frozenset(metric.name for metric in CATALOGUE)
_SUFFIXES = ("_bucket", "_sum", "_count")


def since(alerts: str = FIRING) -> str:
    """When each of these alerts became true, in milliseconds since 1970."""
    return f"1000 * ({jobalerts.since(alerts)})"


def named(variable: str) -> str:
    """A pattern of the box that is chosen, of its parts (``box:port``), and of cables between them."""
    return f"`(.* )?${{{variable}:regex}}([: ].*)?`"


def scoped(text: str) -> str:
    """The same of what is chosen on top of the page; raise PromqlError for what is no PromQL.

    What exporters say has the labels of the scrape, what rules record only the cluster.
    """
    plain = with_durations(text)
    chosen = [node for node, _ in walk(parse(plain)) if isinstance(node, Selector)]
    for selector in sorted(chosen, key=lambda each: each.span, reverse=True):
        if selector.name is None or selector.name.text.startswith("prometheus_"):
            continue  # Prometheus' own target has a cluster only where somebody gave it one
        matchers = _SCRAPED if is_scraped(selector.name.text) else _ANY_CLUSTER
        end = selector.name.span[1]
        if text[end : end + 1] == "{":
            text = f"{text[: end + 1]}{matchers}{', ' if selector.matchers else ''}{text[end + 1 :]}"
        else:
            text = f"{text[:end]}{{{matchers}}}{text[end:]}"
    return text


def with_durations(text: str) -> str:
    """The same with durations for Grafana's variables, which is PromQL."""
    for variable, duration in _STAND_INS.items():
        text = text.replace(variable, duration)
    return text


def is_scraped(metric: str) -> bool:
    """Whether exporters say it, rather than rules."""
    return metric in _OF_EXPORTERS or any(
        metric.endswith(each) and metric.removesuffix(each) in _OF_EXPORTERS for each in _SUFFIXES
    )
