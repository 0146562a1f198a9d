"""OTLP and remote write against a real receiver: VictoriaMetrics holds afterwards what /metrics says, same names.

``make victoria-metrics`` fetches it; without it these tests are skipped.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.contracts.catalogue import RTT_TABLE
from exporter.exposition import Renderer
from exporter.otlp.settings import Otlp
from exporter.store import Store
from tests.unit.running import free_port, until
from tests.unit.test_otlp_push import Pushing

CACHED = Path(__file__).parents[2] / ".cache/victoria-metrics/victoria-metrics"


def labelled(labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Labels in their order; a bucket's bound is the same number however it is written."""
    return tuple(sorted((key, repr(float(value)) if key == "le" else value) for key, value in labels.items()))


class VictoriaMetrics:
    def __init__(self, binary: str, directory: Path) -> None:
        self.port = free_port(socket.SOCK_STREAM, "127.0.0.1")
        argv = [binary, f"-httpListenAddr=127.0.0.1:{self.port}", f"-storageDataPath={directory}",
                "-retentionPeriod=10y", "-opentelemetry.usePrometheusNaming", "-search.latencyOffset=0s"]  # fmt: skip
        self.process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until(lambda: self._answers("/health"), seconds=20)

    def _answers(self, page: str) -> bool:
        assert self.process.poll() is None
        try:
            return self.get(page) != ""
        except OSError:
            return False

    def get(self, page: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.port}{page}", timeout=5) as answer:
            return str(answer.read().decode())

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/opentelemetry/v1/metrics"

    def now(self, selector: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Samples by labels, name included and the resource's attributes left out."""
        self.get("/internal/force_flush")
        answer = json.loads(self.get(f"/api/v1/query?query={quote(selector)}&nocache=1&time={time.time():.3f}"))
        return {
            labelled({key: value for key, value in each["metric"].items() if "service" not in key}): float(
                each["value"][1]
            )
            for each in answer["data"]["result"]
        }


@pytest.fixture(scope="module")
def victoria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaMetrics]:
    binary = shutil.which("victoria-metrics") or (str(CACHED) if CACHED.exists() else None)
    if binary is None:
        pytest.skip("no victoria-metrics: make victoria-metrics")
    started = VictoriaMetrics(binary, tmp_path_factory.mktemp("storage"))
    yield started
    started.process.terminate()
    started.process.wait(10)


def scraped(text: str) -> dict[tuple[tuple[str, str], ...], float]:
    return {
        labelled({"__name__": sample.name, **sample.labels}): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_victoria_metrics_holds_what_metrics_says_and_forgets_what_is_gone(victoria: VictoriaMetrics) -> None:
    pushing = Pushing(Otlp(endpoint=victoria.endpoint))
    histograms = Store([(RTT_TABLE, 2)])
    histogram = histograms.writer(RTT_TABLE).add(("h", "r", "dp", "udp"))
    histogram.add(3, 5)
    histogram.add(17 - 1, 0.25)
    for number, row in enumerate(pushing.rows):
        row.set(0, float(number % 2))
        row.add(1, 10.0 * number + 0.5)
    stores = [pushing.store, histograms]
    pushing.pusher._encode = lambda last: pushing.encoder.encode([] if last else stores, [], time.time_ns())
    assert pushing.pusher.push()
    text = Renderer().render(stores).decode()
    wanted = {key: value for key, value in scraped(text).items() if "_otlp_" not in dict(key)["__name__"]}
    until(lambda: len(victoria.now('{__name__=~"fabric_switch_.*|fabric_rtt_.*"}')) >= len(wanted), seconds=10)
    assert victoria.now('{__name__=~"fabric_switch_.*|fabric_rtt_.*"}') == wanted

    pushing.writer.remove(pushing.rows[0])
    pushing.rows[1].set(0, float("nan"))
    time.sleep(1.1)
    assert pushing.pusher.push()

    def left() -> set[tuple[str, str]]:
        return {(dict(key)["__name__"], dict(key)["switch"]) for key in victoria.now('{__name__=~"fabric_switch_.*"}')}

    until(lambda: ("fabric_switch_reachable", "leaf-1") not in left())
    assert not any(switch == "leaf-0" for _, switch in left())
    assert ("fabric_switch_polls_total", "leaf-1") in left()


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not on PATH (apt: prometheus)")
def test_what_prometheus_writes_on_is_what_metrics_says(victoria: VictoriaMetrics, tmp_path: Path) -> None:
    """Remote write, as to Mimir, Thanos Receive and VictoriaMetrics: the way past one Prometheus."""
    store = Store([(RTT_TABLE, 2)])
    for number, role in enumerate(("written-a", "written-b")):
        row = store.writer(RTT_TABLE).add(("h", "r", role, "udp"))
        row.add(3 + number, 5)
        row.add(17 - 1, 0.25)
    body = Renderer().render([store])

    class Served(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "prometheus.yaml").write_text(
        f"""
global: {{scrape_interval: 1s}}
scrape_configs: [{{job_name: exporter, static_configs: [{{targets: ["127.0.0.1:{server.server_port}"]}}]}}]
remote_write: [{{url: "http://127.0.0.1:{victoria.port}/api/v1/write"}}]
"""
    )
    port = free_port(socket.SOCK_STREAM, "127.0.0.1")
    prometheus = subprocess.Popen(
        ["prometheus", f"--config.file={tmp_path / 'prometheus.yaml'}", f"--storage.tsdb.path={tmp_path / 'data'}",
         f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    wanted = scraped(body.decode())

    def written() -> dict[tuple[tuple[str, str], ...], float]:
        found = victoria.now('{role=~"written-.*"}')
        return {tuple(pair for pair in key if pair[0] not in ("job", "instance")): found[key] for key in found}

    try:
        until(lambda: len(written()) >= len(wanted), seconds=40)
        assert written() == wanted
    finally:
        prometheus.terminate()
        prometheus.wait(10)
        server.shutdown()
