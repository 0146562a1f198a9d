"""The ring of probe results: readers keep their own place and know what they missed."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.results import ANSWERED, LOST, Result, ResultRing


def test_each_reader_has_its_own_place() -> None:
    ring = ResultRing(8)
    ring.append(1, 100, 10, ANSWERED)
    results, place, missed = ring.read(0)
    assert ([tuple(result) for result in results], place, missed) == ([(1, 100, 10, ANSWERED, False)], 1, 0)
    ring.append(2, 200, 0, LOST)
    assert [result.path for result in ring.read(place)[0]] == [2]
    assert [result.path for result in ring.read(0)[0]] == [1, 2]


def test_a_starved_sample_says_so_beside_its_outcome() -> None:
    ring = ResultRing(8)
    ring.append(1, 100, 0, LOST, True)
    assert ring.read(0)[0] == [Result(1, 100, 0, LOST, starved=True)]


@given(st.integers(1, 9), st.integers(0, 40), st.integers(0, 40))
def test_a_reader_gets_the_newest_and_is_told_how_many_it_missed(capacity: int, written: int, place: int) -> None:
    ring = ResultRing(capacity)
    for number in range(1, written + 1):
        ring.append(number, number, 0, ANSWERED)
    if place > written:
        place = 0
    results, last, missed = ring.read(place)
    assert [result.path for result in results] == list(range(max(place, written - capacity) + 1, written + 1))
    assert last == written
    assert missed == written - place - len(results)


def test_a_place_past_the_end_begins_again() -> None:
    ring = ResultRing(4)
    ring.append(1, 1, 1, ANSWERED)
    assert len(ring.read(99)[0]) == 1


def test_an_entry_being_overwritten_is_not_taken() -> None:
    ring = ResultRing(4)
    for number in range(1, 5):
        ring.append(number, number, 0, ANSWERED)
    ring._words[1] = 0  # what append does first
    results, _, missed = ring.read(0)
    assert [result.path for result in results] == [2, 3, 4]
    assert missed == 1


def test_memory_of_another_size_is_refused() -> None:
    four = ResultRing(4)
    with pytest.raises(ValueError, match="its layout"):
        ResultRing(5, four.descriptor)


READER = """
import sys, time
from exporter.results import ResultRing
ring, place, taken, missed, ends = ResultRing(64, int(sys.argv[1])), 0, 0, 0, time.monotonic() + 1.0
while time.monotonic() < ends:
    results, place, gone = ring.read(place)
    for result in results:
        assert result.path == result.time_ns == result.rtt_ns, result
    taken += len(results)
    missed += gone
assert taken + missed == place
print(taken)
"""


def test_a_reader_in_another_process_takes_whole_entries_only() -> None:
    ring = ResultRing(64)
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(ring.descriptor)], pass_fds=[ring.descriptor], stdout=subprocess.PIPE
    )
    number, ends = 0, time.monotonic() + 8
    while reader.poll() is None and time.monotonic() < ends:
        number += 1
        ring.append(number, number, number, ANSWERED)
    output, _ = reader.communicate(timeout=5)
    assert reader.returncode == 0
    assert int(output) > 100
