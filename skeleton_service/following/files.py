"""Files that are read or written again and again while failures are followed: what is wrong with one ends nothing."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from exporter.contracts.codec import ContractError, encode, write
from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.fabric import Fabric
from exporter.contracts.overlay import OverlayState, read_overlay
from skeleton_service.diagnosis.unused import unused_overlay

_REMEDIES = {errno.ENOSPC: "make room", errno.EDQUOT: "make room", errno.ENOENT: "create its directory"}


class OverlayFile:
    """The overlay state in a file, read again when the file has changed."""

    def __init__(self, path: Path, fabric: Fabric) -> None:
        self._path = path
        self._fabric = fabric
        self._state: OverlayState | None = None
        self._seen: tuple[int, int] | None = None

    def read(self) -> OverlayState | None:
        """The last state that could be read; a file that is missing or wrong is told of once."""
        try:
            status = self._path.stat()
            seen = status.st_mtime_ns, status.st_size
        except OSError:
            seen = (0, 0)
        if seen != self._seen:
            self._seen = seen
            try:
                state = read_overlay(self._path)
                for line in unused_overlay(state, self._fabric, str(self._path)):
                    print(line, file=sys.stderr, flush=True)
                self._state = state
            except ContractError as error:
                kept = "the one before is used on" if self._state else "diagnosed without"
                print(f"overlay: {error}: {kept}", file=sys.stderr, flush=True)
        return self._state


class VerdictFile:
    """The diagnosis in a file. While it cannot be written, the one before stays, and the terminal is told all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told = ""
        """Why the last one could not be written."""

    def write(self, diagnosis: Diagnosis) -> None:
        """Replace the file whole; what is in the way is told of once, and when it is gone."""
        try:
            write(self._path, encode(diagnosis))
        except ContractError as error:
            if error.problem != self._told:
                cause = error.__cause__
                remedy = _REMEDIES.get(cause.errno or 0) if isinstance(cause, OSError) else None
                named = ContractError(str(self._path), error.problem, remedy or "make it writable")
                print(f"{named}: failures are told here, and the file when it can be", file=sys.stderr, flush=True)
            self._told = error.problem
            return
        if self._told:
            self._told = ""
            print(f"written again: {self._path}", file=sys.stderr, flush=True)
