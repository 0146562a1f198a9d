"""Which queue pair answers RDMA probes at an address: asked over UDP, since no queue pair can be sent to before.

The answer comes under our key with the sequence number asked for, and says the boot epoch as well: one that changed is
a restart. To have exchanged packets with an address also has the kernel know its next hop, so that no address handle
has to wait for ARP (``Device.handle``): neighbours that are cold, or dead, stall nobody.
"""

from __future__ import annotations

import errno
import secrets
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from exporter.contracts.addresses import is_ipv6
from exporter.contracts.plan import INTRODUCTION_PORT
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import ASK, REPLY, Codec, quoted_sequence
from exporter.probing.sockets import (
    AncillaryData,
    IcmpError,
    bind_to_device,
    error_queue,
    open_flow,
    receive,
    send_options,
    send_options_ipv6,
)

NO_RESPONDER = 0
"""In place of a queue pair, of who probes by hand: nothing answers there, but its own probes are replied to."""
_BATCH = 64
_ASKED = 4096
_IP_RECVTOS = 13
_SO_SNDBUFFORCE = 32
_SEND_BYTES = 4 << 20
"""Asked for. The kernel keeps what is sent for 3 s while it looks for a next hop, and that takes room: a default buffer
is full with questions to a hundred neighbours that are dead, and then nobody else is asked, or answered, either."""
_FRESH_NS = 5_000_000_000
"""Later answers count for nothing: the next hop may be cold by then. The kernel looks for one no longer than 3 s."""


class _Asked(NamedTuple):
    address: str
    traffic_class: int
    at_ns: int


_NOBODY = _Asked("", 0, 0)


class Asking(Protocol):
    """Who asked."""

    def on_answer(self, address: str, traffic_class: int, queue_pair: int, epoch: int) -> None:
        """The responder at ``address``, asked in this class, says its queue pair and its boot epoch."""

    def on_refusal(self, address: str) -> None:
        """The host at ``address`` is there, and nobody listens."""


class Other(Protocol):
    """Who uses the same port for packets of another kind, which have their number at the same place."""

    def on_datagram(self, data: bytes, address: str) -> None:
        """What is no packet of introductions; from anybody."""

    def has_asked(self, number: int, address: str) -> bool:
        """Whether it waits for an answer to this."""

    def on_refusal(self, address: str) -> None:
        """The host at ``address`` is there, and nobody listens."""


class Introductions:
    """One address of an RNIC, asking and answering.

    ``on_asked`` is called with each address and port that asked, under our key, and the traffic class. That may be a
    recorded packet under a forged address: it says nothing but that it is worth to ask back.
    """

    def __init__(
        self,
        loop: Loop,
        codec: Codec,
        address: str,
        netdev: str,
        epoch: int,
        limit: SourceLimit,
        on_asked: Callable[[tuple[str, int], int], None],
        port: int = INTRODUCTION_PORT,
        own_port: int | None = None,
    ) -> None:
        """Others are asked at ``port``, from ``own_port``: None for the same, 0 for any that is free.

        Raise OSError: the address is not ours, the port is another's.
        """
        self.queue_pair: int | None = None
        """That answers here, or ``NO_RESPONDER``; None: whoever asks is not answered."""
        self.asking: Asking | None = None
        self.other: Other | None = None
        self._codec = codec
        self._epoch = epoch
        self._limit = limit
        self._on_asked = on_asked
        self._port = port
        self._asked: OrderedDict[int, _Asked] = OrderedDict()
        self._sequence = secrets.randbits(48)
        self._options: Callable[[int], AncillaryData]
        self._socket = open_flow(address, port if own_port is None else own_port, timed=False)
        _enlarge(self._socket)
        if is_ipv6(address):
            self._options = send_options_ipv6
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        else:
            self._options = send_options
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
        if netdev:  # the way of the probes, whatever the main routing table says
            bind_to_device(self._socket, netdev)
        loop.watch(self)
        self._loop = loop

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._loop.forget(self)
        self._socket.close()

    def ask(self, address: str, traffic_class: int, port: int | None = None) -> bool:
        """Ask who answers at ``address``, or who asked from this ``port`` of it; whether that could be sent."""
        self._sequence += 1
        request = self._codec.request(ASK, self._sequence, 0)
        if not self._send(request, traffic_class, (address, self._port if port is None else port)):
            return False
        self._asked[self._sequence] = _Asked(address, traffic_class, self._loop.clock())
        if len(self._asked) > _ASKED:
            self._asked.popitem(last=False)
        return True

    def send(self, packet: bytes, traffic_class: int, address: str) -> None:
        """Send what is for the ``other`` at ``address``; if that cannot be, it is as good as lost."""
        self._send(packet, traffic_class, (address, self._port))

    def _send(self, packet: bytes, traffic_class: int, destination: tuple[str, int]) -> bool:
        for _ in range(2):  # the first error may be one still pending, of another destination
            try:
                self._socket.sendmsg([packet], self._options(traffic_class), 0, destination)
                return True
            except OSError as error:
                if error.errno in (errno.EBADF, errno.ENOTSOCK):
                    raise
        return False

    def on_input(self) -> None:
        for datagram in receive(self._socket, _BATCH):
            packet = self._codec.parse(datagram.data)
            address = datagram.address[0]
            if packet is None:
                if self.other is not None:
                    self.other.on_datagram(datagram.data, address)
                continue
            if packet.kind == ASK and self.queue_pair is not None:
                if self._limit.allows(address):
                    reply = self._codec.reply(packet, 0, self._epoch, self.queue_pair, 0)
                    self._send(reply, datagram.traffic_class, datagram.address)
                    if self._limit.allows(address):  # a recorded question, under a forged address, is worth two packets
                        self._on_asked(datagram.address, datagram.traffic_class & ~1)
            elif packet.kind == REPLY and self._asked.get(packet.sequence, _NOBODY).address == address:
                asked = self._asked.pop(packet.sequence)
                if self.asking is not None and self._loop.clock() - asked.at_ns < _FRESH_NS:
                    self.asking.on_answer(address, asked.traffic_class, packet.answered, packet.epoch)

    def on_error(self) -> None:
        for item in error_queue(self._socket, _BATCH):
            if not isinstance(item, IcmpError) or item.kind != "refused":
                continue
            number = quoted_sequence(item.quoted)
            address, port = item.destination
            if number is None or item.offender != address or port != self._port:  # one who has ended says nothing
                continue
            asked = self._asked.pop(number, _NOBODY)
            was_asked = asked.address == address and self._loop.clock() - asked.at_ns < _FRESH_NS
            if was_asked and self.asking is not None:
                self.asking.on_refusal(address)
            if self.other is not None and (was_asked or self.other.has_asked(number, address)):
                self.other.on_refusal(address)

    def on_output(self) -> None:
        """Never asked for."""


def explain(address: str, port: int, error: OSError) -> str:
    """Why nobody can be asked from an address, and the remedy."""
    known = {
        errno.EADDRNOTAVAIL: "the address is not in this network namespace",
        errno.ENODEV: "the RDMA device's network interface is not in this network namespace",
        errno.EADDRINUSE: "another exporter has it: one to an address, or another rdma.port on all hosts",
        errno.EPERM: "before Linux 5.7, to keep to an interface needs CAP_NET_RAW",
    }
    return f"{address} port {port}/udp, for introductions: {known.get(error.errno or 0, error.strerror or error)}"


def _enlarge(sock: socket.socket) -> None:
    """Give it a large send buffer; without CAP_NET_ADMIN up to net.core.wmem_max (socket(7))."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
