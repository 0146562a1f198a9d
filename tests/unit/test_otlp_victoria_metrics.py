"""OTLP against a real receiver: VictoriaMetrics holds afterwards what /metrics says, under the same names.

``make victoria-metrics`` fetches it; without it these tests are skipped.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
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
                "-retentionPeriod=1d", "-opentelemetry.usePrometheusNaming", "-search.latencyOffset=0s"]  # fmt: skip
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
