"""Real Prometheus and Alertmanager beside the fabric, configured as a site would, at a fast profile."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import yaml

from lab.errors import LabError
from lab.network.fabric import Lab

PROMETHEUS_PORT = 9090
ALERTMANAGER_PORT = 9093
RECEIVER_PORT = 9199
SCRAPE_INTERVAL = "1s"
TEMPLATE = "fabric.tmpl"
FAST_WAITS = {"group_wait": "1s", "group_interval": "2s"}
FAST_WARNING_WAITS = {"group_wait": "10s", "group_interval": "5s"}
"""Of warnings, which wait for a cause that may still be told."""
UNTOLD = ("info", "none")
"""Severities of what is there to be looked up, or to show that something fires at all."""
Series = tuple[dict[str, str], list[tuple[float, float]]]
"""Labels, and values with their Unix times."""


@dataclass(frozen=True)
class Monitoring:
    """Prometheus and Alertmanager of one lab, on its loopback address."""

    lab: Lab
    directory: Path
    external_url: str = ""
    """Where a browser outside the lab finds this Prometheus, for the links in its alerts."""
    scrape_interval: str = SCRAPE_INTERVAL
    as_shipped: bool = False
    """Whether Alertmanager has the intervals that are shipped, not those of the fast profile."""

    @property
    def rules(self) -> Path:
        return self.directory / "rules"

    def start(self, targets: Mapping[str, str], rules: Mapping[str, str] | None = None) -> None:
        """Start both with ``targets`` ({instance: address:port}) as exporters; wait until they are ready.

        ``rules`` are {file name: content}; without them the static pack as it is shipped.
        """
        self.rules.mkdir(parents=True)
        pack = files("skeleton_service") / "rules"
        shipped = {each.name: each.read_text() for each in (pack / "static").iterdir()} if rules is None else rules
        for name, text in shipped.items():
            (self.rules / name).write_text(text)
        (self.directory / "alertmanager.yaml").write_text(self._alertmanager(pack / "alertmanager/alertmanager.yaml"))
        (self.directory / TEMPLATE).write_text((pack / "alertmanager" / TEMPLATE).read_text())
        (self.directory / "prometheus.yaml").write_text(yaml.safe_dump(self._prometheus(targets), sort_keys=False))
        self.lab.daemon("alertmanager", self._alertmanager_command())
        self.lab.daemon("prometheus", self._prometheus_command())
        self._await(f"http://127.0.0.1:{PROMETHEUS_PORT}/-/ready", "prometheus")
        self._await(f"http://127.0.0.1:{ALERTMANAGER_PORT}/-/ready", "alertmanager")

    def _prometheus(self, targets: Mapping[str, str]) -> dict[str, Any]:
        return {
            "global": {
                "scrape_interval": self.scrape_interval,
                "scrape_timeout": self.scrape_interval,
                "evaluation_interval": self.scrape_interval,
                "external_labels": {"cluster": "lab"},
            },
            "rule_files": [str(self.rules / "*.yaml")],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{ALERTMANAGER_PORT}"]}]}]},
            "scrape_configs": [
                {
                    "job_name": "fabric-exporter",
                    "static_configs": [
                        {"targets": [address], "labels": {"instance": instance}}
                        for instance, address in targets.items()
                    ],
                }
            ],
        }

    def _alertmanager(self, shipped: Any) -> str:
        """The configuration we ship, its example receivers pointed at ours and its intervals at the fast profile."""
        text = shipped.read_text().replace("http://127.0.0.1:9199/", f"http://127.0.0.1:{RECEIVER_PORT}/")
        document = yaml.safe_load(text)
        if not self.as_shipped:
            document["route"] |= FAST_WAITS
            warnings = (each for each in document["route"]["routes"] if 'severity="warning"' in each["matchers"])
            for route in warnings:
                route.update(FAST_WARNING_WAITS)
        return yaml.safe_dump(document, sort_keys=False)

    def _prometheus_command(self) -> list[str]:
        return [
            "prometheus",
            f"--config.file={self.directory / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.directory / 'prometheus'}",
            "--storage.tsdb.retention.time=6h",
            f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}",
            f"--web.external-url={self.external_url}",
            "--web.enable-lifecycle",
            "--log.level=warn",
        ]

    def _alertmanager_command(self) -> list[str]:
        return [
            "prometheus-alertmanager",
            f"--config.file={self.directory / 'alertmanager.yaml'}",
            f"--storage.path={self.directory / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{ALERTMANAGER_PORT}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ]

    def _await(self, url: str, name: str, timeout: float = 20.0) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                with urlopen(url, timeout=2):
                    return
            except (URLError, OSError) as error:
                if name in self.lab.dead_daemons() or time.monotonic() > deadline:
                    raise LabError(f"{name} is not ready: {error}", f"see {self.lab.log(name)}") from error
            time.sleep(0.1)

    def reload(self) -> None:
        """Let Prometheus read its rule files again; raise LabError when it refuses them."""
        request = Request(f"http://127.0.0.1:{PROMETHEUS_PORT}/-/reload", method="POST")
        try:
            with urlopen(request, timeout=10):
                return
        except URLError as error:
            raise LabError(f"Prometheus refuses the rules: {error}", f"see {self.lab.log('prometheus')}") from error

    def query(self, expression: str, timeout: float = 30) -> list[tuple[dict[str, str], float]]:
        """Evaluate an instant query: [(labels, value)]."""
        url = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query?{urlencode({'query': expression})}"
        with urlopen(url, timeout=timeout) as answer:
            result = json.load(answer)["data"]["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in result]

    def loaded_rules(self) -> dict[str, str]:
        """Health of every loaded rule by name: ok, err or unknown (not evaluated yet)."""
        with urlopen(f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/rules", timeout=10) as answer:
            groups = json.load(answer)["data"]["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    def evaluations(self) -> tuple[float, float]:
        """Seconds that one evaluation of all rules takes, and the share of the groups' that had no time to begin."""
        with urlopen(f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/rules", timeout=10) as answer:
            groups = json.load(answer)["data"]["groups"]
        with urlopen(f"http://127.0.0.1:{PROMETHEUS_PORT}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        missed, all_of_them = (
            sum(float(line.split()[-1]) for line in lines if line.startswith(f"prometheus_rule_group_{name}_total{{"))
            for name in ("iterations_missed", "iterations")
        )
        return sum(group["evaluationTime"] for group in groups), missed / max(1.0, all_of_them)

    def alerts(self) -> list[tuple[dict[str, str], str]]:
        """Labels and state, ``pending`` or ``firing``, of what Prometheus has that somebody is to hear of."""
        with urlopen(f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/alerts", timeout=10) as answer:
            alerts = json.load(answer)["data"]["alerts"]
        return [(each["labels"], each["state"]) for each in alerts if each["labels"].get("severity") not in UNTOLD]

    def firing(self) -> list[dict[str, str]]:
        """Labels of the alerts that fire in Prometheus now, without those that nobody is to hear of."""
        return [labels for labels, state in self.alerts() if state == "firing"]

    def series(self, expression: str, since: float, until: float, step: float = 1.0) -> list[Series]:
        """Evaluate a range query: [(labels, [(Unix time, value)])]."""
        words = {"query": expression, "start": f"{since:.3f}", "end": f"{until:.3f}", "step": f"{step:g}"}
        url = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query_range?{urlencode(words)}"
        with urlopen(url, timeout=30) as answer:
            result = json.load(answer)["data"]["result"]
        return [(each["metric"], [(float(t), float(value)) for t, value in each["values"]]) for each in result]
