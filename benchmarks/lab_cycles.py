"""The lab up and down, many times: how long each takes, and whether anything is left over.

``make bench-lab``: 2 pods, 4 rails, 16 hosts, 100 times. Exit code 1 when one time was over its bound or something
was left. A rival there is not; the bounds are those of docs/lab.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.network.design import draw
from lab.running import Running

UP_BOUND, DOWN_BOUND = 10.0, 3.0  # seconds


@dataclass(frozen=True)
class Machine:
    """What a lab could leave on the machine's own side."""

    interfaces: frozenset[str]
    mounts: int

    @classmethod
    def now(cls) -> Machine:
        links = frozenset(path.name for path in Path("/sys/class/net").iterdir())
        return cls(links, len(Path("/proc/self/mounts").read_text().splitlines()))


def namespaces(kinds: Sequence[str] = ("pid", "net", "mnt")) -> dict[int, set[str]]:
    """The namespaces of every process that we may ask."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found[int(process.name)] = {str((process / "ns" / kind).readlink()) for kind in kinds}
        except OSError:
            continue
    return found


def inside(first: int) -> set[str]:
    """The namespaces of a lab whose first process is ``first``, those of its nodes among them."""
    own = namespaces(("pid",)).get(first, set())
    members = [pid for pid, held in namespaces(("pid",)).items() if held & own]
    everything = namespaces()
    return set().union(*(everything.get(pid, set()) for pid in members)) - everything[os.getpid()]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab_cycles", description=__doc__)
    parser.add_argument("--times", type=int, default=100)
    arguments = parser.parse_args(words)
    running = Running("bench-cycles")
    running.down()
    before = Machine.now()
    ups: list[float] = []
    downs: list[float] = []
    for number in range(arguments.times):
        began = time.monotonic()
        running.up(draw(number, rails=4, hosts_per_pod=8), die_with_parent=True)
        up = time.monotonic()
        dead = running.dead_daemons()
        held = inside(running.need().first.pid)
        asked = time.monotonic()
        running.down()
        downs.append(time.monotonic() - asked)
        ups.append(up - began)
        after = Machine.now()
        survivors = [pid for pid, theirs in namespaces().items() if theirs & held]
        left = [f"{name}: {getattr(before, name)} -> {getattr(after, name)}" for name in vars(before)]
        changed = [
            line for line, name in zip(left, vars(before), strict=True) if vars(before)[name] != vars(after)[name]
        ]
        if survivors:
            changed.append(f"processes {survivors}")
        if running.directory.exists():
            changed.append(f"directory {running.directory}")
        if dead or changed:
            print(f"{number}: dead {dead}, left over {changed}", file=sys.stderr)
            return 1
        if number % 10 == 9:
            print(f"{number + 1} of {arguments.times}: up {max(ups[-10:]):.1f} s at most", flush=True)
    print(
        f"\n{'':<6}{'median':>8}{'p95':>8}{'worst':>8}{'bound':>8}   seconds, {len(ups)} times, 16 hosts, 10 switches"
    )
    met = True
    for name, times, bound in (("up", ups, UP_BOUND), ("down", downs, DOWN_BOUND)):
        ordered = sorted(times)
        p95 = ordered[int(0.95 * (len(ordered) - 1))]
        print(f"{name:<6}{statistics.median(times):8.2f}{p95:8.2f}{ordered[-1]:8.2f}{bound:8.1f}")
        met &= ordered[-1] <= bound
    print("nothing left over" if met else "a bound was broken")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
