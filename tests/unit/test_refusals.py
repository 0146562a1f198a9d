"""Hosts that refuse: an agent that is gone, told from one that restarts and from losses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from exporter.contracts.fabric import Fabric
from skeleton_service.diagnosis.geometry import Geometry
from skeleton_service.diagnosis.observations import Flow, Path
from skeleton_service.diagnosis.paths import PathIndex
from skeleton_service.diagnosis.refusals import QUIET_SECONDS, WINDOW_SECONDS, Refusal, Refusals
from tests.unit.fabrics import rails_only

SOURCES = 6


def path(source: int, destination: str) -> Path:
    flow = Flow(f"src-{source}:nic", f"{destination}:nic", 49152, 65300, False, False)
    return Path(flow, "UDP_PING", None, (f"src-{source}", destination), None, "job")


PATHS = [path(source, host) for host in ("gone", "sound") for source in range(SOURCES)]
INDEX = PathIndex(Geometry(Fabric(rails_only(0, 0))))
INDEX.add(PATHS)

Refuses = Callable[[int, int], bool]
"""Whether path, second is refused."""


def run(refuses: Refuses, seconds: int = 60, *, until: Refusals | None = None, since: int = 0) -> Refusals:
    refusals = until or Refusals(INDEX)
    numbers = np.arange(len(PATHS))
    for second in range(since, since + seconds):
        refused = np.array([refuses(number, second) for number in numbers], bool)
        refusals.add(second, numbers, second + numbers / 100, refused)
    return refusals


def one(refusals: Refusals) -> Refusal:
    (failure,) = refusals.failures
    return failure


def gone(number: int, second: int) -> bool:
    return number < SOURCES and second >= 10


def test_a_host_that_refuses_for_seconds_has_lost_its_agent() -> None:
    failure = one(run(gone))
    assert (failure.host, failure.start, failure.end) == ("gone", 10.0, None)
    assert 10 < failure.detected_at <= 10 + WINDOW_SECONDS
    assert failure.paths == set(range(SOURCES))


def test_a_restart_of_a_second_or_two_is_none() -> None:
    assert not run(lambda number, second: number < SOURCES and second in (10, 11, 12)).failures


def test_a_few_refusals_among_many_answers_are_none() -> None:
    assert not run(lambda number, second: (number, second % 3) == (0, 0)).failures
    assert not run(lambda number, second: number < SOURCES and (second + number) % 3 == 0).failures


def test_paths_that_were_never_refused_say_nothing_for_or_against() -> None:
    """Probes of a kind that no refusal comes back for time out instead, which is not told here."""
    failure = one(run(lambda number, second: number == 0 and second >= 10))
    assert failure.paths == {0}


def test_it_is_over_when_nobody_has_been_refused_for_long_enough() -> None:
    failure = one(run(lambda number, second: gone(number, second) and second < 30, seconds=31 + QUIET_SECONDS))
    assert failure.end is not None
    assert 29 <= failure.end < 30
    assert failure.end <= failure.last


def test_a_second_time_is_a_second_failure() -> None:
    def twice(number: int, second: int) -> bool:
        return number < SOURCES and (10 <= second < 30 or second >= 100)

    first, second = run(twice, seconds=130).failures
    assert (first.start, second.start) == (10.0, 100.0)
    assert second.end is None


def test_what_was_fed_in_pieces_gives_the_same() -> None:
    pieces = run(gone, 12)
    run(gone, 48, until=pieces, since=12)
    assert pieces.failures == run(gone).failures
