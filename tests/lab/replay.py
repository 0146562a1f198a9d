"""What a Prometheus of the lab has recorded, asked again by one of the same data that scrapes nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from grafana.asking import Asked, Shown
from tests.unit.running import free_port

STARTED_SECONDS = 60.0


@dataclass(frozen=True)
class Replay:
    url: str

    def ask(self, query: Asked, at: float, shown: Shown) -> list[dict[str, Any]]:
        """Series of the answer; AssertionError where Prometheus refuses it or warns of it."""
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
            raise AssertionError(
                f"{query.board}, {query.panel}: {error.read().decode()}\n{query.expression}"
            ) from error
        assert not told.get("warnings"), (query, told["warnings"])
        assert told["data"]["resultType"] in ("vector", "matrix", "scalar"), query
        return list(told["data"]["result"])

    def vector(self, expression: str, at: float) -> list[dict[str, str]]:
        """Labels of the series there are."""
        found = self.ask(Asked("", "", "", expression, instant=True), at, Shown())
        return [each["metric"] for each in found]


@contextmanager
def replayed(data: Path, directory: Path) -> Iterator[Replay]:
    """Of the directory that a Prometheus which has ended stored its samples in."""
    directory.mkdir(exist_ok=True)
    (directory / "nothing.yaml").write_text("{}\n")
    url = f"127.0.0.1:{free_port(socket.SOCK_STREAM, '127.0.0.1')}"
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
                assert time.monotonic() < deadline, (directory / "log").read_text()
                assert process.poll() is None, (directory / "log").read_text()
                time.sleep(0.1)
        yield Replay(f"http://{url}")
    finally:
        process.terminate()
        process.wait(30)
