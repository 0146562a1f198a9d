"""The likelihood of losses if a component is broken, on matrices small enough to check by hand."""

from __future__ import annotations

from math import log, log1p

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skeleton_service.diagnosis.likelihood import Columns, Rows, explained, fit, select

BACKGROUND = 1e-4


def rows_of(*seen: tuple[float, float], sprayed: bool = False) -> Rows:
    """Rows of (sent, failed)."""
    sent, failed = np.array(seen, float).reshape(-1, 2).T
    return Rows(sent, failed, np.full(len(sent), BACKGROUND), np.full(len(sent), sprayed))


def columns_of(*columns: dict[int, float]) -> Columns:
    """Columns as {row: probability to cross}."""
    return Columns.of(
        [(np.array(list(column), np.int64), np.array(list(column.values()), float)) for column in columns]
    )


def flat(columns: Columns) -> np.ndarray:
    return np.zeros(len(columns))


def test_the_gain_of_a_certain_row_is_the_ratio_of_two_binomials() -> None:
    fitted = fit(rows_of((10, 5)), columns_of({0: 1.0}), np.array([0.5]))
    by_hand = 5 * log((BACKGROUND + 0.5 * (1 - BACKGROUND)) / BACKGROUND) + 5 * log1p(-0.5)
    assert fitted.gain[0] == pytest.approx(by_hand)
    assert (fitted.ratio[0], fitted.part[0]) == (0.5, 1.0)


def test_healthy_rows_that_cross_a_column_exonerate_it() -> None:
    rows = rows_of((30, 10), (30, 10), (30, 0), (30, 0), (30, 0))
    fitted = fit(rows, columns_of({0: 1, 1: 1}, {0: 1, 1: 1, 2: 1}, {0: 1, 1: 1, 2: 1, 3: 1, 4: 1}))
    assert fitted.gain[0] > fitted.gain[1] > fitted.gain[2] > 0


def test_a_column_that_only_healthy_rows_cross_gains_nothing() -> None:
    fitted = fit(rows_of((100, 0), (100, 0)), columns_of({0: 1, 1: 1}, {}))
    assert fitted.gain[0] < 0
    assert fitted.gain[1] == -np.inf


@pytest.mark.parametrize("share", [0.02, 0.12, 0.5, 0.97])
def test_the_ratio_found_is_about_what_was_lost(share: float) -> None:
    fitted = fit(rows_of(*[(1000, 1000 * share)] * 4), columns_of(dict.fromkeys(range(4), 1.0)))
    assert fitted.ratio[0] == pytest.approx(share)
    assert fitted.part[0] == 1.0


def test_a_component_that_hurts_some_flows_alone_is_told_from_one_that_hurts_all() -> None:
    """A quarter of the flows die, the rest are whole: no even share of losses looks like that."""
    some = fit(rows_of(*[(50, 50)] * 3, *[(50, 0)] * 9), columns_of(dict.fromkeys(range(12), 1.0)))
    assert some.part[0] == pytest.approx(0.25)
    assert some.ratio[0] > 0.9
    assert some.gain[0] > 0


def test_a_row_that_may_have_gone_round_a_component_counts_less_for_it() -> None:
    rows = rows_of((20, 10))
    sure, half, seldom = fit(rows, columns_of({0: 1.0}, {0: 0.5}, {0: 0.1})).gain
    assert sure > half > seldom
    assert half - sure == pytest.approx(log(0.5), abs=1e-3), "a row that fails so surely crosses: its chance is paid"


def test_a_healthy_row_that_may_have_gone_round_exonerates_hardly() -> None:
    rows = rows_of((20, 10), (50, 0))
    certain, doubtful = fit(rows, columns_of({0: 1.0, 1: 1.0}, {0: 1.0, 1: 0.5})).gain
    assert certain < doubtful
    alone = fit(rows, columns_of({0: 1.0})).gain[0]
    assert alone - doubtful < 1.0


def test_a_sprayed_row_loses_in_proportion_to_what_crosses() -> None:
    """Each probe takes a way of its own: the whole row crosses, with that share of its probes."""
    rows = rows_of((100, 25), (100, 25), sprayed=True)
    half = fit(rows, columns_of({0: 0.5, 1: 0.5}))
    assert half.ratio[0] == pytest.approx(0.5)
    certain = fit(rows_of((100, 25), (100, 25)), columns_of({0: 1, 1: 1}), half.ratio / 2)
    assert half.gain[0] == pytest.approx(certain.gain[0])


def test_sprayed_rows_rank_columns_by_how_losses_follow_the_shares() -> None:
    rows = rows_of((300, 60), (300, 30), (300, 15), sprayed=True)
    along, against = fit(rows, columns_of({0: 0.8, 1: 0.4, 2: 0.2}, {0: 0.2, 1: 0.4, 2: 0.8})).gain
    assert along > against + 10


TWO = rows_of(*[(30, 10)] * 4, *[(30, 29)] * 4, *[(30, 0)] * 4)
TWO_COLUMNS = columns_of(
    dict.fromkeys(range(4), 1.0),
    dict.fromkeys(range(4, 8), 1.0),
    dict.fromkeys(range(12), 1.0),
    dict.fromkeys(range(8, 12), 1.0),
    dict.fromkeys(range(3), 1.0),
)


def test_two_components_are_found_and_what_they_explain_accuses_nobody_else() -> None:
    found = select(TWO, TWO_COLUMNS, flat(TWO_COLUMNS), 8.0)
    assert {each.column for each in found} == {0, 1}
    assert {each.column: round(each.ratio, 2) for each in found} == {0: 0.35, 1: 0.97}


def test_an_early_choice_is_taken_back_once_later_ones_explain_its_rows() -> None:
    """What both links have in common explains most at first; the links together leave it nothing to explain."""
    (first,) = select(TWO, TWO_COLUMNS, flat(TWO_COLUMNS), 8.0, most=1)
    assert first.column == 2
    assert 2 not in {each.column for each in select(TWO, TWO_COLUMNS, flat(TWO_COLUMNS), 8.0)}


def test_what_gains_less_than_the_threshold_is_not_found() -> None:
    rows, columns = rows_of((30, 2)), columns_of({0: 1.0})
    (gain,) = fit(rows, columns).gain
    assert select(rows, columns, flat(columns), gain - 0.1)
    assert not select(rows, columns, flat(columns), gain + 0.1)


def test_of_two_columns_alike_the_more_credible_is_taken_and_the_other_scores_beside_it() -> None:
    rows, columns = rows_of((30, 10), (30, 10)), columns_of({0: 1, 1: 1}, {0: 1, 1: 1})
    (found,) = select(rows, columns, np.array([-1.0, 0.0]), 8.0)
    assert found.column == 1
    assert found.score[1] > found.score[0] > 8.0
    (first,) = select(rows, columns, flat(columns), 8.0)
    assert first.column == 0, "a tie is broken the same way every time"
    assert first.score[0] == first.score[1]


def test_nothing_lost_and_nothing_suspected_find_nothing() -> None:
    assert not select(rows_of((100, 0)), columns_of({0: 1.0}), np.zeros(1), 8.0)
    assert not select(rows_of((100, 9)), columns_of(), np.zeros(0), 8.0)
    assert not select(rows_of(), columns_of({}), np.zeros(1), 8.0)


def test_explained_rows_expect_the_losses_and_others_do_not() -> None:
    rows, columns = rows_of((30, 10), (30, 0), (30, 10)), columns_of({0: 1.0, 1: 0.5})
    background = explained(rows, columns, 0, 0.35, 1.0)
    assert background[0] == pytest.approx(0.35, rel=0.01)
    assert BACKGROUND < background[1] < 0.01, "it may have gone round, and its whole probes say it did"
    assert background[2] == BACKGROUND


seen = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 40), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1, max_size=8
)


@settings(max_examples=60, deadline=None)
@given(seen, st.randoms(use_true_random=False))
def test_neither_order_of_rows_nor_of_columns_changes_a_gain(
    drawn: list[tuple[int, int, float]], random: np.random.Generator
) -> None:
    rows = [(float(sent), float(min(failed, sent))) for sent, failed, _ in drawn]
    crossing = {row: weight for row, (_, _, weight) in enumerate(drawn) if weight}
    everything = dict.fromkeys(range(len(rows)), 1.0)
    one, all_of = fit(rows_of(*rows), columns_of(crossing, everything)).gain
    order = list(range(len(rows)))
    random.shuffle(order)
    place = {row: order.index(row) for row in order}
    shuffled = rows_of(*(rows[row] for row in order))
    moved = {place[row]: weight for row, weight in crossing.items()}
    moved_all, moved_one = fit(shuffled, columns_of(everything, moved)).gain
    assert moved_one == pytest.approx(one) or one == moved_one == -np.inf
    assert moved_all == pytest.approx(all_of)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 40), st.integers(0, 40), st.booleans())
def test_a_row_split_in_two_weighs_as_before(first: int, second: int, lost: int, more: int, sprayed: bool) -> None:
    """Of a component that all of it crosses and that hurts every flow: how long a second is changes nothing."""
    lost, more = min(lost, first), min(more, second)
    weight = 0.5 if sprayed else 1.0
    ratios = np.array([0.12])
    whole = fit(rows_of((first + second, lost + more), sprayed=sprayed), columns_of({0: weight}), ratios)
    split = fit(rows_of((first, lost), (second, more), sprayed=sprayed), columns_of({0: weight, 1: weight}), ratios)
    assume(whole.part[0] == split.part[0] == 1.0)
    assert split.gain[0] == pytest.approx(whole.gain[0])


@settings(max_examples=30, deadline=None)
@given(seen)
def test_what_is_explained_is_never_less_than_the_background_nor_certain(drawn: list[tuple[int, int, float]]) -> None:
    rows = rows_of(*((float(sent), float(min(failed, sent))) for sent, failed, _ in drawn))
    columns = columns_of({row: weight for row, (_, _, weight) in enumerate(drawn) if weight})
    background = explained(rows, columns, 0, 0.999, 0.5)
    assert (background >= rows.background).all()
    assert (background < 1).all()


def two_links_of_a_switch() -> tuple[Rows, Columns]:
    """Two links that lose, each on four rows of its own and two in common; and their switch, with healthy rows too."""
    rows = rows_of(*[(60, 30)] * 8, *[(60, 45)] * 2, *[(60, 0)] * 10)
    one, other = (dict.fromkeys(own, 1.0) for own in ((0, 1, 2, 3, 8, 9), (4, 5, 6, 7, 8, 9)))
    return rows, columns_of(one, other, dict.fromkeys(range(20), 1.0))


def test_two_broken_links_are_told_from_a_switch_that_hurts_some_flows() -> None:
    rows, columns = two_links_of_a_switch()
    assert {found.column for found in select(rows, columns, flat(columns), 8)} == {0, 1}


def test_what_breaks_whole_or_not_at_all_never_hurts_a_part() -> None:
    rows, columns = two_links_of_a_switch()
    fitted = fit(rows, columns)
    assert fitted.part[2] < 1
    whole = Columns(columns.start, columns.row, columns.weight, np.array([False, False, True]))
    restricted = fit(rows, whole)
    assert restricted.part[2] == 1
    assert restricted.gain[2] < fitted.gain[2]
    assert restricted.gain[0] == fitted.gain[0]
