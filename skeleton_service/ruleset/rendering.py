"""The templates' environment: where they lie, how they quote, what each may name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import msgspec
from jinja2 import Environment, FunctionLoader, StrictUndefined

from skeleton_service.alertlinks import GRAFANA, RUNBOOKS
from skeleton_service.ruleset.thresholds import Thresholds, seconds, timing

_HARMLESS = re.compile(r"^[A-Za-z0-9]([\w./@+-]*[A-Za-z0-9])?$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Links:
    """Where the annotations of alerts lead."""

    runbooks: str = RUNBOOKS
    """Folder of the runbook pages, without the last slash."""
    grafana: str = GRAFANA
    """The Grafana that holds the dashboards, without the last slash."""


def resource(*names: str) -> Traversable:
    """A file of the rule pack, from the package data."""
    place = files("skeleton_service") / "rules"
    for name in names:
        place = place / name
    return place


def quote(text: str) -> str:
    """A double-quoted string that YAML and PromQL read alike: both know \\u and \\U, neither surrogate pairs."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(
        char if char.isprintable() else f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
        for char in quoted
    )


def literal(text: str) -> str:
    """A YAML string that Prometheus' templates leave as it is: labels and annotations are templates to them."""
    return quote(f"{{{{ {quote(text)} }}}}" if "{{" in text else text)


def template_text(text: str) -> str:
    """The same inside of a longer text: as it is where no letter of it means anything to YAML or to templates."""
    return text if _HARMLESS.match(text) else f"{{{{ {quote(text)} }}}}"


def _environment() -> Environment:
    # Rules are full of braces, PromQL's and those of Go's templates in annotations: ours are << >>, <% %> and <# #>.
    environment = Environment(
        loader=FunctionLoader(lambda name: resource("templates", *name.split("/")).read_text()),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - YAML, not HTML: the filters below quote what needs it
    )
    environment.filters["promql_string"] = quote
    environment.filters["yaml_string"] = quote
    environment.filters["yaml_comment"] = quote
    environment.filters["literal_string"] = literal
    environment.filters["template_text"] = template_text
    return environment


def render(template: str, thresholds: Thresholds, links: Links, **more: Any) -> str:
    """Render a template by its name below ``rules/templates``. It may name every threshold, duration and link."""
    times = timing(thresholds)
    names = msgspec.structs.asdict(thresholds) | {
        name: getattr(times, name) for name in type(times).__dataclass_fields__
    }
    names |= {
        "window_seconds": seconds(times.window, "window", "thresholds"),
        "counter_window_seconds": seconds(times.counter_window, "counter_window", "thresholds"),
        "for_link": times.for_,
        "runbooks": links.runbooks.rstrip("/"),
        "grafana": links.grafana.rstrip("/"),
    }
    return _environment().get_template(template).render(names | more)
