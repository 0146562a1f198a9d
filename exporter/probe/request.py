"""What a command line asks for: names resolved, the key read, and what was left out asked of the kernel."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import random
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from exporter.contracts.addresses import canonical, is_ipv6, is_link_local
from exporter.contracts.codec import ContractError
from exporter.contracts.plan import INTRODUCTION_PORT, RESPONDER_PORT, ROCE_SOURCE_PORTS, UDP_HEADERS, Target
from exporter.contracts.secrets import read_key
from exporter.probe.arguments import MOST_BYTES
from exporter.probing.mtu.local import local_mtu
from exporter.probing.packet import PACKET_BYTES
from exporter.probing.tcp.handshake import SYN_RETRANSMIT_SECONDS
from exporter.rdma.ports import NO_DEVICE, roce_addresses

Type = Literal["udp", "tcp", "mtu", "trace", "rdma"]

_ECT0 = 2
_RDMA_JUDGED_SECONDS = 0.2
"""After the timeout: an RDMA probe is judged once its responder could say that it has started again."""
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
    devices: Mapping[str, str]
    """{source address: its RDMA device}; empty for other types."""

    @property
    def longest(self) -> float:
        """Seconds within which a probe has ended, whatever becomes of it."""
        if self.type == "rdma":
            return self.timeout + _RDMA_JUDGED_SECONDS
        return 2 * self.timeout + SYN_RETRANSMIT_SECONDS if self.type == "tcp" else self.timeout

    @property
    def packet_bytes(self) -> int:
        """Bytes of the whole IP packet; 0 for tcp and rdma, which have headers of their own."""
        return 0 if self.type in ("tcp", "rdma") else self.targets[0].payload_bytes + UDP_HEADERS


def read_request(options: argparse.Namespace) -> Request:
    """Resolve, check and complete the options; raise ContractError that names option and remedy."""
    kind: Type = options.type
    if options.ecmp and kind != "trace":
        raise ContractError("--ecmp", f"is of no use with --type {kind}", "add --type trace")
    if kind in ("tcp", "rdma") and options.size is not None:
        why = "whose handshake carries no data" if kind == "tcp" else "whose messages have 64 bytes"
        raise ContractError("--size", f"is of no use with --type {kind}, {why}")
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
    devices: dict[str, str] = {}
    given = list(dict.fromkeys(port for ports in options.source_port for port in ports))
    for name in options.destinations:
        address = _resolve(name, _family(kind, options.source))
        source = _source(kind, options.source, name, address)
        if source not in chosen:  # one flow socket, or one RDMA device, a source address probes all destinations
            if kind == "rdma":
                devices[source] = _device(source)
            check = _roce_port if kind == "rdma" else _bindable
            chosen[source] = 0 if given else check(kind, source, 0)
            for port in given:
                check(kind, source, port)
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
        devices=devices,
    )


def _target(options: argparse.Namespace, name: str, address: str, source: str, port: int) -> Target:
    destination_port = options.port or (INTRODUCTION_PORT if options.type == "rdma" else RESPONDER_PORT)
    if options.type == "tcp":
        payload = 0 if options.key_file is None else PACKET_BYTES  # without its key no responder echoes
    elif options.size is not None:
        payload = options.size - UDP_HEADERS
    elif options.type == "mtu":
        payload = min(local_mtu(source, address) or 1500, MOST_BYTES) - UDP_HEADERS
    else:
        payload = PACKET_BYTES
    return Target(
        path=f"{source}:{port}>{address}:{destination_port}",
        source=source,
        destination=name,
        probe="udp" if options.type == "trace" else options.type,
        source_address=source,
        destination_address=address,
        destination_port=destination_port,
        source_ports=(port,),
        traffic_class=options.traffic_class if options.dscp is None else options.dscp << 2 | _ECT0,
        payload_bytes=payload,
        period_seconds=options.interval,
        active=True,
    )


def _family(kind: Type, source: str | None) -> socket.AddressFamily:
    """Of the addresses that names stand for: IPv6 is for RDMA."""
    if kind == "rdma" and (source is None or is_ipv6(source)):
        return socket.AF_UNSPEC if source is None else socket.AF_INET6
    return socket.AF_INET


_FAMILIES = {socket.AF_INET: "IPv4 address", socket.AF_INET6: "IPv6 address", socket.AF_UNSPEC: "IP address"}


def _resolve(name: str, family: socket.AddressFamily) -> str:
    wanted = _FAMILIES[family]
    try:
        found = socket.getaddrinfo(name, None, family, socket.SOCK_DGRAM)
    except (socket.gaierror, UnicodeError) as error:
        remedy = f"is it spelt right? An {wanted} works as well"
        if ":" in name:
            remedy = "only --type rdma probes IPv6, and from an IPv6 --source"
        raise ContractError(name, f"has no {wanted}", remedy) from error
    text = canonical(str(found[0][4][0]).partition("%")[0])
    address = ipaddress.ip_address(text)
    if address.is_multicast or address.is_unspecified or text == "255.255.255.255":
        raise ContractError(name, "is not a unicast address")
    if is_link_local(text):
        raise ContractError(name, "is a link-local address, which names nobody beyond its link")
    return text


def _source(kind: Type, given: str | None, name: str, address: str) -> str:
    """The address to probe from: the given one, or that of the route."""
    if given is not None:
        try:
            return canonical(given) if kind == "rdma" else str(ipaddress.IPv4Address(given))
        except ValueError as error:
            wanted = "IP address" if kind == "rdma" else "IPv4 address"
            raise ContractError("--source", f"{given!r} is no {wanted}") from error
    with socket.socket(socket.AF_INET6 if is_ipv6(address) else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, 9))
        except OSError as error:
            raise ContractError(name, error.strerror or str(error), "is there a route to it?") from error
        return str(sock.getsockname()[0])


def _device(source: str) -> str:
    """The RDMA device that has this address; raise ContractError that names all that there are."""
    known = roce_addresses()
    for device, addresses in known.items():
        if source in addresses:
            return device
    remedy = "; ".join(f"{device} has {', '.join(addresses) or 'none'}" for device, addresses in known.items())
    raise ContractError("--source", f"{source} is no RoCEv2 address of an RDMA device", remedy or f"none: {NO_DEVICE}")


def _roce_port(kind: Type, source: str, port: int) -> int:
    """As ``_bindable``; the sockets of the host have other ports."""
    if not port:
        return random.choice(ROCE_SOURCE_PORTS)  # noqa: S311 - no secret
    if port not in ROCE_SOURCE_PORTS:
        first, last = ROCE_SOURCE_PORTS[0], ROCE_SOURCE_PORTS[-1]
        raise ContractError("--source-port", f"{kind} probes cannot be sent from {port} of {source}", f"{first}-{last}")
    return port


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
