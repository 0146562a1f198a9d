"""Packets that arrive later: ``python -m lab.network.delay --node NODE --queue N --microseconds D [--jitter J]``.

A stand-in for the netem queueing discipline, which many kernels lack. A rule of nftables hands the packets that
match to NFQUEUE ``N`` of the node; a process lets each go on after its delay. Only identifiers cross to the
process, the packets stay in the kernel. When the process ends, the rule's ``bypass`` lets packets pass at once;
so does the kernel with those beyond what it can hold. Nothing is lost, but what waits when the process is killed.

The node's namespace is the one that the packets cross: a router's ``forward`` hook is a long cable or a distant
carrier, a host's ``input`` or ``output`` hook is a slow host. The kernel's software timestamps (SO_TIMESTAMPING, and
what ping goes by on arrival) are taken outside these hooks: a prober that uses them sees a slow host only in the
answers of others. IPv4 only, as the lab is. What the delay adds to
the one asked for is the process's own way: about 100 µs on an idle machine, more on a busy one.
"""

from __future__ import annotations

import argparse
import ctypes
import heapq
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from lab.errors import LabError
from lab.network.netlink import PacketQueue, append_queue_target
from lab.sandbox.netns import inside

Hook = Literal["prerouting", "input", "forward", "output", "postrouting"]
TABLE = "delay_{}"
HOLD = "hold"  # the chain that hands packets over
LARGEST_QUEUE = 65535
PR_SET_TIMERSLACK = 29  # prctl(2)


@dataclass(frozen=True)
class Stage:
    """One delay: which packets (``match``, an expression of nft(8), all when empty), where, and how long.

    ``microseconds`` is the least delay; ``jitter`` µs more at most are drawn evenly for each packet from
    ``seed``. ``queue`` is a number of the node's own, one per stage. Packets keep their order, as on a cable,
    unless ``reorder``.
    """

    node: str
    queue: int
    microseconds: float
    jitter: float = 0
    match: str = ""
    hook: Hook = "forward"
    seed: int = 0
    reorder: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.queue <= LARGEST_QUEUE:
            raise LabError(f"there is no queue {self.queue}", f"1 to {LARGEST_QUEUE}")
        if self.microseconds < 0 or self.jitter < 0:
            raise LabError("no packet arrives before it was sent", "a delay and a jitter of 0 µs or more")

    def command(self) -> list[str]:
        """The command line of the process that holds the packets, for the sandbox."""
        words = ["--node", self.node, "--queue", str(self.queue), "--microseconds", f"{self.microseconds:g}"]
        words += ["--jitter", f"{self.jitter:g}", "--seed", str(self.seed)]
        return [sys.executable, "-m", "lab.network.delay", *words, *(["--reorder"] if self.reorder else [])]


def script(stage: Stage, *, native: bool = True) -> str:
    """The nft script that hands what matches to the stage's queue, and counts it (``held``).

    ``native`` says it with nft's queue statement. Without it the last rule is left to ``append_queue_target``.
    """
    table = TABLE.format(stage.queue)
    hand_over = f"queue flags bypass to {stage.queue}" if native else ""
    return f"""
    add table ip {table}
    delete table ip {table}
    table ip {table} {{
        counter held {{ }}
        chain {HOLD} {{
            counter name held
            {hand_over}
        }}
        chain {stage.hook} {{
            type filter hook {stage.hook} priority 0;
            policy accept;
            {stage.match} jump {HOLD}
        }}
    }}
    """


def install(stage: Stage) -> None:
    """Put the stage's rule in place; until a process holds its queue, packets pass at once.

    Raise LabError when nft does not accept the match, or the kernel has no NFQUEUE.
    """
    done = _nft(stage.node, script(stage))
    if done.returncode == 0:
        return
    # The kernel's own queue expression is a matter of its configuration; the target of iptables is there elsewhere.
    replaced = _nft(stage.node, script(stage, native=False))
    if replaced.returncode:
        raise LabError(f"nft on {stage.node}: {' '.join(replaced.stderr.split())}")
    try:
        with inside(stage.node):
            append_queue_target(TABLE.format(stage.queue), HOLD, stage.queue)
    except OSError as error:
        remove(stage.node, stage.queue)
        raise LabError(f"this kernel hands no packets to a process: {error.strerror}", "CONFIG_NFT_QUEUE") from error


def remove(node: str, queue: int) -> None:
    """Take a rule away, if it is there; packets that wait go on when their time has come."""
    table = TABLE.format(queue)
    done = _nft(node, f"add table ip {table}\ndelete table ip {table}\n")
    if done.returncode:
        raise LabError(f"nft on {node}: {' '.join(done.stderr.split())}")


def _nft(node: str, text: str) -> subprocess.CompletedProcess[str]:
    with inside(node):
        return subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, check=False)


def begin(stage: Stage, spawn: Callable[[list[str]], object], timeout: float = 10) -> None:
    """Delay packets from now on. ``spawn`` is to start the command line it is given, inside the sandbox.

    To end it, ``remove`` the rule, then send the process SIGTERM: it ends once nothing waits any more.
    """
    install(stage)
    spawn(stage.command())
    deadline = time.monotonic() + timeout
    while not is_held(stage):
        if time.monotonic() > deadline:
            remove(stage.node, stage.queue)
            raise LabError(f"nothing holds queue {stage.queue} of {stage.node} after {timeout:g} s", "see its log")
        time.sleep(0.01)


def is_held(stage: Stage) -> bool:
    """Whether a process holds the stage's queue."""
    with inside(stage.node):
        queues = Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text().splitlines()
    return any(int(line.split()[0]) == stage.queue for line in queues)


# ---- the process that holds the packets


class Queue(Protocol):
    """What the process needs of lab.network.netlink.PacketQueue."""

    def fileno(self) -> int: ...
    def arrived(self) -> Iterable[int]: ...
    def release(self, identifier: int, *, earlier_too: bool = False) -> None: ...


class InOrder:
    """Holds packets as a cable does: none overtakes another. Times are ns."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque()  # (due, identifier), both rising

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, due: int, identifier: int) -> None:
        last = self._waiting[-1][0] if self._waiting else 0
        self._waiting.append((max(due, last), identifier))

    def next_due(self) -> int | None:
        return self._waiting[0][0] if self._waiting else None

    def release(self, now: int, queue: Queue) -> None:
        """Let go, with one verdict, all whose time has come."""
        latest = None
        while self._waiting and self._waiting[0][0] <= now:
            latest = self._waiting.popleft()[1]
        if latest is not None:
            queue.release(latest, earlier_too=True)


class AnyOrder:
    """Holds each packet for its own time, whatever came before it. Times are ns."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, due: int, identifier: int) -> None:
        heapq.heappush(self._waiting, (due, identifier))

    def next_due(self) -> int | None:
        return self._waiting[0][0] if self._waiting else None

    def release(self, now: int, queue: Queue) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            queue.release(heapq.heappop(self._waiting)[1])


def hold(queue: Queue, delay: Callable[[], int], waiting: InOrder | AnyOrder, ending: int) -> None:
    """Let every packet of ``queue`` go on after ``delay()`` ns, until the descriptor ``ending`` can be read.

    Those that wait then still get their time before this returns.
    """
    watched: list[Queue | int] = [queue, ending]
    while ending in watched or waiting:
        due = waiting.next_due()
        patience = None if due is None else max(0, due - time.monotonic_ns()) / 1e9
        ready, _, _ = select.select(watched, [], [], patience)
        if ending in ready:
            watched.remove(ending)
        for identifier in queue.arrived():
            waiting.add(time.monotonic_ns() + delay(), identifier)
        waiting.release(time.monotonic_ns(), queue)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.network.delay", description=__doc__)
    parser.add_argument("--node", required=True, help="the host or switch that the packets cross")
    parser.add_argument("--queue", type=int, required=True, help="number of the NFQUEUE, of the node's own")
    parser.add_argument("--microseconds", type=float, required=True, help="the least delay")
    parser.add_argument("--jitter", type=float, default=0, help="at most so many µs more, drawn evenly per packet")
    parser.add_argument("--seed", type=int, default=0, help="of the jitter")
    parser.add_argument("--reorder", action="store_true", help="let jitter change the order of packets")
    parser.add_argument("--hook", choices=get_args(Hook), help="install the rule too, at this hook, and remove it")
    parser.add_argument("--match", default="", help="with --hook: which packets, an expression of nft(8)")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(words)
    values = vars(arguments)
    with_rule = values["hook"] is not None
    ending, asked = os.pipe()

    def finish(_number: int, _frame: object) -> None:
        if with_rule:
            remove(stage.node, stage.queue)  # first, so that nothing comes after what waits
        os.write(asked, b".")

    # The kernel may wake an ordinary process 50 µs late to save energy: too much for a delay of microseconds.
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        stage = Stage(**{**values, "hook": values["hook"] or "forward"})
        with inside(stage.node):
            queue = PacketQueue(stage.queue)
        if with_rule:
            install(stage)
    except (LabError, OSError) as error:
        print(f"lab: delay on {arguments.node}: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, finish)
    signal.signal(signal.SIGINT, finish)
    rng = random.Random(stage.seed)
    waiting = AnyOrder() if stage.reorder else InOrder()
    hold(queue, lambda: int(1e3 * (stage.microseconds + rng.random() * stage.jitter)), waiting, ending)
    queue.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
