"""The process behind ``rnic-flap`` and ``port-flap``: inflicts a fault and mends it, period after period."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab.faults.base import Fault, Site
from lab.faults.hosts import RnicDown
from lab.faults.ports import PortDown
from lab.network import design as drawn

KINDS = {kind.name: kind for kind in (RnicDown, PortDown)}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.faults.flapping", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="the lab's")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("target")
    parser.add_argument("period", type=float, help="seconds from one fall to the next")
    parser.add_argument("down", type=float, help="seconds of each period without carrier")
    arguments = parser.parse_args(words)
    site = Site(drawn.load((arguments.directory / "design.json").read_bytes()), arguments.directory)
    fault, port = Fault(arguments.kind, arguments.target), KINDS[arguments.kind]()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # whoever ends this brings the port up
    port.inflict(site, fault)
    while True:
        time.sleep(arguments.down)
        port.mend(site, fault)
        time.sleep(arguments.period - arguments.down)
        port.inflict(site, fault)


if __name__ == "__main__":
    sys.exit(main())
