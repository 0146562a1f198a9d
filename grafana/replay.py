"""What a Prometheus of the lab has recorded, asked again by one of the same data that scrapes nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from grafana.asking import Asked, Shown, chosen

STARTED_SECONDS = 60.0


class RefusedError(Exception):
    """Prometheus does not take a query, or doubts it."""

    def __init__(self, query: Asked, why: str) -> None:
        super().__init__(f"{query.board}, {query.panel}: {why}\n{query.expression}")


@dataclass(frozen=True)
class Replay:
    url: str

    def ask(self, query: Asked, at: float, shown: Shown) -> list[dict[str, Any]]:
        """Series of the answer; raise RefusedError where Prometheus refuses it or warns of it."""
        words: dict[str, object] = {"query": query.expression}
        if query.instant:
            kind, words["time"] = "query", at
        else:
            kind = "query_range"
            words |= {"start": at - shown.seconds, "end": at, "step": shown.step}
        try:
            with urlopen(f"{self.url}/api/v1/{kind}?{urlencode(words)}", timeout=60) as answer:  # noqa: S310
                told = json.load(answer)
        except HTTPError as error:
            raise RefusedError(query, error.read().decode()) from error
        if told.get("warnings"):
            raise RefusedError(query, str(told["warnings"]))
        return list(told["data"]["result"])

    def vector(self, expression: str, at: float) -> list[dict[str, str]]:
        """Labels of the series there are."""
        found = self.ask(Asked("", "", "", expression, instant=True), at, Shown())
        return [each["metric"] for each in found]


def selected(replay: Replay, board: Mapping[str, Any], at: float) -> dict[str, str]:
    """What somebody would choose on top of a page: the worst of each kind, else any, else ``none``."""

    def of(label: str, *expressions: str) -> str:
        return next((found[0][label] for each in expressions if (found := replay.vector(each, at))), "none")

    worst = "topk(1, job_path:fabric_path_forward_loss:ratio_rate)"
    alerts = 'ALERTS{alertstate="firing", severity="critical", component_kind="%s"}'
    values = {
        "training_job": of("training_job", "fabric_job_path_info"),
        "path": of("path", worst, "fabric_job_path_info"),
        "link": of("link", "topk(1, job_link:fabric_link_suspicion:ratio)", "fabric_link_info"),
        "switch": of("component", alerts % "switch")
        if replay.vector(alerts % "switch", at)
        else of("switch", 'ALERTS{alertstate="firing", severity="critical", switch!=""}', "fabric_switch_reachable"),
        "host": of("host", alerts % "rnic", "fabric_rnic_info"),
    }
    return chosen(board, values, lambda query: replay.vector(query.expression, at))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def replayed(data: Path, directory: Path) -> Iterator[Replay]:
    """Of the directory that a Prometheus which has ended stored its samples in."""
    directory.mkdir(exist_ok=True)
    (directory / "nothing.yaml").write_text("{}\n")
    url = f"127.0.0.1:{_free_port()}"
    argv = ["prometheus", f"--config.file={directory / 'nothing.yaml'}", f"--storage.tsdb.path={data}"]
    argv += [f"--web.listen-address={url}", "--log.level=warn"]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + STARTED_SECONDS
        while True:
            try:
                with urlopen(f"http://{url}/-/ready", timeout=2):
                    break
            except (URLError, OSError):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"Prometheus does not start: {(directory / 'log').read_text()}") from None
                time.sleep(0.1)
        yield Replay(f"http://{url}")
    finally:
        process.terminate()
        process.wait(30)
