"""What is told of one diagnosis after another."""

from __future__ import annotations

from typing import Any

from exporter.contracts.diagnosis import Component, Diagnosis, Failure
from skeleton_service.diagnosis.changes import Told
from skeleton_service.diagnosis.telling import change_lines

PATH = ("a/mlx5_0", "b/mlx5_0")


def failure(name: str = "x:1 -- y:2", **changes: Any) -> Failure:
    basis: dict[str, Any] = {
        "id": name,
        "job": "j",
        "start": 100.0,
        "detected_at": 102.0,
        "end": None,
        "symptom": "loss",
        "layer": "underlay",
        "component": Component(kind="link", name=name),
        "alternatives": (),
        "confidence": 0.5,
        "paths": (PATH,),
        "evidence": ("one", "two"),
    }
    return Failure(**{**basis, **changes})


def told(*diagnoses: list[Failure]) -> list[list[str]]:
    own = Told()
    return [[each.what for each in own.update(Diagnosis(version=1, failures=tuple(one)))] for one in diagnoses]


def test_a_failure_is_told_once() -> None:
    assert told([failure()], [failure()], [failure(confidence=0.9)]) == [["found"], [], []]


def test_a_failure_that_gets_another_name_is_the_same() -> None:
    assert told([failure()], [failure("other")], [failure("other", symptom="flap", id="z")]) == [
        ["found"],
        ["changed"],
        [],
    ]


def test_a_failure_elsewhere_or_of_another_job_or_time_is_another() -> None:
    elsewhere = failure("other", paths=(("c/mlx5_0", "d/mlx5_0"),))
    other_job, later = failure("other", job="k"), failure("other", start=150.0)
    for other in (elsewhere, other_job, later):
        assert told([failure()], [failure(), other]) == [["found"], ["found"]]


def test_a_failure_whose_start_is_known_better_later_is_the_same() -> None:
    assert told([failure()], [failure(start=95.0)], [failure(start=95.0, end=130.0)]) == [["found"], [], ["ended"]]


def test_a_component_that_fails_again_fails_anew() -> None:
    first, again = failure(end=130.0), failure(start=150.0)
    assert told([failure()], [first, again], [again]) == [["found"], ["ended", "found"], []]


def test_two_failures_of_one_moment_swap_no_names() -> None:
    one = failure("one", paths=(PATH, ("c/0", "d/0")))
    two = failure("two", paths=(("c/0", "d/0"), ("e/0", "f/0")))
    assert told([one, two], [two, one]) == [["found", "found"], []]


def test_an_end_is_told_once_and_what_ended_may_go() -> None:
    assert told([failure()], [failure(end=130.0)], [failure(end=130.0)], []) == [["found"], ["ended"], [], []]


def test_what_was_short_is_found_and_ended_at_once() -> None:
    assert told([failure(end=130.0)]) == [["found", "ended"]]


def test_what_seemed_to_be_over_and_goes_on_is_found_again() -> None:
    assert told([failure()], [failure(end=130.0)], [failure()], [failure()]) == [["found"], ["ended"], ["found"], []]


def test_what_is_explained_otherwise_is_withdrawn() -> None:
    assert told([failure()], [], []) == [["found"], ["withdrawn"], []]


def test_a_change_is_a_line_with_its_evidence_below() -> None:
    own = Told()
    (found,) = own.update(Diagnosis(version=1, failures=(failure(),)))
    assert list(change_lines(found, 103.0)) == [
        "1970-01-01 00:01:43 UTC found: loss: link x:1 -- y:2",
        "  since 1970-01-01 00:01:40 UTC, still so; job j; 1 pair of endpoints",
        "  50% sure",
        "  one",
        "  two",
    ]
    (changed,) = own.update(Diagnosis(version=1, failures=(failure("z"),)))
    assert next(change_lines(changed, 103.0)) == ("1970-01-01 00:01:43 UTC not link x:1 -- y:2, but: loss: link z")
    (ended,) = own.update(Diagnosis(version=1, failures=(failure("z", end=130.0),)))
    assert list(change_lines(ended, 161.0)) == [
        "1970-01-01 00:02:41 UTC ended: loss: link z, at 1970-01-01 00:02:10 UTC after 30 s"
    ]
