"""What a failure class is, and all of them by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from exporter.contracts.diagnosis import Symptom
from lab.simulator.failures.flows import Kinds
from lab.simulator.failures.scene import Scene
from lab.simulator.failures.wiring import Sizes

Build = Callable[[Scene], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureClass:
    """``row``: of Table 1 of the SkeletonHunter paper (SIGCOMM 2025). ``symptom`` is None for a distractor.

    ``slow``: records begin at least five and a half minutes before the injection, for what only a look back shows.
    ``drift``: two hours, of which a probe each 30 s is recorded. ``counters``: None where a case may have them or not.
    """

    name: str
    title: str
    row: int | None
    symptom: Symptom | None
    build: Build
    slow: bool = False
    counters: bool | None = None
    sizes: Sizes = field(default_factory=Sizes)
    kinds: Kinds = field(default_factory=Kinds)
    drift: bool = False

    @property
    def distractor(self) -> bool:
        return self.symptom is None


CLASSES: dict[str, FailureClass] = {}


def failure(
    name: str, title: str, *, row: int | None = None, symptom: Symptom, **options: object
) -> Callable[[Build], Build]:
    """Decorator: the function breaks something on a scene, and blames it."""
    return _registering(name, title, row, symptom, options)


def distractor(name: str, title: str, **options: object) -> Callable[[Build], Build]:
    """Decorator: the function does what looks like a failure and is none."""
    return _registering(name, title, None, None, options)


def _registering(
    name: str, title: str, row: int | None, symptom: Symptom | None, options: dict[str, object]
) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        if name in CLASSES:
            raise ValueError(f"two failure classes are called {name!r}")
        CLASSES[name] = FailureClass(
            name=name,
            title=title,
            row=row,
            symptom=symptom,
            build=build,
            **options,  # type: ignore[arg-type]
        )
        return build

    return register
