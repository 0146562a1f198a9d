"""The daemon behind the hosts' counters: ``python -m lab.counters.trees DIRECTORY`` inside a running lab.

Keeps ``sysfs/<host>/class/infiniband/…`` and ``ethtool/<host>/<netdev>`` in the lab's directory as the kernel and
the timeline have them. As in sysfs, a file keeps its inode and a reader sees one whole value: it is written by one
``pwrite``, and only when its value changed. One process serves all hosts.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from lab.counters import rnic
from lab.counters.kernel import HOST_SETS, RULES, Kernel, Reading
from lab.counters.rnic import RnicPlace
from lab.counters.timeline import FILE, Timeline, Watched
from lab.network import design as drawn
from lab.network.design import SPEED_MBPS, Design
from lab.sandbox.netns import inside

PERIOD_SECONDS = 0.5
SYSFS, ETHTOOL = "sysfs", "ethtool"


class Files:
    """Small files below one directory, each written only when its text changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._text: dict[str, str] = {}

    def put(self, files: dict[str, str]) -> int:
        """Write what changed; return how many files that were."""
        changed = 0
        for name, text in files.items():
            before = self._text.get(name)
            if text == before:
                continue
            changed += 1
            self._write(self.root / name, text + "\n", before)
            self._text[name] = text
        return changed

    def replace(self, name: str, text: str) -> None:
        """Write a file of many lines: whole, by renaming."""
        if self._text.get(name) != text:
            _renamed(self.root / name, text)
            self._text[name] = text

    def remove(self) -> None:
        """Take everything away at once, as a device that is unplugged."""
        with contextlib.suppress(FileNotFoundError):
            gone = self.root.with_name(f".{self.root.name}.gone")
            self.root.rename(gone)
            shutil.rmtree(gone)
        self._text.clear()

    @staticmethod
    def _write(path: Path, line: str, before: str | None) -> None:
        if before is None or len(line) <= len(before):  # shorter than what is there: its rest must not stay
            _renamed(path, line)
            return
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, line.encode(), 0)
        finally:
            os.close(descriptor)


def _renamed(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


class HostTree:
    """The files of one host."""

    def __init__(self, directory: Path, host: drawn.Host) -> None:
        self.places = [RnicPlace(host.name, each.name, each.netdev, each.address, SPEED_MBPS) for each in host.rnics]
        with inside(host.namespace):
            self._kernel = Kernel(*HOST_SETS)
        self._sysfs = directory / SYSFS / host.name
        devices = self._sysfs / "class" / "infiniband"
        self._files = {place.name: Files(devices / place.name) for place in self.places}
        self._ethtool = Files(directory / ETHTOOL / host.name)
        (self._sysfs / "class").mkdir(parents=True, exist_ok=True)
        # The interfaces are real: on the host itself this leads to the kernel's own sysfs.
        with contextlib.suppress(FileExistsError):
            (self._sysfs / "class" / "net").symlink_to("/sys/class/net")

    def update(self, timeline: Timeline, t: float) -> None:
        reading = self._kernel.read()
        for place in self.places:
            self._update(place, timeline, reading, t)

    def _update(self, place: RnicPlace, timeline: Timeline, reading: Reading, t: float) -> None:
        files = self._files[place.name]
        if timeline.absent(place.host, place.name, t) or place.netdev not in reading.links:
            if files.root.exists():
                files.remove()
                (self._ethtool.root / place.netdev).unlink(missing_ok=True)
            return
        if not files.root.exists():
            # Made aside and moved into place: a device appears with all its files.
            new = Files(files.root.with_name(f".{place.name}.new"))
            new.put(rnic.files(timeline, place, reading, t))
            (new.root / "device" / "net").mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                (new.root / "device" / "net" / place.netdev).symlink_to(f"/sys/class/net/{place.netdev}")
            new.root.rename(files.root)
            files = self._files[place.name] = new
            files.root = files.root.with_name(place.name)
        else:
            files.put(rnic.files(timeline, place, reading, t))
        self._ethtool.replace(place.netdev, rnic.ethtool_text(rnic.ethtool(timeline, place, reading, t)))


def install_rules(design: Design) -> None:
    """Let every node count its packets by class; nothing is dropped or changed."""
    for node in design.nodes:
        with inside(node.namespace):
            subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)


def main() -> None:
    directory = Path(sys.argv[1])
    design = drawn.load((directory / "design.json").read_bytes())
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # two sockets a host
    for old in (SYSFS, ETHTOOL):  # of a lab that was here before
        shutil.rmtree(directory / old, ignore_errors=True)
    watched = Watched(directory / FILE)
    hosts = [HostTree(directory, host) for host in design.hosts]
    t, timeline = watched.moment()
    for host in hosts:
        host.update(timeline, t)
    install_rules(design)
    while True:
        time.sleep(PERIOD_SECONDS)
        t, timeline = watched.moment()
        for host in hosts:
            host.update(timeline, t)


if __name__ == "__main__":
    main()
