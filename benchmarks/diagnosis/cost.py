"""What a diagnosis costs on a large fabric: in a child process each, one thread, from records in memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import pyarrow as pa

from benchmarks.diagnosis.judge import Answer, judge
from benchmarks.diagnosis.large import BEGIN, SECONDS, large
from benchmarks.diagnosis.observed import observe
from benchmarks.diagnosis.rivals import RIVALS, blame
from benchmarks.inference_at_scale import ONE_THREAD
from exporter.contracts.fabric import Fabric
from exporter.contracts.skeleton import Skeleton, Window
from skeleton_service.diagnosis import diagnose
from skeleton_service.diagnosis.losses import BYTES_PER_PATH, BYTES_PER_RECORD, Losses
from skeleton_service.diagnosis.observations import observe as observations_of

_SKELETON = Skeleton(
    version=1, job="job", window=Window(start=0.0, end=900.0, step_seconds=1.0), period_seconds=None, confidence=1.0,
    fallback=None, parallelism=None, endpoints=(), groups=(), edges=(),
)  # fmt: skip


_LOCALISATIONS = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor seconds; bytes are of the highest resident memory, above that with the records in it."""

    paths: int
    failing: int
    records: int
    named: bool
    """Whether the dead line card was."""
    seconds: float
    localisation: float
    """Seconds of one localisation of all that failed: the median of some, one being too short to be measured well."""
    bytes_per_path: float
    formula: float
    """What ``losses`` says that this is at most."""
    rivals: dict[str, float]
    """Seconds of each simpler method, reading the records included."""


def measure(paths: int) -> Cost:
    """Diagnose so many paths among 4,096 RNICs in a child process of its own."""
    words = [sys.executable, "-m", "benchmarks.diagnosis.cost", str(paths)]
    done = subprocess.run(words, check=True, env={**os.environ, **ONE_THREAD}, stdout=subprocess.PIPE, text=True)
    return Cost(**json.loads(done.stdout))


def _measured(paths: int) -> Cost:
    pa.set_cpu_count(1)
    case = large(paths)
    fabric = Fabric(case.topology)
    pa.default_memory_pool().release_unused()
    Path("/proc/self/clear_refs").write_text("5")  # the highest from here on
    before, began = _memory("VmRSS"), time.process_time()
    reported = diagnose(case.records, fabric, _SKELETON)
    seconds, highest = time.process_time() - began, _memory("VmHWM")
    (found,) = judge(case.truth, reported, BEGIN + SECONDS).found
    losses = Losses(fabric)
    losses.advance(observations_of(case.records, fabric, _SKELETON.job))
    taken = []
    for _ in range(_LOCALISATIONS):
        began = time.process_time()
        _, explanations = losses.explain(BEGIN + SECONDS // 2, BEGIN + SECONDS - 1)
        taken.append(time.process_time() - began)
        if not explanations:
            raise RuntimeError("nothing explains the losses")
    rivals = {}
    for name, method in RIVALS.items():
        began = time.process_time()
        blame(observe(case.records, fabric), method)
        rivals[name] = time.process_time() - began
    return Cost(
        paths=paths,
        failing=case.failing,
        records=case.records.num_rows,
        named=found is not None and found.answer is Answer.RIGHT,
        seconds=seconds,
        localisation=median(taken),
        bytes_per_path=(highest - before) / paths,
        formula=BYTES_PER_PATH + BYTES_PER_RECORD * case.records.num_rows / paths,
        rivals=rivals,
    )


def _memory(field: str) -> int:
    """Bytes of resident memory: ``VmRSS`` now, ``VmHWM`` at the highest."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(asdict(_measured(int(sys.argv[1])))))
