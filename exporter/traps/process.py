"""The process that receives traps and informs: one socket, no waiting for anybody.

Started as ``python -m exporter.traps.process STORE PIPE``. It ends when the pipe closes.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import sys
import time
from contextlib import suppress

from exporter.contracts.addresses import canonical, is_ipv6
from exporter.contracts.switch_counters import NOTIFICATIONS_REFUSED_TABLE, SWITCH_NOTIFICATION
from exporter.inheritance import inherit
from exporter.store import Store
from exporter.traps.receiver import Receiver
from exporter.traps.settings import TrapSettings, bind, bind_problem, trap_tables
from exporter.traps.usm import SecurityModel

_LARGEST = 65_535
_BATCH = 64
_BUFFER_BYTES = 4 << 20
_ANCILLARY = socket.CMSG_SPACE(20)  # the larger of struct in_pktinfo and struct in6_pktinfo
_V4 = struct.Struct("=I4s4s")  # interface, local address, destination (ip(7))
_V6 = struct.Struct("=16sI")  # local address, interface (ipv6(7))
_BOOTS_SINCE = 1_735_689_600  # 2025: seconds since then grow from start to start, and fit until 2093
_ENGINE_PREFIX = bytes.fromhex("80004fb805")  # RFC 3411, section 5: the number of pysnmp's makers, then octets

Ancillary = list[tuple[int, int, bytes]]


def _reply_from(ancillary: Ancillary) -> Ancillary:
    """What makes an answer leave from the address that it was asked at: a host here has many, and senders compare."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and len(data) >= _V4.size:
            _, local, _ = _V4.unpack_from(data)
            return [(level, kind, _V4.pack(0, local, b"\0" * 4))]
        if level == socket.IPPROTO_IPV6 and len(data) >= _V6.size:
            return [(level, kind, data[: _V6.size])]
    return []


def receive_batch(sock: socket.socket, receiver: Receiver) -> None:
    """Look into what has arrived, but no more than a batch."""
    for _ in range(_BATCH):
        try:
            datagram, ancillary, _, sender = sock.recvmsg(_LARGEST, _ANCILLARY)
        except BlockingIOError:
            return
        address = sender[0]
        if is_ipv6(address):  # a zone means a link-local address, which is of no switch
            address = canonical(address.partition("%")[0])
        reply = receiver.receive(datagram, address, time.monotonic(), time.time())
        if reply is not None:
            # An answer that cannot be sent is lost as one that was: its inform comes again.
            with suppress(OSError):
                sock.sendmsg([reply], _reply_from(ancillary), 0, sender)


def serve(settings: TrapSettings, store: Store, control: socket.socket, sock: socket.socket) -> None:
    store.clear()
    started, now = time.monotonic(), time.time()
    # A new engine ID at each start needs no memory of the last one: nothing recorded for that is for this.
    engine = settings.engine_id or _ENGINE_PREFIX + os.urandom(16)
    security = SecurityModel(settings.users, engine, max(1, int(now) - _BOOTS_SINCE), started)
    receiver = Receiver(
        settings, security, store.writer(SWITCH_NOTIFICATION), store.writer(NOTIFICATIONS_REFUSED_TABLE)
    )
    with suppress(OSError):  # as much as the host allows (net.core.rmem_max)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    sock.setblocking(False)
    control.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        pipe = selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key is pipe:
                    return  # it carries nothing more: the control process is gone
                receive_batch(sock, receiver)


def main() -> None:
    given = inherit(TrapSettings)
    settings = given.settings
    try:
        sock = bind(settings.address, settings.port)
    except OSError as error:
        problem, remedy = bind_problem(error, settings.port)
        sys.exit(f"traps: {settings.address}:{settings.port}/udp: {problem}: {remedy}")
    with sock:
        serve(settings, Store(trap_tables(settings.switches), *given.memory), given.control, sock)


if __name__ == "__main__":
    main()
