"""When within its period a path is probed."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence

from exporter.contracts.plan import Target
from exporter.probing.loop import FEW, SLOT_NS

_TOGETHER = 20


def phases(targets: Sequence[Target]) -> dict[str, float]:
    """{path: its place in the period, 0 to below 1}, in the order of the plan, evenly for each source address.

    The planner has each source begin with the destination that follows it, so that of sources that go through their
    lists together no two probe one destination at once. Within its share of the period a path's place is drawn from
    its name: sources with one target each, all of one destination, are spread as well.
    """
    lists: dict[str, list[str]] = defaultdict(list)
    for target in targets:
        lists[target.source_address].append(target.path)
    return {
        path: (place + zlib.crc32(path.encode()) / 2**32) / len(own)
        for own in lists.values()
        for place, path in enumerate(own)
    }


def slots_apart(period_seconds: float, probes_per_second: float) -> int:
    """In each how many slots a path of this period may be sent, for so many probes a second in all.

    Some twenty leave together, since the waking costs more than they do; but none is off its time by more than a
    tenth of its period.
    """
    for every in (FEW, FEW // 2, 2):
        seconds = every * SLOT_NS / 1e9
        if seconds <= period_seconds / 10 and seconds * probes_per_second <= _TOGETHER:
            return every
    return 1


def next_due(phase: float, period_ns: int, now_ns: int, unix_ns: int) -> int:
    """The first moment from ``now_ns`` (monotonic) on when Unix time stands at ``phase`` of a period.

    By Unix time, so that the sources of a plan keep their order, and a path its place over restarts.
    """
    return now_ns + (int(phase * period_ns) - unix_ns) % period_ns
