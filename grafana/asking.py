"""What Grafana asks of Prometheus for a page: to try dashboards without a Grafana."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::(\w+))?\}|([A-Za-z_]\w*))")
"""Not $1, by which label_replace names what a pattern found."""
_QUOTED = r"\\\\\g<0>"
"""As Grafana writes what is special to a pattern within quotes."""
_SPECIAL = re.compile(r"[\\^$.|?*+()\[\]{}]")
_QUERY_RESULT = re.compile(r"query_result\((.*)\)")


@dataclass(frozen=True, slots=True)
class Asked:
    board: str
    """Its uid."""
    panel: str
    ref: str
    expression: str
    """With values in the place of variables."""
    instant: bool
    """Of one moment, or of the whole time shown."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown: seconds of time, a point each ``step``, of what is scraped each ``scrape`` seconds."""

    seconds: int = 1800
    step: int = 15
    scrape: int = 15

    @property
    def variables(self) -> Mapping[str, str]:
        """Grafana's own, as its documentation has them."""
        return {
            "__rate_interval": f"{max(self.step + self.scrape, 4 * self.scrape)}s",
            "__interval": f"{self.step}s",
            "__range": f"{self.seconds}s",
        }


def chosen(
    dashboard: Mapping[str, Any], values: Mapping[str, str], ask: Callable[[Asked], Iterable[Mapping[str, str]]]
) -> dict[str, str]:
    """``values``, and those of variables that a query finds; ``ask`` tells the labels of its answer."""
    known = dict(everything(dashboard)) | dict(values)
    result = dict(values)
    for each in dashboard["templating"]["list"]:
        if query := _QUERY_RESULT.fullmatch(each.get("query") or ""):
            name, pattern = each["name"], re.compile(each["regex"].strip("/"))
            question = Asked(dashboard["uid"], f"${name}", "", interpolated(query[1], known), instant=True)
            texts = (",".join(f'{label}="{value}"' for label, value in labels.items()) for labels in ask(question))
            listed = sorted({match[1] for text in texts if (match := pattern.search(text))})
            result[name] = "(" + "|".join(_SPECIAL.sub(_QUOTED, value) for value in listed) + ")"
    return result


def asked(dashboard: Mapping[str, Any], values: Mapping[str, str], shown: Shown = Shown()) -> Iterator[Asked]:
    """Every query of its panels, collapsed rows and annotations too; what ``values`` has not is all there is.

    Raise KeyError for a variable that only a query knows (``chosen``).
    """
    known = dict(everything(dashboard)) | dict(shown.variables) | dict(values)
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            yield Asked(
                dashboard["uid"], panel["title"], target["refId"], interpolated(target["expr"], known),
                bool(target.get("instant")),
            )  # fmt: skip
    for annotation in dashboard["annotations"]["list"]:
        yield Asked(dashboard["uid"], "annotations", "", interpolated(annotation["expr"], known), instant=False)


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Without rows, with what is in them."""
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            yield panel
        yield from panel.get("panels", ())


def everything(dashboard: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(variable, what all of its values are asked by) of those that have such a thing."""
    for each in dashboard["templating"]["list"]:
        if each.get("includeAll") and each.get("allValue"):
            yield each["name"], each["allValue"]


def interpolated(expression: str, values: Mapping[str, str]) -> str:
    """Raise KeyError for a variable that has no value."""
    return _VARIABLE.sub(lambda found: _written(values[found[1] or found[3]], found[2]), expression)


def _written(value: str, how: str | None) -> str:
    return re.escape(value) if how == "regex" else value
