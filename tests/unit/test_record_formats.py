"""Probe records as they are served: the same in every format, and the same verdict from each."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import msgspec
import pyarrow.parquet as pq
import pytest

from exporter import oneshot, parquet
from exporter.contracts.catalogue import DNS, FAILING_TRACE, PATH, ROUTE
from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.tables import ProbeRecord
from exporter.control import Exporter
from exporter.oneshot import OneShotError
from exporter.planfile import Work
from exporter.records import RecordWriter
from exporter.results import ANSWERED, LOOKUP, LOOKUP_FAILURES, LOST, ResultRing
from exporter.server import Query, Server, format_of
from exporter.store import Store
from skeleton_service.cli import main
from skeleton_service.reading.records import KINDS, read_records

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROBES = {"UDP_PING": "udp", "MTU": "mtu", "TCP_PING": "tcp"}
FORMATS = ("csv", "jsonl", "parquet")


def recorded() -> RecordWriter:
    """An exporter that has seen what the example records tell, and asked a resolver meanwhile and ever since."""
    rows = list(csv.DictReader((EXAMPLES / "probe-records.csv").open()))
    store, ring = Store([(PATH, 4096), (ROUTE, 4096), (FAILING_TRACE, 1), (DNS, 1)]), ResultRing(1 << 16)
    paths, traced = store.writer(PATH), store.writer(ROUTE)
    lookup = store.writer(DNS).add((rows[0]["src_node_sn"], "192.0.2.53", "store.example.", "192.0.2.53", "53"))
    known: dict[tuple[str, ...], int] = {}
    for row in sorted(rows, key=lambda row: int(row["ping_time"])):
        flow = (row["src_real_ip"], row["src_port"], row["dst_real_ip"], row["dst_port"])
        if row["task_type"] == "TRACEROUTE":
            traced.add((*flow, row.get("protocol") or "udp", row["route"]))
            continue
        ends = (row["src_node_sn"], row["src_rnic"], row["dst_node_sn"], row["dst_rnic"], PROBES[row["task_type"]])
        labels = (*ends, *flow, str(int(row["dscp"] or 26) << 2))
        if labels not in known:
            known[labels] = paths.add((f"p{len(known)}", *labels)).identity
        sent, lost = int(row["packets_sent"]), int(row["packets_lost"])
        for number in range(sent):  # the last ones answered, so that each loss is known to be one on the way there
            sent_ns = int(row["ping_time"]) - (sent - number) * 900_000_000
            ring.append(known[labels], sent_ns, *((0, LOST) if number < lost else (15_500, ANSWERED)))
    last = max(int(row["ping_time"]) for row in rows)
    ring.append(LOOKUP | lookup.identity, last, 350_000, ANSWERED)
    ring.append(LOOKUP | lookup.identity, last + 100_000_000_000, 0, LOOKUP_FAILURES["servfail"])
    return RecordWriter(store, ring)


@contextmanager
def serving(records: RecordWriter) -> Iterator[str]:
    exporter = SimpleNamespace(_prober=object(), _records=records, _work=Work(), _overlay_paths=None, _rdma=None)
    server = Server("127.0.0.1", 0, {"/v1/probe-records": lambda query: Exporter._probe_records(exporter, query)})
    try:
        yield f"http://127.0.0.1:{server.port}/v1/probe-records"
    finally:
        server.close()


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with serving(recorded()) as url:
        yield url


def get(url: str, **headers: str) -> tuple[bytes, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(url, headers=named)  # noqa: S310 - our own server
    with urlopen(request, timeout=30) as answer:  # noqa: S310
        return answer.read(), answer.headers


def diagnosed(probes: str, directory: Path) -> Diagnosis:
    given = ["--topology", str(EXAMPLES / "topology.yaml"), "--skeleton", str(EXAMPLES / "skeleton.json")]
    output = directory / "diagnosis.json"
    assert main(["diagnose", "--probes", probes, *given, "--output", str(output)]) == 0
    return msgspec.json.decode(output.read_bytes(), type=Diagnosis)


def test_every_format_gives_the_same_verdict_from_a_url_and_from_a_file(served: str, tmp_path: Path) -> None:
    example = diagnosed(str(EXAMPLES / "probe-records.csv"), tmp_path)
    verdicts = []
    for name in FORMATS:
        url = f"{served}?format={name}"
        (tmp_path / name).write_bytes(get(url)[0])
        verdicts += [diagnosed(url, tmp_path), diagnosed(str(tmp_path / name), tmp_path)]
    assert all(verdict == verdicts[0] for verdict in verdicts)
    (failure,), (expected,) = verdicts[0].failures, example.failures
    # The cable, by one of its names: no probe tells it from its RNIC.
    assert expected.component.name in {failure.component.name, *(other.name for other in failure.alternatives)}
    assert len(failure.paths) == len(expected.paths), "a later lookup makes no probe old"


def test_every_format_holds_the_same_rows_in_the_columns_of_the_contract(served: str, tmp_path: Path) -> None:
    tables = []
    for name in FORMATS:
        (tmp_path / name).write_bytes(get(f"{served}?format={name}")[0])
        rows = [row for row in read_records([tmp_path / name]).to_pylist() if row["task_type"] != "TRACEROUTE"]
        tables.append([{column: value or None for column, value in row.items()} for row in rows])  # "" is absent
    assert tables[0] == tables[1] == tables[2]
    assert {row["task_type"] for row in tables[0]} >= {"UDP_PING", "DNS"}
    schema = pq.read_schema(tmp_path / "parquet")
    assert dict(zip(schema.names, schema.types, strict=True)) == KINDS
    lines = (tmp_path / "jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=ProbeRecord).task_type for line in lines[:1]] == ["UDP_PING"]
    lookups = [row for row in tables[0] if row["task_type"] == "DNS"]
    told = ("dst_node_id", "dns_name", "dial", "latency", "loss_rate", "error")
    assert [[row[column] for column in told] for row in lookups] == [
        ["192.0.2.53", "store.example.", "success", 350.0, None, None],
        ["192.0.2.53", "store.example.", "fail", None, None, "servfail"],
    ]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "csv"),
        ("*/*", "csv"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "csv"),
        ("application/jsonl", "jsonl"),
        ("text/csv;q=0.5, application/vnd.apache.parquet", "parquet"),
        ("application/vnd.apache.parquet;q=0.2, Application/JSONL;q=0.9", "jsonl"),
        ("application/jsonl;q=0", "csv"),
        ("application/jsonl;q=x, ;;,", "jsonl"),
    ],
)
def test_a_client_says_what_it_takes(accept: str, expected: str) -> None:
    from exporter.control import _RECORD_TYPES

    query = Query()
    query.accept = accept
    assert format_of(query, _RECORD_TYPES) == expected
    query["format"] = "csv"
    assert format_of(query, _RECORD_TYPES) == "csv"


def test_answers_name_their_type_and_are_compressed_once(served: str) -> None:
    body, headers = get(served, Accept="application/jsonl", Accept_Encoding="gzip")
    assert (headers["Content-Type"], headers["Content-Encoding"]) == ("application/jsonl", "gzip")
    assert json.loads(gzip.decompress(body).splitlines()[0])["task_type"] == "UDP_PING"
    body, headers = get(f"{served}?format=parquet", Accept_Encoding="gzip")
    assert (headers["Content-Type"], headers["Content-Encoding"]) == ("application/vnd.apache.parquet", None)
    assert pq.read_table(io.BytesIO(body)).num_rows > 100


def test_no_record_is_a_table_without_rows(tmp_path: Path) -> None:
    with serving(RecordWriter(Store([(PATH, 1), (ROUTE, 1), (FAILING_TRACE, 1)]), ResultRing(4))) as url:
        for name in ("csv", "parquet"):
            (tmp_path / name).write_bytes(get(f"{url}?format={name}")[0])
            assert read_records([tmp_path / name]).num_rows == 0
        assert get(f"{url}?format=jsonl")[0] == b""
        assert read_records([f"{url}?format=jsonl"]).num_rows == 0


def refused(url: str) -> tuple[int, str]:
    with pytest.raises(HTTPError) as refusal:
        get(url)
    return refusal.value.code, refusal.value.read().decode()


def test_what_cannot_be_served_says_why(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(f"{served}?format=xml") == (400, "parameter 'format' is 'xml', not one of csv, jsonl, parquet\n")
    monkeypatch.setattr(oneshot, "TIMEOUT_SECONDS", 0.001)
    assert refused(f"{served}?format=parquet")[0] == 503
    with parquet._ONE._one:
        code, line = refused(f"{served}?format=parquet")
    assert (code, line) == (
        503,
        "another answer is being made: ask again in a few seconds (convert to Parquet)\n",
    )
    monkeypatch.setattr(parquet, "find_spec", lambda _: None)
    code, line = refused(f"{served}?format=parquet")
    assert (code, line) == (406, "no Parquet without pyarrow: install it here, or ask for csv or jsonl\n")


def test_a_conversion_that_fails_is_an_error_of_one_line() -> None:
    with pytest.raises(OneShotError, match=r"^cannot convert to Parquet: .*ArrowInvalid"):
        parquet.from_csv(b"ping_time\nsoon\n")


def test_no_process_that_stays_imports_pyarrow() -> None:
    import subprocess

    code = "import sys, exporter.control, exporter.probing.process; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
