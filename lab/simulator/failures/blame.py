"""Who is to blame, and that a case must be drawn again."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.contracts.diagnosis import ComponentKind, Layer, Symptom

Name = tuple[ComponentKind, str]


class Redraw(Exception):  # noqa: N818 - a request, not an error
    """What was drawn cannot show, or shows as too many other things at once: draw again."""


@dataclass(frozen=True, slots=True)
class Blame:
    """One failure as a perfect diagnosis names it: ``right`` are other names, ``alike`` what no data tells from it."""

    symptom: Symptom
    layer: Layer
    kind: ComponentKind
    name: str
    description: str
    right: tuple[Name, ...] = ()
    alike: tuple[Name, ...] = ()
