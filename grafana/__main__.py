"""Compile the dashboards: ``python -m grafana [--check] [--output DIRECTORY]``.

Exit status 1 with ``--check`` when what is committed is not what they compile to.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from grafana.board import Board, encoded
from grafana.boards import BOARDS

DIRECTORY = Path(__file__).parent / "dashboards"


def compiled(board: Board) -> str:
    return json.dumps(encoded(board.build()), indent=1, sort_keys=True) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m grafana", description=__doc__)
    parser.add_argument("--output", type=Path, default=DIRECTORY, metavar="DIRECTORY")
    parser.add_argument("--check", action="store_true", help="write nothing, and say what differs")
    options = parser.parse_args(words)
    files = {f"{board.uid}.json": compiled(board) for board in BOARDS}
    there = {each.name: each.read_text() for each in options.output.glob("*.json")}
    stale = sorted(name for name in files.keys() | there.keys() if files.get(name) != there.get(name))
    if options.check:
        for name in stale:
            lines = (there.get(name, "").splitlines(), files.get(name, "").splitlines())
            sys.stdout.writelines(
                line + "\n" for line in difflib.unified_diff(*lines, name, "compiled", lineterm="", n=1)
            )
        if stale:
            sys.stderr.write(f"{len(stale)} dashboards are stale: make dashboards\n")
        return int(bool(stale))
    options.output.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in files:
            (options.output / name).write_text(files[name])
        else:
            (options.output / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
