"""The process behind ``offload-repeated``: takes offloaded flows away and puts them back, period after period."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab.faults.base import Site
from lab.faults.overlay import invalidate, restore
from lab.network import design as drawn


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.faults.invalidate", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="the lab's")
    parser.add_argument("--period", type=float, required=True, help="seconds; half of it without the flows")
    parser.add_argument("container")
    parser.add_argument("hosts", nargs="+")
    arguments = parser.parse_args(words)
    site = Site(drawn.load((arguments.directory / "design.json").read_bytes()), arguments.directory)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # whoever ends this puts the flows back
    offloaded = False
    while True:
        for host in arguments.hosts:
            (invalidate if offloaded else restore)(site, host, arguments.container)
        offloaded = not offloaded
        time.sleep(arguments.period / 2)


if __name__ == "__main__":
    sys.exit(main())
