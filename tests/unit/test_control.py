"""The control process on its own: what it makes of a plan file as time goes by, and what holds it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from exporter import control
from exporter.config import Config, Probing
from exporter.contracts.catalogue import PATH
from exporter.contracts.codec import encode, write
from exporter.contracts.plan import Target
from exporter.contracts.topology import Rnic
from exporter.control import Exporter
from exporter.server import Query
from tests.unit.test_plan_contract import PLAN, TARGET

EXPIRES = "\nfabric_exporter_plan_expires_timestamp_seconds"


class Following:
    """A control process without its children, whose prober writes down what it is told, under a clock of ours."""

    def __init__(self, directory: Path, set_clock: Callable[[object], None]) -> None:
        (directory / "key").write_bytes(b"k" * 32)
        self.plan = directory / "plan.json"
        self.now = 0.0
        self.told: list[tuple[Target, ...]] = []
        set_clock(SimpleNamespace(time=lambda: self.now, monotonic=time.monotonic))
        config = Config(
            host="h",
            plan=str(self.plan),
            rnics=(Rnic(name="r0", ip=TARGET.source_address),),
            probing=Probing(key_file=str(directory / "key"), max_paths=16),
        )
        self.exporter = Exporter(config)

    def tell(self, message: bytes) -> None:
        self.told.append(msgspec.msgpack.decode(message, type=tuple[Target, ...]))

    def at(self, now: float) -> list[str]:
        """Look at the plan file at this time; the paths that the prober was last told."""
        self.now = now
        self.exporter._follow_plans(self)  # type: ignore[arg-type]
        return [target.path for target in self.told[-1]]

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


def in_time(action: Callable[[], object]) -> bool:
    """Whether it ends, in a thread of its own, though its neighbours are held up."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(5)
    return not thread.is_alive()


def test_a_long_answer_of_records_holds_up_neither_the_plan_nor_the_metrics(tmp_path: Path) -> None:
    """It was formatted under the lock that every scrape needs."""
    (tmp_path / "key").write_bytes(b"k" * 32)
    probing = Probing(key_file=str(tmp_path / "key"))
    exporter = Exporter(Config(host="h", rnics=(Rnic(name="r0", ip="127.0.0.2"),), probing=probing))
    entered, leave = threading.Event(), threading.Event()

    def slow(_: int) -> tuple[list[object], int, int]:
        entered.set()
        assert leave.wait(20)
        return [], 0, 0

    exporter._results.read = slow  # type: ignore[assignment, method-assign]
    answer = threading.Thread(target=exporter._probe_records, args=(Query(),))
    answer.start()
    try:
        assert entered.wait(5)
        assert in_time(lambda: exporter._metrics(Query()))
        exporter._probed.writer(PATH).add(("p", "h", "r", "h", "r", "udp", "10.0.0.1", "1", "10.0.0.2", "2", "0"))
        assert in_time(exporter._records.remember)
    finally:
        leave.set()
        answer.join(5)


def test_the_plans_of_a_directory_are_probed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    following = Following(tmp_path, lambda clock: monkeypatch.setattr(control, "time", clock))
    following.plan.mkdir()
    other = msgspec.structs.replace(TARGET, path="other")
    for job, targets in (("a", (TARGET,)), ("b", (TARGET, other))):
        write(following.plan / f"{job}.json", encode(msgspec.structs.replace(PLAN, job=job, targets=targets)))
    assert following.at(0) == [TARGET.path, "other"]
    rows = following.exporter._probed.writer(PATH)
    rows.add((TARGET.path, "h", "r0", "g", "r0", "udp", "10.0.0.1", "1", "10.0.0.2", "2", "106"))
    page = following.exporter._metrics({}).body.decode()
    for job in ("a", "b"):
        assert f'fabric_job_path_info{{training_job="{job}",path="{TARGET.path}"' in page
    (following.plan / "b.json").unlink()
    assert following.at(0) == [TARGET.path]
    assert 'training_job="b"' not in following.exporter._metrics({}).body.decode()
