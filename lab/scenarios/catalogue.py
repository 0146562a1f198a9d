"""What a scenario is, and all of them by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from exporter.contracts.diagnosis import Component, ComponentKind, Layer, Symptom
from lab.errors import LabError

if TYPE_CHECKING:
    from lab.scenarios.scene import Scene


@dataclass(frozen=True)
class Measured:
    """One reading of an independent tool. ``command`` is what a person would type to see it again."""

    tool: str
    command: str
    value: float
    unit: str


@dataclass(frozen=True)
class Truth:
    """What is wrong, as a perfect diagnosis would say it. ``others`` would be right answers too."""

    symptom: Symptom
    layer: Layer
    kind: ComponentKind
    name: str
    others: tuple[tuple[ComponentKind, str], ...] = ()

    @property
    def component(self) -> Component:
        return Component(kind=self.kind, name=self.name)


@dataclass(frozen=True)
class Act:
    """A scenario drawn on one lab: what goes wrong, how it is seen, what is true.

    ``measure`` reads an independent tool: before, while it is wrong, and after the repair. ``effect`` says
    whether (before, during) is what was meant; the same reading after the repair must not be.
    """

    description: str
    truth: Truth
    inject: Callable[[], object]
    measure: Callable[[], Measured]
    effect: Callable[[float, float], bool]
    during: float = 20.0
    """Seconds from the injection to the repair."""
    recovers: bool = True
    """Whether a repair gives the measured value back at once."""


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    row: int | None
    """Row of Table 1 of the SkeletonHunter paper (SIGCOMM 2025), or None for one of the five incidents."""
    build: Callable[[Scene], Act]
    alerts: tuple[str, ...] = ()
    """Alerts of the rule pack that are the scenario's own, any of them."""
    lab: dict[str, Any] = field(default_factory=dict)
    """Sizes and options of the lab, beside the seed (lab.network.design.draw)."""


_SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, title: str, *, row: int | None = None, alerts: tuple[str, ...] = (), **lab: Any
) -> Callable[[Callable[[Scene], Act]], Callable[[Scene], Act]]:
    """Decorator: the function draws the act on a scene."""

    def register(build: Callable[[Scene], Act]) -> Callable[[Scene], Act]:
        if name in _SCENARIOS:
            raise ValueError(f"two scenarios are called {name!r}")
        _SCENARIOS[name] = Scenario(name, title, row, build, alerts, lab)
        return build

    return register


def scenarios() -> Iterator[Scenario]:
    """The five incidents first, then the paper's table."""
    _load()
    return iter(sorted(_SCENARIOS.values(), key=lambda each: each.row or 0))


def find(name: str) -> Scenario:
    _load()
    if name not in _SCENARIOS:
        raise LabError(f"there is no scenario {name!r}", "one of " + ", ".join(each.name for each in scenarios()))
    return _SCENARIOS[name]


def _load() -> None:
    for module in ("incidents", "failures"):  # they register themselves here, which they must import first
        importlib.import_module(f"lab.scenarios.{module}")
