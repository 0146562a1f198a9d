"""A few cases of every class, on the seeds that methods are tuned on: what was once found stays found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from benchmarks.diagnosis import report
from benchmarks.diagnosis.__main__ import TUNING_SEEDS
from benchmarks.diagnosis.run import Run
from benchmarks.diagnosis.simulated import Task, resumed, runs
from exporter.contracts.codec import ContractError
from lab.simulator.failures import CLASSES

RUNS = 2

LOWEST_PRECISION = 0.97
LOWEST_RECALL = 0.95
LOWEST_TOP_1 = 0.88
MOST_FALSE_ALARMS = 0
"""A little under what these cases come to, and the false alarms of all cases in which nothing is broken."""

REPLAYED = ("crc-error", "switch-offline", "rnic-port-flapping", "bond-error")
LOWEST_IN_TIME = 0.9


def tasks(*names: str, replay: bool = False) -> list[Task]:
    return [Task(name, TUNING_SEEDS.start + number, replay=replay) for name in names for number in range(RUNS)]


def test_the_right_component_is_named_in_most_cases_of_all_classes() -> None:
    """On failure the table of all classes is in the captured output."""
    every = list(runs(tasks(*CLASSES), processes=1))
    groups = [(name, list(own)) for name, own in groupby(every, key=lambda each: each.name)]
    report.classes((name, own) for name, own in groups if not CLASSES[name].distractor)
    quiet = report.distractors((name, own) for name, own in groups if CLASSES[name].distractor)
    total, false = report.ours(every), report.ours(quiet).false
    precision, recall, top_1 = total.precision, total.recall, total.top_1
    assert precision >= LOWEST_PRECISION
    assert recall >= LOWEST_RECALL
    assert top_1 >= LOWEST_TOP_1
    assert false <= MOST_FALSE_ALARMS


def test_what_is_said_to_be_detected_was_known_by_then() -> None:
    assert report.hindsight(list(runs(tasks(*REPLAYED, replay=True), processes=1))) >= LOWEST_IN_TIME


def test_processes_change_nothing() -> None:
    some = tasks("crc-error", "clean")
    alone, together = (list(runs(some, processes)) for processes in (1, 2))
    assert [replace(each, seconds=0.0) for each in together] == [replace(each, seconds=0.0) for each in alone]


def test_an_error_names_the_case_that_it_came_of() -> None:
    with pytest.raises(KeyError) as caught:
        list(runs([Task("no-such-class", 7)], processes=1))
    assert caught.value.__notes__ == ["no-such-class, seed 7"]


def test_an_interrupted_report_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some, kept = tasks("clean", "crc-error"), tmp_path / "runs.jsonl"
    whole = list(resumed(some, 1, kept))
    head, *lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(head + lines[0] + lines[1] + lines[2][:-20])
    simulated: list[Task] = []

    def counted(anew: list[Task], processes: int) -> Iterator[Run]:
        simulated.extend(anew)
        return runs(anew, processes)

    monkeypatch.setattr("benchmarks.diagnosis.simulated.runs", counted)
    again = list(resumed(some, 1, kept))
    assert simulated == some[2:]
    assert [replace(each, seconds=0.0) for each in again] == [replace(each, seconds=0.0) for each in whole]
    assert kept.read_bytes().splitlines(keepends=True)[: 1 + len(lines) // 2] == [head, *lines[:2]]
    for other in (tasks("clean", replay=True), some):
        with pytest.raises(ContractError, match="runs of other options"):
            list(resumed(other, 1, kept))
        kept.write_bytes(b"something else")
    assert kept.read_bytes() == b"something else"
