"""The RDMA process: probes and answers over RoCEv2, for the targets of type ``rdma`` that come down a pipe.

Started as ``python -m exporter.rdma.process STORE RESULTS CONTROL`` with three descriptors. It is a process of its own
because every call of pyverbs holds the interpreter's lock. Where pyverbs cannot be used it says so, once, and waits for
the end, with every RNIC down. It ends when the pipe closes.
"""

from __future__ import annotations

import sys

from exporter.contracts.catalogue import RDMA, RDMA_UP
from exporter.inheritance import inherit
from exporter.messages import receive_message
from exporter.probing.loop import Loop
from exporter.probing.settings import RESULT_CAPACITY
from exporter.rdma.ports import VerbsError
from exporter.rdma.settings import RdmaSettings, rdma_tables
from exporter.rdma.starvation import Continuations, run_delay
from exporter.results import ResultRing
from exporter.store import Store


def main() -> None:
    given = inherit(RdmaSettings)
    settings, (memory, results) = given.settings, given.memory
    tables = rdma_tables(settings.max_paths, len(settings.rnics), reliable=settings.reliable is not None)
    store = Store(tables, memory)
    try:
        from exporter.rdma.host import RdmaHost  # noqa: PLC0415 - imports pyverbs, which may not be there
    except VerbsError as error:
        print(f"no RDMA probes: {error}", file=sys.stderr, flush=True)
        store.clear()
        rows = store.writer(RDMA)
        for name in settings.rnics:
            rows.add((settings.host, name)).set(RDMA.metrics.index(RDMA_UP), 0)
        while receive_message(given.control) is not None:
            pass
        return
    loop = Loop(run_delay=run_delay())
    loop.watch(Continuations(loop))
    RdmaHost(settings, store, ResultRing(RESULT_CAPACITY, results), given.control, loop).run()


if __name__ == "__main__":
    main()
