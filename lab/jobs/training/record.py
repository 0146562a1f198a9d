"""A real training job's throughput, recorded with its truth: ``python -m lab.jobs.training.record --output DIR``.

Brings a lab up, trains, reads the RNICs' byte counters every second as the exporter does, and writes
``throughput.csv.gz``, ``topology.json``, ``truth.json`` (the skeleton as it is) and ``pairs.json`` (bytes
between two endpoints as the kernel counted them in the containers).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from exporter.contracts.codec import encode, read
from exporter.contracts.tables import ThroughputRow
from exporter.host.ring import Sample, ThroughputRing
from lab.errors import LabError
from lab.jobs.training import pairs
from lab.jobs.training.shape import Training, draw_training
from lab.network import design as drawn
from lab.network.design import Design, draw
from lab.running import Running
from lab.sandbox import environment
from lab.sandbox.netns import inside


def watch(design: Design, seconds: float) -> dict[tuple[str, str], ThroughputRing]:
    """{(host, RNIC): its byte counters every second}; hosts are read one after the other, as on a fleet."""
    rings = {(host.name, rnic.name): ThroughputRing(int(seconds)) for host in design.hosts for rnic in host.rnics}
    end = time.time() + seconds
    while time.time() < end:
        time.sleep(1 - time.time() % 1)
        for host in design.hosts:
            with inside(host.name):
                now, lines = time.time(), Path("/proc/thread-self/net/dev").read_text().splitlines()
            counters = {name.strip(): words.split() for name, _, words in (line.partition(":") for line in lines)}
            for rnic in host.rnics:
                received, sent = (int(counters[rnic.netdev][column]) for column in (0, 8))
                rings[host.name, rnic.name].append(Sample(now, received, sent))
    return rings


def _table(training: Training, rings: dict[tuple[str, str], ThroughputRing]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(ThroughputRow.__struct_fields__)
    for worker in training.job.workers:
        for nic in worker.nics:
            for rate in rings[worker.host, nic.name].rates():
                rates = (f"{rate.transmit_bytes_per_second:.0f}", f"{rate.receive_bytes_per_second:.0f}")
                writer.writerow(
                    (f"{rate.time:.3f}", training.job.name, worker.host, worker.container, nic.name, *rates, "")
                )
    return gzip.compress(text.getvalue().encode(), mtime=0)


def record(training: Training, design: Design, seconds: float, output: Path) -> None:
    """Train and record; runs inside the lab. The first iteration, which connects, is not part of it."""
    file = output / "training.json"
    file.write_bytes(encode(training))
    argv = [sys.executable, "-m", "lab.jobs.training", "--training", str(file)]
    with subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE) as job:
        try:
            if job.stdout is None or not job.stdout.readline():
                raise LabError("the training job ended before its first iteration")
            (output / "throughput.csv.gz").write_bytes(_table(training, watch(design, seconds)))
            sent = pairs.exchanged(pairs.read(training.places), training.endpoints)
        finally:
            job.terminate()
    rows = sorted((*sorted(pair), size) for pair, size in sent.items())
    (output / "pairs.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    (output / "truth.json").write_bytes(encode(training.job.truth()))
    (output / "topology.json").write_bytes(encode(design.topology()))
    file.unlink()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.jobs.training.record", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the lab and of the job")
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--output", type=Path, required=True, metavar="DIRECTORY")
    parser.add_argument("--inside", type=Path, metavar="DESIGN", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.inside is not None:
        design = drawn.load(arguments.inside.read_bytes())
        training = read(arguments.output / "training.json", Training)
        record(training, design, arguments.seconds, arguments.output)
        return 0
    arguments.output.mkdir(parents=True, exist_ok=True)
    design = draw(arguments.seed)
    (arguments.output / "training.json").write_bytes(encode(draw_training(arguments.seed, design)))
    running = Running(f"record-{os.getpid()}")
    try:
        running.up(design, die_with_parent=True)
        inner = [f"--inside={running.directory / 'design.json'}", f"--seconds={arguments.seconds}"]
        argv = [sys.executable, "-m", "lab.jobs.training.record", *inner, f"--output={arguments.output.resolve()}"]
        return subprocess.run(running.command(None, argv), env=environment(), check=False).returncode
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        running.down()


if __name__ == "__main__":
    sys.exit(main())
