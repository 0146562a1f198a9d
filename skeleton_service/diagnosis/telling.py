"""A diagnosis for a terminal: what is wrong, where, since when, how sure that is, what else it may be, and why."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from exporter.contracts.diagnosis import Component, Failure
from skeleton_service.diagnosis.changes import Change

_WHOLE = 1.01
"""Probabilities of which one is true add up to this at most, rounded as they are."""


def failure_lines(failure: Failure) -> Iterator[str]:
    """One line, and the rest indented below it; names come from records, and may hold anything."""
    return ("".join(letter if letter.isprintable() else "?" for letter in line) for line in _lines(failure))


def _lines(failure: Failure) -> Iterator[str]:
    yield f"{failure.symptom}: {_placed(failure.component)}"
    until = "still so" if failure.end is None else f"until {_clock(failure.end)}, {failure.end - failure.start:.0f} s"
    about = [f"since {_clock(failure.start)}, {until}"]
    if failure.job:
        about.append(f"job {failure.job}")
    if failure.paths:
        about.append("1 pair of endpoints" if len(failure.paths) == 1 else f"{len(failure.paths)} pairs of endpoints")
    yield f"  {'; '.join(about)}"
    together = failure.confidence + sum(other.score for other in failure.alternatives) > _WHOLE
    scores = ["" if together else f" ({_sure(other.score)})" for other in failure.alternatives]
    others = ", ".join(
        f"{other.kind} {other.name}{score}" for other, score in zip(failure.alternatives, scores, strict=True)
    )
    # What adds up to more than one does not exclude each other: any of a circle's switches, say.
    said = "any of these as well:" if together else "it may be instead:"
    yield f"  {_sure(failure.confidence)} sure" + (f"; {said} {others}" if others else "")
    for line in failure.evidence:
        yield f"  {line}"


def change_lines(change: Change, now: float) -> Iterator[str]:
    """What happened, in one line; of what is new with the evidence below."""
    failure = change.failure
    named = f"{failure.symptom}: {failure.component.kind} {failure.component.name}"
    match change.what:
        case "found":
            first, *rest = failure_lines(failure)
            yield f"{_clock(now)} found: {first}"
            yield from rest
        case "changed":
            first, *rest = failure_lines(failure)
            before = f"{change.before.kind} {change.before.name}" if change.before else "another component"
            yield f"{_clock(now)} not {before}, but: {first}"
            yield from rest
        case "ended":
            end = failure.start if failure.end is None else failure.end
            yield f"{_clock(now)} ended: {named}, at {_clock(end)} after {end - failure.start:.0f} s"
        case "withdrawn":
            yield f"{_clock(now)} withdrawn: {named}: what was seen since does not bear it out"


def _placed(component: Component) -> str:
    where = f" ({component.location})" if component.location else ""
    return f"{component.kind} {component.name}{where}"


def _sure(share: float) -> str:
    return f"{share:.0%}"


def _clock(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
