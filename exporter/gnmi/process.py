"""The gNMI process: one task a switch, so that a dead or slow one delays no other.

Started as ``python -m exporter.gnmi.process STORE CONTROL``. It ends when the pipe closes.
"""

from __future__ import annotations

import asyncio
import os
import socket

from exporter.gnmi.rows import SwitchRows, writers
from exporter.gnmi.settings import GnmiSettings, gnmi_tables
from exporter.inheritance import inherit
from exporter.store import Store


async def stream(settings: GnmiSettings, store: Store, control: socket.socket) -> None:
    # gRPC's own log lines say what a stranger sent, and each failure is told in a line of ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from exporter.gnmi.session import follow  # noqa: PLC0415 - gRPC reads its environment as it is imported

    store.clear()
    shared = writers(store)
    tasks = [asyncio.create_task(follow(target, SwitchRows(shared, target.name))) for target in settings.targets]
    # The pipe carries nothing more; it becomes readable when the control process is gone. A task only
    # ends by a bug: then we die loudly, and the control process starts us again.
    control.setblocking(False)
    closed = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(control, 1))
    await asyncio.wait([closed, *tasks], return_when=asyncio.FIRST_COMPLETED)
    failed = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    for task in failed:
        task.result()


def main() -> None:
    given = inherit(GnmiSettings)
    asyncio.run(stream(given.settings, Store(gnmi_tables(len(given.settings.targets)), *given.memory), given.control))


if __name__ == "__main__":
    main()
