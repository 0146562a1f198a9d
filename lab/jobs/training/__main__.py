"""Run the training job inside a running lab: ``python -m lab.jobs.training --training FILE``.

PyTorch is imported once; every rank is a fork of this process that steps into its container's namespace
before it makes a socket. Each iteration prints one line of JSON when its last rank has reported.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from types import FrameType

import msgspec

from exporter.contracts.codec import ContractError, read
from lab.errors import LabError
from lab.jobs.job import Worker
from lab.jobs.training import pairs
from lab.jobs.training.rails import keep_to_rails
from lab.jobs.training.rank import Progress, Rank
from lab.jobs.training.shape import Training
from lab.sandbox.netns import inside

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PRIVATE = "/run"  # the sandbox's own, gone with it
NICENESS = 10  # a real job computes on accelerators: it does not take the CPU from the hosts' agents


def _fork(training: Training, worker: Worker, place: int, store: Path, pipe: int, iterations: int | None) -> int:
    """Start one rank; return its process. It ends with this process, and writes its progress to ``pipe``."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.nice(NICENESS)
        with inside(worker.container):
            for progress in Rank(training, worker, place, store).train(iterations):
                os.write(pipe, msgspec.json.encode(progress) + b"\n")  # below PIPE_BUF: lines stay whole
        code = 0
    except Exception as error:  # noqa: BLE001 - the process ends here; the parent says which rank it was
        cause = error.__cause__ or error
        print(f"rank {worker.container}/{place}: {type(cause).__name__}: {cause}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def summarise(reports: Sequence[Progress]) -> dict[str, object]:
    """One iteration's line: its length, the mean loss of the replicas, payload sent by each endpoint."""
    losses = [report.loss for report in reports if report.loss is not None]
    return {
        "iteration": reports[0].iteration,
        "time": round(max(report.time for report in reports), 3),
        "seconds": round(max(report.seconds for report in reports), 3),
        "busy_seconds": round(max(report.busy_seconds for report in reports), 3),
        "loss": round(fmean(losses), 4),
        "sent_bytes": {report.endpoint: report.sent_bytes for report in reports},
    }


def _print_iterations(lines: Iterable[bytes], ranks: int) -> None:
    waiting: dict[int, list[Progress]] = defaultdict(list)
    for line in lines:
        progress = msgspec.json.decode(line, type=Progress)
        waiting[progress.iteration].append(progress)
        if len(waiting[progress.iteration]) == ranks:
            print(json.dumps(summarise(waiting.pop(progress.iteration))), flush=True)


def run(training: Training, iterations: int | None) -> int:
    """Train until the ranks are done or a signal comes; return 1 when a rank failed. Ranks end with this process."""
    for worker in training.job.workers:
        keep_to_rails(training, worker)
    pairs.count(worker.container for worker in training.job.workers)

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    incoming, outgoing = os.pipe()
    with tempfile.TemporaryDirectory(dir=PRIVATE, prefix="training-") as directory, open(incoming, "rb") as lines:
        try:
            children = [
                _fork(training, worker, place, Path(directory, "store"), outgoing, iterations)
                for worker, place in product(training.job.workers, range(training.shape.tensor_parallel))
            ]
            os.close(outgoing)
            _print_iterations(lines, len(children))
            ends = [os.waitpid(child, 0)[1] for child in children]
            return int(any(ends))
        except KeyboardInterrupt:
            return 0


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.jobs.training", description=__doc__)
    parser.add_argument(
        "--training", type=Path, required=True, help="what lab.jobs.training.shape.draw_training made, JSON"
    )
    parser.add_argument("--iterations", type=int, help="stop after so many (default: at a signal)")
    arguments = parser.parse_args(words)
    try:
        return run(read(arguments.training, Training), arguments.iterations)
    except (ContractError, LabError, BrokenPipeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
