"""Matching the members of two stages, made up: where some are absent, the others keep their partners."""

from __future__ import annotations

import numpy as np
import pytest

from skeleton_service.inference.replicas import Deviations, Match, match, number_replicas

REPLICAS, SAMPLES = 6, 400


def two_stages(seed: int = 0) -> Deviations:
    """Unit ``n`` sends what unit ``REPLICAS + n`` receives."""
    random = np.random.default_rng(seed)
    timing = random.normal(0, 1, (REPLICAS, SAMPLES))
    noise = random.normal(0, 0.3, (2, 2 * REPLICAS, SAMPLES))
    nothing = np.zeros_like(timing)
    sent, received = np.concatenate((timing, nothing)) + noise[0], np.concatenate((nothing, timing)) + noise[1]
    return Deviations(sent.astype(np.float32), received.astype(np.float32))


def matched(first: list[int], second: list[int], deviations: Deviations | None = None) -> Match:
    found = two_stages() if deviations is None else deviations
    return match(found, np.array(first), np.array(second), lanes=1, replicas=REPLICAS)


def test_whose_partner_is_absent_has_no_pair() -> None:
    found = matched([0, 1, 2, 3, 4, 5], [6, 7, 8, 10, 11])
    assert found.certain
    assert sorted(found.pairs.tolist()) == [[0, 6], [1, 7], [2, 8], [4, 10], [5, 11]]


def test_two_whose_partners_are_absent_are_not_taken_for_partners_for_certain() -> None:
    found = matched([1, 2, 3, 4, 5], [6, 7, 8, 9, 10])
    assert {(1, 7), (2, 8), (3, 9), (4, 10)} <= {*map(tuple, found.pairs.tolist())}
    assert not found.certain


@pytest.mark.parametrize("second", [[6, 7, 8, 9, 10, 11], [6, 7, 8, 10, 11], [9]])
def test_where_nothing_tells_all_pairs_are_kept(second: list[int]) -> None:
    nothing = Deviations(*(np.zeros((2 * REPLICAS, SAMPLES), np.float32) for _ in range(2)))
    found = matched([0, 1, 2, 3, 4, 5], second, nothing)
    assert not found.certain
    assert len(found.pairs) == REPLICAS * len(second)


def test_the_number_that_is_left_is_the_one_whose_partner_is_absent() -> None:
    stages = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    matches = [Match(np.array([[0, 3], [2, 4]]), certain=True), Match(np.array([[3, 7], [4, 5]]), certain=True)]
    assert number_replicas(stages, matches).tolist() == [0, 1, 2, 0, 2, 2, 1, 0]


def test_of_two_that_are_left_nobody_knows_which_is_which() -> None:
    stages = np.array([0, 0, 0, 1, 2, 2, 2])
    matches = [Match(np.array([[0, 3]]), certain=True), Match(np.array([[3, 5]]), certain=True)]
    assert number_replicas(stages, matches).tolist() == [0, 1, 2, 0, -1, 0, -1]
