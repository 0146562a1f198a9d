"""The gNMI process: one task a switch, so that a dead or slow one delays no other.

Started as ``python -m exporter.gnmi.process STORE CONTROL``. It ends when the pipe closes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

import msgspec

from exporter.gnmi.rows import SwitchRows, writers
from exporter.gnmi.settings import GnmiSettings, gnmi_tables
from exporter.messages import receive_message
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
    store_descriptor, control_descriptor = map(int, sys.argv[1:3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=control_descriptor)
    first = receive_message(control)
    if first is None:
        return
    settings = msgspec.msgpack.decode(first, type=GnmiSettings)
    asyncio.run(stream(settings, Store(gnmi_tables(len(settings.targets)), store_descriptor), control))


if __name__ == "__main__":
    main()
