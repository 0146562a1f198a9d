"""Stepping into a network namespace from one process, without a child process."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.errors import LabError

NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


def _set(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Let the calling thread stand in ``namespace``, and bring it back whatever happens.

    Sockets made and children started meanwhile belong to ``namespace`` for good. Only the calling
    thread moves; raise LabError for an unknown namespace.
    """
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            there = os.open(NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise LabError(f"there is no namespace {namespace!r} here", "is the fabric up in this sandbox?") from error
        try:
            _set(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _set(here)
    finally:
        os.close(here)


def socket_in(
    namespace: str, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0
) -> socket.socket:
    """Return a socket that lives in ``namespace`` wherever its owner stands."""
    with inside(namespace):
        return socket.socket(family, kind, protocol)
