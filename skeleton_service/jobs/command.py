"""``skeleton-service jobs``: job files of what a scheduler says runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, TypeVar

from exporter.contracts.codec import ContractError, decode, encode, read_bytes, write
from exporter.contracts.fabric import Fabric
from exporter.contracts.topology import read_topology
from skeleton_service.alertlinks import DOCS
from skeleton_service.jobs import pods, slurm

T = TypeVar("T")


def add_parser(commands: Any) -> None:
    jobs = commands.add_parser(
        "jobs",
        help="job files of the training jobs that run in a Kubernetes or Slurm cluster",
        description="Writes a job file for each training job that a scheduler says runs: of Kubernetes' pods those of "
        "JobSet, the Kubeflow training operator and plain Jobs; of Slurm each job of several nodes. Files of its jobs "
        "that are gone are taken away, others in the directory are left alone.",
        epilog="Exit codes: 0: written; 1: some jobs were left out, with a line each; 2: bad input, and nothing is "
        f"changed. More: {DOCS}/contracts/job.md",
    )
    source = jobs.add_mutually_exclusive_group(required=True)
    source.add_argument("--pods", metavar="FILE", help="of kubectl get pods -A --output json; - for standard input")
    source.add_argument("--slurm", metavar="FILE", help="of scontrol show jobs --json; - for standard input")
    jobs.add_argument("--topology", required=True, metavar="FILE", help="whose hosts have the names of nodes")
    jobs.add_argument(
        "--label", metavar="KEY", action="append", default=[],
        help="of pods: names a pod's job, before those that are known; may be repeated",
    )  # fmt: skip
    jobs.add_argument("--output", required=True, metavar="DIR", help="which the service looks into: its 'jobs'")
    jobs.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    fabric = Fabric(read_topology(options.topology))
    if options.pods is not None:
        prefix = "pods."
        jobs, wrong = pods.jobs_of(_read(options.pods, pods.PodList).items, fabric, labels=options.label)
    else:
        prefix = "slurm."
        jobs, wrong = slurm.jobs_of(_read(options.slurm, slurm.SlurmJobs).jobs, fabric)
    directory = Path(options.output)
    if not directory.is_dir():
        raise ContractError(options.output, "is no directory", "make it, and name it as the service's 'jobs'")
    files = {f"{prefix}{job.job}.json": job for job in jobs}
    for name, job in files.items():
        write(directory / name, encode(job))
    for file in directory.glob(f"{prefix}*.json"):
        if file.name not in files:
            file.unlink()
    for line in wrong:
        print(f"left out: {line}", file=sys.stderr)
    print(f"{len(jobs)} jobs, {sum(len(job.containers) for job in jobs)} containers in {directory}")
    return 1 if wrong else 0


def _read(source: str, kind: type[T]) -> T:
    if source == "-":
        return decode(sys.stdin.buffer.read(), kind, "standard input")
    return decode(read_bytes(source), kind, source)
