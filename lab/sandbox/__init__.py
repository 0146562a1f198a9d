"""The box: fresh namespaces for one lab, as root or as an ordinary user, that die with their launcher.

One call of ``unshare`` makes them (network, mount, PID, IPC, host name; for an ordinary user a user
namespace too). ``--kill-child`` ties process 1 to ``unshare``, the kernel ties everything else to
process 1: even ``kill -9`` leaves nothing behind, and two boxes cannot see each other.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lab.errors import LabError

# The directories that hold the lab's programs on Debian; an ordinary user's PATH lacks most of them.
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/frr"
PACKAGES = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
    "nft": "nftables",
    "zebra": "frr",
    "bgpd": "frr",
    "vtysh": "frr",
    "snmpd": "snmpd",
    "snmpset": "snmp",
    "newuidmap": "uidmap",
    "named": "bind9",
    "unbound": "unbound",
    "dig": "bind9-dnsutils",
}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment, with the programs and this package within reach."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PATH", "")
    python_path = os.environ.get("PYTHONPATH", "")
    return {
        **os.environ,
        "PATH": f"{path}:{SEARCH}" if path else SEARCH,
        "PYTHONPATH": f"{root}:{python_path}" if python_path else root,
        **(extra or {}),
    }


def find(program: str) -> str:
    """Return the full path of ``program``; raise LabError naming the Debian package that has it."""
    found = shutil.which(program, path=environment()["PATH"])
    if found is None:
        package = PACKAGES.get(program, program)
        raise LabError(f"the program {program!r} is missing", f"apt-get install {package}")
    return found


def _has_range(file: str, user: str, uid: int) -> bool:
    """Whether subuid(5)/subgid(5) gives ``user`` at least one identifier."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return False
    return any(line.split(":")[0] in (user, str(uid)) and line.count(":") == 2 for line in lines)


def _why_no_user_namespaces() -> str:
    settings = {
        "/proc/sys/user/max_user_namespaces": ("0", "sysctl -w user.max_user_namespaces=10000"),
        "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    }
    for file, (closed, remedy) in settings.items():
        path = Path(file)
        if path.exists() and path.read_text().strip() == closed:
            return f"run as root, or: {remedy}"
    return "run as root with CAP_SYS_ADMIN; in a container, start it with --privileged"


def _unshare() -> list[str]:
    command = [find("unshare"), "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        command += ["--user", "--map-root-user", "--map-auto"]
    return command


def require() -> None:
    """Raise LabError, with the remedy, when this machine or this user cannot run a lab."""
    uid = os.geteuid()
    for program in PACKAGES:
        if uid != 0 or program != "newuidmap":
            find(program)
    if uid != 0:
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            user = str(uid)
        if not (_has_range("/etc/subuid", user, uid) and _has_range("/etc/subgid", user, uid)):
            raise LabError(
                f"user {user!r} has no range of subordinate identifiers in /etc/subuid and /etc/subgid",
                f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
            )
    trial = subprocess.run([*_unshare(), find("true")], capture_output=True, text=True, check=False)
    if trial.returncode:
        reason = (trial.stderr.strip().splitlines() or ["unshare failed"])[-1]
        kind = "namespaces" if uid == 0 else "user namespaces"
        raise LabError(f"cannot make {kind} here: {reason}", _why_no_user_namespaces())


def command(argv: Sequence[str], *, show: Sequence[Path] = ()) -> list[str]:
    """The command line that runs ``argv`` under process 1 of a fresh sandbox."""
    shown = [word for path in show for word in ("--show", str(path.resolve()))]
    return [*_unshare(), sys.executable, "-m", "lab.sandbox.init", *shown, "--", *argv]


def start(
    argv: Sequence[str],
    *,
    show: Sequence[Path] = (),
    pass_fds: Sequence[int] = (),
    environ: Mapping[str, str] | None = None,
    die_with_parent: bool = True,
    log: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``argv`` in a fresh sandbox; killing the process returned kills all of it.

    ``pass_fds`` keep their numbers inside. Without ``die_with_parent`` the sandbox gets a session of
    its own and outlives its parent. ``log`` is a descriptor for its output, in place of ours.
    """
    line = command(argv, show=show)
    if die_with_parent:
        line = [find("setpriv"), "--pdeathsig", "KILL", *line]
    return subprocess.Popen(
        line,
        env=environment(environ),
        pass_fds=tuple(pass_fds),
        start_new_session=not die_with_parent,
        stdin=None if die_with_parent else subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )


def first_process(launcher: int) -> int | None:
    """The identifier, out here, of process 1 of the sandbox that process ``launcher`` (an unshare) made."""
    try:
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    except OSError:
        return None
    for child in children:
        try:
            status = Path(f"/proc/{child}/status").read_text()
        except OSError:
            continue
        identifiers = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
        if len(identifiers) > 1 and identifiers[-1] == "1":
            return int(child)
    return None


def run(
    argv: Sequence[str],
    *,
    show: Sequence[Path] = (),
    pass_fds: Sequence[int] = (),
    environ: Mapping[str, str] | None = None,
    started: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> int:
    """Run ``argv`` in a fresh sandbox in the foreground and return its exit code (128 + n for signal n).

    SIGTERM and SIGHUP are handed to ``argv``. The terminal itself sends ``argv`` its SIGINT; one that
    comes from elsewhere is handed over as SIGTERM. ``started`` is called once with the launcher.
    """
    process = start(argv, show=show, pass_fds=pass_fds, environ=environ)

    def hand_over(number: int, _frame: object) -> None:
        if number == signal.SIGINT:
            if sys.stdin is not None and sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp():
                return
            number = signal.SIGTERM
        target = first_process(process.pid)
        if target is None:
            process.kill()
        else:
            os.kill(target, number)

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            signal.signal(number, hand_over)
        if started is not None:
            started(process)
        code = process.wait()
    finally:
        process.kill()
        process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def enter(first: int, argv: Sequence[str]) -> list[str]:
    """The command line that runs ``argv`` inside the sandbox whose process 1 is ``first`` (out here)."""
    line = [find("nsenter"), "--target", str(first), "--net", "--mount", "--pid", "--ipc", "--uts"]
    if Path(f"/proc/{first}/ns/user").readlink() != Path("/proc/self/ns/user").readlink():
        line += ["--user"]
    return [*line, f"--wd={Path.cwd()}", "--", *argv]


def listen(port: int = 0) -> socket.socket:
    """A TCP socket on 127.0.0.1 of the machine, to be handed into a sandbox (``lab.demo.forward``)."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise LabError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}", "choose another port") from error
    return listener
