"""The rules that need no job: rules/static is what this renders by default."""

from __future__ import annotations

from collections.abc import Mapping

from skeleton_service.ruleset.rendering import Links, render, resource
from skeleton_service.ruleset.thresholds import Thresholds

RENDERED = "# Rendered by skeleton-service rules --static. Do not edit: render again."
"""The first line of each file: by it one that is no longer part of the pack is known as ours."""
_SUFFIX = ".j2"


def static_names() -> list[str]:
    """Names of the files of the static pack, in order."""
    templates = resource("templates", "static").iterdir()
    return sorted(each.name.removesuffix(_SUFFIX) for each in templates if each.name.endswith(_SUFFIX))


def static_rules(thresholds: Thresholds, links: Links | None = None) -> Mapping[str, str]:
    """Return {file name: content} of the static pack, in order of the names. Same input, same bytes."""
    places = links or Links()
    return {name: f"{RENDERED}\n#\n{render(f'static/{name}{_SUFFIX}', thresholds, places)}" for name in static_names()}
