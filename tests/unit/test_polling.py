"""Sources of which many hang: the others have their answers all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Event, Lock, Thread, active_count

import pyarrow as pa
import pytest

from exporter.contracts.codec import ContractError
from skeleton_service.following.polling import RETRIED, Sources
from skeleton_service.reading.fetching import MAX_PARALLEL
from tests.unit.running import until

ANSWER = pa.table({"one": [1]})
LIVING = [f"living-{number}" for number in range(150)]
DEAD = [f"dead-{number}" for number in range(2 * MAX_PARALLEL)]


class Hosts:
    """Those that are dead hang until all that live were asked, then they are refused; when raised, they answer."""

    def __init__(self, dead: Sequence[str], living: Sequence[str] = LIVING) -> None:
        self.dead = set(dead)
        self.living = set(living)
        self.raised = False
        self.served = Event()
        self.hanging = self.most_hanging = 0
        self._left = set(living)
        self._lock = Lock()

    def read(self, name: str, _since: float) -> pa.Table:
        if name in self.dead and not self.raised:
            self._hang()
            raise ContractError(name, "timed out")
        with self._lock:
            self._left.discard(name)
            if not self._left:
                self.served.set()
        return ANSWER

    def _hang(self) -> None:
        with self._lock:
            self.hanging += 1
            self.most_hanging = max(self.most_hanging, self.hanging)
        self.served.wait(60)
        with self._lock:
            self.hanging -= 1

    def anew(self) -> None:
        """Let the dead hang until the living were asked once more."""
        self._left = set(self.living)
        self.served.clear()


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Hosts]]:
    monkeypatch.setattr("skeleton_service.following.polling.HELD_SECONDS", 0.05)
    made: list[Hosts] = []

    def make(*args: Sequence[str]) -> Hosts:
        made.append(Hosts(*args))
        return made[-1]

    yield make
    for each in made:
        each.served.set()


def test_living_ones_are_not_held_up_behind_many_that_hang(
    hosts: Callable[..., Hosts], capsys: pytest.CaptureFixture[str]
) -> None:
    world = hosts(DEAD)
    sources = Sources([*DEAD, *LIVING], world.read, Event())
    for _ in range(3):
        assert set(sources.fetch(0.0, 10.0)) == set(LIVING)
        world.anew()
    assert capsys.readouterr().err.count("left out until it answers: dead-") == len(DEAD)


def test_those_that_die_at_once_hold_up_none_of_the_others(hosts: Callable[..., Hosts]) -> None:
    world = hosts([])
    sources = Sources([*DEAD, *LIVING], world.read, Event())
    assert len(sources.fetch(0.0, 10.0)) == len(DEAD) + len(LIVING)
    world.dead = set(DEAD)
    world.anew()
    assert set(sources.fetch(0.0, 10.0)) == set(LIVING)


def test_the_silent_ones_come_back(hosts: Callable[..., Hosts], capsys: pytest.CaptureFixture[str]) -> None:
    world = hosts(DEAD)
    sources = Sources([*DEAD, *LIVING], world.read, Event())
    sources.fetch(0.0, 10.0)
    world.raised = True
    back: set[str] = set()
    for _ in range(1000):
        answered = set(sources.fetch(0.0, 10.0))
        assert sources.returned == answered - set(LIVING) - back
        back |= sources.returned
        if len(back) == len(DEAD):
            break
    assert capsys.readouterr().err.count("back: dead-") == len(DEAD)


def test_no_more_than_a_share_of_the_threads_waits_for_the_silent_ones(hosts: Callable[..., Hosts]) -> None:
    world = hosts(DEAD, [*LIVING, "never asked"])
    sources = Sources([*DEAD, *LIVING], world.read, Event())
    sources._silent |= world.dead  # as after rounds in which each of them was refused
    for _ in range(3):
        assert set(sources.fetch(0.0, 10.0)) == set(LIVING)
    until(lambda: world.hanging == RETRIED)
    assert world.most_hanging == RETRIED


def test_threads_are_bounded_and_who_had_no_turn_has_it_the_next_time(
    hosts: Callable[..., Hosts], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skeleton_service.following.polling.MOST_THREADS", len(DEAD))
    world = hosts(DEAD, ["living"])
    sources = Sources([*DEAD, "living"], world.read, Event())
    assert sources.fetch(0.0, 1.5) == {}
    until(lambda: world.hanging == len(DEAD))
    assert "living" not in capsys.readouterr().err, "nobody has asked it"
    world.served.set()
    assert "living" in sources.fetch(0.0, 10.0)


def test_where_no_more_threads_are_to_be_had_those_that_there_are_serve_all(
    hosts: Callable[..., Hosts], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = active_count()

    class Few(Thread):
        def start(self) -> None:
            if active_count() > before + 8:
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr("skeleton_service.following.polling.Thread", Few)
    sources = Sources(LIVING, hosts([]).read, Event())
    assert set(sources.fetch(0.0, 10.0)) == set(LIVING)
