"""Throughput out of Prometheus: a real one that holds what exporters served, and impostors that answer badly."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import parse_qs
from urllib.request import Request, urlopen

import numpy as np
import pytest

from exporter.contracts.catalogue import JOB_PATH_INFO, PROBES_SENT, RNIC_RECEIVE, RNIC_TRANSMIT
from exporter.contracts.codec import ContractError, encode
from skeleton_service.cli import main
from skeleton_service.reading.prometheus import Window, rates_of_counters
from skeleton_service.reading.throughput import read_throughput
from tests.unit.fabrics import rails_only
from tests.unit.test_otlp_victoria_metrics import CACHED, VictoriaMetrics

START = 1_760_000_000
SECONDS = 120
HOSTS, RNICS = 4, 2
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")), reason="prometheus is not on PATH (apt: prometheus)"
)


def rates(host: int, rnic: int) -> np.ndarray:
    return np.random.default_rng([host, rnic]).integers(0, 50_000_000_000, SECONDS)


def open_metrics() -> Iterator[str]:
    """Exporters of job llm that read their counters every second and are scraped at other moments of it.

    Host 2's counters start anew in the middle, host 3 misses five scrapes, host 9 belongs to another job.
    """
    yield f"# TYPE {JOB_PATH_INFO.name} gauge"
    for host in (*range(HOSTS), 9):
        for second in range(SECONDS):
            job = "llm" if host < HOSTS else 'o"ther\\\\'.replace('"', '\\"')
            labels = f'training_job="{job}",path="p{host}"'
            yield f"{JOB_PATH_INFO.name}{{{labels}}} 1 {START + second}"
    for metric in (PROBES_SENT, RNIC_TRANSMIT, RNIC_RECEIVE):
        yield f"# TYPE {metric.name.removesuffix('_total')} counter"
        for host in (*range(HOSTS), 9):
            phase = 0.1 + 0.2 * (host % HOSTS)
            for rnic in range(RNICS):
                if metric is PROBES_SENT:
                    labels = f'path="p{host}",src_host="h.{host}",src_rnic="mlx5_{rnic}"'
                else:
                    labels = f'host="h.{host}",rnic="mlx5_{rnic}"'
                counter = 10**12
                for second, rate in enumerate(rates(host, rnic).tolist()):
                    counter += rate * (2 if metric is RNIC_RECEIVE else 1)
                    if (host, second) == (2, 60):
                        counter = 5
                    if host != 3 or not 20 <= second < 25:
                        yield f"{metric.name}{{{labels}}} {counter} {START + second + phase:.3f}"
    yield "# EOF\n"


@pytest.fixture(scope="module", params=["prometheus", "victoria-metrics"])
def prometheus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where samples are asked for: in Prometheus, and in what its samples are written to from many."""
    directory = tmp_path_factory.mktemp(request.param)
    yield from (real_prometheus if request.param == "prometheus" else real_victoria_metrics)(directory)


def real_victoria_metrics(directory: Path) -> Iterator[str]:
    if not CACHED.exists():
        pytest.skip("VictoriaMetrics is not there (make victoria-metrics)")
    engine = VictoriaMetrics(str(CACHED), directory)
    try:
        lines = []
        for line in open_metrics():
            if line and not line.startswith("#"):
                series, _, when = line.rpartition(" ")
                lines.append(f"{series} {float(when) * 1000:.0f}\n")
        url = f"http://127.0.0.1:{engine.port}/api/v1/import/prometheus"
        urlopen(Request(url, data="".join(lines).encode(), method="POST"), timeout=30).close()
        engine.get("/internal/force_flush")
        yield f"prometheus:http://127.0.0.1:{engine.port}/"
    finally:
        engine.process.terminate()
        engine.process.wait()


def real_prometheus(directory: Path) -> Iterator[str]:
    (directory / "metrics").write_text("\n".join(open_metrics()))
    (directory / "config.yaml").write_text("")
    data = str(directory / "data")
    blocks = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(directory / "metrics"), data]
    subprocess.run(blocks, check=True, capture_output=True)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={directory / 'config.yaml'}",
            f"--storage.tsdb.path={data}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address={address}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urlopen(f"http://{address}/-/ready", timeout=5).close()
                break
            except (URLError, OSError):
                assert process.poll() is None, "prometheus did not start"
                assert time.monotonic() < deadline, "prometheus did not get ready"
                time.sleep(0.1)
        yield f"prometheus:http://{address}/"
    finally:
        process.terminate()
        process.wait()


WINDOW = Window(seconds=SECONDS, end=START + SECONDS - 0.01)


@needs_prometheus
def test_raw_samples_become_the_rates_of_the_exporters_own_steps(prometheus: str) -> None:
    got = read_throughput([prometheus], job="llm", window=WINDOW)
    assert got.job == "llm"
    assert [(source.host, source.id) for source in got.endpoints] == [
        (f"h.{host}", f"h.{host}/mlx5_{rnic}") for host in range(HOSTS) for rnic in range(RNICS)
    ]
    assert got.times.tolist() == list(range(START + 1, START + SECONDS))
    assert got.skew == 0  # although hosts are scraped up to 0.6 s apart
    for row, source in enumerate(got.endpoints):
        expected = rates(int(source.host[2:]), int(source.rnic[-1]))[1:].astype(np.float32)
        known = np.isfinite(got.tx[row])
        assert np.array_equal(got.tx[row][known], expected[known])
        assert np.array_equal(got.rx[row][known], 2 * expected[known])
        unknown = {"h.2": [60], "h.3": [20, 21, 22, 23, 24, 25]}.get(source.host, [])
        assert (np.flatnonzero(~known) + 1).tolist() == unknown  # the reset, and the scrapes that failed


@needs_prometheus
def test_many_small_queries_give_the_same(prometheus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_throughput([prometheus], job="llm", window=WINDOW)
    monkeypatch.setattr("skeleton_service.reading.prometheus.SAMPLES_A_QUERY", 1)
    got = read_throughput([prometheus], job="llm", window=WINDOW)
    assert np.array_equal(got.tx, expected.tx, equal_nan=True)


@needs_prometheus
def test_one_of_several_jobs_is_chosen(prometheus: str) -> None:
    assert {s.host for s in read_throughput([prometheus], job='o"ther\\', window=WINDOW).endpoints} == {"h.9"}
    with pytest.raises(ContractError, match=r'holds several jobs: llm, o"ther\\ \(choose one with --job\)'):
        read_throughput([prometheus], window=WINDOW)
    with pytest.raises(ContractError, match=r"""no job 'none' in the window, it has llm, o"ther\\ \("""):
        read_throughput([prometheus], job="none", window=WINDOW)


@needs_prometheus
def test_a_time_without_any_job_says_so(prometheus: str) -> None:
    with pytest.raises(ContractError, match="no job 'llm' in the window, it has no fabric_job_path_info"):
        read_throughput([prometheus], job="llm", window=Window(end=START - 3600))


@needs_prometheus
def test_a_job_whose_exporters_are_gone_at_the_end_is_found_by_the_middle(prometheus: str) -> None:
    got = read_throughput([prometheus], job="llm", window=Window(seconds=1200, end=START + SECONDS + 600))
    assert len(got.endpoints) == HOSTS * RNICS
    assert len(got.times) == SECONDS - 1


@needs_prometheus
def test_the_command_reads_prometheus(prometheus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topology = encode(rails_only(HOSTS, RNICS)).replace(b'"host-000', b'"h.')
    (tmp_path / "topology.json").write_bytes(topology)
    options = ["infer", "--throughput", prometheus, "--topology", str(tmp_path / "topology.json"), "--job", "llm"]
    when = ["--window", "2m", "--end", str(START + SECONDS - 0.01), "--output", str(tmp_path / "skeleton.json")]
    assert main([*options, *when]) == 0
    assert "job llm, 8 endpoints" in capsys.readouterr().out


@contextmanager
def answering(status: int, body: bytes, seen: list[tuple[str | None, str]] | None = None) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            if seen is not None:
                seen.append((self.headers["Authorization"], form["query"][0]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"prometheus:http://127.0.0.1:{server.server_port}"
        server.shutdown()


def refusal(kind: str, text: str) -> bytes:
    return json.dumps({"status": "error", "errorType": kind, "error": text}).encode()


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (401, b"no", "answers 401: Unauthorized (give --prometheus-token-file)"),
        (422, refusal("execution", "too many\nsamples"), "answers 422: too many samples (shorten --window)"),
        (503, refusal("timeout", "query timed out"), "answers 503: query timed out"),
        (500, b"\xff", "answers 500: Internal Server Error"),
        (200, b"<html>", "does not answer as Prometheus does (give its address up to /api)"),
        (200, b'{"status":"success","data":{"result":[]}}', "no job 'j' in the window, it has no fabric_"),
    ],
)
def test_a_bad_answer_is_one_line(status: int, body: bytes, problem: str) -> None:
    with answering(status, body) as source, pytest.raises(ContractError) as caught:
        read_throughput([source], job="j")
    assert str(caught.value).startswith(f"{source}: {problem}")
    assert "\n" not in str(caught.value)


def test_one_that_is_not_there_is_one_line() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        source = f"prometheus:http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ContractError, match=r"cannot be fetched: .*Connection refused"):
        read_throughput([source], job="j")


@pytest.mark.parametrize("source", ["prometheus:", "prometheus:host:9090", "prometheus:file:///etc/passwd"])
def test_an_address_that_is_none_is_one_line(source: str) -> None:
    with pytest.raises(ContractError, match=r"is no address of a Prometheus \(write prometheus:http://host:9090\)"):
        read_throughput([source], job="j")


def test_a_token_is_sent_but_never_in_the_clear(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    seen: list[tuple[str | None, str]] = []
    with answering(403, b"", seen) as source, pytest.raises(ContractError, match="answers 403"):
        read_throughput([source], job="j", window=Window(token_file=str(path)))
    assert [token for token, _ in seen] == ["Bearer s3cret"]
    with pytest.raises(ContractError, match=r"the token would travel in the clear \(use https://\)"):
        read_throughput(["prometheus:http://192.0.2.1"], job="j", window=Window(token_file=str(path)))
    path.write_text("\n")
    with pytest.raises(ContractError, match="token: holds no token on its first line"):
        read_throughput([source], job="j", window=Window(token_file=str(path)))


def test_counters_become_rates_with_gaps_where_they_say_nothing() -> None:
    times = np.array([10.2, 11.2, 12.2, 15.3, 16.2, 17.2, 18.2])
    sent = np.array([0, 100, 300, 900, 50, 60, 1e14])
    ends, tx, rx = rates_of_counters(times, sent, times, np.arange(7.0), 1.0)
    assert ends.tolist() == [11, 12, 17]  # without the missed scrapes, the reset and the impossible rate
    assert tx.tolist() == [100, 200, 10]
    assert rx.tolist() == [1, 1, 1]


def test_a_counter_read_less_often_than_scraped_counts_once_a_reading() -> None:
    times = np.arange(10.0, 13.0, 0.25)
    sent = 100 * np.floor(times)
    ends, tx, _ = rates_of_counters(times, sent, times, sent, 1.0)
    assert ends.tolist() == [11, 12]
    assert tx.tolist() == [100, 100]
