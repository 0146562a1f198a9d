"""What is amiss with followed sources, told once of each on standard error: wrong clocks, and what cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from skeleton_service.diagnosis.unused import Unused, refuse_all

AHEAD_SECONDS = 2
"""By so much a host's clock may be ahead of this one's."""
_NAMED = 3


class Clocks:
    """Whose clocks are wrong."""

    def __init__(self) -> None:
        self._late: set[str] = set()
        self._ahead: set[str] = set()

    def tell_late(self, answers: Mapping[str, pa.Table], edge: float, settled: float, now: float) -> None:
        """Say whose records come too late: its clock is slow, or it was busy. Times are seconds since the epoch.

        Probes before ``edge`` have been diagnosed. Whose newest record, be it a trace, is older than ``settled``, when
        all timeouts had passed, will have nothing to say when it is asked for what is younger.
        """
        for name, table in answers.items():
            others = pc.is_in(table["task_type"], pa.array(["TRACEROUTE", "DNS"]))
            probed = pc.max(table.filter(pc.invert(others))["ping_time"]).as_py()
            if probed is None or name in self._late:
                continue
            if probed < edge * 1e9 or pc.max(table["ping_time"]).as_py() < settled * 1e9:
                self._late.add(name)
                age = now - probed / 1e9
                _tell(f"{name}: its newest record is {age:.0f} s old, too late: is its clock right?")

    def tell_ahead(self, answers: Mapping[str, pa.Table], time: str, unit: float, host: str, now: float) -> None:
        """Say whose records are of times to come. ``time`` and ``host`` are columns, ``unit`` the former's seconds."""
        found = []
        for name, table in answers.items():
            newest = pc.max(table[time]).as_py()
            if newest is not None and newest * unit > now + AHEAD_SECONDS and name not in self._ahead:
                self._ahead.add(name)
                own = table.filter(pc.equal(table[time], newest))[host][0].as_py()
                found.append(f"{name}{f' ({own})' if own else ''} by {newest * unit - now:.0f} s")
        if found:
            _tell(f"clock ahead of this one: {_some(found)}: what is yet to come waits: is it right?")


class Leftovers:
    """What of the sources' answers cannot be used. Where none of the first can, there is nothing to follow."""

    def __init__(self, find: Callable[[pa.Table], list[Unused]], reasons: Sequence[str]) -> None:
        self._find = find
        self._told: dict[str, set[str]] = {reason: set() for reason in reasons}
        """By reason, the sources that were told of."""
        self._begun = False

    def tell(self, answers: Mapping[str, pa.Table]) -> None:
        """Name what is new, in a line for each reason; raise ContractError for first answers that are of no use."""
        answers = {name: table for name, table in answers.items() if len(table)}
        if answers and not self._begun:
            self._begun = True
            refuse_all(self._find(pa.concat_tables(answers.values())), list(answers))
        found: dict[frozenset[str], list[Unused]] = {}  # all reasons have the same sources, mostly
        for reason, told in self._told.items():
            untold = frozenset(answers) - told
            if untold and untold not in found:
                found[untold] = self._find(pa.concat_tables([answers[name] for name in untold]))
            for unused in found.get(untold, ()):
                if unused.reason == reason:
                    own = [name for name in sorted(untold) if self._has(answers[name], reason)]
                    told.update(own)
                    _tell(f"{unused.line} (from {_some(own)})")

    def _has(self, table: pa.Table, reason: str) -> bool:
        return any(unused.reason == reason for unused in self._find(table))


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
