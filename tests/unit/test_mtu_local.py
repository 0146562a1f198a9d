"""The MTU of the interface that packets leave by, whatever routers said of the path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from exporter.probing.mtu.local import local_mtu

# A process of its own network namespace: an interface, and an ICMP error that the kernel remembers for its route.
_PROGRAM = """
import os, socket, subprocess, sys, time
from exporter.probing.mtu.local import local_mtu
from tests.unit.test_prober import forge_icmp

def ip(words):
    subprocess.run(["ip", *words.split()], check=True)

ip("link set lo up")
ip("link add near mtu 9000 type veth peer name far mtu 9000")
ip("link set near address 02:00:00:00:00:01 up")
ip("link set far up")
ip("addr add 10.1.0.1/24 dev near")
ip("neigh add 10.1.0.2 lladdr 02:00:00:00:00:02 dev near")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(socket.IPPROTO_IP, 10, 3)
    sock.bind(("10.1.0.1", 5000))
    sock.connect(("10.1.0.2", 6000))
    sock.send(b"x")
    forge_icmp(3, 4, ("10.1.0.1", 5000), ("10.1.0.2", 6000), 1400, router="10.1.0.1")
    time.sleep(0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as another:
        another.connect(("10.1.0.2", 9))
        print(another.getsockopt(socket.IPPROTO_IP, 14), local_mtu("10.1.0.1", "10.1.0.2"))
ip("link set near mtu 4000")
print(local_mtu("10.1.0.1", "10.1.0.2"), local_mtu("10.1.0.1", "192.0.2.1"), local_mtu("10.1.0.9", "10.1.0.2"))
"""


def test_the_interface_of_the_route_is_asked() -> None:
    assert local_mtu("127.0.0.2", "127.0.0.3") == int(Path("/sys/class/net/lo/mtu").read_text())
    assert local_mtu("192.0.2.1", "127.0.0.1") is None, "not our address"


def test_what_a_router_reported_is_not_taken_for_the_interface() -> None:
    """IP_MTU repeats it for ten minutes, and the host's interface was blamed for a switch's."""
    argv = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", _PROGRAM]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    if "unshare failed" in done.stderr:
        pytest.skip("needs unprivileged user namespaces")
    assert done.stdout.split("\n")[:2] == ["1400 9000", "4000 None None"], done.stderr
