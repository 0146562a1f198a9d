"""A look at what leaves a network device: packet(7) with a filter in the kernel (socket(7), SO_ATTACH_FILTER)."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable

from exporter.contracts.codec import ContractError
from exporter.underlay.encapsulation import SNAP_BYTES

_ETH_P_ALL = 0x0003  # linux/if_ether.h: what leaves a device is shown to nobody who asks for one protocol
_SO_ATTACH_FILTER = 26
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog
_BATCH = 64
_BUFFER_BYTES = 4 << 20
"""Asked for, as of every socket here: a full-size packet takes its whole size of it, however little of it is read."""


def require_capability() -> None:
    """Raise ContractError where this process may not look at packets."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0).close()
    except PermissionError as error:
        raise ContractError(
            "section 'underlay'",
            "this process may not look at packets",
            "give it CAP_NET_RAW: AmbientCapabilities= in its systemd unit, capabilities.add: [NET_RAW] in its pod",
        ) from error


class Capture:
    """What the filter passes of one device, until it is closed. Raise OSError where there is no such device."""

    def __init__(self, device: str, program: bytes, on_packet: Callable[[bytes], None]) -> None:
        self._on_packet = on_packet
        # For no protocol at first: nothing comes before the filter is there.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            memory = ctypes.create_string_buffer(program, len(program))
            attached = _PROGRAM.pack(len(program) // 8, ctypes.addressof(memory))
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)
            self._socket.bind((device, _ETH_P_ALL))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def on_input(self) -> None:
        for _ in range(_BATCH):
            try:
                packet = self._socket.recv(SNAP_BYTES)
            except OSError:  # no more; or the device went down, which the next look finds out
                return
            self._on_packet(packet)
            if self._socket.fileno() < 0:  # that was all that was wanted
                return

    on_error = on_input

    def on_output(self) -> None:
        """Never asked for."""
