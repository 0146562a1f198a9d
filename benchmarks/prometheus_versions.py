"""The versions of Prometheus at hand: the one on PATH, and those that ``make prometheus-versions`` has fetched."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

FETCHED = Path(__file__).parents[1] / ".cache" / "prometheus"


@dataclass(frozen=True, order=True)
class Version:
    number: tuple[int, ...]
    prometheus: Path
    promtool: Path

    def __str__(self) -> str:
        return ".".join(map(str, self.number))


def version(prometheus: Path) -> Version:
    """Of a binary, with promtool beside it or on PATH; raise OSError where one is missing or names no version."""
    promtool = prometheus.parent / "promtool"
    if not promtool.exists():
        promtool = Path(shutil.which("promtool") or promtool)
    said = []
    for binary in (prometheus, promtool):
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
        match = re.search(r"version (\d+(?:\.\d+)+)", answer.stdout + answer.stderr)
        if match is None:
            raise OSError(f"{binary} --version names no version: {(answer.stdout + answer.stderr)[:200]!r}")
        said.append(tuple(map(int, match[1].split("."))))
    return Version(said[0], prometheus, promtool)


def at_hand() -> list[Version]:
    """The oldest first, each number once; the one on PATH counts before a fetched one of the same number."""
    on_path = shutil.which("prometheus")
    binaries = [Path(on_path)] if on_path and shutil.which("promtool") else []
    binaries += sorted(FETCHED.glob("*/prometheus"))
    versions: dict[tuple[int, ...], Version] = {}
    for binary in binaries:
        found = version(binary)
        versions.setdefault(found.number, found)
    return sorted(versions.values())
