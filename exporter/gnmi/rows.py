"""The rows of one switch in the store: written whole, gone when the switch no longer tells them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping

from exporter.contracts.metric import Metric, Table
from exporter.contracts.switch_counters import (
    SIGNALS,
    SWITCH,
    SWITCH_COVERAGE_TABLE,
    SWITCH_INFO_TABLE,
    SWITCH_POLL_DURATION,
    SWITCH_POLL_FAILURES,
    SWITCH_POLL_ROWS,
    SWITCH_POLL_TIME,
    SWITCH_POLLS,
    SWITCH_REACHABLE,
)
from exporter.gnmi.settings import MOST_ROWS
from exporter.gnmi.tree import Rows
from exporter.store import RowWriter, Store, TableWriter

_OWN = {metric: column for column, metric in enumerate(SWITCH.metrics)}
_FROM_ZERO = {SWITCH_POLLS, SWITCH_POLL_FAILURES}  # what else the table counts is not to be seen over gNMI: absent


def writers(store: Store) -> dict[Table, TableWriter]:
    """One writer a table, which all switches of the process share."""
    return {table: store.writer(table) for table in store.tables}


class SwitchRows:
    """What one switch tells, in the store that all of them share."""

    def __init__(self, writers: Mapping[Table, TableWriter], switch: str) -> None:
        self._switch = switch
        self._tables = {table: _Rows(writers[table], table, most) for table, most in MOST_ROWS.items()}
        self._info = _Rows(writers[SWITCH_INFO_TABLE], SWITCH_INFO_TABLE, 1)
        self._coverage = _Rows(writers[SWITCH_COVERAGE_TABLE], SWITCH_COVERAGE_TABLE, len(SIGNALS))
        first = array("d", [0.0 if metric in _FROM_ZERO else math.nan for metric in SWITCH.metrics])
        self._own = writers[SWITCH].add((switch,), first)

    def begin(self) -> None:
        """Count an attempt at subscribing."""
        self._count(SWITCH_POLLS)

    def connected(self, seconds: float, profile: str, version: str) -> None:
        """The switch took the subscriptions, ``seconds`` after the attempt began."""
        self._set({SWITCH_REACHABLE: 1.0, SWITCH_POLL_DURATION: seconds})
        self._info.say([(self._switch, profile, "", version, "gnmi")])

    def put(self, rows: Rows, leaves: int, heard: float | None) -> int:
        """Have these rows and no others; return how many there was no room for.

        ``heard``: Unix time of the newest value, None before the first; ``leaves``: number of values told.
        """
        left_out = sum(own.put(rows.get(table, {})) for table, own in self._tables.items())
        self._set({SWITCH_POLL_ROWS: float(leaves)})
        if heard is not None:
            self._set({SWITCH_POLL_TIME: heard})
        return left_out

    def cover(self, states: Mapping[str, str]) -> None:
        self._coverage.say([(self._switch, signal, state) for signal, state in states.items()])

    def fail(self) -> None:
        """Take back what was told: old values would look like health."""
        self._count(SWITCH_POLL_FAILURES)
        self._set({SWITCH_REACHABLE: 0.0, SWITCH_POLL_ROWS: 0.0})
        for own in self._tables.values():
            own.put({})

    def _set(self, values: Mapping[Metric, float]) -> None:
        self._own.begin()
        for metric, value in values.items():
            self._own.set(_OWN[metric], value)
        self._own.end()

    def _count(self, metric: Metric) -> None:
        self._own.begin()
        self._own.add(_OWN[metric])
        self._own.end()


class _Rows:
    """Rows of one table that are one switch's, at most ``most``."""

    def __init__(self, writer: TableWriter, table: Table, most: int) -> None:
        self._writer = writer
        self._metrics = table.metrics
        self._most = most
        self._rows: dict[tuple[str, ...], RowWriter] = {}

    def put(self, wanted: Mapping[tuple[str, ...], Mapping[Metric, float]]) -> int:
        """Return how many rows were left out: too many, or labels too long for the store."""
        for labels in [labels for labels in self._rows if labels not in wanted]:
            self._writer.remove(self._rows.pop(labels))
        left_out = 0
        for labels, told in wanted.items():
            values = array("d", [told.get(metric, math.nan) for metric in self._metrics])
            row = self._rows.get(labels)
            if row is not None:
                row.put(values)
                continue
            if len(self._rows) >= self._most:
                left_out += 1
                continue
            try:
                self._rows[labels] = self._writer.add(labels, values)
            except ValueError:
                left_out += 1
        return left_out

    def say(self, wanted: Iterable[tuple[str, ...]]) -> None:
        """Have rows with these labels, which say it all."""
        metric = self._metrics[0]
        self.put({labels: {metric: 1.0} for labels in wanted})
