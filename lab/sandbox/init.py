"""Process 1 of a sandbox: private mounts, reaping of orphans, hand-over of signals.

Run by ``lab.sandbox`` inside fresh namespaces. When this process ends, for whatever reason, the
kernel kills every process of the PID namespace, and with the last one go its network namespaces,
interfaces and mounts: that is why nothing of a lab can leak.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

RUN = Path("/run")
# Where the programs of the lab write outside its directory: namespaces and sockets, crash logs, configuration.
PRIVATE = (
    "/var/tmp",  # noqa: S108 - mounted over, so never the machine's own
    "/etc/frr",
    "/etc/bind",
    "/var/cache/bind",
    "/etc/unbound",
    "/var/lib/unbound",
)


def _mount_tmpfs(target: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", target], check=True)


def prepare(show: list[Path]) -> None:
    """Cover what the machine and the lab must not share; directories in ``show`` stay visible under /run."""
    kept = [(path, os.open(path, os.O_PATH)) for path in show if path.is_relative_to(RUN)]
    _mount_tmpfs(str(RUN))
    for path, descriptor in kept:
        path.mkdir(parents=True, exist_ok=True)
        # By descriptor, since the name now means the new directory; mount(8) must not turn it into the name.
        source = f"/proc/{os.getpid()}/fd/{descriptor}"
        subprocess.run(["mount", "--no-canonicalize", "--bind", source, str(path)], check=True)
        os.close(descriptor)
    if Path("/var/run").resolve() != RUN:
        subprocess.run(["mount", "--bind", str(RUN), "/var/run"], check=True)
    for target in PRIVATE:
        if Path(target).is_dir():
            _mount_tmpfs(target)
    (RUN / "netns").mkdir()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def supervise(argv: list[str]) -> int:
    """Run ``argv``, reap whatever is orphaned, and return the exit status of ``argv`` as a shell gives it."""
    child = 0

    def hand_over(number: int, _frame: object) -> None:
        if child:
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, hand_over)
    # The terminal sends its SIGINT to the child as well, which decides what to do about it.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    child = os.posix_spawnp(argv[0], argv, os.environ)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", type=Path, action="append", default=[], help="directory to keep visible under /run")
    parser.add_argument("argv", nargs="+")
    arguments = parser.parse_args()
    if os.getpid() != 1:
        parser.error("runs only as process 1 of a sandbox: use lab.sandbox")
    prepare(arguments.show)
    return supervise(arguments.argv)


if __name__ == "__main__":
    sys.exit(main())
