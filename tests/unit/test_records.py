"""Probe records in every form they may come in, and what is refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from exporter.contracts.catalogue import FAILING_TRACE, PATH, ROUTE
from exporter.contracts.codec import ContractError
from exporter.contracts.tables import ProbeRecord
from exporter.planfile import JobPath, Work
from exporter.records import COLUMNS, RecordWriter
from exporter.results import ANSWERED, LOST, REFUSED, REPLY_LOST, RESTARTED, ResultRing
from exporter.store import Store
from skeleton_service.reading.records import KINDS, read_records
from tests.unit.test_plan_contract import TARGET

ROWS = [
    {"task_type": "UDP_PING", "ping_time": 1733989087162141801, "src_node_id": "a", "dst_node_id": "b",
     "dial": "success", "latency": 16.25, "src_port": 49152},
    {"task_type": "MTU", "ping_time": 1733989087162141802, "src_node_id": "a", "dst_node_id": "b",
     "dial": "fail", "latency": None, "src_port": None},
]  # fmt: skip


def as_csv(*, columns: list[str] | None = None, mark: str = "", end: str = "\n") -> bytes:
    names = columns or list(ROWS[0])
    lines = [",".join(names)]
    lines += [",".join("" if row.get(name) is None else str(row.get(name)) for name in names) for row in ROWS]
    return (mark + end.join(lines) + end).encode()


def forms() -> dict[str, bytes]:
    reordered = list(reversed(list(ROWS[0])))
    return {
        "plain.csv": as_csv(),
        "windows.csv": as_csv(mark="\ufeff", end="\r\n"),
        "reordered.csv": as_csv(columns=[*reordered, "weather"]),
        "packed.csv.gz": gzip.compress(as_csv()),
        "lines.jsonl": b"".join(json.dumps({**row, "weather": 3}).encode() + b"\n" for row in ROWS),
    }


@pytest.mark.parametrize("name", forms())
def test_records_are_the_same_in_every_form(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(forms()[name])
    table = read_records([tmp_path / name])
    assert table.column_names == list(KINDS)
    assert [{key: row[key] for key in ROWS[0]} for row in table.to_pylist()] == ROWS


def test_records_come_back_from_parquet_and_files_are_joined(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(as_csv())
    pq.write_table(read_records([tmp_path / "a.csv"]), tmp_path / "a.parquet")
    assert read_records([tmp_path / "a.csv", tmp_path / "a.parquet"]).num_rows == 4


def test_the_table_has_the_columns_of_the_contract() -> None:
    assert set(KINDS) == set(ProbeRecord.__struct_fields__)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty (give a file with a header line and rows)"),
        (b"\xef\xbb\xbf", "is not valid CSV: "),
        (b"task_type,ping_time\nUDP_PING,1\n", "column 'src_node_id' is missing (columns needed: task_type, "),
        (as_csv().replace(b"UDP_PING", b"SMOKE"), "column 'task_type' holds 'SMOKE' (one of DNS, MTU, "),
        (as_csv().replace(b"fail", b"maybe"), "column 'dial' holds 'maybe' (one of fail, success)"),
        (as_csv().replace(b"16.25", b"fast"), "column 'latency' holds 'fast', not a number"),
        (as_csv().replace(b"1733989087162141802", b""), "column 'ping_time' has an empty cell (nanoseconds since "),
        (b'{"task_type": 5}\n', "is not valid JSONL: "),
        (gzip.compress(as_csv())[:-9], "is not valid gzip: "),
        (b"PAR1" + bytes(20), "is not valid Parquet: "),
    ],
)
def test_wrong_records_are_refused_in_one_line(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(data)
    with pytest.raises(ContractError) as refusal:
        read_records([tmp_path / "r"])
    assert str(refusal.value).startswith(f"{tmp_path}/r: {message}")
    assert "\n" not in str(refusal.value)


def test_no_source_is_refused() -> None:
    with pytest.raises(ContractError, match="no source was given"):
        read_records([])


def labels(path: str, probe: str = "udp") -> tuple[str, ...]:
    return (path, "h1", "r0", "h2", "r1", probe, "10.0.0.1", "49152", "10.0.0.2", "65300", "106")


def test_an_exporters_records_are_read_by_the_service(tmp_path: Path) -> None:
    """Also those of a path that has left the plan, and the route of its flow."""
    store, ring = Store([(PATH, 4), (ROUTE, 4), (FAILING_TRACE, 4)]), ResultRing(16)
    paths = store.writer(PATH)
    kept, gone = paths.add(labels("p")), paths.add(labels("q", "mtu"))
    writer = RecordWriter(store, ring)
    writer.remember()
    ring.append(kept.identity, 2_000_000_000, 15_500, ANSWERED)
    ring.append(gone.identity, 3_000_000_000, 0, LOST)
    ring.append(kept.identity, 4_000_000_000, 0, REFUSED)
    paths.remove(gone)
    store.writer(ROUTE).add(("10.0.0.1", "49152", "10.0.0.2", "65300", "udp", '["10.9.0.1"]'))
    work = Work((TARGET,), {TARGET.path: (JobPath.of("j", TARGET),)})
    (tmp_path / "r.csv").write_bytes(writer.csv(0, work))
    rows = read_records([tmp_path / "r.csv"]).to_pylist()
    assert [(row["task_type"], row["dial"], row["latency"], row["error"], row["job"]) for row in rows] == [
        ("UDP_PING", "success", 15.5, None, "j"),
        ("MTU", "fail", None, "timeout", None),
        ("UDP_PING", "fail", None, "refused", "j"),
        ("TRACEROUTE", "success", None, None, "j"),
    ]
    assert rows[0]["src_node_id"] == "a"  # the plan knows the container; the path alone knows the host
    assert rows[1]["src_node_id"] == "h1"
    assert rows[0]["dscp"] == 26
    assert rows[3]["route"] == '["10.9.0.1"]'
    assert writer.csv(3.5, work).count(b"_PING") == 1


def test_records_name_the_losses_that_a_restart_explains() -> None:
    """The latest ones: the one before them was lost on its way back."""
    store, ring = Store([(PATH, 4), (ROUTE, 4), (FAILING_TRACE, 4)]), ResultRing(16)
    path = store.writer(PATH).add(labels("p")).identity
    for outcome in (LOST, ANSWERED, LOST, LOST, RESTARTED, RESTARTED, REPLY_LOST):
        ring.append(path, 1, 0, outcome)
    rows = list(csv.DictReader(io.StringIO(RecordWriter(store, ring).csv(0, Work()).decode())))
    assert [row["error"] for row in rows] == ["reply lost", "", "restarted", "restarted"]


def test_a_failing_path_whose_trace_does_not_arrive_has_a_record_that_is_no_route(tmp_path: Path) -> None:
    store, ring = Store([(PATH, 4), (ROUTE, 4), (FAILING_TRACE, 4)]), ResultRing(16)
    paths, failing = store.writer(PATH), store.writer(FAILING_TRACE)
    for name, outcome in (("p", "silent"), ("q", "reached")):
        row = paths.add(labels(name, "tcp"))
        ring.append(row.identity, 2_000_000_000, 0, LOST)
        failing.add((str(row.identity), '["10.9.0.1", null]', "10.9.0.1", outcome))
    (tmp_path / "r.csv").write_bytes(RecordWriter(store, ring).csv(0, Work()))
    rows = [row for row in read_records([tmp_path / "r.csv"]).to_pylist() if row["task_type"] == "TRACEROUTE"]
    assert [(row["dial"], row["error"], row["route"], row["protocol"]) for row in rows] == [
        ("fail", "silent", '["10.9.0.1", null]', "tcp")
    ]


def test_records_of_a_path_that_stays_are_not_forgotten_for_those_that_come_and_go() -> None:
    """A long-lived path vanished from the records once enough younger ones had come: the oldest went, not the gone."""
    store, ring = Store([(PATH, 8), (ROUTE, 8), (FAILING_TRACE, 8)]), ResultRing(16)
    paths, records = store.writer(PATH), RecordWriter(store, ring)
    stays = paths.add(labels("stays"))
    for number in range(2000):
        comes = paths.add(labels(f"p{number}"))
        records.remember()
        ring.append(comes.identity, 2_000_000_000, 0, LOST)
        ring.append(stays.identity, 2_000_000_000, 0, LOST)
        assert records.csv(0, Work()).count(b"UDP_PING") == min(2 * (number + 1), 16)
        paths.remove(comes)
    assert len(records._labels) <= 17 + 1024


def test_a_path_that_records_still_speak_of_takes_little_memory() -> None:
    """Its host, RNICs, addresses and ports were strings of its own: seventy megabytes after an hour of churn."""
    store, ring = Store([(PATH, 8), (ROUTE, 8), (FAILING_TRACE, 8)]), ResultRing(1000)
    paths, records = store.writer(PATH), RecordWriter(store, ring)
    text = ("host-0001", "mlx5_0", "host-0002", "mlx5_1", "udp", "10.10.10.1", "49152", "10.10.10.2", "65300", "106")
    tracemalloc.start()
    try:
        for number in range(1000):
            path = paths.add((f"host-0001:mlx5_0>host-0002:mlx5_1/udp/106/{number}", *text))
            records.remember()
            ring.append(path.identity, 2_000_000_000, 0, LOST)
            paths.remove(path)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(records._labels) >= 1000
    assert held / 1000 < 500


def test_the_header_is_the_contract() -> None:
    ring = ResultRing(4)
    header = RecordWriter(Store([(PATH, 1), (ROUTE, 1), (FAILING_TRACE, 1)]), ring).csv(0, Work())
    assert header.decode() == ",".join(COLUMNS) + "\n"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("packets_sent", "3000000000", "column 'packets_sent' is outside 0 to 1000000"),
        ("packets_sent", "-1", "column 'packets_sent' is outside 0 to 1000000"),
        ("packets_sent", "3e9", "column 'packets_sent' holds '3e9', not a number"),
        ("packets_lost", "2", "column 'packets_lost' exceeds 'packets_sent'"),
        ("loss_rate", "nan", "column 'loss_rate' is outside 0.0 to 1.0"),
        ("loss_rate", "2", "column 'loss_rate' is outside 0.0 to 1.0"),
        ("loss_rate", "-inf", "column 'loss_rate' is outside 0.0 to 1.0"),
    ],
)
def test_counts_that_cannot_be_are_refused_in_one_line(column: str, value: str, message: str, tmp_path: Path) -> None:
    """They used to end in a traceback, or in a list of three thousand million losses."""
    header, first, second = as_csv().decode().splitlines()
    (tmp_path / "r.csv").write_text(f"{header},{column}\n{first},{value}\n{second},\n")
    with pytest.raises(ContractError) as refusal:
        read_records([tmp_path / "r.csv"])
    assert str(refusal.value).startswith(f"{tmp_path}/r.csv: {message}")
    assert "\n" not in str(refusal.value)
