"""The process behind ``bgp-starvation``: sends small packets to the discard port of a neighbour, time and again."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from lab.faults.queues import DISCARD_PORT

TICK = 0.005


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.faults.loading", description=__doc__)
    parser.add_argument("source")
    parser.add_argument("destination")
    parser.add_argument("rate", type=float, help="packets per second")
    parser.add_argument("busy", type=float, help="seconds that the load lasts")
    parser.add_argument("pause", type=float, help="seconds between two loads")
    arguments = parser.parse_args(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind((arguments.source, 0))
    packet = bytes(64)
    while True:
        begin = time.monotonic()
        sent = 0
        while (elapsed := time.monotonic() - begin) < arguments.busy:
            for _ in range(int(elapsed * arguments.rate) - sent):
                with suppress(OSError):  # the port is down: it may come back
                    sender.sendto(packet, (arguments.destination, DISCARD_PORT))
                sent += 1
            time.sleep(TICK)
        time.sleep(arguments.pause)


if __name__ == "__main__":
    sys.exit(main())
