"""``skeleton-service jobs``: job files of what a scheduler says runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from exporter.contracts.codec import ContractError, decode, encode, read_bytes, write
from exporter.contracts.fabric import Fabric
from exporter.contracts.topology import read_topology
from skeleton_service.alertlinks import DOCS
from skeleton_service.pods import PodList, jobs_of

PREFIX = "pods."
"""Of the names of files that this writes: others in the directory are not its own."""


def add_parser(commands: Any) -> None:
    jobs = commands.add_parser(
        "jobs",
        help="job files of the training jobs that run in a Kubernetes cluster",
        description="Writes a job file for each training job among the pods: of JobSet, the Kubeflow training operator "
        "and plain Jobs. Files of jobs that are gone are taken away, others in the directory are left alone.",
        epilog="Exit codes: 0: written; 1: some jobs were left out, with a line each; 2: bad input, and nothing is "
        f"changed. More: {DOCS}/contracts/job.md",
    )
    jobs.add_argument("--pods", required=True, metavar="FILE", help="of kubectl get pods -A --output json; - for stdin")
    jobs.add_argument("--topology", required=True, metavar="FILE", help="whose hosts have the names of nodes")
    jobs.add_argument(
        "--label", metavar="KEY", action="append", default=[],
        help="that names the job of a pod, before those that are known; may be repeated",
    )  # fmt: skip
    jobs.add_argument("--output", required=True, metavar="DIR", help="which the service looks into: its 'jobs'")
    jobs.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    source = options.pods
    text = sys.stdin.buffer.read() if source == "-" else read_bytes(source)
    pods = decode(text, PodList, "standard input" if source == "-" else source)
    fabric = Fabric(read_topology(options.topology))
    jobs, wrong = jobs_of(pods.items, fabric, labels=options.label)
    directory = Path(options.output)
    if not directory.is_dir():
        raise ContractError(options.output, "is no directory", "make it, and name it as the service's 'jobs'")
    for job in jobs:
        write(directory / f"{PREFIX}{job.job}.json", encode(job))
    kept = {f"{PREFIX}{job.job}.json" for job in jobs}
    for file in directory.glob(f"{PREFIX}*.json"):
        if file.name not in kept:
            file.unlink()
    for line in wrong:
        print(f"left out: {line}", file=sys.stderr)
    print(f"{len(jobs)} jobs, {sum(len(job.containers) for job in jobs)} containers in {directory}")
    return 1 if wrong else 0
