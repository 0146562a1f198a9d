"""The throughput reader: every source gives the same series, and bad files are one clear line."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv, parquet

from exporter.contracts.codec import ContractError
from skeleton_service.inference.resample import Samples, make_grid, resample, sampling_steps
from skeleton_service.throughput import from_table, read_throughput

HEADER = "time,job,host,container,rnic,tx_bytes_per_second,rx_bytes_per_second\n"
ROWS = "".join(f"{100 + n},j,h{e},c{e},eth0,{10 * n + e},{n}\n" for n in range(5) for e in range(2))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "throughput.csv"
    path.write_text(HEADER + ROWS)
    return path


def test_all_formats_agree(plain: Path, tmp_path: Path) -> None:
    expected = read_throughput([plain])
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    marked = tmp_path / "bom.csv"
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n"))
    columnar = tmp_path / "t.parquet"
    parquet.write_table(csv.read_csv(plain), columnar)
    for path in (packed, marked, columnar):
        got = read_throughput([path])
        assert got.endpoints == expected.endpoints
        assert np.array_equal(got.tx, expected.tx)
        assert np.array_equal(got.times, expected.times)
    assert [source.id for source in expected.endpoints] == ["c0/eth0", "c1/eth0"]
    assert expected.tx[1].tolist() == [1, 11, 21, 31, 41]


def test_a_url_serves_the_csv(plain: Path) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(plain.read_bytes())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        got = read_throughput([f"http://127.0.0.1:{server.server_port}/throughput.csv"])
        server.shutdown()
    assert len(got.endpoints) == 2


def test_sources_are_joined_and_jobs_chosen(plain: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text(HEADER + "100,k,h9,c9,eth0,1,1\n101,k,h9,c9,eth0,1,1\n")
    with pytest.raises(ContractError, match=r"several jobs: j, k \(choose one with --job\)"):
        read_throughput([plain, other])
    assert len(read_throughput([plain, other], job="j").endpoints) == 2
    with pytest.raises(ContractError, match="no rows of job 'z'"):
        read_throughput([plain, other], job="z")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        (HEADER, "holds no rows"),
        (HEADER.replace(",rnic", "") + "1,j,h,c,1,1\n", "column 'rnic' is missing"),
        (HEADER + "1,j,h,c,r,abc,1\n", "column 'tx_bytes_per_second' holds 'abc', not a number"),
        (HEADER + "1,j,h,c,r,nan,1\n", "column 'tx_bytes_per_second' holds NaN"),
        (HEADER + "1,j,h,c,r,,1\n", "column 'tx_bytes_per_second' holds NaN, infinity or an empty cell"),
        (HEADER + "1,j,,c,r,1,1\n", "column 'host' has an empty cell"),
        (HEADER + "1,j,h,c,r,1,-1\n", "column 'rx_bytes_per_second' is negative"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ContractError) as caught:
        read_throughput([path])
    assert problem in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@given(st.permutations(range(10)), st.lists(st.integers(0, 9), max_size=5))
def test_order_and_repetition_of_rows_change_nothing(order: list[int], repeated: list[int]) -> None:
    table = csv.read_csv(pa.py_buffer((HEADER + ROWS).encode()))
    expected, got = from_table(table), from_table(table.take(order + repeated))
    assert got.endpoints == expected.endpoints
    assert np.array_equal(got.tx, expected.tx)
    assert np.array_equal(got.rx, expected.rx)


def test_gaps_stay_unknown() -> None:
    table = csv.read_csv(pa.py_buffer((HEADER + ROWS).encode())).take([0, 1, 2, 3, 5, 6, 7, 8, 9])
    got = from_table(table)
    assert np.isnan(got.tx[0]).tolist() == [False, False, True, False, False]


@given(st.floats(0, 0.999), st.integers(8, 40))
def test_resampling_keeps_bytes(offset: float, count: int) -> None:
    times = offset + np.arange(1.0, count + 1)
    rates = np.random.default_rng(count).uniform(0, 9, count)
    grid = make_grid(np.concatenate((np.arange(1.0, count + 1), np.arange(1.0, count + 1), times)), 1.0)
    samples = Samples(times, rates.astype(np.float32), rates.astype(np.float32), np.array([0, count]))
    (inner,), _, _ = resample(samples, sampling_steps(samples), grid, 1.0)
    known = inner[np.isfinite(inner)]
    assert known.sum() == pytest.approx(rates.sum(), abs=9.0)


def test_a_row_of_1970_is_one_line_and_takes_no_memory(tmp_path: Path) -> None:
    """A grid from 1970 to now used to take 12 GiB."""
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "0,j,h,c,r,1,1\n" + "".join(f"{1_800_000_000 + n},j,h,c,r,1,1\n" for n in range(10)))
    with pytest.raises(ContractError, match=r"t.csv: column 'time' spans 1800000009 s at a step of 1 s \("):
        read_throughput([path])


@contextlib.contextmanager
def serving(text: str) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/throughput"
        server.shutdown()


def dead_url() -> str:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}/v1/throughput"


def test_a_dead_source_among_live_ones_is_left_out_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """One dead host used to stop the inference, just when it was needed."""
    dead = dead_url()
    with serving(HEADER + ROWS) as live:
        assert len(read_throughput([dead, live]).endpoints) == 2
    assert capsys.readouterr().err == (
        f"left out: 1 of 2 sources: cannot be fetched: [Errno 111] Connection refused: {dead}\n"
    )


def test_sources_that_are_all_dead_are_refused() -> None:
    dead = dead_url()
    with pytest.raises(ContractError, match="cannot be fetched"):
        read_throughput([dead, dead])


@pytest.mark.parametrize("job", [None, "j"])
def test_a_live_source_with_a_header_alone_does_not_stop_the_others(job: str | None) -> None:
    """A host that runs no container of any job serves just that."""
    with serving(HEADER) as empty, serving(HEADER + ROWS) as live:
        assert len(read_throughput([empty, live], job=job).endpoints) == 2
        with pytest.raises(ContractError, match=r"holds no rows|no rows of job 'j'"):
            read_throughput([empty, empty], job=job)
