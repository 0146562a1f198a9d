"""The ring of seconds: what is kept of the probes of each path, and what is not."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skeleton_service.diagnosis.counts import HORIZON, Counts

START = 1_700_000_000


def counts_of(paths: int = 2) -> Counts:
    counts = Counts()
    counts.grow(paths)
    return counts


def add(counts: Counts, second: int, *seen: tuple[int, int, int], where: str = "there") -> None:
    """Count (path, sent, lost) of one second."""
    path, sent, lost = np.array(seen, np.int64).reshape(-1, 3).T
    told = [np.full(len(path), where == kind) for kind in ("back", "untold")]
    counts.add(START + second, path, START + second + path / 100, sent, lost, *told)


def test_a_window_sums_both_of_its_ends_and_nothing_beyond() -> None:
    counts = counts_of()
    for second in range(6):
        add(counts, second, (0, 10, 1), (1, 5, 0))
    window = counts.window(START + 1, START + 3)
    assert window.sent.tolist() == [30, 15]
    assert window.lost.tolist() == [3, 0]
    assert counts.total(np.array([0, 1]), START + 1, START + 3).tolist() == [[15, 15, 15], [1, 1, 1]]
    assert counts.sent(START + 4, START + 9).tolist() == [20, 10]


def test_losses_are_kept_by_where_they_happened() -> None:
    counts = counts_of(3)
    for path, where in enumerate(("there", "back", "untold")):
        add(counts, 0, (path, 4, 2), where=where)
    assert counts.lost(START, START).tolist() == [2, 2, 2]
    series = counts.series(np.arange(3), START, START)[:, :, 0]
    assert series.tolist() == [[4, 4, 4], [2, 0, 0], [0, 2, 0], [0, 0, 2]]


def test_probes_of_one_path_in_one_second_add_up_from_several_records_and_calls() -> None:
    counts = counts_of()
    add(counts, 0, (0, 1, 1), (0, 1, 0), (1, 1, 0))
    add(counts, 0, (0, 1, 1))
    window = counts.window(START, START)
    assert (window.sent.tolist(), window.lost.tolist()) == ([3, 1], [2, 0])


def test_a_second_that_the_ring_comes_round_to_begins_at_nothing() -> None:
    counts = counts_of()
    add(counts, 0, (0, 10, 10))
    add(counts, HORIZON, (0, 1, 0))
    window = counts.window(START, START + HORIZON)
    assert (window.sent[0], window.lost[0]) == (1, 0)


def test_seconds_without_probes_are_empty_when_the_ring_comes_round() -> None:
    counts = counts_of()
    for second in range(HORIZON):
        add(counts, second, (0, 1, 1))
    add(counts, HORIZON + 9, (0, 1, 0))
    assert counts.lost(START + HORIZON, START + HORIZON + 9).sum() == 0
    add(counts, 10 * HORIZON, (0, 1, 0))
    assert counts.window(START, START + 10 * HORIZON).sent[0] == 1


def test_a_late_second_is_counted_where_it_belongs_unless_it_is_over_the_horizon() -> None:
    counts = counts_of()
    add(counts, 200, (0, 1, 0))
    add(counts, 150, (0, 1, 1))
    assert counts.window(START + 150, START + 150).lost[0] == 1
    assert counts.second == START + 200
    add(counts, 200 - HORIZON, (0, 7, 7))
    assert counts.window(START, START + 200).sent[0] == 2, "it would have landed on second 200"


def test_room_for_more_paths_keeps_what_was_counted() -> None:
    counts = counts_of(1)
    add(counts, 0, (0, 3, 1))
    counts.grow(50)
    add(counts, 0, (49, 2, 2))
    window = counts.window(START, START)
    assert (window.sent[0], window.sent[49], len(window.sent)) == (3, 2, 50)
    counts.grow(10)
    assert counts.paths == 50


def test_counts_beyond_what_the_ring_holds_still_differ_rightly() -> None:
    """It counts modulo 2^32."""
    counts = counts_of(1)
    for second in range(3):
        add(counts, second, (0, 2**31, 1))
    assert counts.window(START + 1, START + 1).sent[0] == 2**31
    assert counts.window(START + 2, START + 2).sent[0] == 2**31


def test_it_is_quiet_since_the_last_loss_of_these_paths() -> None:
    counts = counts_of()
    for second in range(10):
        add(counts, second, (0, 1, int(second == 4)), (1, 1, int(second == 8)))
    assert [counts.quiet(np.array(paths)) for paths in ([0], [1], [0, 1])] == [5, 1, 1]
    assert counts_of().quiet(np.array([0])) == HORIZON


def test_losses_are_told_one_by_one_with_their_time() -> None:
    counts = counts_of()
    add(counts, 3, (0, 1, 0), (1, 1, 1))
    add(counts, 5, (0, 1, 1), (1, 1, 0))
    path, time = counts.losses(START, START + 9)
    assert (path.tolist(), (time - START).tolist()) == ([1, 0], [pytest.approx(3.01), 5.0])


def test_paths_that_are_kept_keep_what_was_counted_under_their_new_numbers() -> None:
    counts = counts_of(3)
    add(counts, 0, (0, 4, 1), (1, 5, 2), (2, 6, 3))
    counts.keep(np.array([2, 0]))
    window = counts.window(START, START)
    assert (window.sent.tolist(), window.lost.tolist()) == ([6, 4], [3, 1])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 3), st.integers(1, 9), st.integers(0, 9), st.integers(0, 2)),
        max_size=60,
    ),
    st.integers(0, 400),
    st.integers(0, 200),
)
def test_a_ring_counts_as_a_dictionary_would(
    seen: list[tuple[int, int, int, int, int]], first: int, length: int
) -> None:
    """Seconds in any order; what is over the horizon when it comes, or since, is not kept."""
    counts = counts_of(1)
    kept: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    latest = 0
    for second, path, sent, lost, kind in seen:
        counts.grow(path + 1)
        add(counts, second, (path, sent, min(lost, sent)), where=("there", "back", "untold")[kind])
        latest = max(latest, second)
        if second > latest - HORIZON:
            kept[second, path][0] += sent
            kept[second, path][1] += min(lost, sent)
    if not seen:
        return
    window = counts.window(START + first, START + first + length)
    for path in range(counts.paths):
        own = [
            value
            for (second, whose), value in kept.items()
            if whose == path and max(first, latest - HORIZON + 1) <= second <= first + length
        ]
        assert (window.sent[path], window.lost[path]) == (sum(v[0] for v in own), sum(v[1] for v in own))
