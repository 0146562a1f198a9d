"""The rules that need no job: rules/static is what this renders by default."""

from __future__ import annotations

from collections.abc import Mapping

from skeleton_service.ruleset.rendering import Links, render, resource
from skeleton_service.ruleset.thresholds import Thresholds

_SUFFIX = ".j2"


def static_rules(thresholds: Thresholds, links: Links | None = None) -> Mapping[str, str]:
    """Return {file name: content} of the static pack, in order of the names. Same input, same bytes."""
    templates = sorted(each.name for each in resource("templates", "static").iterdir() if each.name.endswith(_SUFFIX))
    return {name.removesuffix(_SUFFIX): render(f"static/{name}", thresholds, links or Links()) for name in templates}
