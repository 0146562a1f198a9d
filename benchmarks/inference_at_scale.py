"""What ``skeleton-service infer`` costs at 512 to 32,768 RNICs: in a child process each, one thread, from Parquet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from exporter.contracts.codec import encode, write
from lab.simulator import CASES, simulate

DEGREES = {512: (8, 8), 1024: (16, 8), 2048: (32, 8), 8192: (64, 16), 32_768: (256, 16)}
"""Replicas and stages of a job of so many RNICs, eight to a host that tensor parallelism fills."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

_INFER = """
import json, re, sys, time
from pathlib import Path
from skeleton_service.cli import main
began = time.perf_counter()
code = main(sys.argv[1:])
seconds = time.perf_counter() - began
highest = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(json.dumps([code, seconds, time.process_time(), int(highest) / 1024]))
"""
"""The command, and its seconds, processor seconds and highest resident memory in MiB on a line of their own."""


@dataclass(frozen=True, slots=True)
class Cost:
    rnics: int
    megabytes_of_file: float
    seconds: float
    processor_seconds: float
    mebibytes: float


def write_job(rnics: int, directory: Path, seconds: float) -> None:
    """Write throughput.parquet, topology.json and truth.json of a job of so many RNICs."""
    from pyarrow import parquet  # noqa: PLC0415

    replicas, stages = DEGREES[rnics]
    job = simulate(replace(CASES["1f1b"], pipeline=(stages, stages)), 1, hosts=replicas * stages, seconds=seconds)
    parquet.write_table(job.table(), directory / "throughput.parquet", compression="zstd")
    write(directory / "topology.json", encode(job.topology))
    write(directory / "truth.json", encode(job.truth))


def measure(rnics: int, directory: Path, seconds: float = 900.0) -> Cost:
    """Simulate in one child process, infer in another: neither's memory counts for the other."""
    environment = {**os.environ, **ONE_THREAD}
    writer = [sys.executable, "-m", "benchmarks.inference_at_scale", str(rnics), str(directory), str(seconds)]
    subprocess.run(writer, check=True, env=environment)
    file = directory / "throughput.parquet"
    command = [
        *(sys.executable, "-c", _INFER, "infer", "--throughput", str(file)),
        *("--topology", str(directory / "topology.json"), "--output", str(directory / "skeleton.json")),
    ]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    code, taken, processor, mebibytes = json.loads(done.stdout.splitlines()[-1])
    if code != 0:
        raise RuntimeError(f"skeleton-service infer of {rnics} RNICs: exit status {code}")
    return Cost(rnics, file.stat().st_size / 1e6, taken, processor, mebibytes)


if __name__ == "__main__":
    write_job(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
