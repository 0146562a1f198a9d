"""In which order each pipeline stage computes: 1F1B, GPipe, interleaved 1F1B, and forward only.

Sources: Huang et al. 2019 (GPipe); Narayanan et al. 2019 (PipeDream, 1F1B) and 2021 (Megatron-LM, interleaved
1F1B; ``forward_backward_pipelining_with_interleaving``).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from lab.simulator.case import Schedule


@dataclass(frozen=True, slots=True)
class Operation:
    """One micro-batch through one model chunk of one stage, forward or backward."""

    stage: int
    chunk: int
    batch: int
    forward: bool


class Step(NamedTuple):
    """An operation as it is computed: ``awaits`` is the number of the step on another stage whose result it needs,
    ``sends_to`` the other stage that needs its own.
    """

    stage: int
    forward: bool
    awaits: int | None
    sends_to: int | None


@lru_cache(maxsize=8)
def plan(schedule: Schedule | Literal["forward"], stages: int, batches: int, chunks: int = 1) -> tuple[Step, ...]:
    """``order`` with the dependencies looked up. What stays on a stage is in order by itself."""
    if schedule == "forward":
        operations = forward_only(stages, batches, chunks)
    else:
        operations = order(schedule, stages, batches, chunks)
    number = {operation: index for index, operation in enumerate(operations)}
    receivers: dict[int, int] = {}
    awaits: list[int | None] = []
    for operation in operations:
        needed = awaited(operation, stages, chunks)
        travels = needed is not None and needed.stage != operation.stage
        awaits.append(number[needed] if travels and needed is not None else None)
        if travels and needed is not None:
            receivers[number[needed]] = operation.stage
    return tuple(
        Step(operation.stage, operation.forward, awaits[index], receivers.get(index))
        for index, operation in enumerate(operations)
    )


def order(schedule: Schedule, stages: int, batches: int, chunks: int = 1) -> list[Operation]:
    """All operations of one iteration, each after those it waits for. O(stages x batches x chunks)."""
    if schedule == "interleaved":
        lists = [_interleaved(stage, stages, batches, chunks) for stage in range(stages)]
    elif schedule == "1f1b":
        lists = [_one_forward_one_backward(stage, stages, batches) for stage in range(stages)]
    else:
        lists = [_all_forward_all_backward(stage, batches) for stage in range(stages)]
    return _sort(lists, stages, chunks)


def forward_only(stages: int, batches: int, chunks: int = 1) -> list[Operation]:
    places = _chunk_order(stages, batches, chunks)
    lists = [[Operation(stage, chunk, batch, True) for chunk, batch in places] for stage in range(stages)]
    return _sort(lists, stages, chunks)


def awaited(operation: Operation, stages: int, chunks: int) -> Operation | None:
    """The operation whose result this one needs; None for the first forward pass of a micro-batch."""
    stage, chunk, batch = operation.stage, operation.chunk, operation.batch
    if operation.forward:
        if stage > 0:
            return Operation(stage - 1, chunk, batch, True)
        return Operation(stages - 1, chunk - 1, batch, True) if chunk > 0 else None
    if stage < stages - 1:
        return Operation(stage + 1, chunk, batch, False)
    if chunk < chunks - 1:
        return Operation(0, chunk + 1, batch, False)
    return Operation(stage, chunk, batch, True)


def _one_forward_one_backward(stage: int, stages: int, batches: int) -> list[Operation]:
    warm_up = min(stages - stage - 1, batches)
    forward = [Operation(stage, 0, batch, True) for batch in range(batches)]
    backward = [Operation(stage, 0, batch, False) for batch in range(batches)]
    return _alternate(forward, backward, warm_up)


def _all_forward_all_backward(stage: int, batches: int) -> list[Operation]:
    # Backward in the opposite order: the last micro-batch's activations are the first at hand.
    return [Operation(stage, 0, batch, True) for batch in range(batches)] + [
        Operation(stage, 0, batch, False) for batch in reversed(range(batches))
    ]


def _chunk_order(stages: int, batches: int, chunks: int) -> list[tuple[int, int]]:
    """(chunk, micro-batch) in the order of forward passes: ``stages`` micro-batches through each chunk in turn."""
    return [
        (chunk, batch)
        for first in range(0, batches, stages)
        for chunk in range(chunks)
        for batch in range(first, min(first + stages, batches))
    ]


def _interleaved(stage: int, stages: int, batches: int, chunks: int) -> list[Operation]:
    places = _chunk_order(stages, batches, chunks)
    forward = [Operation(stage, chunk, batch, True) for chunk, batch in places]
    backward = [Operation(stage, chunks - 1 - chunk, batch, False) for chunk, batch in places]
    warm_up = min((stages - stage - 1) * 2 + (chunks - 1) * stages, len(places))
    return _alternate(forward, backward, warm_up if batches > stages else len(places))


def _alternate(forward: list[Operation], backward: list[Operation], warm_up: int) -> list[Operation]:
    steady = [each for pair in zip(forward[warm_up:], backward, strict=False) for each in pair]
    return forward[:warm_up] + steady + backward[len(forward) - warm_up :]


def _sort(lists: list[list[Operation]], stages: int, chunks: int) -> list[Operation]:
    """Merge the stages' own orders into one in which everything awaited comes first."""
    done: set[Operation] = set()
    waiting: dict[Operation, int] = {}
    position = [0] * len(lists)
    merged: list[Operation] = []
    runnable = deque(range(len(lists)))
    while runnable:
        stage = runnable.popleft()
        while position[stage] < len(lists[stage]):
            operation = lists[stage][position[stage]]
            needed = awaited(operation, stages, chunks)
            if needed is not None and needed not in done:
                waiting[needed] = stage
                break
            merged.append(operation)
            done.add(operation)
            position[stage] += 1
            if operation in waiting:
                runnable.append(waiting.pop(operation))
    if len(merged) != sum(map(len, lists)):
        raise ValueError("the schedule waits for itself")
    return merged
