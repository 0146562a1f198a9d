"""Sources of which many hang: the others have their answers all the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Event, Lock

import pyarrow as pa
import pytest

from skeleton_service.fetching import MAX_PARALLEL
from skeleton_service.polling import RETRIED, Sources

ANSWER = pa.table({"one": [1]})
LIVING = [f"living-{number}" for number in range(150)]
DEAD = [f"dead-{number}" for number in range(2 * MAX_PARALLEL)]


class Hosts:
    """Those that are dead hang until they are raised, or until the test is over."""

    def __init__(self, dead: list[str]) -> None:
        self.dead = set(dead)
        self.raised = Event()
        self.asked: list[str] = []
        self.hanging = self.most_hanging = 0
        self._lock = Lock()

    def read(self, name: str, _since: float) -> pa.Table:
        with self._lock:
            self.asked.append(name)
            self.hanging += name in self.dead
            self.most_hanging = max(self.most_hanging, self.hanging)
        if name in self.dead:
            self.raised.wait(60)
            with self._lock:
                self.hanging -= 1
        return ANSWER


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[str]], Hosts]]:
    monkeypatch.setattr("skeleton_service.polling.HELD_SECONDS", 0.05)
    made: list[Hosts] = []

    def make(dead: list[str]) -> Hosts:
        made.append(Hosts(dead))
        return made[0]

    yield make
    for each in made:
        each.raised.set()


def test_living_ones_are_not_held_up_behind_many_that_hang(hosts: Callable[[list[str]], Hosts]) -> None:
    sources = Sources([*DEAD, *LIVING], hosts(DEAD).read, Event())
    assert set(sources.fetch(0.0, 2.0)) == set(LIVING), "nothing is known of anybody"
    began = time.monotonic()
    assert set(sources.fetch(0.0, 30.0)) == set(LIVING)
    assert time.monotonic() - began < 10, "nobody waits for those that are known to be silent"


def test_those_that_die_at_once_hold_up_none_of_the_others(hosts: Callable[[list[str]], Hosts]) -> None:
    world = hosts([])
    sources = Sources([*DEAD, *LIVING], world.read, Event())
    assert len(sources.fetch(0.0, 30.0)) == len(DEAD) + len(LIVING)
    world.dead = set(DEAD)
    assert set(sources.fetch(0.0, 2.0)) == set(LIVING)


def test_the_silent_ones_are_asked_a_few_at_a_time_and_come_back(
    hosts: Callable[[list[str]], Hosts], capsys: pytest.CaptureFixture[str]
) -> None:
    world = hosts(DEAD)
    sources = Sources([*DEAD, *LIVING], world.read, Event())
    sources.fetch(0.0, 2.0)
    assert capsys.readouterr().err.count("left out until it answers: dead-") == len(DEAD)
    world.raised.set()
    back: set[str] = set()
    for _ in range(100):
        if len(back) == len(DEAD):
            break
        answered = set(sources.fetch(0.0, 30.0))
        assert sources.returned == answered - set(LIVING) - back
        back |= sources.returned
        time.sleep(0.01)
    assert back == set(DEAD)
    assert capsys.readouterr().err.count("back: dead-") == len(DEAD)


def test_no_more_than_a_share_of_the_threads_waits_for_the_silent_ones(hosts: Callable[[list[str]], Hosts]) -> None:
    world = hosts([])
    world.dead = set(DEAD)
    sources = Sources([*DEAD, *LIVING], world.read, Event())
    sources._silent |= world.dead  # as after rounds in which each of them was refused
    for _ in range(3):
        assert set(sources.fetch(0.0, 30.0)) == set(LIVING)
    assert world.most_hanging == RETRIED


def test_threads_are_bounded_and_who_had_no_turn_has_it_the_next_time(
    hosts: Callable[[list[str]], Hosts], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skeleton_service.polling.MOST_THREADS", len(DEAD))
    world = hosts(DEAD)
    sources = Sources([*DEAD, "living"], world.read, Event())
    assert sources.fetch(0.0, 1.5) == {}
    assert world.most_hanging == len(DEAD)
    assert "living" not in capsys.readouterr().err, "nobody has asked it"
    world.raised.set()
    assert "living" in sources.fetch(0.0, 30.0)
