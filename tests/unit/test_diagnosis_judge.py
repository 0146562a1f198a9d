"""The judge of the diagnosis benchmark: each of its rules, on truths and reports made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.diagnosis.judge import Answer, Claim, Judgement, judge
from benchmarks.diagnosis.tally import bins, brier, tally
from exporter.contracts.diagnosis import Alternative, Component, ComponentKind, Diagnosis, Failure

END = 200.0
PATHS = (("a/0", "b/0"), ("a/0", "c/0"), ("b/0", "a/0"))
ELSEWHERE = (("x/0", "y/0"), ("x/0", "z/0"))
CABLE, PORT, RNIC = ("link", "leaf:1 -- host-a:0"), ("port", "leaf:1"), ("rnic", "host-a:0")
OTHER = ("switch", "spine")

Named = tuple[ComponentKind, str]


def failure(named: Named, alternatives: dict[Named, float] | None = None, **changes: Any) -> Failure:
    basis: dict[str, Any] = {
        "id": "", "job": "j", "start": 100.0, "detected_at": 103.0, "end": None, "symptom": "loss", "layer": "rnic",
        "component": Component(kind=named[0], name=named[1]), "confidence": 1.0, "paths": PATHS, "evidence": (),
        "alternatives": tuple(
            Alternative(kind=kind, name=name, score=score) for (kind, name), score in (alternatives or {}).items()
        ),
    }  # fmt: skip
    return Failure(**{**basis, **changes})


def judged(truths: list[Failure], reports: list[Failure]) -> Judgement:
    return judge(Diagnosis(version=1, failures=tuple(truths)), Diagnosis(version=1, failures=tuple(reports)), END)


def answer(truth: Failure, report: Failure) -> Answer | None:
    (found,) = judged([truth], [report]).found
    return None if found is None else found.answer


def test_the_right_component_is_right_and_its_times_count_from_the_start_and_from_the_third_probe() -> None:
    judgement = judged([failure(RNIC)], [failure(RNIC, detected_at=104.5, layer="underlay", confidence=0.9)])
    (found,) = judgement.found
    assert found is not None
    assert (found.answer, found.seconds, found.seconds_after_third_probe) == (Answer.RIGHT, 4.5, 1.5)
    assert (found.symptom, found.layer) == (True, False)
    assert (judgement.false, judgement.duplicates, judgement.claims) == (0, 0, (Claim(0.9, right=True),))


def test_what_nobody_reports_is_missed_and_what_is_reported_of_nothing_is_false() -> None:
    assert judged([failure(RNIC)], []) == Judgement((None,), 0, 0, ())
    assert judged([], [failure(RNIC)]) == Judgement((), 1, 0, (Claim(1.0, right=False),))


@pytest.mark.parametrize(
    ("start", "end", "matches"),
    [
        (94.9, None, False),
        (95.0, None, True),
        (END + 5, None, True),
        (END + 5.1, None, False),
        (125.0, 120.0, True),
        (125.1, 120.0, False),
    ],
)
def test_a_report_is_of_the_time_of_the_failure(start: float, end: float | None, matches: bool) -> None:
    found = answer(failure(RNIC, end=end), failure(RNIC, start=start))
    assert found is (Answer.RIGHT if matches else None)


def test_another_component_over_most_of_the_same_paths_is_found_and_wrong() -> None:
    assert answer(failure(RNIC), failure(OTHER)) is Answer.WRONG
    assert answer(failure(RNIC), failure(OTHER, paths=(*PATHS[:2], ELSEWHERE[0]))) is Answer.WRONG
    assert answer(failure(RNIC), failure(OTHER, paths=(PATHS[0], ELSEWHERE[0]))) is None
    assert answer(failure(RNIC), failure(OTHER, paths=ELSEWHERE)) is None
    assert answer(failure(RNIC), failure(OTHER, paths=())) is None


def test_pairs_have_no_direction() -> None:
    assert answer(failure(RNIC, paths=PATHS[:1]), failure(OTHER, paths=(PATHS[0][::-1],))) is Answer.WRONG


def test_the_right_component_is_found_over_whatever_paths() -> None:
    assert answer(failure(RNIC), failure(RNIC, paths=ELSEWHERE)) is Answer.RIGHT


def test_kind_and_name_are_to_be_right() -> None:
    assert answer(failure(RNIC), failure(("port", RNIC[1]))) is Answer.WRONG


def test_another_name_of_the_same_thing_is_right_only_where_the_truth_lists_it() -> None:
    assert answer(failure(CABLE, {PORT: 1.0}), failure(PORT)) is Answer.RIGHT
    assert answer(failure(CABLE), failure(PORT)) is Answer.WRONG


def test_who_cannot_tell_must_name_all_that_look_alike() -> None:
    truth = failure(RNIC, {CABLE: 0.5, PORT: 0.5})
    assert answer(truth, failure(CABLE, {RNIC: 0.3, PORT: 0.3})) is Answer.AMBIGUOUS
    assert answer(truth, failure(RNIC, {CABLE: 0.3, PORT: 0.3})) is Answer.AMBIGUOUS
    assert answer(truth, failure(CABLE, {RNIC: 0.3})) is Answer.AMBIGUOUS, "a link stands for the ports at its ends"
    assert answer(truth, failure(CABLE, {PORT: 0.3})) is Answer.WRONG
    assert answer(truth, failure(CABLE, paths=ELSEWHERE)) is Answer.WRONG
    assert answer(truth, failure(RNIC)) is Answer.RIGHT


def test_naming_everything_is_no_answer() -> None:
    truth = failure(RNIC, {CABLE: 0.5})
    assert answer(truth, failure(CABLE, {RNIC: 0.3, PORT: 0.1})) is Answer.AMBIGUOUS
    assert answer(truth, failure(CABLE, {RNIC: 0.3, PORT: 0.1, OTHER: 0.1})) is Answer.WRONG
    assert answer(truth, failure(OTHER, {RNIC: 0.3, CABLE: 0.1})) is Answer.WRONG


def test_another_name_of_the_truth_among_the_alternatives_counts_as_the_truth() -> None:
    assert answer(failure(RNIC, {PORT: 1.0, CABLE: 0.5}), failure(CABLE, {PORT: 0.4})) is Answer.AMBIGUOUS


@pytest.mark.parametrize(("named", "other", "right"), [(RNIC, CABLE, True), (CABLE, RNIC, False)])
def test_the_confidence_of_an_ambiguous_answer_is_in_the_component_named_first(
    named: Named, other: Named, *, right: bool
) -> None:
    judgement = judged([failure(RNIC, {CABLE: 0.5})], [failure(named, {other: 0.5}, confidence=0.5)])
    assert judgement.claims == (Claim(0.5, right=right),)


def test_a_second_report_is_a_duplicate_when_right_and_false_when_wrong() -> None:
    right, wrong = failure(RNIC, detected_at=110.0), failure(OTHER, detected_at=104.0)
    twice = judged([failure(RNIC)], [right, failure(RNIC, detected_at=108.0)])
    assert (twice.false, twice.duplicates) == (0, 1)
    assert twice.found[0] is not None
    assert twice.found[0].seconds == 8.0, "the earlier of two that are right"
    both = judged([failure(RNIC)], [wrong, right])
    assert (both.false, both.duplicates) == (1, 0)
    assert both.found[0] is not None
    assert both.found[0].answer is Answer.RIGHT
    assert [claim.right for claim in both.claims] == [False, True]
    wrong_twice = judged([failure(RNIC)], [wrong, wrong])
    assert (wrong_twice.false, wrong_twice.duplicates) == (1, 0)


def test_who_tells_again_what_nobody_can_tell_apart_is_not_wrong() -> None:
    truth = failure(RNIC, {CABLE: 0.5})
    twice = judged([truth], [failure(RNIC, {CABLE: 0.5}), failure(CABLE, {RNIC: 0.5}, symptom="mtu")])
    assert (twice.false, twice.duplicates) == (0, 1)
    sure = judged([truth], [failure(RNIC, {CABLE: 0.5}), failure(CABLE, symptom="mtu")])
    assert (sure.false, sure.duplicates) == (1, 0)


def test_two_failures_need_two_reports() -> None:
    truths = [failure(RNIC), failure(OTHER)]
    one = judged(truths, [failure(RNIC)])
    assert [found is not None for found in one.found] == [True, False]
    both = judged(truths, [failure(OTHER), failure(RNIC)])
    assert [found and found.answer for found in both.found] == [Answer.RIGHT] * 2
    assert both.false == 0


def test_a_report_goes_where_more_failures_are_found() -> None:
    """The first is about either by its paths, the second about one of them alone."""
    truths = [failure(RNIC), failure(OTHER, paths=ELSEWHERE)]
    reports = [failure(PORT, paths=(*PATHS, *ELSEWHERE)), failure(CABLE)]
    assert [found and found.answer for found in judged(truths, reports).found] == [Answer.WRONG, None]
    reports = [failure(PORT, paths=(PATHS[0], *ELSEWHERE)), failure(CABLE)]
    assert [found and found.answer for found in judged(truths, reports).found] == [Answer.WRONG] * 2


def test_a_tally_adds_up() -> None:
    alike = failure(RNIC, {CABLE: 0.5})
    judgements = [
        judged([failure(RNIC)], [failure(RNIC, detected_at=102.0)]),
        judged([failure(RNIC)], [failure(OTHER, detected_at=104.0, symptom="flap"), failure(OTHER, paths=ELSEWHERE)]),
        judged([alike], [failure(CABLE, {RNIC: 0.5}, detected_at=106.0)]),
        judged([failure(RNIC)], []),
        judged([], [failure(RNIC)]),
    ]
    total = tally(judgements)
    assert (total.true, len(total.found), total.missed, total.false, total.duplicates) == (4, 3, 1, 2, 0)
    assert total.recall == 3 / 4
    assert total.precision == 3 / 5
    assert (total.top_1, total.ambiguous, total.named) == (1 / 2, 1, 2 / 4)
    assert (total.symptom, total.layer) == (2 / 3, 1.0)
    assert (total.mean_seconds, total.mean_seconds_after_third_probe) == (4.0, 1.0)
    assert total.p95_seconds == pytest.approx(5.8)


def test_confidence_is_true_when_it_is_the_share_that_is_right() -> None:
    claims = [Claim(0.75, right=number < 3) for number in range(4)]
    assert brier(claims) == pytest.approx(3 / 16)
    assert brier([Claim(1.0, right=False)]) == 1.0
    assert [len(each) for each in bins([*claims, Claim(1.0, right=True), Claim(0.0, right=False)])] == [
        1, 0, 0, 0, 0, 0, 0, 4, 0, 1,
    ]  # fmt: skip
