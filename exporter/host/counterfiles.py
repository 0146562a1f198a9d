"""Directories of sysfs with a number in each file, read again and again.

Files stay open: reading one at offset 0 has the driver count anew (Documentation/filesystems/sysfs.rst), for a third
of what opening it costs.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

KNOBS = frozenset({"lifespan"})
"""Files among the counters that set something."""
_FIRST = frozenset({"rx_write_requests", "vport_rx_write_requests"})
"""mlx5 renews the time stamp of what it has cached for the first counter only: read it before the others."""
_MOST_BYTES = 64
_GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.ENOENT})

Meaning = TypeVar("Meaning")


class GoneError(OSError):
    """The directory, or a file that was in it, is no longer there."""


class CounterFiles(Generic[Meaning]):
    """The files of one directory that mean something."""

    def __init__(self, directory: Path, meaning: Callable[[str], Meaning | None]) -> None:
        self.directory = directory
        self._meaning = meaning
        self._files: list[tuple[int, Meaning]] = []
        self._signature: tuple[int, int, int] | None = None
        self.another = False
        """The last reading was of another directory than the one before: what is of this name now is a new device."""

    def read(self) -> list[tuple[Meaning, int | None]]:
        """Meanings with the numbers of now, None for a file that has none at the moment.

        Empty where there is no such directory. Raise GoneError if it went.
        """
        try:
            found = os.stat(self.directory)
        except FileNotFoundError:
            lost = self._signature is not None
            self.close()
            if lost:
                raise GoneError(errno.ENOENT, "went away", str(self.directory)) from None
            return []
        signature = (found.st_dev, found.st_ino, found.st_mtime_ns)
        self.another = self._signature is not None and signature[:2] != self._signature[:2]
        if signature != self._signature:
            self._open(signature)
        values: list[tuple[Meaning, int | None]] = []
        for descriptor, meaning in self._files:
            value: int | None = None
            try:
                value = int(os.pread(descriptor, _MOST_BYTES, 0))
            except ValueError:
                pass
            except OSError as error:
                if error.errno in _GONE:
                    self.close()
                    raise GoneError(error.errno, "went away", str(self.directory)) from error
            values.append((meaning, value))
        return values

    def _open(self, signature: tuple[int, int, int]) -> None:
        self.close()
        for name in _ordered(os.listdir(self.directory)):
            meaning = self._meaning(name)
            if meaning is None:
                continue
            try:
                self._files.append((os.open(self.directory / name, os.O_RDONLY | os.O_CLOEXEC), meaning))
            except OSError:
                continue
        self._signature = signature

    def close(self) -> None:
        for descriptor, _ in self._files:
            os.close(descriptor)
        self._files, self._signature = [], None


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted((name for name in names if name not in KNOBS), key=lambda name: (name not in _FIRST, name))
