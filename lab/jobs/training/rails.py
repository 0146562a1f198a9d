"""Each rank's connections keep to its rail.

``GLOO_SOCKET_IFNAME`` says where gloo listens; where it connects *from* is the kernel's choice. A multi-rail
host answers that with one subnet per rail. The lab's overlay is one subnet, so here it is one route
per remote address.
"""

from __future__ import annotations

import subprocess

from lab.errors import LabError
from lab.jobs.job import Worker
from lab.jobs.training.shape import Training


def keep_to_rails(training: Training, worker: Worker) -> None:
    """Route every remote address of a rail out of the container's own interface on that rail."""
    lines = [
        f"route replace {there.address}/32 dev {own.netdev} src {own.address}"
        for own in training.places[worker.container]
        for container, places in training.places.items()
        for there in places
        if container != worker.container and there.rail == own.rail
    ]
    argv = ["ip", "-n", worker.container, "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"routes in {worker.container}: {' '.join(done.stderr.split())}")
