"""Which kernel a guest boots: ``UML_KERNEL``, the cached one, one that is built now, or Debian's own in QEMU."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.errors import LabError
from lab.guest import qemu

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/uml-kernel"
"""Builds and caches; it alone knows where."""


@dataclass(frozen=True)
class Kernel:
    machine: Literal["uml", "qemu"]
    path: Path
    """User-Mode Linux: the program. QEMU: the kernel's image, /boot/vmlinuz-*."""


def find(*, build: bool = False) -> Kernel:
    """Return the kernel to boot; raise LabError naming the remedies when there is none.

    With ``build``, one that is neither named nor cached is built, which takes minutes, before QEMU is thought of.
    """
    named = os.environ.get("UML_KERNEL")
    if named:
        path = Path(named).resolve()
        if not os.access(path, os.X_OK) or not path.is_file():
            raise LabError(f"UML_KERNEL={named} is not a program", "make uml-kernel builds one; xz -dk unpacks one")
        return Kernel("uml", path)
    cached = _cached()
    if cached is None and build and subprocess.run([SCRIPT], check=False, stdout=sys.stderr).returncode == 0:
        cached = _cached()
    if cached is not None:
        return Kernel("uml", cached)
    image = qemu.kernel()
    if image is None:
        raise LabError(
            "there is no kernel with soft-RoCE to boot", f"make uml-kernel, or UML_KERNEL=PATH, or {qemu.REMEDY}"
        )
    return Kernel("qemu", image)


def _cached() -> Path | None:
    found = subprocess.run([SCRIPT, "--cached"], check=False, capture_output=True, text=True)
    return Path(found.stdout.strip()) if found.returncode == 0 else None
