"""The process that follows the failures of one job: ``python -m skeleton_service.live.follower``, by ``Diagnoses``.

What it is to do comes over standard input. After each round what is broken goes to standard output, as a length and a
diagnosis in MessagePack; what appears and ends goes to standard error, in words. A process of its own, since a job's
probe records may be more than there is memory for: the kernel ends it before it ends the service.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Final

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.fabric import Fabric
from exporter.contracts.job import Job
from exporter.contracts.names import port_id
from exporter.contracts.skeleton import Skeleton
from exporter.contracts.topology import Topology
from skeleton_service.live.memory import map_from
from skeleton_service.live.parenthood import end_with_parent
from skeleton_service.live.planner import unobserved

if TYPE_CHECKING:
    import pyarrow as pa

HEAD_BYTES: Final = 4
MOST_BYTES: Final = 16 << 20
_MOST_FAILURES, _MOST_PATHS = 50, 1000
"""Told of, and pairs of each."""
_MOST_NAME = 300
_OTHERS = "other jobs"


class Work(msgspec.Struct, frozen=True, kw_only=True):
    parent: int
    topology: msgspec.Raw
    job: Job
    skeleton: Skeleton | None
    """None of a job whose traffic was not seen yet."""
    probes: dict[str, str]
    """{URL: host}"""
    interval: float
    first_seconds: int
    """How far back it looks at first."""


def attributed(table: pa.Table, host: str, job: str, rnics: frozenset[str]) -> pa.Table:
    """Of probe records those that this host may tell of, under the job's name where both ends are RNICs of the job.

    An exporter that was taken over tells of its own host alone. Other jobs' paths stay, since those that are well speak
    for the links that they cross; of a path that several jobs have, records name one of them.
    """
    import pyarrow as pa  # noqa: PLC0415 - as in main
    import pyarrow.compute as pc  # noqa: PLC0415

    table = table.filter(pc.equal(table["src_node_sn"], host))
    for column in ("src_node_id", "dst_node_id"):
        table = table.filter(pc.less_equal(pc.utf8_length(pc.coalesce(table[column], "")), _MOST_NAME))
    known = pa.array(sorted(rnics), pa.string())
    here, there = (
        pc.fill_null(
            pc.is_in(pc.binary_join_element_wise(table[f"{side}_node_sn"], table[f"{side}_rnic"], ":"), known), False
        )
        for side in ("src", "dst")
    )
    foreign = pc.if_else(pc.equal(pc.coalesce(table["job"], job), job), _OTHERS, table["job"])
    named = pc.if_else(pc.and_(here, there), job, pc.if_else(pc.equal(table["task_type"], "DNS"), job, foreign))
    return table.set_column(table.column_names.index("job"), "job", named.cast(pa.string()))


def of_job(diagnosis: Diagnosis, job: str) -> Diagnosis:
    """What concerns the job, the surest first, and no more of it than a person reads."""
    failures = sorted(
        (each for each in diagnosis.failures if each.job == job),
        key=lambda each: (each.end is not None, -each.confidence),
    )
    return msgspec.structs.replace(
        diagnosis,
        failures=tuple(
            msgspec.structs.replace(each, paths=each.paths[:_MOST_PATHS]) for each in failures[:_MOST_FAILURES]
        ),
    )


def main() -> None:
    from skeleton_service.following.follow import Following, Given  # noqa: PLC0415 - Arrow is 100 MB: who starts this has none
    from skeleton_service.following.polling import read_probes  # noqa: PLC0415

    work = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Work)
    end_with_parent(work.parent)
    map_from()
    Path("/proc/self/oom_score_adj").write_text("1000")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the service's to handle
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    fabric = Fabric(msgspec.msgpack.decode(work.topology, type=Topology))
    try:
        own = unobserved(work.job, fabric)
    except ContractError as error:  # of a host that the topology has no longer
        sys.exit(str(error))
    job, rnics = work.job.job, frozenset(port_id(each.host, each.rnic) for each in own.endpoints)

    def read(url: str, since: float) -> pa.Table:
        return attributed(read_probes(url, since), work.probes[url], job, rnics)

    given = Given(
        fabric,
        work.skeleton or own,
        probes=tuple(work.probes),
        counters=(),
        overlay=None,
        output=None,
        interval=work.interval,
        spraying=False,
        first_seconds=work.first_seconds,
        read=read,
    )
    following = Following(given, stop)
    while not stop.is_set():
        began = time.monotonic()
        following.round()
        told = msgspec.msgpack.encode(of_job(following.diagnosis, job))
        if len(told) <= MOST_BYTES:
            answers.write(len(told).to_bytes(HEAD_BYTES, "big") + told)
            answers.flush()
        stop.wait(max(0.0, work.interval - (time.monotonic() - began)))
    sys.stderr.flush()
    os._exit(0)  # threads may wait for a source


if __name__ == "__main__":
    main()
