"""A real Alertmanager on loopback with the shipped configuration, and what listens to it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml

from skeleton_service.ruleset import Thresholds, job_rules
from tests.unit.running import free_port, until

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "rules/alertmanager"
CONFIGURATION = SHIPPED / "alertmanager.yaml"
TEMPLATE = SHIPPED / "fabric.tmpl"

MISSING = [name for name in ("prometheus-alertmanager", "amtool") if shutil.which(name) is None]
REASON = f"not on PATH: {', '.join(MISSING)} (apt: prometheus-alertmanager)"


@cache
def alerts_of_the_pack() -> dict[str, dict[str, str]]:
    """{alertname: the labels that its rule sets, templates as they stand}, of the pack and of a job's rules."""
    texts = [path.read_text() for path in sorted((ROOT / "rules").rglob("*.yaml")) if "tests" not in path.parts]
    texts += job_rules("llm-7b", Thresholds()).values()
    documents = [document for text in texts for document in yaml.safe_load_all(text) if isinstance(document, dict)]
    return {
        rule["alert"]: {"alertname": rule["alert"], **rule.get("labels", {})}
        for document in documents
        for group in document.get("groups", [])
        for rule in group["rules"]
        if "alert" in rule
    }


def fixed_labels(name: str) -> dict[str, str]:
    """Labels of an alert that do not depend on what it fires for. ``KeyError`` for a name that no rule has."""
    return {label: value for label, value in alerts_of_the_pack()[name].items() if "{{" not in value}


def alert(name: str, /, **labels: str) -> dict[str, str]:
    """Labels of one alert: those of its rule, and these."""
    return {**fixed_labels(name), "cluster": "c1", **labels}


def configuration() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())
    return document


def at_speed(document: dict[str, Any]) -> dict[str, Any]:
    """The same configuration, in seconds where it has minutes."""
    route = document["route"] | {"group_interval": "1s"}
    routes = [
        each | {"group_interval": "1s", "repeat_interval": "2s"}
        if each["receiver"] == "fabric-watchdog"
        else each | ({"group_wait": "3s", "group_interval": "1s"} if each["receiver"] == "fabric-chat" else {})
        for each in route["routes"]
    ]
    return document | {"route": route | {"routes": routes}}


@dataclass(frozen=True)
class Call:
    """One request that Alertmanager made."""

    path: str
    body: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """Alerts of a webhook's body, firing or not."""
        return [each["labels"]["alertname"] for each in self.body["alerts"]]


class Listener:
    """An HTTP server for webhooks, and for what looks like Slack and PagerDuty: all take JSON."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        listener = self

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # as many notifications as are due at once

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.calls.append(Call(self.path, json.loads(body)))
                self.send_response(202 if self.path == "/pagerduty" else 200)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                pass

        self._http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def at(self, path: str) -> list[Call]:
        return [call for call in self.calls if call.path == path]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class Alertmanager:
    """The process. ``change`` edits the shipped configuration, whose webhooks lead to ``listener``."""

    def __init__(
        self,
        directory: Path,
        listener: Listener,
        change: Callable[[dict[str, Any]], dict[str, Any]] = at_speed,
    ) -> None:
        self.listener = listener
        document = change(configuration())
        for receiver in document["receivers"]:
            for webhook in receiver.get("webhook_configs", []):
                webhook["url"] = listener.url + "/" + webhook["url"].split("/", 3)[3]
        directory.mkdir(exist_ok=True)
        shutil.copy(TEMPLATE, directory)
        (directory / "alertmanager.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        self.url = f"http://127.0.0.1:{free_port(socket.SOCK_STREAM, '127.0.0.1')}"
        self._log = directory / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus-alertmanager",
                    f"--config.file={directory / 'alertmanager.yaml'}",
                    f"--storage.path={directory / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                    "--cluster.listen-address=",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self._ready, 15)

    def _ready(self) -> bool:
        assert self._process.poll() is None, self.log
        try:
            with urlopen(f"{self.url}/-/ready", timeout=2):  # noqa: S310 - loopback
                return True
        except OSError:
            return False

    @property
    def log(self) -> str:
        return self._log.read_text()

    def post(
        self,
        alerts: Iterable[dict[str, str]],
        annotations: dict[str, str] | None = None,
        starts: datetime | None = None,
        ends: datetime | None = None,
    ) -> None:
        """Let these fire, as Prometheus does; with ``ends`` in the past they are over."""
        starts = starts or datetime.now(UTC)
        body = [
            {
                "labels": labels,
                "annotations": annotations or {},
                "startsAt": starts.isoformat(),
                "endsAt": (ends or datetime.now(UTC) + timedelta(minutes=10)).isoformat(),
            }
            for labels in alerts
        ]
        request = Request(  # noqa: S310 - loopback
            f"{self.url}/api/v2/alerts",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        with urlopen(request, timeout=10):  # noqa: S310 - loopback
            return

    def amtool(self, *words: str) -> str:
        argv = ["amtool", f"--alertmanager.url={self.url}", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def quiet(listener: Listener, seconds: float) -> list[Call]:
    """What arrived by the time nothing more does for so long."""
    seen, since = len(listener.calls), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.1)
        if len(listener.calls) != seen:
            seen, since = len(listener.calls), time.monotonic()
    return listener.calls[:seen]
