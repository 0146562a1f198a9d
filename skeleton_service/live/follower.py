"""The process that follows the failures of one job: ``python -m skeleton_service.live.follower``, by ``Diagnoses``.

What it is to do comes over standard input. What appears and ends goes to standard output, a line each; what is broken
now is in a file. A process of its own, since a job's probe records may be more than there is memory for.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from threading import Event

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.fabric import Fabric
from exporter.contracts.job import Job
from exporter.contracts.skeleton import Skeleton
from exporter.contracts.topology import Topology
from skeleton_service.live.memory import map_from
from skeleton_service.live.parenthood import end_with_parent
from skeleton_service.live.planner import unobserved


class Work(msgspec.Struct, frozen=True, kw_only=True):
    parent: int
    topology: str
    """A file, as MessagePack."""
    job: Job
    skeleton: Skeleton | None
    """None of a job whose traffic was not seen yet."""
    probes: tuple[str, ...]
    """URLs."""
    counters: tuple[str, ...]
    output: str
    """The diagnosis."""
    interval: float
    first_seconds: int
    """How far back it looks at first."""


def main() -> None:
    from skeleton_service.following import Given, follow  # noqa: PLC0415 - Arrow is 100 MB, and whoever starts this has none

    work = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Work)
    end_with_parent(work.parent)
    map_from()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the service's to handle
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    topology = msgspec.msgpack.decode(Path(work.topology).read_bytes(), type=Topology)
    fabric = Fabric(topology)
    try:
        skeleton = work.skeleton or unobserved(work.job, fabric)
    except ContractError as error:  # of a host that the topology has no longer
        sys.exit(str(error))
    given = Given(
        fabric,
        skeleton,
        probes=work.probes,
        counters=work.counters,
        overlay=None,
        output=Path(work.output),
        interval=work.interval,
        spraying=False,
        first_seconds=work.first_seconds,
    )
    follow(given, stop)
    sys.stdout.flush()
    os._exit(0)  # threads may wait for a source


if __name__ == "__main__":
    main()
