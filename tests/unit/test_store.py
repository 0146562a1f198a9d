"""The shared-memory store: rows come, go and are read whole, also by another process while they change."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time

import pytest

from exporter.contracts.catalogue import RTT_TABLE
from exporter.contracts.metric import Metric, Table
from exporter.snapshot import Snapshot, Snapshots
from exporter.store import Row, Store, StoreFullError

LABELS = ("name",)
TABLE = Table(
    "sample",
    LABELS,
    (
        Metric("sample.a", "gauge", "", LABELS, "A.", "rows"),
        Metric("sample.b", "gauge", "", LABELS, "B, always equal to A.", "rows"),
        Metric("sample.seen", "counter", "", LABELS, "Seen.", "rows"),
        Metric("sample.size", "histogram", "By", LABELS, "Sizes.", "rows", (1.0, 10.0)),
    ),
)
A, B, SEEN, SIZE = range(4)
STRIDE = 1_000_000_000


def names(store: Store) -> list[str]:
    return [row.labels[0] for row in store.read(TABLE)]


def test_a_new_row_has_counters_at_zero_and_gauges_absent() -> None:
    store = Store([(TABLE, 4)])
    store.writer(TABLE).add(("x",))
    (row,) = store.read(TABLE)
    assert row.labels == ("x",)
    assert [math.isnan(value) for value in row.values] == [True, True, False, False, False, False, False]
    assert list(row.values[SEEN:]) == [0.0] * 5  # a counter, then three buckets and a sum


def test_a_removed_row_is_gone_and_its_place_is_used_again_under_another_identity() -> None:
    store = Store([(TABLE, 2)])
    writer = store.writer(TABLE)
    first, _ = writer.add(("x",)), writer.add(("y",))
    first.set(A, 5)
    identity = first.identity
    writer.remove(first)
    assert names(store) == ["y"]
    again = writer.add(("z",))
    assert sorted(names(store)) == ["y", "z"]
    assert again.index == first.index
    assert again.identity != identity
    assert math.isnan(again.get(A))


def test_the_version_tells_when_rows_come_or_go() -> None:
    store = Store([(TABLE, 2)])
    writer = store.writer(TABLE)
    versions = [store.version(TABLE)]
    row = writer.add(("x",))
    versions.append(store.version(TABLE))
    row.set(A, 1)
    assert store.version(TABLE) == versions[-1]
    writer.remove(row)
    versions.append(store.version(TABLE))
    assert len(set(versions)) == 3


def test_a_full_table_says_its_name_and_size_and_keeps_its_rows() -> None:
    store = Store([(TABLE, 2)])
    writer = store.writer(TABLE)
    kept = [writer.add(("x",)), writer.add(("y",))]
    with pytest.raises(StoreFullError, match=r"^table 'sample' is full: 2 rows$"):
        writer.add(("z",))
    assert names(store) == ["x", "y"]
    writer.remove(kept[0])
    writer.add(("z",))
    assert names(store) == ["z", "y"]


@pytest.mark.parametrize("label", ["x" * 1021, "é" * 511])
def test_labels_too_long_for_a_row_are_refused_and_cost_no_row(label: str) -> None:
    """The row used to stay half-written, odd for ever, and its place was lost."""
    store = Store([(TABLE, 1)])
    writer = store.writer(TABLE)
    with pytest.raises(ValueError, match=r"bytes, more than 1024$"):
        writer.add((label,))
    assert names(store) == []
    assert store.torn_reads == 0
    writer.add((label[:500],))
    assert names(store) == [label[:500]]


def test_two_tables_do_not_touch_each_other() -> None:
    other = Table("other", (), (Metric("other.c", "counter", "", (), "C.", "1"),))
    store = Store([(TABLE, 1), (other, 1)])
    row, single = store.writer(TABLE).add(("x",)), store.writer(other).add(())
    row.add(SIZE + 3, 7)
    single.add(0, 3)
    assert next(iter(store.read(TABLE))).values[SIZE + 3] == 7
    assert next(iter(store.read(other))).values == [3.0]


def test_a_row_in_the_middle_of_a_change_is_left_out_and_counted() -> None:
    store = Store([(TABLE, 2)])
    writer = store.writer(TABLE)
    row, _ = writer.add(("x",)), writer.add(("y",))
    row.begin()
    assert names(store) == ["y"]
    assert store.torn_reads == 1
    row.end()
    assert names(store) == ["x", "y"]


def test_a_writer_that_starts_again_hides_no_row_behind_labels_of_the_one_before() -> None:
    """Identities used to begin at 1 again, so a reader showed the old labels with the new values."""
    store = Store([(TABLE, 4)])
    reader = Store([(TABLE, 4)], store.descriptor)
    before = store.writer(TABLE)
    old = [before.add((name,)) for name in ("x", "y")]
    before.remove(old[0])
    before.add(("z",))
    assert names(reader) == ["z", "y"]
    store.clear()
    after = store.writer(TABLE)
    new = [after.add((name,)) for name in ("y", "z")]
    assert names(reader) == ["y", "z"]
    assert not {row.identity for row in new} & {row.identity for row in old}


def test_a_writer_that_died_in_mid_change_leaves_no_row_unreadable() -> None:
    store = Store([(TABLE, 4)])
    store.writer(TABLE).add(("x",)).begin()
    store.clear()
    store.writer(TABLE).add(("y",))
    assert names(store) == ["y"]


def test_a_writer_that_died_while_making_a_row_leaves_a_row_that_can_be_read_again() -> None:
    """Its sequence number stayed odd, so that whatever later lay there was never read."""
    store = Store([(RTT_TABLE, 4)])
    writer = store.writer(RTT_TABLE)
    writer.add(("h", "r0", "dp", "udp"))
    store.words[store._layouts[RTT_TABLE.name].row(1)] += 1  # the first thing that add() does
    store.clear()
    again = store.writer(RTT_TABLE)
    for number in range(2):
        again.add(("h", f"r{number}", "dp", "udp"))
    rows = list(store.read(RTT_TABLE))
    assert [row.labels[1] for row in rows] == ["r0", "r1"]
    assert not any(math.isnan(value) for row in rows for value in row.values)


def test_a_writer_that_starts_again_under_a_reader_mixes_no_two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequence numbers used to begin at 0 again, so a row made anew looked as if nothing had happened."""
    store = Store([(TABLE, 4)])
    store.writer(TABLE).add(("old",)).set(A, 1.0)

    def start_again(*_: object, **__: object) -> tuple[str, ...]:
        monkeypatch.undo()
        store.clear()
        store.writer(TABLE).add(("new",)).set(A, 2.0)
        return ("old",)

    monkeypatch.setattr(json, "loads", start_again)  # called in the middle of a row
    assert [(row.labels, row.values[A]) for row in store.read(TABLE)] == [(("new",), 2.0)]


def test_memory_of_another_layout_is_refused() -> None:
    store = Store([(TABLE, 4)])
    with pytest.raises(ValueError, match=r"^store has \d+ bytes, its layout \d+$"):
        Store([(TABLE, 5)], store.descriptor)


def rows_of(snapshot: Snapshot) -> list[Row]:
    return [
        Row(identity, labels, values)
        for identity, labels, values in zip(
            snapshot.identities.tolist(), snapshot.labels, snapshot.values.tolist(), strict=True
        )
    ]


def test_a_snapshot_reads_what_reading_row_by_row_does() -> None:
    store, snapshots = Store([(TABLE, 8)]), Snapshots()
    writer = store.writer(TABLE)
    rows = [writer.add((name,)) for name in "abcd"]
    for value, row in enumerate(rows):
        row.set(A, value)
        row.add(SIZE + 1, value)
    before = time.time_ns()
    for _ in range(2):
        read = snapshots.read(store, TABLE)
        # NaN is unlike itself, but its text is like itself
        assert [str(row) for row in rows_of(read)] == [str(row) for row in store.read(TABLE)]
        assert all(before - 10**9 < started <= time.time_ns() for started in read.started_ns.tolist())
        writer.remove(rows.pop(1))
        rows.append(writer.add(("e",)))
    store.clear()
    assert rows_of(snapshots.read(store, TABLE)) == []
    store.writer(TABLE).add(("again",))
    assert snapshots.read(store, TABLE).labels == [("again",)]


def test_a_snapshot_leaves_out_and_counts_a_row_in_the_middle_of_a_change() -> None:
    store, snapshots = Store([(TABLE, 2)]), Snapshots()
    writer = store.writer(TABLE)
    row, _ = writer.add(("x",)), writer.add(("y",))
    row.begin()
    assert snapshots.read(store, TABLE).labels == [("y",)]
    assert store.torn_reads == 1
    row.end()
    assert snapshots.read(store, TABLE).labels == [("x",), ("y",)]


READER = """
import sys, time
from exporter.snapshot import Snapshots
from exporter.store import Store
from tests.unit.test_store import A, B, STRIDE, TABLE, rows_of
store, ends, rounds, rows = Store([(TABLE, 32)], int(sys.argv[1])), time.monotonic() + 2.0, 0, 0
snapshots = Snapshots()
while time.monotonic() < ends:
    seen = set()
    for row in store.read(TABLE) if sys.argv[2] == "row by row" else rows_of(snapshots.read(store, TABLE)):
        a, b = row.values[A], row.values[B]
        assert a == b or (a != a and b != b), f"torn: {a} {b}"
        assert a != a or int(a) // STRIDE == int(row.labels[0]), f"{row.labels} has another row's {a}"
        assert row.identity not in seen, "one row twice"
        seen.add(row.identity)
        rows += 1
    rounds += 1
print(rounds, rows)
"""


@pytest.mark.parametrize("way", ["row by row", "snapshot"])
def test_a_reader_in_another_process_never_sees_a_torn_row(way: str) -> None:
    """One process changes, adds and removes rows as fast as it can, another one reads all of them."""
    store = Store([(TABLE, 32)])
    writer = store.writer(TABLE)
    rows = {number: writer.add((str(number),)) for number in range(16)}
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(store.descriptor), way], pass_fds=[store.descriptor], stdout=subprocess.PIPE
    )
    count, ends = 0, time.monotonic() + 10
    while reader.poll() is None and time.monotonic() < ends:
        for number, row in rows.items():
            count += 1
            row.begin()
            row.set(A, number * STRIDE + count % STRIDE)
            row.set(B, number * STRIDE + count % STRIDE)
            row.end()
        oldest = min(rows)
        writer.remove(rows.pop(oldest))
        rows[oldest + 16] = writer.add((str(oldest + 16),))
        time.sleep(0.00002)  # else a reader that takes all rows at once meets every one of them in mid-change
    output, _ = reader.communicate(timeout=5)
    assert reader.returncode == 0
    rounds, read = map(int, output.split())
    assert rounds > 100
    assert read > rounds  # it saw rows, not only torn ones
    assert count > 10_000
