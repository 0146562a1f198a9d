"""A contract file that somebody else writes: looked at again and again, and believed only when it is good."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from exporter.contracts.codec import ContractError

T = TypeVar("T")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class WatchedFile(Generic[T]):
    """Remembers the last good value; a bad file is refused with a reason and changes nothing."""

    def __init__(self, path: str, read: Callable[[Path], T], what: str, say: Callable[[str], None] = _say) -> None:
        """``say`` is told, in a line, why a file is refused."""
        self.path = path
        self.value: T | None = None
        self.rejected = 0
        self.refused = False
        self.present = False
        self._read, self._what, self._say = read, what, say
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """Read the file when it is another than last time; True when there is a new good value."""
        try:
            status = os.stat(self.path)
            if stat.S_ISFIFO(status.st_mode):  # reading it would wait for a writer
                raise FileNotFoundError(self.path)
        except OSError:
            self.present, self.refused, self._seen = False, False, None
            return False  # none yet, or none any more: the last one stays as long as it says
        self.present = True
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self.value = self._read(Path(self.path))
        except ContractError as error:
            self.rejected += 1
            self.refused = True
            self._say(f"{self._what} refused: {error}")
            return False
        self.refused = False
        return True
