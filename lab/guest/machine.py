"""A guest: another kernel that runs one command on this machine's files, without privileges, and ends with it.

The guest sees every file of the machine, the checkout and its virtual environment included, under a
layer in memory: what it writes is gone with it. ``share`` is the one directory that both sides write.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from lab import sandbox
from lab.errors import LabError
from lab.guest import qemu
from lab.guest.kernel import Kernel

INIT = Path(__file__).with_name("init")
SHARE_IN_GUEST = Path("/run/guest")
MARK = "LAB_GUEST"
"""Set, to the kind of machine, in the environment of everything that runs in a guest."""
TAIL_LINES = 30
REAPER = 'read -r _; kill -KILL "-$1" 2>/dev/null; rm -rf -- "$2"'
"""Waits until its standard input is closed, which even ``kill -9`` of us does. A death signal for the guest alone
(prctl(2), PR_SET_PDEATHSIG) is not enough: User-Mode Linux leaves a helper process behind."""


def inside() -> bool:
    """Whether this process runs in a guest."""
    return MARK in os.environ


class Guest:
    """One boot, from construction to ``end``; a context manager. Dies with the process that made it.

    ``argv`` runs in ``cwd`` (ours unless given) with our environment and ``environ`` over it. With
    ``virtual_time`` the guest's clock moves only while all its processes wait, and then at once to the
    next timer: computing takes no time, waiting takes none of ours, and a process that waits actively
    never ends.
    """

    def __init__(
        self,
        argv: Sequence[str],
        kernel: Kernel,
        *,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
        virtual_time: bool = False,
        memory_mb: int = 512,
    ) -> None:
        if virtual_time and kernel.machine != "uml":
            raise LabError("virtual time needs User-Mode Linux", "make uml-kernel")
        self.share = Path(tempfile.mkdtemp(prefix="guest-"))
        self._console = self.share / "console"
        self._exit = self.share / "exit"
        everything = sandbox.environment({**(environ or {}), MARK: kernel.machine})
        exports = "".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in everything.items() if name.isidentifier()
        )
        directory = shlex.quote(str(cwd or Path.cwd()))
        (self.share / "command").write_text(f"{exports}cd {directory} && exec {shlex.join(argv)}\n")
        self._output: BinaryIO = (self.share / "output").open("w+b")
        try:
            self._process = self._boot(kernel, memory_mb, virtual_time)
        except BaseException:
            shutil.rmtree(self.share)
            raise
        self._reaper = subprocess.Popen(
            ["sh", "-c", REAPER, "sh", str(self._process.pid), str(self.share)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def _boot(self, kernel: Kernel, memory_mb: int, virtual_time: bool) -> subprocess.Popen[bytes]:
        if any(" " in str(path) for path in (INIT, self.share)):
            raise LabError(f"a kernel's command line has no spaces: {INIT}, {self.share}", "move it, or set TMPDIR")
        if kernel.machine == "qemu":
            line = qemu.command(kernel.path, self.share, INIT, memory_mb)
        else:
            line = [
                # It has one CPU, and is four times slower when the machine moves it between two.
                *("taskset", "-c", str(max(os.sched_getaffinity(0)))),
                *(str(kernel.path), f"mem={memory_mb}M", "quiet", "con=null", "con0=null,fd:1"),
                *("root=none", "rootfstype=hostfs", "ro", f"init={INIT}", f"share={self.share}"),
                f"uml_dir={self.share}/",  # its management socket, else below ~/.uml
                *(["time-travel=inf-cpu"] if virtual_time else []),
            ]
        with self._console.open("wb") as console:
            return subprocess.Popen(
                line,
                env={**os.environ, "TMPDIR": _directory_for_memory(memory_mb)},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> bytes:
        """What the command has written, to stdout or stderr, since the last call."""
        return self._output.read()

    def poll(self) -> int | None:
        """The command's exit code, None while it runs; raise LabError when the guest died before it."""
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        with suppress(FileNotFoundError):
            return int(self._exit.read_text())
        if ended:
            raise LabError(f"the guest died, its console ends with:\n{self.console_tail()}")
        return None

    def wait(self, timeout: float) -> int:
        """Copy output to stdout until the command ends, and return its exit code.

        Raise LabError when the guest dies, or has not ended after ``timeout`` seconds of our time.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            self._show()
            if time.monotonic() > deadline:
                raise LabError(f"the guest has not ended within {timeout:g} s; {self.console_tail()}".rstrip("; "))
            time.sleep(0.02)
        self._show()
        return code

    def _show(self) -> None:
        if new := self.output():
            sys.stdout.buffer.write(new)
            sys.stdout.buffer.flush()

    def console_tail(self) -> str:
        """What the guest's kernel wrote to its console last: from its panic on, if it had one."""
        lines = self._console.read_text(errors="replace").splitlines()
        panics = [number for number, line in enumerate(lines) if "Kernel panic" in line]
        start = panics[-1] if panics else -TAIL_LINES
        return "\n".join(lines[start:][:TAIL_LINES])

    def end(self) -> None:
        """End the guest, however it stands, and forget its share."""
        self._output.close()
        # Our child is not waited for before the reaper is done, nor in poll: so long its number is nobody else's.
        self._reaper.communicate()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def _directory_for_memory(memory_mb: int) -> str:
    """Where User-Mode Linux keeps its memory, a file that it maps executable.

    Left to itself it takes /dev/shm, which in many containers forbids that, or holds 64 MB.
    """
    shared = os.statvfs("/dev/shm")  # noqa: S108 - asked only how large it is
    fits = shared.f_bavail * shared.f_frsize > memory_mb << 20
    return "/dev/shm" if fits and not shared.f_flag & os.ST_NOEXEC else tempfile.gettempdir()  # noqa: S108
