"""Simulated cases one after the other, on several processors."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from benchmarks.diagnosis.run import Run, keep, run
from benchmarks.inference_at_scale import ONE_THREAD
from lab.simulator.failures import simulate


@dataclass(frozen=True, slots=True)
class Task:
    """A case to be drawn. ``counters``: None lets the seed say. ``keep``: the directory that takes what went wrong."""

    name: str
    seed: int
    counters: bool | None = None
    paper_rate: bool = False
    keep: Path | None = None
    replay: bool = False


def runs(tasks: Iterable[Task], processes: int) -> Iterator[Run]:
    """Runs in the order of the tasks, ``processes`` at a time, each of one thread."""
    if processes == 1:
        yield from map(_simulated, tasks)
        return
    os.environ.update(ONE_THREAD)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=pa.set_cpu_count, initargs=(1,)) as pool:
        yield from pool.map(_simulated, tasks, chunksize=4)


def _simulated(task: Task) -> Run:
    try:
        case = simulate(task.name, task.seed, counters=task.counters, paper_rate=task.paper_rate)
        judged, reported = run(case, replay=task.replay)
    except Exception as error:
        error.add_note(f"{task.name}, seed {task.seed}")
        raise
    if task.keep is not None and judged.flawed:
        keep(task.keep / f"{task.name}-{task.seed}", case, reported, judged.judgement)
    return judged
