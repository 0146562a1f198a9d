"""What a process of the exporter is started with: the other side of ``exporter.child``."""

from __future__ import annotations

import resource
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from exporter.messages import receive_message

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Inherited(Generic[T]):
    settings: T
    memory: tuple[int, ...]
    """Descriptors of shared memory, in the order in which the control process named them."""
    control: socket.socket
    """More messages come over it, and its end is ours."""


def inherit(kind: type[T], *, many_files: bool = False) -> Inherited[T]:
    """Take over what ``sys.argv`` names. Exit where the control process has ended before it told the settings.

    ``many_files``: for a process of more than 1,024 sockets, as many as the system lets it have.
    """
    *memory, last = map(int, sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the control process' to handle
    if many_files:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    control = socket.socket(fileno=last)
    settings = receive_message(control)
    if settings is None:
        sys.exit(0)
    return Inherited(msgspec.msgpack.decode(settings, type=kind), tuple(memory), control)
