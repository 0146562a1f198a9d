"""Simulated cases one after the other, on several processors, and what came of them in a file."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa

from benchmarks.diagnosis.run import Run, keep, run
from benchmarks.inference_at_scale import ONE_THREAD
from exporter.contracts.codec import ContractError
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


def resumed(tasks: Iterable[Task], processes: int, path: Path) -> Iterator[Run]:
    """``runs``, each appended to a file as a line of JSON when it ends; those that are in the file are not run again.

    An hour's work that is cut short goes on where it was. Who changes the method takes another file; one of other
    options, or of something else, is a ContractError.
    """
    tasks = list(tasks)
    options = {(task.counters, task.paper_rate, task.replay) for task in tasks}
    head = msgspec.json.encode([list(each) for each in options])
    done = _whole_lines(path, head)
    with path.open("ab") as file:
        if not file.tell():
            file.write(head + b"\n")
        anew = runs([task for task in tasks if (task.name, task.seed) not in done], processes)
        for task in tasks:
            known = done.get((task.name, task.seed))
            if known is None:
                known = next(anew)
                file.write(msgspec.json.encode(known) + b"\n")
                file.flush()
            yield known


def _whole_lines(path: Path, head: bytes) -> dict[tuple[str, int], Run]:
    """Runs in a file by class and seed; a last line that was cut off is cut off there too."""
    if not path.exists() or not path.stat().st_size:
        return {}
    written = path.read_bytes()
    if not written.startswith(head + b"\n"):
        raise ContractError(str(path), "holds something else, or runs of other options", "name another file")
    whole = written[: written.rfind(b"\n") + 1]
    if whole != written:
        os.truncate(path, len(whole))
    found = (msgspec.json.decode(line, type=Run) for line in whole.splitlines()[1:])
    return {(run.name, run.seed): run for run in found}


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
