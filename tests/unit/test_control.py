"""The control process on its own: what it makes of a plan file as time goes by."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from exporter import control
from exporter.config import Config, Probing
from exporter.contracts.codec import encode, write
from exporter.contracts.plan import Plan
from exporter.contracts.topology import Rnic
from exporter.control import Exporter
from tests.unit.test_plan_contract import PLAN, TARGET

EXPIRES = "\nfabric_exporter_plan_expires_timestamp_seconds"


class Following:
    """A control process without its children, whose prober writes down what it is told, under a clock of ours."""

    def __init__(self, directory: Path, set_clock: Callable[[object], None]) -> None:
        (directory / "key").write_bytes(b"k" * 32)
        self.plan = directory / "plan.json"
        self.now = 0.0
        self.told: list[Plan] = []
        set_clock(SimpleNamespace(time=lambda: self.now, monotonic=time.monotonic))
        config = Config(
            host="h",
            plan=str(self.plan),
            rnics=(Rnic(name="r0", ip=TARGET.source_address),),
            probing=Probing(key_file=str(directory / "key"), max_paths=16),
        )
        self.exporter = Exporter(config)

    def tell(self, message: bytes) -> None:
        self.told.append(msgspec.msgpack.decode(message, type=Plan))

    def at(self, now: float) -> list[str]:
        """Look at the plan file at this time; the paths that the prober was last told."""
        self.now = now
        self.exporter._follow_plan(self)  # type: ignore[arg-type]
        return [target.path for target in self.told[-1].targets]

    @property
    def has_expires(self) -> bool:
        return EXPIRES in self.exporter._metrics({}).body.decode()


@pytest.fixture
def following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Following:
    made = Following(tmp_path, lambda clock: monkeypatch.setattr(control, "time", clock))
    write(made.plan, encode(PLAN))
    return made


def test_a_plan_read_while_the_clock_was_ahead_comes_alive_when_the_clock_is_right(following: Following) -> None:
    """It used to stay expired until somebody wrote it again."""
    assert following.at(PLAN.expires + 1e6) == []
    assert following.at(PLAN.expires - 100) == [TARGET.path]
    assert following.at(PLAN.expires + 1) == []
    assert len(following.told) == 3


def test_a_plan_that_lapsed_and_whose_file_is_there_says_when(following: Following) -> None:
    following.at(PLAN.expires + 1)
    assert following.has_expires


@pytest.mark.parametrize("lapsed_first", [True, False])
def test_a_removed_plan_that_has_lapsed_leaves_no_expires_series(*, lapsed_first: bool, following: Following) -> None:
    """Whoever takes the plan of a finished job away used to earn an alert for ever."""
    assert following.at(PLAN.expires - 1) == [TARGET.path]
    if lapsed_first:
        assert following.at(PLAN.expires + 1) == []
    following.plan.unlink()
    assert following.at(PLAN.expires - 1 if not lapsed_first else PLAN.expires + 2) == (
        [] if lapsed_first else [TARGET.path]
    )
    assert following.at(PLAN.expires + 3) == []
    assert not following.has_expires
    write(following.plan, encode(PLAN))
    assert following.at(PLAN.expires - 1) == [TARGET.path]
    assert following.has_expires
