"""``python -m lab demo``: the main job, from packets to a notification that names the broken link.

This is the outside: it makes the sandbox, hands in two listening sockets so that a browser reaches
Prometheus and Alertmanager, and has the story told inside (lab.demo.stage).
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from lab import sandbox
from lab.demo.monitoring import ALERTMANAGER_PORT, PROMETHEUS_PORT
from lab.errors import LabError
from lab.jobs import workloads

FIRST_SIGNAL_CODE = 128
PREFERRED_PORTS = {PROMETHEUS_PORT: 19090, ALERTMANAGER_PORT: 19093}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, help="draw the same fabric, job and faults again (default: new ones)")
    parser.add_argument("--keep", action="store_true", help="leave everything up until Ctrl-C, to look around")
    parser.add_argument(
        "--workload", choices=workloads.NAMES, default=workloads.SYNTHETIC, help="torch: a real training job"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what happened as JSON")


def _listen(inner_port: int) -> tuple[int, str]:
    """A listening descriptor for one inner port, and its URL out here; the usual port where it is free."""
    try:
        listener = sandbox.listen(PREFERRED_PORTS[inner_port])
    except LabError:
        listener = sandbox.listen()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    return listener.detach(), url


def main(arguments: argparse.Namespace) -> int:
    """Return 0 when every step happened and the right links were named, 1 when not, 2 when it cannot run here."""
    sandbox.require()
    workloads.require(arguments.workload)
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    directory = Path(tempfile.mkdtemp(prefix="fabric-demo-"))
    prometheus, prometheus_url = _listen(PROMETHEUS_PORT)
    alertmanager, alertmanager_url = _listen(ALERTMANAGER_PORT)
    words = [
        sys.executable,
        "-m",
        "lab.demo.stage",
        f"--directory={directory}",
        f"--seed={seed}",
        f"--forward={prometheus}=127.0.0.1:{PROMETHEUS_PORT}",
        f"--forward={alertmanager}=127.0.0.1:{ALERTMANAGER_PORT}",
        f"--url=Prometheus={prometheus_url}",
        f"--url=Alertmanager={alertmanager_url}",
        f"--workload={arguments.workload}",
    ]
    if arguments.keep:
        words.append("--keep")
    if arguments.report is not None:
        words.append(f"--report={arguments.report.absolute()}")
    code = sandbox.run(words, show=[directory], pass_fds=[prometheus, alertmanager])
    if code == 0 or code >= FIRST_SIGNAL_CODE:  # told, or stopped by a signal: nobody will look into the files
        shutil.rmtree(directory, ignore_errors=True)
    else:
        print(f"logs and files of this run: {directory}", file=sys.stderr)
    return code
