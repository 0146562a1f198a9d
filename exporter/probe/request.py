"""What a command line asks for: names resolved, the key read, and what was left out asked of the kernel."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import socket
import sys
from dataclasses import dataclass
from typing import Literal

from exporter.config import read_key
from exporter.contracts.codec import ContractError
from exporter.contracts.plan import UDP_HEADERS, Target
from exporter.probe.arguments import MOST_BYTES
from exporter.probing.mtu.local import local_mtu
from exporter.probing.packet import PACKET_BYTES
from exporter.probing.tcp.handshake import SYN_RETRANSMIT_SECONDS

Type = Literal["udp", "tcp", "mtu", "trace"]

_ECT0 = 2
_COUNT_OFF_TERMINAL = 10  # as of mtr --report: nobody is there to press Ctrl-C


@dataclass(frozen=True, slots=True)
class Request:
    """What a command line asks for. Times in seconds, ``max_lost_ratio`` 0 to 1; None is no limit."""

    type: Type
    targets: tuple[Target, ...]
    key: bytes
    """Of the responders; made up for tcp without one, which writes no packets under it."""
    count: int | None
    interval: float
    timeout: float
    max_hops: int
    max_lost_ratio: float | None
    max_rtt: float | None

    @property
    def longest(self) -> float:
        """Seconds within which a probe has ended, whatever becomes of it."""
        return 2 * self.timeout + SYN_RETRANSMIT_SECONDS if self.type == "tcp" else self.timeout

    @property
    def packet_bytes(self) -> int:
        """Bytes of the whole IP packet; 0 for tcp, whose handshake carries none of ours."""
        return 0 if self.type == "tcp" else self.targets[0].payload_bytes + UDP_HEADERS


def read_request(options: argparse.Namespace) -> Request:
    """Resolve, check and complete the options; raise ContractError that names option and remedy."""
    kind: Type = options.type
    if options.ecmp and kind != "trace":
        raise ContractError("--ecmp", f"is of no use with --type {kind}", "add --type trace")
    if kind == "tcp" and options.size is not None:
        raise ContractError("--size", "is of no use with --type tcp, whose handshake carries no data")
    if options.key_file is not None:
        key = read_key(options.key_file)
    elif kind == "tcp":
        key = bytes(16)
    else:
        raise ContractError(
            "--key-file",
            f"is missing, and {kind} probes are answered under the responder's key only",
            "name a copy of its probing.key_file, or use --type tcp, which needs none",
        )
    targets: dict[str, Target] = {}
    chosen: dict[str, int] = {}
    given = list(dict.fromkeys(port for ports in options.source_port for port in ports))
    for name in options.destinations:
        address = _resolve(name)
        source = _source(options.source, name, address)
        if source not in chosen:  # one flow socket a source address probes all destinations
            chosen[source] = 0 if given else _bindable(kind, source, 0)
            for port in given:
                _bindable(kind, source, port)
        for port in given or [chosen[source]]:
            target = _target(options, name, address, source, port)
            targets.setdefault(target.path, target)
    return Request(
        type=kind,
        targets=tuple(targets.values()),
        key=key,
        count=options.count or (None if sys.stdout.isatty() and not options.json else _COUNT_OFF_TERMINAL),
        interval=options.interval,
        timeout=options.timeout,
        max_hops=options.max_hops,
        max_lost_ratio=None if options.max_loss is None else options.max_loss / 100,
        max_rtt=None if options.max_rtt_ms is None else options.max_rtt_ms / 1e3,
    )


def _target(options: argparse.Namespace, name: str, address: str, source: str, port: int) -> Target:
    if options.type == "tcp":
        payload = 0 if options.key_file is None else PACKET_BYTES  # without its key no responder echoes
    elif options.size is not None:
        payload = options.size - UDP_HEADERS
    elif options.type == "mtu":
        payload = min(local_mtu(source, address) or 1500, MOST_BYTES) - UDP_HEADERS
    else:
        payload = PACKET_BYTES
    return Target(
        path=f"{source}:{port}>{address}:{options.port}",
        source=source,
        destination=name,
        probe="udp" if options.type == "trace" else options.type,
        source_address=source,
        destination_address=address,
        destination_port=options.port,
        source_ports=(port,),
        traffic_class=options.traffic_class if options.dscp is None else options.dscp << 2 | _ECT0,
        payload_bytes=payload,
        period_seconds=options.interval,
        active=True,
    )


def _resolve(name: str) -> str:
    try:
        found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_DGRAM)
    except (socket.gaierror, UnicodeError) as error:
        remedy = "the prober speaks IPv4 only" if ":" in name else "is it spelt right? An IPv4 address works as well"
        raise ContractError(name, "has no IPv4 address", remedy) from error
    text = str(found[0][4][0])
    address = ipaddress.IPv4Address(text)
    if address.is_multicast or address.is_unspecified or text == "255.255.255.255":
        raise ContractError(name, "is not a unicast address")
    return text


def _source(given: str | None, name: str, address: str) -> str:
    """The address to probe from: the given one, or that of the route."""
    if given is not None:
        try:
            return str(ipaddress.IPv4Address(given))
        except ValueError as error:
            raise ContractError("--source", f"{given!r} is no IPv4 address") from error
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, 9))
        except OSError as error:
            raise ContractError(name, error.strerror or str(error), "is there a route to it?") from error
        return str(sock.getsockname()[0])


def _bindable(kind: Type, source: str, port: int) -> int:
    """The port, or for 0 a free one; raise ContractError where it cannot be probed from."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as sock:
        if kind == "tcp":  # as the handshakes bind it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((source, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                remedy = "another program, perhaps the exporter, sends from it: choose another"
                raise ContractError("--source-port", f"{port} of {source} is in use", remedy) from error
            if error.errno == errno.EADDRNOTAVAIL:
                raise ContractError("--source", f"{source} is no address of this host", "see: ip address") from error
            raise ContractError("--source", f"{source}: {error.strerror or error}") from error
        return int(sock.getsockname()[1])
