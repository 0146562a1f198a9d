"""How the C library hands out memory: its own choice costs a service of many connections a third of what it takes."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_DEFAULT = 128 << 10
"""Bytes, of both: as glibc starts with (mallopt(3))."""


def keep_unused_memory_unused() -> None:
    """Let large buffers be mapped pages for ever.

    glibc raises both thresholds to the size of whatever large was freed first. From then on the 256 KiB that uvloop has
    ready for what a TLS connection reads come from the heap, and of each some 20 KiB lie in pages that others have
    used; mapped, a page of it is used when a record comes. Without glibc this does nothing.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _DEFAULT)
        mallopt(_M_TRIM_THRESHOLD, _DEFAULT)
