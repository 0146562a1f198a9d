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
from typing import Protocol

from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import ASK, REPLY, Codec
from exporter.probing.sockets import IcmpError, error_queue, open_flow, receive, send_options
from exporter.rdma.settings import INTRODUCTION_PORT

_BATCH = 64
_ASKED = 4096
_BINDTODEVICE = 25  # SO_BINDTODEVICE, socket(7)


class Asking(Protocol):
    """Who asked."""

    def on_answer(self, address: str, queue_pair: int, epoch: int) -> None:
        """The responder at ``address`` says its queue pair and its boot epoch."""

    def on_refusal(self, address: str) -> None:
        """The host at ``address`` is there, and nobody listens."""


class Introductions:
    """One address of an RNIC, asking and answering. ``on_asked`` is called with each that asked, under our key."""

    def __init__(
        self,
        loop: Loop,
        codec: Codec,
        address: str,
        netdev: str,
        epoch: int,
        limit: SourceLimit,
        on_asked: Callable[[str], None],
        port: int = INTRODUCTION_PORT,
    ) -> None:
        """Raise OSError: the address is not ours, the port is another's."""
        self.queue_pair = 0
        """That answers here; 0 while there is none."""
        self.asking: Asking | None = None
        self._codec = codec
        self._epoch = epoch
        self._limit = limit
        self._on_asked = on_asked
        self._port = port
        self._asked: OrderedDict[int, str] = OrderedDict()
        self._sequence = secrets.randbits(48)
        self._socket = open_flow(address, port)
        if netdev:  # the way of the probes, whatever the main routing table says
            self._socket.setsockopt(socket.SOL_SOCKET, _BINDTODEVICE, netdev.encode() + b"\0")
        loop.watch(self)
        self._loop = loop

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._loop.forget(self)
        self._socket.close()

    def ask(self, address: str, traffic_class: int) -> bool:
        """Ask who answers at ``address``; whether that could be sent."""
        self._sequence += 1
        request = self._codec.request(ASK, self._sequence, 0)
        if not self._send(request, traffic_class, (address, self._port)):
            return False
        self._asked[self._sequence] = address
        if len(self._asked) > _ASKED:
            self._asked.popitem(last=False)
        return True

    def _send(self, packet: bytes, traffic_class: int, destination: tuple[str, int]) -> bool:
        for _ in range(2):  # the first error may be one still pending, of another destination
            try:
                self._socket.sendmsg([packet], send_options(traffic_class), 0, destination)
                return True
            except OSError as error:
                if error.errno in (errno.EBADF, errno.ENOTSOCK):
                    raise
        return False

    def on_input(self) -> None:
        for datagram in receive(self._socket, _BATCH):
            packet = self._codec.parse(datagram.data)
            if packet is None:
                continue
            if packet.kind == ASK and self.queue_pair:
                if self._limit.allows(datagram.address[0]):
                    reply = self._codec.reply(packet, 0, self._epoch, self.queue_pair, 0)
                    self._send(reply, datagram.traffic_class, datagram.address)
                    self._on_asked(datagram.address[0])
            elif packet.kind == REPLY and self._asked.get(packet.sequence) == datagram.address[0]:
                del self._asked[packet.sequence]
                if self.asking is not None:
                    self.asking.on_answer(datagram.address[0], packet.answered, packet.epoch)

    def on_error(self) -> None:
        for item in error_queue(self._socket, _BATCH):
            if not isinstance(item, IcmpError) or item.kind != "refused" or item.offender != item.destination[0]:
                continue
            if self.asking is not None:
                self.asking.on_refusal(item.offender)

    def on_output(self) -> None:
        """Never asked for."""
