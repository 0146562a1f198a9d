"""Fixtures of more than one module of unit tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.running import RunningExporter

if TYPE_CHECKING:
    from lab.switches.walk import Walk
    from skeleton_service.following.follow import Following
    from tests.unit.followed import World
    from tests.unit.polled import Plug, Switch


@pytest.fixture
def here(tmp_path: Path) -> Iterator[RunningExporter]:
    """An exporter of the test's own; give it a plan."""
    exporter = RunningExporter(tmp_path / "here", "")
    yield exporter
    exporter.stop()
    assert "Traceback" not in exporter.log


@pytest.fixture
def world() -> World:
    from tests.unit.followed import World  # here, lest the tests of the exporter import the service

    return World()


@pytest.fixture
def url(world: World) -> Iterator[str]:
    from tests.unit.followed import serving

    with serving(world) as served:
        yield served


@pytest.fixture
def following(world: World, url: str, tmp_path: Path) -> Callable[..., Following]:
    from tests.unit.followed import following_of

    return lambda *more, **changes: following_of(world, url, tmp_path, *more, **changes)


@pytest.fixture
def plug() -> Iterator[Plug]:
    """Makes simulated switches, which are unplugged when the test is over."""
    from tests.unit.polled import Switch

    made: list[Switch] = []

    def plug(walk: Walk, **changes: Any) -> Switch:
        made.append(Switch(walk, **changes))
        return made[-1]

    yield plug
    for switch in made:
        switch.close()
