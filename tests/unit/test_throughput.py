"""The throughput reader: every source gives the same series, and bad files are one clear line."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import io
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv, parquet

from exporter.contracts.codec import ContractError
from skeleton_service.inference import Throughput
from skeleton_service.inference.resample import Samples, make_grid, resample, sampling_steps
from skeleton_service.reading.throughput import from_table, read_throughput

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
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
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
        (HEADER + "1,j,h,c,r,inf,1\n", "column 'tx_bytes_per_second' holds NaN, infinity or an empty cell"),
        (HEADER + "1,j,h,c,r,1.8e19,1\n", "holds 1.8e+19, more than any RNIC carries (was it a counter reset?"),
        (HEADER + "nan,j,h,c,r,1,1\n", "column 'time' holds NaN"),
        (HEADER + "1760000000000,j,h,c,r,1,1\n", "column 'time' holds 1.76e+12 (seconds since the epoch)"),
        (HEADER + "1,j,h,c,r\n", "is not valid CSV: CSV parse error: Row #2: Expected 7 columns, got 5: 1,j,h,c,r"),
        (HEADER.replace("rnic", "host") + "1,j,h,h,c,1,1\n", "column 'rnic' is missing"),
        (HEADER.strip() + ",host\n1,j,h,c,r,1,1,h\n", "column 'host' appears twice (keep one)"),
        ("version: 1\nhosts: []\n", "is not valid CSV: its first line is 'version: 1' (columns needed: time, job,"),
        (HEADER.replace(",", ";"), "is not valid CSV: its first line is 'time;job;host;"),
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


def as_parquet(**columns: pa.Array) -> bytes:
    table = csv.read_csv(pa.py_buffer((HEADER + ROWS).encode()))
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (gzip.compress((HEADER + ROWS).encode())[:-9], "is not valid gzip: Truncated compressed stream (was it copied"),
        (b"\x1f\x8b" + bytes(99), "is not valid gzip: "),
        (gzip.compress(b""), "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is not valid CSV: its first line is "),
        (np.random.default_rng(0).bytes(100_000), "is not valid CSV: its first line is "),
        ((HEADER + ROWS).replace("h0", "h\xff").encode("latin-1"), "column 'host' is not UTF-8, in row 2"),
        (as_parquet()[:-20], "is not valid Parquet: "),
        (b"PAR1", "is not valid Parquet: "),
        (as_parquet(time=pa.array(range(10)).cast(pa.timestamp("s"))), "column 'time' is of type timestamp[ms], not d"),
        (as_parquet(time=pa.array(["noon"] * 10)), "column 'time' is of type string, not double (convert it)"),
        (as_parquet(host=pa.array([["h"]] * 10)), "column 'host' is of type list<element: string>, not string"),
        (as_parquet(host=pa.nulls(10, pa.string())), "column 'host' has an empty cell"),
        (as_parquet(tx_bytes_per_second=pa.array([np.nan] * 10)), "column 'tx_bytes_per_second' holds NaN"),
    ],
)
def test_broken_binary_files_are_one_clear_line(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(data)
    with pytest.raises(ContractError) as caught:
        read_throughput([path])
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "columns",
    [
        {"time": pa.array(np.repeat(range(100, 105), 2))},
        {"tx_bytes_per_second": pa.array(range(10)).cast(pa.float32())},
        {"job": pa.array(["j"] * 10).cast(pa.large_string())},
        {"job": pa.array(["j"] * 10).dictionary_encode()},
    ],
)
def test_parquet_of_other_types_that_mean_the_same_is_read(tmp_path: Path, columns: dict[str, pa.Array]) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(as_parquet(**columns))
    assert read_throughput([path]).tx.shape == (2, 5)


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


def regular(times: dict[str, np.ndarray], rates: dict[str, np.ndarray]) -> Throughput:
    """One RNIC a host."""
    counts = [len(own) for own in times.values()]
    words = {"job": "j", "rnic": "eth0"}
    columns = {name: pa.array([word] * sum(counts)) for name, word in words.items()}
    columns["host"] = columns["container"] = pa.array(np.repeat(list(times), counts))
    columns["time"] = pa.array(np.concatenate(list(times.values())))
    columns["tx_bytes_per_second"] = columns["rx_bytes_per_second"] = pa.array(np.concatenate(list(rates.values())))
    return from_table(pa.table(columns))


SECONDS = np.arange(1000.0, 1060.0)
BURSTS = np.where(SECONDS % 10 < 3, 1000.0, 0.0)


@pytest.mark.parametrize("step", [0.1, 0.5, 1.0, 2.0, 15.0])
def test_any_step_is_found(step: float) -> None:
    times = 1_760_000_000 + step * np.arange(40)
    got = regular({"a": times, "b": times[3:]}, {"a": np.arange(40.0), "b": np.arange(37.0)})
    assert got.step_seconds == pytest.approx(step, rel=1e-6)
    assert got.tx[0].tolist() == list(range(40))
    assert got.tx[1, 3:].tolist() == list(range(37))


def test_clocks_tens_of_milliseconds_apart_keep_bytes_and_say_how_far() -> None:
    times = {f"h{n}": SECONDS + offset for n, offset in enumerate((-0.04, 0.0, 0.0, 0.03, 0.06))}
    got = regular(times, dict.fromkeys(times, BURSTS))
    assert len(got.times) == len(SECONDS)
    assert np.nansum(got.tx, axis=1) == pytest.approx([BURSTS.sum()] * 5, rel=0.02)
    assert 0.04 < got.skew < 0.06


def test_jittered_clocks_do_not_drift() -> None:
    """The median distance of jittered instants is not their step: over a long window the grid used to drift."""
    random = np.random.default_rng(4)
    times = {f"h{n}": np.arange(0.0, 1800.0) + random.exponential(0.01, 1800) for n in range(4)}
    got = regular(times, {name: np.ones(1800) for name in times})
    assert got.step_seconds == pytest.approx(1, abs=1e-5)
    assert len(got.times) == 1800


def test_a_host_with_a_finer_step_is_averaged() -> None:
    fine = np.arange(1000.1, 1059.05, 0.1)
    got = regular(
        {"a": SECONDS, "b": SECONDS, "fine": fine}, {"a": BURSTS, "b": BURSTS, "fine": np.interp(fine, SECONDS, BURSTS)}
    )
    assert got.step_seconds == 1.0
    assert np.isfinite(got.tx[2]).sum() == len(SECONDS) - 1
    assert np.nansum(got.tx[2]) == pytest.approx(0.1 * np.interp(fine, SECONDS, BURSTS).sum(), rel=1e-6)
    assert got.skew < 0.01


def test_a_host_with_a_step_twice_as_long_keeps_its_bytes() -> None:
    got = regular({"a": SECONDS, "b": SECONDS, "slow": SECONDS[1::2]}, {"a": BURSTS, "b": BURSTS, "slow": BURSTS[1::2]})
    assert np.isfinite(got.tx[2]).all()
    assert got.tx[2].sum() == 2 * BURSTS[1::2].sum()


def test_a_host_too_coarse_to_show_bursts_is_mostly_unknown() -> None:
    got = regular({"a": SECONDS, "b": SECONDS, "c": SECONDS[::15]}, {"a": BURSTS, "b": BURSTS, "c": BURSTS[::15]})
    assert got.step_seconds == 1.0
    assert np.isfinite(got.tx[2]).sum() == 4


def test_containers_that_start_minutes_apart_are_unknown_before() -> None:
    times = np.arange(0.0, 900.0)
    got = regular({"a": times, "b": times[180:]}, {"a": times, "b": times[180:]})
    assert np.isnan(got.tx[1, :180]).all()
    assert np.array_equal(got.tx[1, 180:], times[180:])


def test_a_gap_is_not_bridged() -> None:
    """Off the grid, too, the first sample after a gap speaks for its own step alone."""
    times = np.delete(SECONDS, np.arange(20, 30))
    got = regular({"a": SECONDS, "b": SECONDS, "c": times + 0.2}, {"a": BURSTS, "b": BURSTS, "c": np.ones(50)})
    assert np.isnan(got.tx[2, 21:30]).all()
    assert np.nanmax(got.tx[2]) == 1


def test_containers_that_share_an_rnic_are_two_endpoints() -> None:
    table = csv.read_csv(pa.py_buffer((HEADER + ROWS.replace(",h1,", ",h0,")).encode()))
    assert [(s.host, s.id) for s in from_table(table).endpoints] == [("h0", "c0/eth0"), ("h0", "c1/eth0")]


def test_rows_of_other_jobs_need_not_be_right(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "nan,k,,,,-1,inf\n" * 1000 + ROWS)
    assert len(read_throughput([path], job="j").endpoints) == 2
    with pytest.raises(ContractError, match=r"t.csv: no rows of job 'z', but of j, k \("):
        read_throughput([path], job="z")


def test_the_rank_is_the_lowest_that_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEADER.strip() + ",rank\n1,j,h0,c0,r,1,1,\n2,j,h0,c0,r,1,1,7\n1,j,h1,c1,r,1,1,\n")
    (tmp_path / "b.csv").write_text(HEADER.strip() + ",rank\n3,j,h0,c0,r,1,1,5\n3,j,h2,c2,r,1,1,0\n")
    got = read_throughput([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert [source.rank for source in got.endpoints] == [5, None, 0]


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
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
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


def test_exporters_are_asked_side_by_side_and_the_silent_ones_named(capsys: pytest.CaptureFixture[str]) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(0.2)
            host = self.path[1:]
            self.send_response(200 if int(host) % 4 else 503)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(gzip.compress((HEADER + ROWS.replace("c", f"c{host}-")).encode()))

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        urls = [f"http://127.0.0.1:{server.server_port}/{host}" for host in range(40)]
        begin = time.monotonic()
        got = read_throughput(urls)
        taken = time.monotonic() - begin
        server.shutdown()
    assert len(got.endpoints) == 2 * 30
    assert taken < 4  # 8 s one by one
    error = capsys.readouterr().err
    assert error.startswith("left out: 10 of 40 sources: cannot be fetched: HTTP Error 503: Service Unavailable: ")
    assert error.split(": ")[-1].strip().split(", ") == urls[::4]
    assert error.count("\n") == 1


def test_less_than_half_of_the_exporters_are_too_few() -> None:
    dead = dead_url()
    with serving(HEADER + ROWS) as live, pytest.raises(ContractError) as caught:
        read_throughput([dead, dead, live])
    assert str(caught.value).startswith(f"2 of 3 sources: cannot be fetched: [Errno 111] Connection refused: {dead}, ")
    assert str(caught.value).endswith("(at least 50% must answer)")


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
