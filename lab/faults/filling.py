"""The process behind ``congestion`` and ``incast``: keeps a queue of the interface filled with packets of its own.

It asks the kernel how many packets wait, whoever sent them, and adds what is missing; so the delay is the one
asked for whatever the other traffic does, as long as that alone does not fill the queue. Runs on the switch.
"""

from __future__ import annotations

import argparse
import errno
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab.faults.queues import BACKGROUND_BYTES, DISCARD_PORT, FRAME_BYTES, OWN_DROPS, QUEUE

TICK = 0.001
BURST_TICK = 0.0003
PERIOD = 0.2  # of the bursts
RTM_GETQDISC = 38  # linux/rtnetlink.h, linux/pkt_sched.h, linux/gen_stats.h
REQUEST_ECHO = 0x9  # without NLM_F_ECHO only subscribers get the answer
TCA_STATS2, TCA_STATS_QUEUE = 7, 3
IP_RECVERR = 11


class Queue:
    """The FIFO of one interface, as the kernel accounts for it."""

    def __init__(self, device: str, handle: str) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        parent, number = 0x10002, int(handle.rstrip(":"), 16) << 16
        body = struct.pack("=BxHiIII", 0, 0, socket.if_nametoindex(device), number, parent, 0)
        self._question = struct.pack("=IHHII", 16 + len(body), RTM_GETQDISC, REQUEST_ECHO, 1, 0) + body

    def length(self) -> int:
        """Packets that wait. Raise OSError when the queue is gone."""
        self._socket.send(self._question)
        answer = self._socket.recv(65536)
        (kind,) = struct.unpack_from("=H", answer, 4)
        if kind != 36:  # RTM_NEWQDISC
            raise OSError(-struct.unpack_from("=i", answer, 16)[0], "no such queue")
        statistics = _attribute(answer[16 + 20 :], TCA_STATS2)
        return int(struct.unpack_from("=I", _attribute(statistics, TCA_STATS_QUEUE))[0])


def _attribute(data: bytes, wanted: int) -> bytes:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if kind & 0x3FFF == wanted:
            return data[at + 4 : at + length]
        at += (length + 3) & ~3
    raise ValueError(f"no attribute {wanted}")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.faults.filling", description=__doc__)
    parser.add_argument("device")
    parser.add_argument("source")
    parser.add_argument("destination")
    parser.add_argument("drops", type=Path, help="file for the number of own packets that did not fit")
    parser.add_argument("--hold", type=float, required=True, help="packets in the queue")
    parser.add_argument("--rate", type=float, required=True, help="at which the queue empties, Mb/s")
    parser.add_argument("--share", type=float, help="of the time; without, all the time")
    arguments = parser.parse_args(words)
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 26)
    sender.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)  # ENOBUFS for what the queue refuses
    sender.bind((arguments.source, 0))
    sender.connect((arguments.destination, DISCARD_PORT))
    queue = Queue(arguments.device, QUEUE)
    packet = bytes(BACKGROUND_BYTES)
    tick = TICK if arguments.share is None else BURST_TICK
    hold = arguments.hold
    if arguments.share is None:  # between two looks the queue empties by so much: on average as many as asked for
        hold += arguments.rate * 1e6 * tick / (8 * FRAME_BYTES) / 2
    drops = 0
    arguments.drops.write_bytes(OWN_DROPS.pack(0))
    with open(arguments.drops, "r+b", buffering=0) as file:
        while not ended:
            if arguments.share is None or time.monotonic() % PERIOD < arguments.share * PERIOD:
                missing = hold - queue.length()
                for _ in range(round(missing)):
                    try:
                        sender.send(packet)
                    except OSError as error:
                        if error.errno != errno.ENOBUFS:  # the port is down, or nobody is there: it may come back
                            break
                        drops += 1
                        file.seek(0)
                        file.write(OWN_DROPS.pack(drops))
            time.sleep(tick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
