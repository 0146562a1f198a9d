"""The training job's bytes, for real: ``python -m lab.jobs.traffic --job FILE`` inside a running lab.

One process holds one TCP connection per direction, pair of workers and rail, each end in its host's network
namespace, and sends what the schedule of ``lab.jobs.schedule`` says when it says so. Each iteration prints one
line of JSON. It outlives every fault: what does not arrive by the deadline is abandoned, and the
next iteration connects anew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from exporter.contracts.codec import ContractError, read
from lab.errors import LabError
from lab.jobs.job import Job, Nic, Worker
from lab.jobs.schedule import Iteration, draw_iteration
from lab.sandbox.netns import socket_in

LISTEN_PORT = 20_000
FIRST_PORT = 20_001  # fixed, so that a connection made anew takes the same path; below the ephemeral range
DSCP = 26
USER_TIMEOUT_MS = 5_000
CONNECT_SECONDS = 2.0
CHUNK = 1 << 20
LONGEST_READ = 1 << 22
_ZEROS = memoryview(bytes(CHUNK))
_SCRATCH = bytearray(LONGEST_READ)
_NO_LINGER = struct.pack("ii", 1, 0)  # close with a reset: no port is left waiting
BROKEN = (OSError, asyncio.TimeoutError, LabError)


class Flow:
    """One direction between two workers on one rail. ``received`` counts what came out at the far end."""

    def __init__(self, source: Worker, out: Nic, into: Nic, port: int, pace: float) -> None:
        self.address = (out.ip, port)
        self.received = 0
        self._source, self._into, self._pace = source, into, pace
        self._sent = 0
        self._sender: socket.socket | None = None
        self._receiver: socket.socket | None = None
        self._turn = asyncio.Lock()
        self._progress = asyncio.Event()

    async def send(self, size: int) -> None:
        """Send ``size`` bytes and wait until they have arrived; raise OSError when the connection breaks."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            sender = self._sender or await self._connect()
            self._sent += size
            goal = self._sent
            for done in range(0, size, CHUNK):
                await loop.sock_sendall(sender, _ZEROS[: min(CHUNK, size - done)])
        while self.received < goal:
            if self._sender is not sender:
                raise ConnectionResetError
            self._progress.clear()
            await self._progress.wait()

    async def _connect(self) -> socket.socket:
        sender = socket_in(self._source.host)
        try:
            sender.setblocking(False)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            sender.setsockopt(socket.SOL_SOCKET, 47, int(self._pace))  # SO_MAX_PACING_RATE, bytes per second
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, DSCP << 2)
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sender.bind(self.address)
            connecting = asyncio.get_running_loop().sock_connect(sender, (self._into.ip, LISTEN_PORT))
            await asyncio.wait_for(connecting, CONNECT_SECONDS)
        except BaseException:
            sender.close()
            raise
        self._sent = self.received = 0
        self._sender = sender
        return sender

    def accept(self, receiver: socket.socket) -> None:
        """Take the far end's socket and count what it brings, without copying it (MSG_TRUNC, tcp(7))."""
        loop = asyncio.get_running_loop()
        self._close_receiver()
        self._receiver = receiver

        def read_some() -> None:
            try:
                count = receiver.recv_into(_SCRATCH, LONGEST_READ, socket.MSG_TRUNC)
            except BlockingIOError:
                return
            except OSError:
                count = 0
            if not count:
                self.drop()
                return
            self.received += count
            self._progress.set()

        loop.add_reader(receiver, read_some)

    def drop(self) -> None:
        """Give the connection up; the next send makes a new one."""
        if self._sender is not None:
            asyncio.get_running_loop().remove_writer(self._sender)
            self._sender.close()
            self._sender = None
        self._close_receiver()
        self._progress.set()

    def _close_receiver(self) -> None:
        if self._receiver is not None:
            asyncio.get_running_loop().remove_reader(self._receiver)
            self._receiver.close()
            self._receiver = None


class Traffic:
    """All flows of one job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.flows: dict[tuple[int, int, int], Flow] = {}  # (source, destination, rail place) -> flow
        self._by_address: dict[tuple[str, int], Flow] = {}
        self._listeners: list[socket.socket] = []
        index = {worker.container: number for number, worker in enumerate(job.workers)}
        port = FIRST_PORT
        for one, other, role in job.pairs():
            pace = job.bandwidth / (job.data_parallel - 1 if role == "dp" else 1)
            for source, destination in ((one, other), (other, one)):
                for place, (out, into) in enumerate(zip(source.nics, destination.nics, strict=True)):
                    flow = Flow(source, out, into, port, pace)
                    self.flows[index[source.container], index[destination.container], place] = flow
                    self._by_address[flow.address] = flow
                    port += 1

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen on every RNIC while the block runs; close everything after it."""
        loop = asyncio.get_running_loop()
        try:
            for worker in self.job.workers:
                for nic in worker.nics:
                    listener = socket_in(worker.host)
                    self._listeners.append(listener)
                    listener.setblocking(False)
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listener.bind((nic.ip, LISTEN_PORT))
                    listener.listen(64)
                    loop.add_reader(listener, self._accept, listener)
            yield
        finally:
            for listener in self._listeners:
                loop.remove_reader(listener)
                listener.close()
            for flow in self.flows.values():
                flow.drop()

    def _accept(self, listener: socket.socket) -> None:
        try:
            receiver, address = listener.accept()
        except OSError:
            return
        receiver.setblocking(False)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        flow = self._by_address.get((address[0], address[1]))
        if flow is None:
            receiver.close()
        else:
            flow.accept(receiver)

    async def iterate(self, iteration: Iteration, deadline: float) -> tuple[int, int]:
        """Move one iteration's bytes; return (transfers that arrived, transfers). Returns by ``deadline`` seconds."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        rails = len(self.job.workers[0].nics)

        async def move(flow: Flow, start: float, size: int) -> None:
            await asyncio.sleep(begin + start - loop.time())
            try:
                await flow.send(size)
            except BROKEN:
                flow.drop()
                raise

        tasks = {}
        for transfer in iteration.transfers:
            for place in range(rails):
                flow = self.flows[transfer.source, transfer.destination, place]
                tasks[asyncio.ensure_future(move(flow, transfer.start, round(transfer.size)))] = flow
        try:
            done, pending = await asyncio.wait(tasks, timeout=deadline)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for task in pending:
            tasks[task].drop()
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, (*BROKEN, asyncio.CancelledError)):
                raise outcome
        return sum(not task.cancelled() and task.exception() is None for task in done), len(tasks)

    async def run(self, *, seconds: float | None, seed: int) -> None:
        """Iterate until cancelled, or for about ``seconds``; print one line of JSON per iteration."""
        loop = asyncio.get_running_loop()
        draw = random.Random(seed)
        first, number = loop.time(), 0
        with self.listening():
            while seconds is None or loop.time() - first < seconds:
                iteration = draw_iteration(self.job, draw)
                began, begin = time.time(), loop.time()
                arrived, wanted = await self.iterate(iteration, 2 * iteration.length + USER_TIMEOUT_MS / 1000)
                await asyncio.sleep(begin + iteration.length - loop.time())
                line = {
                    "iteration": number,
                    "time": round(began, 3),
                    "seconds": round(loop.time() - begin, 3),
                    "planned_seconds": round(iteration.length, 3),
                    "transfers": wanted,
                    "abandoned": wanted - arrived,
                }
                print(json.dumps(line), flush=True)
                number += 1


async def _until_told(traffic: Traffic, seconds: float | None, seed: int) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(traffic.run(seconds=seconds, seed=seed))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab.jobs.traffic", description="Move a drawn job's bytes in a lab."
    )
    parser.add_argument("--job", type=Path, required=True, help="the job, as lab.jobs.job.draw_job made it, in JSON")
    parser.add_argument("--seconds", type=float, help="stop after about this long (default: at a signal)")
    parser.add_argument("--seed", type=int, default=0, help="of the iterations' jitter")
    arguments = parser.parse_args(words)
    try:
        job = read(arguments.job, Job)
        asyncio.run(_until_told(Traffic(job), arguments.seconds, arguments.seed))
    except (ContractError, LabError, BrokenPipeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
