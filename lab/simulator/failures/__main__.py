"""``python -m lab.simulator.failures CLASS --seed 7 --output DIRECTORY`` writes a case; without them, the classes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.simulator.failures import CLASSES, simulate


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.simulator.failures", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(CLASSES), metavar="CLASS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--counters", action=argparse.BooleanOptionalAction, help="record them (default: drawn)")
    parser.add_argument("--paper-rate", action="store_true", help="each endpoint probes one path a second in turn")
    parser.add_argument("--output", type=Path, metavar="DIRECTORY")
    arguments = parser.parse_args(words)
    if arguments.name is None:
        for each in sorted(CLASSES.values(), key=lambda each: (each.distractor, each.row or len(CLASSES))):
            kind = "distractor" if each.distractor else f"row {each.row}" if each.row else each.symptom
            print(f"{each.name:28}  {kind:12}  {each.title}")
        return 0
    if arguments.output is None:
        parser.error("--output is missing: name a directory")
    case = simulate(arguments.name, arguments.seed, counters=arguments.counters, paper_rate=arguments.paper_rate)
    try:
        case.write(arguments.output)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
