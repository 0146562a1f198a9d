"""A real Prometheus that has what a test says that it recorded."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.unit.running import free_port

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels, and the value that it has had for ten minutes."""
AVAILABLE = shutil.which("prometheus") is not None and shutil.which("promtool") is not None


def _text(samples: list[Sample]) -> str:
    now = int(time.time())
    lines = []
    for name, labels, value in samples:
        text = ",".join(f'{key}="{word}"' for key, word in labels.items())
        lines += [f"{name}{{{text}}} {value!r} {now - 600 + 30 * step}" for step in range(30)]
    return "\n".join([*lines, "# EOF", ""])


@contextmanager
def prometheus(directory: Path, samples: list[Sample]) -> Iterator[str]:
    """Its URL. Samples of one metric stand together."""
    directory.mkdir()
    (directory / "samples.om").write_text(_text(samples))
    made = subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", "samples.om", "data"],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    (directory / "prometheus.yml").write_text("global: {}\n")
    port = free_port(socket.SOCK_STREAM, "127.0.0.1")
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
             "--storage.tsdb.retention.time=1000d", f"--web.listen-address=127.0.0.1:{port}"],
            cwd=directory, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            _wait(f"http://127.0.0.1:{port}/-/ready", directory / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait(url: str, log: Path) -> None:
    ends = time.monotonic() + 30
    while True:
        try:
            urlopen(url, timeout=5).close()  # noqa: S310 - our own
            return
        except (URLError, OSError):
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.1)
