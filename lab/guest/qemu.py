"""A guest without a kernel of ours: QEMU emulates a whole machine, on which Debian's stock kernel runs.

Nothing is to be compiled and KVM is not needed, but Python is fifteen times slower than in User-Mode Linux,
and there is no virtual time.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from lab import sandbox
from lab.errors import LabError

INITRAMFS = Path(__file__).with_name("initramfs")
MODULES = (
    *("virtio_pci", "virtio_rng", "9pnet_virtio", "9p", "overlay"),
    *("veth", "bridge", "vxlan", "sch_netem", "sch_prio", "sch_tbf", "sch_ingress"),
    *("cls_u32", "cls_flower", "cls_matchall", "act_gact", "udp_diag"),
    *("ib_uverbs", "rdma_rxe", "crc32_generic"),  # the last by a name that modules.dep has not
)
PROGRAMS = ("qemu-system-x86_64", "busybox")
REMEDY = "apt-get install qemu-system-x86 busybox-static linux-image-amd64"


def kernel() -> Path | None:
    """``QEMU_KERNEL``, or the newest Debian kernel in /boot; None when there is none with soft-RoCE, or no QEMU."""
    named = os.environ.get("QEMU_KERNEL")
    images = [Path(named).resolve()] if named else sorted(Path("/boot").glob("vmlinuz-*-amd64"), key=_age)
    if not all(shutil.which(program, path=sandbox.SEARCH) for program in PROGRAMS):
        return None
    return next((image for image in images if _modules(image)), None)


def command(image: Path, share: Path, init: Path, memory_mb: int) -> list[str]:
    """The command line that boots ``image``; the initramfs goes into ``share``."""
    initramfs = share / "initramfs"
    initramfs.write_bytes(gzip.compress(_archive(image), 1))
    arguments = f"console=ttyS0 panic=-1 quiet no_timer_check mitigations=off guest_init={init} layered=yes share=share"
    return [
        *(sandbox.find("qemu-system-x86_64"), "-M", "q35", "-accel", "tcg,tb-size=512", "-cpu", "Nehalem"),
        *("-m", str(memory_mb), "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-monitor", "none", "-serial", "stdio", "-device", "virtio-rng-pci"),
        *("-kernel", str(image), "-initrd", str(initramfs), "-append", arguments),
        *("-virtfs", "local,path=/,security_model=none,mount_tag=machine,readonly=on,multidevs=remap"),
        *("-virtfs", f"local,path={share},security_model=none,mount_tag=share"),
    ]


def _age(image: Path) -> float:
    return -image.stat().st_mtime


def _modules(image: Path) -> Path | None:
    """The directory of modules that belongs to a kernel image, where depmod(8) has been; None without soft-RoCE."""
    version = image.name.removeprefix("vmlinuz-")
    for parent in ("lib/modules", "usr/lib/modules"):
        directory = image.parent.parent / parent / version
        index = directory / "modules.dep"
        if index.is_file() and "/rdma_rxe.ko" in index.read_text():
            return directory
    return None


def _archive(image: Path) -> bytes:
    """The initramfs: busybox, what it runs, and modules in the order to load them."""
    directory = _modules(image)
    if directory is None:  # ``kernel`` gives none of that kind
        raise LabError(f"{image} has no modules with soft-RoCE", REMEDY)
    archive = io.BytesIO()
    for name in ("bin", "dev", "proc", "sys", "lower", "layer", "root", "modules"):
        _add(archive, name, b"", stat.S_IFDIR | 0o755)
    _add(archive, "bin/busybox", Path(sandbox.find("busybox")).read_bytes(), stat.S_IFREG | 0o755)
    _add(archive, "init", INITRAMFS.read_bytes(), stat.S_IFREG | 0o755)
    order = list(_in_order(directory))
    for file in order:
        data = (directory / file).read_bytes()
        content = lzma.decompress(data) if file.endswith(".xz") else data
        _add(archive, f"modules/{_name(file)}", content, stat.S_IFREG | 0o644)
    _add(archive, "order", "".join(f"{_name(file)}\n" for file in order).encode(), stat.S_IFREG | 0o644)
    _add(archive, "TRAILER!!!", b"", 0)
    return archive.getvalue()


def _in_order(directory: Path) -> Iterator[str]:
    """The files of ``MODULES`` and of what they need, each after what it needs; those built in are left out."""
    needs: dict[str, list[str]] = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        file, _, needed = line.partition(":")
        needs[file] = needed.split()
    files = {_name(file): file for file in needs}
    done: set[str] = set()
    for module in MODULES:
        # modules.dep names what is needed last to first.
        if module not in files:
            continue
        for file in (*reversed(needs[files[module]]), files[module]):
            if file not in done:
                done.add(file)
                yield file


def _name(file: str) -> str:
    return Path(file).name.partition(".")[0].replace("-", "_")


def _add(archive: io.BytesIO, name: str, content: bytes, mode: int) -> None:
    """Append a file in cpio's format "newc" (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    path = name.encode() + b"\0"
    number, owner, group, links, time = archive.tell(), 0, 0, 1, 0
    fields = (number, mode, owner, group, links, time, len(content), 0, 0, 0, 0, len(path), 0)
    archive.write(b"070701" + "".join(f"{field:08X}" for field in fields).encode() + path)
    archive.write(bytes(-archive.tell() % 4) + content)
    archive.write(bytes(-archive.tell() % 4))
