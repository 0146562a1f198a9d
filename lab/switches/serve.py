"""Agents behind UDP ports of one address: within an event loop, from a thread, or as a process of their own.

``python -m lab.switches.serve --count 500`` prints "ready" once all are bound, and serves until it is told to stop.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lab.switches.agent import Agent
from lab.switches.generated import NAME, sonic
from lab.switches.walk import Walk

_LONGEST = 65535
_OTHER_FILES = 100


class Serving:
    """Agents, each behind a port of its own; these are bound at once, and answered on while an event loop runs.

    ``async with Serving(agents) as ports`` serves in the loop that runs; a test without one takes ``serving``.
    """

    def __init__(self, agents: Sequence[Agent], first_port: int = 0, address: str = "127.0.0.1") -> None:
        """Bind a port for each agent: ``first_port`` and those after it, or any if it is 0."""
        self._agents = agents
        self._sockets: list[socket.socket] = []
        self._late: set[asyncio.TimerHandle] = set()
        try:
            for number in range(len(agents)):
                bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                self._sockets.append(bound)
                bound.setblocking(False)
                bound.bind((address, first_port + number if first_port else 0))
        except OSError:
            self.close()
            raise
        self.ports: list[int] = [bound.getsockname()[1] for bound in self._sockets]

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer from now on. To be called in the thread of the loop."""
        # A reader costs much of what a datagram endpoint of asyncio does, which matters with 500 of them.
        for bound, agent in zip(self._sockets, self._agents, strict=True):
            loop.add_reader(bound.fileno(), self._answer, loop, bound, agent)

    def stop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer no more, and give the ports back. To be called in the thread of the loop."""
        for bound in self._sockets:
            loop.remove_reader(bound.fileno())
        for timer in self._late:
            timer.cancel()
        self.close()

    def close(self) -> None:
        """Give the ports back, if they have never been answered on."""
        for bound in self._sockets:
            bound.close()

    async def __aenter__(self) -> list[int]:
        self.start(asyncio.get_running_loop())
        return self.ports

    async def __aexit__(self, *_: object) -> None:
        self.stop(asyncio.get_running_loop())

    def _answer(self, loop: asyncio.AbstractEventLoop, bound: socket.socket, agent: Agent) -> None:
        try:
            datagram, asker = bound.recvfrom(_LONGEST)
        except OSError:  # nothing there after all, or an error of an earlier answer
            return
        answer = agent.answer(datagram)
        if answer is None:
            return
        if agent.delay:
            self._late = {timer for timer in self._late if timer.when() > loop.time()}
            self._late.add(loop.call_later(agent.delay, _send, bound, answer, asker))
        else:
            _send(bound, answer, asker)


def _send(bound: socket.socket, answer: bytes, asker: tuple[str, int]) -> None:
    with suppress(OSError):  # what cannot be sent is lost, as on any network
        bound.sendto(answer, asker)


@contextmanager
def serving(agents: Sequence[Agent]) -> Iterator[list[int]]:
    """Serve agents from a thread; the value is their ports."""
    loop = asyncio.new_event_loop()
    try:
        served = Serving(agents)
        thread = threading.Thread(target=loop.run_forever, name="switches", daemon=True)
        thread.start()
        loop.call_soon_threadsafe(served.start, loop)
        try:
            yield served.ports
        finally:
            loop.call_soon_threadsafe(served.stop, loop)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
    finally:
        loop.close()


def _agents(arguments: argparse.Namespace) -> list[Agent]:
    walk: Walk
    walk = Walk.from_snmprec(arguments.recorded) if arguments.recorded else sonic(arguments.ports, arguments.priorities)
    agents = []
    for number in range(arguments.count):
        own = walk.copy()
        if not arguments.recorded:
            own.set(NAME, b"leaf-%d" % number)
        agents.append(Agent(own, arguments.community.encode(), max_bytes=arguments.max_bytes))
    return agents


async def _serve(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with Serving(_agents(arguments), arguments.first_port, arguments.address):
        gc.freeze()  # what there is now stays: the collector need not look through millions of values
        print("ready", flush=True)
        await stopped.wait()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m lab.switches.serve", description="Simulated switches that answer SNMP.")
    parser.add_argument("--count", type=int, default=1, help="switches")
    parser.add_argument("--ports", type=int, default=64, help="ports of each switch")
    parser.add_argument("--priorities", type=int, default=8, help="priorities, and queues, of each port")
    parser.add_argument("--recorded", type=Path, help="serve this .snmprec file instead of generated switches")
    parser.add_argument("--first-port", type=int, default=20000, help="UDP port of the first switch; the others follow")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--community", default="public")
    parser.add_argument("--max-bytes", type=int, default=1472, help="longest answer")
    arguments = parser.parse_args(words)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = arguments.count + _OTHER_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
    asyncio.run(_serve(arguments))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
