"""The command line of ``fabric-exporter probe``. Needs nothing heavy: every command's ``--help`` imports it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from exporter.contracts.plan import INTRODUCTION_PORT, RESPONDER_PORT, UDP_HEADERS

TRAFFIC_CLASS = 106
"""DSCP 26 with ECT(0), the default of plans: a queue with ECN drops what is not ECN-capable."""
LEAST_BYTES, MOST_BYTES = 64 + UDP_HEADERS, 65535
"""Of a whole IP packet: the probe's header and digest, and what IPv4 can tell the length of."""
_DESCRIPTION = """Probes paths from this host now, as the exporter would, and shows round trips and loss.

udp, mtu and trace need a running responder at the destination (fabric-exporter run) and its key; tcp measures the
handshake with any TCP port, open or closed, and with a key the responder's echo. rdma needs RoCEv2 devices at both
ends, a running exporter with a section rdma at the destination, and its key. Exit code: 0 all destinations answered and
are within the thresholds (mtu: packets of the size pass), 1 not so, 2 wrong usage."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = _DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("destinations", nargs="+", metavar="DESTINATION", help="name or IPv4 address; for rdma IPv6 as well")
    add(
        "--type",
        choices=("udp", "tcp", "mtu", "trace", "rdma"),
        default="udp",
        help="default: udp; mtu is udp at full size, and finds what passes",
    )
    add(
        "--source",
        metavar="ADDRESS",
        help="address to probe from; default: the route's; for rdma that of an RDMA device",
    )
    add(
        "--source-port", action="append", type=_ports, default=[], metavar="PORT[,PORT|-PORT]",
        help="each is a path of its own to ECMP; default: one free port; for rdma from 49153 on",
    )  # fmt: skip
    add(
        "-P", "--port", type=_whole(1, 65535), metavar="PORT",
        help=f"destination port; default: {RESPONDER_PORT}, the responder's; for rdma {INTRODUCTION_PORT}, where "
        "exporters tell their queue pairs",
    )  # fmt: skip
    add("--key-file", metavar="FILE", help="key of the responders; for tcp only to time an echo")
    add(
        "-c", "--count", type=_whole(1, 10**9), metavar="N",
        help="probes a path; default: until Ctrl-C, or 10 where output is no terminal, and for --json",
    )  # fmt: skip
    add(
        "-i", "--interval", type=_number(0.01, 3600), default=1.0, metavar="SECONDS",
        help="between the probes of a path; default: %(default)s",
    )  # fmt: skip
    add(
        "--timeout", type=_number(0.2, 60), default=0.5, metavar="SECONDS",
        help="unanswered for so long, a probe is lost; default: %(default)s, and for tcp 1 s more, to see a second SYN",
    )  # fmt: skip
    add(
        "-s", "--size", type=_whole(LEAST_BYTES, MOST_BYTES), metavar="BYTES",
        help="whole IP packet; default: 92, for mtu the MTU of the interface, the most that it tries",
    )  # fmt: skip
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument(
        "--traffic-class", "--tos", type=_whole(0, 255), default=TRAFFIC_CLASS, metavar="0-255",
        help="the whole byte; default: %(default)s, DSCP 26 with ECT(0)",
    )  # fmt: skip
    classes.add_argument("--dscp", type=_whole(0, 63), metavar="0-63", help="the same by DSCP, with ECT(0)")
    add("--max-hops", "--max-ttl", type=_whole(1, 32), default=30, metavar="N", help="of a trace; default: %(default)s")
    add(
        "--ecmp", action="store_true",
        help="instead of a trace: find all equal-cost ways, one source port after the other",
    )  # fmt: skip
    add(
        "--max-flows", type=_whole(1, 16384), default=512, metavar="N",
        help="of --ecmp; default: %(default)s",
    )  # fmt: skip
    add(
        "--max-loss", type=_number(0, 100), metavar="PERCENT",
        help="exit 1 when a path loses more; default: only when it never answers",
    )  # fmt: skip
    add("--max-rtt-ms", type=_number(0, 1e6), metavar="MS", help="exit 1 when the 99th percentile of a path is above")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("-j", "--json", action="store_true", help="one JSON document at the end")
    output.add_argument("--json-lines", action="store_true", help="a JSON line a probe, and the document as the last")


def _whole(least: int, most: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return whole


def _number(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least:g} to {most:g}")
        return value

    return number


def _ports(text: str) -> list[int]:
    """Ports of ``49152``, ``49152,49160`` or ``49152-49159``."""
    ports: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        bounds = [_whole(1024, 65535)(bound) for bound in (first, last or first)]
        ports.extend(range(bounds[0], bounds[1] + 1))
    if not ports:
        raise argparse.ArgumentTypeError(f"{text!r} holds no port")
    return ports
