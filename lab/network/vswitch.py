"""The slow path of a host's virtual switch: ``python -m lab.network.vswitch --directory DIRECTORY --host HOST``.

Where an RNIC lacks an offloaded flow, the packet goes up to software, which looks it up and encapsulates it.
Here the fast path is the kernel's tunnel; this process is the software. It holds a tap on each tenant's
bridge, looks every frame's destination up in the table that the virtual switch wants (lab.network.overlay), and
sends it as VXLAN (RFC 7348) from the RNIC that the sender's interface belongs to. Every packet really makes the
detour through a process, which costs 100 microseconds and more; ``--microseconds`` adds to that.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.network import design as drawn
from lab.network import overlay
from lab.network.design import Design, Tenant
from lab.sandbox.netns import inside, socket_in

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
LARGEST_FRAME = 65535
FIRST_SOURCE_PORT, SOURCE_PORTS = 49152, 16384  # RFC 7348, section 5
VXLAN_FLAGS = 0x08000000  # a valid VNI follows


def tap(tenant: Tenant) -> str:
    """Name of the tap that joins the tenant's bridge to the slow path."""
    return f"sp-{tenant.vni}"


@dataclass(frozen=True)
class Hole:
    """One tenant's tap: frames come out of ``descriptor`` and leave with the VNI of ``tenant``."""

    tenant: Tenant
    descriptor: int


class SlowPath:
    """Encapsulates in software what the bridges of one host hand up."""

    def __init__(self, design: Design, directory: Path, host: str, microseconds: float) -> None:
        self._directory, self._host, self._pause = directory, host, microseconds / 1e6
        self._source: dict[bytes, socket.socket] = {}
        rnics = {rnic.name: rnic.address for rnic in design.host(host).rnics}
        senders = {name: self._sender(address) for name, address in rnics.items()}
        for container in design.containers:
            if container.host == host:
                for interface in container.interfaces:
                    self._source[_bytes(interface.mac)] = senders[interface.rnic]
        self._table: dict[tuple[int, bytes], str] = {}
        self._read_at: tuple[int, int] = (0, 0)
        self.holes = [Hole(tenant, self._open(tenant)) for tenant in design.tenants]

    def _sender(self, address: str) -> socket.socket:
        sender = socket_in(self._host, kind=socket.SOCK_RAW, protocol=socket.IPPROTO_UDP)
        sender.bind((address, 0))
        return sender

    def _open(self, tenant: Tenant) -> int:
        request = struct.pack("16sH22x", tap(tenant).encode(), IFF_TAP | IFF_NO_PI)
        with inside(self._host):
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)  # belongs to where it was opened
            try:
                fcntl.ioctl(descriptor, TUNSETIFF, request)
            except OSError as error:
                raise LabError(f"no tap on {self._host}: {error.strerror}") from error
            for words in (f"mtu {drawn.MTU - drawn.OVERLAY_OVERHEAD}", f"master {overlay.bridge(tenant)} up"):
                subprocess.run(["ip", "link", "set", "dev", tap(tenant), *words.split()], check=True)
            quiet = [
                "bridge",
                "link",
                "set",
                "dev",
                tap(tenant),
                "learning",
                "off",
                "flood",
                "off",
                "mcast_flood",
                "off",
            ]
            subprocess.run(quiet, check=True)
        return descriptor

    def forward(self, hole: Hole) -> None:
        """Take one frame from a tap and send it on; one that no entry covers is dropped: there is no flooding."""
        frame = os.read(hole.descriptor, LARGEST_FRAME)
        sender = self._source.get(frame[6:12])
        vtep = self._lookup(hole.tenant.vni, frame[:6])
        if sender is None or vtep is None:
            return
        if self._pause:
            time.sleep(self._pause)
        port = FIRST_SOURCE_PORT + zlib.crc32(frame[:6] + frame[23:38]) % SOURCE_PORTS
        payload = struct.pack("!II", VXLAN_FLAGS, hole.tenant.vni << 8) + frame
        # A checksum of 0 is what RFC 7348 asks for over IPv4.
        with suppress(OSError):  # the RNIC is down: its packets are lost, as those of the fast path
            sender.sendto(struct.pack("!HHHH", port, overlay.VXLAN_PORT, 8 + len(payload), 0) + payload, (vtep, 0))

    def _lookup(self, vni: int, mac: bytes) -> str | None:
        status = overlay.wanted_file(self._directory, self._host).stat()
        if self._read_at != (status.st_mtime_ns, status.st_ino):
            self._read_at = (status.st_mtime_ns, status.st_ino)
            self._table = {
                (entry.vni, _bytes(entry.dst_mac)): entry.next
                for entry in overlay.wanted(self._directory, self._host)
                if entry.dst_mac and entry.next and not entry.next.startswith("local:")
            }
        return self._table.get((vni, mac))


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.network.vswitch", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="the lab's")
    parser.add_argument("--host", required=True)
    parser.add_argument("--microseconds", type=float, default=0.0, help="more work per packet")
    arguments = parser.parse_args(words)
    design = drawn.load((arguments.directory / "design.json").read_bytes())
    path = SlowPath(design, arguments.directory, arguments.host, arguments.microseconds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with selectors.DefaultSelector() as waiting:
        for hole in path.holes:
            waiting.register(hole.descriptor, selectors.EVENT_READ, hole)
        while True:
            for key, _ in waiting.select():
                path.forward(key.data)


if __name__ == "__main__":
    sys.exit(main())
