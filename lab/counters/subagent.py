"""The scripted subagent of one switch: ``python -I -S subagent.py SWITCH.json`` under snmpd's ``pass_persist``.

snmpd starts it at the first request for one of its subtrees, asks one line at a time, and starts it again when
it has died. It imports next to nothing, since the first request waits for it, and holds no state of its own.
"""

from __future__ import annotations

import bisect
import json
import sys
import time
from collections.abc import Iterable, Iterator

if __name__ == "__main__":  # started by path, in isolation: the package is two directories up
    sys.path.insert(0, __file__.rpartition("/lab/")[0])

from lab.counters.dialects import Oid, Rows, rows
from lab.counters.kernel import SWITCH_SETS, Kernel
from lab.counters.switch import Port, switch_values
from lab.counters.timeline import Watched

CACHE_SECONDS = 0.5  # one walk sees one moment, and a real switch's agent is no fresher


class Table:
    """The rows of one switch, computed afresh when they have become old."""

    def __init__(self, switch: str, ports: list[Port], watched: Watched, kernel: Kernel) -> None:
        self._switch, self._ports = switch, ports
        self._watched, self._kernel = watched, kernel
        self._read = float("-inf")
        self._rows: Rows = {}
        self._order: list[Oid] = []

    def get(self, oid: Oid) -> tuple[str, int] | None:
        self._refresh()
        return self._rows.get(oid)

    def following(self, oid: Oid) -> Oid | None:
        """The first row after ``oid``."""
        self._refresh()
        at = bisect.bisect_right(self._order, oid)
        return self._order[at] if at < len(self._order) else None

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._read < CACHE_SECONDS:
            return
        t, timeline = self._watched.moment()
        reading = self._kernel.read()
        values = switch_values(timeline, self._switch, self._ports, reading, t)
        fresh = rows(timeline, self._switch, self._ports, reading, values, t)
        if fresh.keys() != self._rows.keys():
            self._order = sorted(fresh)
        self._rows, self._read = fresh, now


def converse(lines: Iterable[str], table: Table) -> Iterator[str]:
    """Answer snmpd's lines (snmpd.conf(5), pass_persist); each item is one whole answer."""
    words = iter(lines)
    for line in words:
        match line.strip().lower():
            case "":  # snmpd takes its leave
                return
            case "ping":
                yield "PONG\n"
            case "get":
                oid = _parse(next(words, ""))
                yield _answer(table, oid)
            case "getnext":
                oid = _parse(next(words, ""))
                yield _answer(table, None if oid is None else table.following(oid))
            case "set":
                next(words, ""), next(words, "")
                yield "not-writable\n"
            case _:
                yield "NONE\n"


def _answer(table: Table, oid: Oid | None) -> str:
    found = None if oid is None else table.get(oid)
    if oid is None or found is None:
        return "NONE\n"
    return f".{'.'.join(map(str, oid))}\n{found[0]}\n{found[1]}\n"


def _parse(text: str) -> Oid | None:
    try:
        return tuple(int(part) for part in text.strip().strip(".").split("."))
    except ValueError:
        return None


def main() -> None:
    with open(sys.argv[1], "rb") as file:
        document = json.load(file)
    ports = [Port(name, to_host) for name, to_host in document["ports"]]
    table = Table(document["switch"], ports, Watched(document["timeline"]), Kernel(*SWITCH_SETS))
    for answer in converse(sys.stdin, table):
        sys.stdout.write(answer)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
