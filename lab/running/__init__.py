"""Labs that run in the background, seen from outside: where they are, and how to start, enter and end them.

A lab's directory holds its design, logs, SNMP community and recorded faults, and ``lab.json``, which
says which processes it is. When those are gone the directory is only litter, removed by the next ``up``
or ``down``.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lab import sandbox
from lab.errors import LabError
from lab.network import design as drawn
from lab.network.design import Design
from lab.sandbox import processes
from lab.sandbox.processes import Process

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
START_SECONDS = 90.0
END_SECONDS = 20.0


@dataclass(frozen=True)
class Record:
    """``lab.json``: the processes of a lab, as they are out here."""

    launcher: Process
    first: Process


def home() -> Path:
    """The directory of all labs of this user, private to them."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    usable = runtime and os.access(runtime, os.W_OK) and Path(runtime).stat().st_uid == os.geteuid()
    path = Path(runtime, "fabric-lab") if runtime and usable else Path(f"/tmp/fabric-lab-{os.geteuid()}")  # noqa: S108
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if path.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise LabError(f"{path} is not a private directory of this user", f"remove it, or chmod 700 {path}")
    return path


def names() -> list[str]:
    """The labs of this user that are up."""
    return [path.name for path in sorted(home().iterdir()) if path.is_dir() and Running(path.name).record() is not None]


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


class Running:
    """The lab called ``name``, up or not. Its methods work from outside the sandbox."""

    def __init__(self, name: str = "lab") -> None:
        if not NAME.fullmatch(name):
            raise LabError(f"{name!r} cannot name a lab", "letters, digits, dot, hyphen, underscore; at most 64")
        self.name = name
        self.directory = home() / name
        self._process: subprocess.Popen[bytes] | None = None  # if it was started here: to be waited for

    def record(self) -> Record | None:
        """The lab's processes, or None when it is not up."""
        try:
            record = msgspec.json.decode((self.directory / "lab.json").read_bytes(), type=Record)
        except (OSError, msgspec.DecodeError):
            return None
        return record if record.launcher.runs() and record.first.runs() else None

    def need(self) -> Record:
        record = self.record()
        if record is None:
            raise LabError(f"the lab {self.name!r} is not up", f"python -m lab up --name {self.name}")
        return record

    def design(self) -> Design:
        self.need()
        return drawn.load((self.directory / "design.json").read_bytes())

    def dead_daemons(self) -> list[str]:
        """Daemons that have ended though the lab is up."""
        try:
            return (self.directory / "dead").read_text().split()
        except FileNotFoundError:
            return []

    # ---- start and end

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One start or end at a time per name. The lock's file goes with the lab's directory."""
        path = home() / f".{self.name}.lock"
        while True:
            with open(path, "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not _same_file(lock.fileno(), path):  # its last holder has removed it meanwhile
                    continue
                try:
                    yield
                finally:
                    if not self.directory.exists():
                        path.unlink()
                return

    def up(self, design: Design, *, die_with_parent: bool = False) -> bool:
        """Start the lab and return once its routing has converged; False when it was up already.

        A background lab outlives its parent unless ``die_with_parent``: then ``kill -9`` of the parent
        ends it too. Raise LabError with the reason, and leave nothing but logs, when it cannot be started.
        """
        with self._locked():
            if self.record() is not None:
                return False
            sandbox.require()
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory.mkdir(mode=0o700)
            (self.directory / "design.json").write_bytes(drawn.dump(design))
            read, write = os.pipe()
            with open(read, "rb", buffering=0) as answer, open(self.directory / "lab.log", "wb") as log:
                process = sandbox.start(
                    [sys.executable, "-m", "lab.running.keeper", str(self.directory), str(write)],
                    show=[self.directory],
                    pass_fds=[write],
                    die_with_parent=die_with_parent,
                    log=log.fileno(),
                )
                os.close(write)
                try:
                    self._await(process, answer.fileno())
                except BaseException:
                    process.kill()
                    process.wait()
                    raise
                self._process = process
            return True

    def _await(self, process: subprocess.Popen[bytes], answer: int) -> None:
        ready, _, _ = select.select([answer], [], [], START_SECONDS)
        word = os.read(answer, 4096).decode() if ready else f"no answer in {START_SECONDS:g} s"
        first = sandbox.first_process(process.pid)
        if word != "ready" or first is None:
            last = (self.directory / "lab.log").read_text(errors="replace").strip().splitlines()[-1:]
            reason = word or (last[0] if last else "its first process ended")
            raise LabError(f"the lab did not start: {reason}", f"logs in {self.directory}")
        record = Record(Process.of(process.pid), Process.of(first))
        new = self.directory / "lab.json.new"
        new.write_bytes(msgspec.json.encode(record))
        new.replace(self.directory / "lab.json")

    def down(self) -> bool:
        """End the lab and remove its directory; False when it was not up."""
        with self._locked():
            record = self.record()
            if record is not None:
                # The kernel clears the namespaces with their last process: nothing needs to be undone in order.
                record.first.send(signal.SIGKILL)
                if not processes.wait([record.launcher], END_SECONDS):
                    raise LabError(f"process {record.launcher.pid} of the lab does not end", "kill it")
            if self._process is not None:
                self._process.wait()
            shutil.rmtree(self.directory, ignore_errors=True)
        return record is not None

    # ---- commands

    def command(self, node: str | None, argv: Sequence[str]) -> list[str]:
        """The command line, for out here, that runs ``argv`` on ``node`` (None: in the sandbox itself)."""
        record = self.need()
        prefix = [] if node is None else ["ip", "netns", "exec", self.design().namespace(node)]
        return sandbox.enter(record.first.pid, [*prefix, *argv])

    def run(
        self, node: str | None, argv: Sequence[str], *, check: bool = True, timeout: float | None = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` on ``node`` to its end, output captured; raise LabError when it fails and ``check`` is set."""
        done = subprocess.run(
            self.command(node, argv),
            env=sandbox.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise LabError(f"{' '.join(argv)} on {node or 'the sandbox'} failed: {done.stderr.strip()}")
        return done

    def action(self, *words: str) -> list[str]:
        """The command line, for inside, of one action of ``lab.running.inside``."""
        return [sys.executable, "-m", "lab.running.inside", str(self.directory), *words]

    def act(self, *words: str) -> str:
        """Break, mend or ask (``lab.running.inside``); return what it printed. Raise LabError when it refuses."""
        return self.run(None, self.action(*words)).stdout

    def fault(self, kind: str, target: str, *values: str | float) -> str:
        """Break something (``lab.faults``); return its name and values as recorded."""
        return self.act("fault", kind, target, *map(str, values)).strip()
