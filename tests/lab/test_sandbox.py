"""The box around a lab: nothing gets out, nothing stays, and an ordinary user can have one."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from lab import sandbox
from lab.errors import LabError
from lab.network.design import draw
from lab.running import Running

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("net", "mnt", "pid", "ipc", "uts", "user")
pytestmark = pytest.mark.usefixtures("sandbox_possible")


def lab(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lab", *words],
        env=sandbox.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def namespaces_of(pid: int | str) -> set[str]:
    found = set()
    for kind in KINDS:
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
    return found


def processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def traces(namespaces: set[str]) -> list[str]:
    """Processes that still stand in one of ``namespaces``."""
    return [pid for pid in processes() if namespaces_of(pid) & namespaces]


@pytest.fixture
def name() -> Iterator[str]:
    chosen = f"pytest-{os.getpid()}-{time.monotonic_ns()}"
    yield chosen
    Running(chosen).down()


@pytest.mark.parametrize("victim", ["launcher", "parent"])
def test_kill_9_leaves_nothing(name: str, victim: str) -> None:
    interfaces = {entry.name for entry in Path("/sys/class/net").iterdir()}
    mounts = Path("/proc/self/mountinfo").read_text()
    parent = subprocess.Popen(
        [sys.executable, "-m", "lab", "up", "--name", name, "--foreground"],
        env=sandbox.environment(),
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    with parent.stdout:
        assert b"is up in" in parent.stdout.readline()
    running = Running(name)
    record = running.need()
    own = namespaces_of("self")
    inside = namespaces_of(record.first.pid) - own
    assert len(inside) >= len(KINDS) - 1
    # The hosts and switches: named namespaces, some without a process.
    listed = running.run(None, ["sh", "-c", "for file in /run/netns/*; do stat -Lc %i $file; done"]).stdout.split()
    assert len(listed) == len(running.design().nodes) + len(running.design().containers)
    inside |= {f"net:[{inode}]" for inode in listed}
    assert len(traces(inside)) > len(running.design().switches) * 3

    os.kill(record.launcher.pid if victim == "launcher" else parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while traces(inside):
        assert time.monotonic() < deadline, traces(inside)
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert running.record() is None
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert {entry.name for entry in Path("/sys/class/net").iterdir()} == interfaces
    assert "is not up" in lab("status", "--name", name).stderr


def test_up_and_down_take_seconds_and_may_be_repeated(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = lab("up", "--name", name, "--seed", "5")
    assert first.returncode == 0, first.stderr
    again = lab("up", "--name", name)
    assert again.returncode == 0
    assert "is up already, seed 5" in again.stdout
    topology = lab("topology", "--name", name)
    assert topology.stdout.startswith("version: 1\n")
    down = lab("down", "--name", name)
    assert down.returncode == 0
    assert not Running(name).directory.exists()
    repeated = lab("down", "--name", name)
    assert repeated.returncode == 0
    assert "was not up" in repeated.stdout
    with capsys.disabled():
        print(f"\n{first.stdout.strip()}; {down.stdout.strip()}")


def test_two_labs_side_by_side_never_meet(name: str) -> None:
    """The same seed: the same names and addresses, the hardest case."""
    design = draw(9, pods=1, rails=1, spines=1, hosts_per_pod=2)
    one, other = Running(name), Running(f"{name}-other")
    try:
        assert one.up(design, die_with_parent=True)
        assert other.up(design, die_with_parent=True)
        source, destination = (host.rnics[0] for host in design.hosts)
        ping = ["ping", "-q", "-c", "3", "-i", "0.1", "-W", "1", destination.address]
        one.fault("link-down", design.links[0].id)
        assert "100% packet loss" in one.run(design.hosts[0].name, ping, check=False).stdout
        assert " 0% packet loss" in other.run(design.hosts[0].name, ping).stdout
        assert "fault     none" in other.act("status")
        one.down()
        assert " 0% packet loss" in other.run(design.hosts[0].name, ping).stdout
        assert source.address != destination.address
    finally:
        one.down()
        other.down()


def test_commands_give_their_exit_code_and_errors_are_one_line(name: str) -> None:
    refused = lab("exec", "--name", name, "anything", "true")
    assert refused.returncode == 2
    assert refused.stderr == f"lab: the lab '{name}' is not up (python -m lab up --name {name})\n"
    assert Running(name).up(draw(1, pods=1, rails=1, spines=1, hosts_per_pod=1), die_with_parent=True)
    host = Running(name).design().hosts[0].name
    assert lab("exec", "--name", name, host, "sh", "-c", "exit 7").returncode == 7
    assert lab("exec", "--name", name, "-", "ip", "-br", "link", "show", "management").stdout.startswith("management")
    for words in (["exec", "--name", name, host + "x", "true"], ["fault", "--name", name, "link-down", "nothing"]):
        refused = lab(*words)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert "perhaps" in refused.stderr


def test_a_sandbox_gives_the_exit_code_of_its_command() -> None:
    assert sandbox.run(["sh", "-c", "exit 7"]) == 7
    assert sandbox.run(["sh", "-c", "kill -9 $$"]) == 128 + 9


def test_a_directory_under_run_stays_visible_when_it_is_shown() -> None:
    """XDG_RUNTIME_DIR, where the labs of an ordinary user are kept, is under /run, which a sandbox covers."""
    try:
        directory = Path(tempfile.mkdtemp(dir="/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR")))
    except OSError as error:
        pytest.skip(f"no directory under /run: {error}")
    try:
        (directory / "question").write_text("")
        script = f"test -e {directory}/question && touch {directory}/answer"
        process = sandbox.start(["sh", "-c", script], show=[directory])
        assert process.wait() == 0
        assert (directory / "answer").exists()
    finally:
        shutil.rmtree(directory)


def test_process_1_reaps_orphans() -> None:
    script = "for i in 1 2 3; do (sleep 0.05 &) ; done; sleep 0.4; ! ps ax -o stat= | grep -q Z"
    assert sandbox.run(["sh", "-c", script]) == 0


def test_a_port_of_the_machine_reaches_a_server_inside(tmp_path: Path) -> None:
    (tmp_path / "answer").write_text("from inside")
    script = (
        f"{sys.executable} -m http.server -d {tmp_path} -b 127.0.0.1 9090 2>/dev/null & "
        f"exec {sys.executable} -m lab.demo.forward $0=127.0.0.1:9090"
    )
    with sandbox.listen() as listener:
        port = listener.getsockname()[1]
        process = sandbox.start(["sh", "-c", script, str(listener.fileno())], pass_fds=[listener.fileno()])
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/answer", timeout=5) as answer:
                    assert answer.read() == b"from inside"
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    finally:
        process.kill()
        process.wait()


def test_a_taken_port_is_one_clear_line() -> None:
    with sandbox.listen() as listener, pytest.raises(LabError, match="cannot listen on"):
        sandbox.listen(listener.getsockname()[1]).close()


def test_a_socket_lives_in_the_namespace_it_was_made_in() -> None:
    script = (
        "import subprocess, socket\n"
        "from lab.sandbox.netns import socket_in\n"
        "subprocess.run(['ip', 'netns', 'add', 'there'], check=True)\n"
        "subprocess.run(['ip', '-n', 'there', 'addr', 'add', '10.9.9.9/32', 'dev', 'lo'], check=True)\n"
        "with socket_in('there') as inner: inner.bind(('10.9.9.9', 0))\n"
        "with socket.socket() as outer:\n"
        "    try: outer.bind(('10.9.9.9', 0))\n"
        "    except OSError: raise SystemExit(0)\n"
        "raise SystemExit('still in the other namespace')\n"
    )
    assert sandbox.run([sys.executable, "-c", script]) == 0


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SEARCH", "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(LabError, match="apt-get install frr"):
        sandbox.find("zebra")


# ---- as an ordinary user

SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def as_user(place: Path, *words: str, subordinate: bool = True) -> subprocess.CompletedProcess[str]:
    """Run ``python -m lab`` unprivileged, with a copy of the project that everybody may read.

    Root becomes the user nobody. Whether nobody has subordinate identifiers is decided by files mounted over
    /etc/subuid and /etc/subgid for this command alone: the machine's own are not touched.
    """
    change: list[str] = []
    home = pwd.getpwuid(os.geteuid()).pw_dir
    if os.geteuid() == 0:
        ranges = place / "subordinate"
        ranges.write_text("nobody:200000:65536\n" if subordinate else "")
        account = pwd.getpwnam("nobody")
        home = account.pw_dir
        become = f"setpriv --reuid={account.pw_uid} --regid={account.pw_gid} --clear-groups"
        mounts = f"mount --bind {ranges} /etc/subuid && mount --bind {ranges} /etc/subgid"
        change = [
            "unshare",
            "--mount",
            "bash",
            "-c",
            f'touch /etc/subuid /etc/subgid && {mounts} && exec {become} "$@"',
            "-",
        ]
    return subprocess.run(
        [*change, readable_python(), "-m", "lab", *words],
        env={
            "HOME": home,
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(place),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def readable_python() -> str:
    """A Python that any user may run, of our version; skips when there is none."""
    candidates = (os.path.realpath(sys.executable), f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}")
    for candidate in candidates:
        path = Path(candidate)
        if path.exists() and all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents)):
            return candidate
    pytest.skip(f"no Python of this version that every user may run: {' and '.join(candidates)}")


@pytest.fixture
def readable_project() -> Iterator[Path]:
    place = Path(f"/tmp/fabric-lab-test-{os.getpid()}")  # noqa: S108 - pytest's own directory is private
    place.mkdir(mode=0o755)
    try:
        for package in ("lab", "exporter"):
            shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("__pycache__"))
        for package in ("msgspec", "yaml", "_yaml"):
            shutil.copytree(Path(sysconfig.get_path("platlib")) / package, place / package)
        with contextlib.suppress(PackageNotFoundError):
            metadata = Path(str(distribution("fabric-skeleton").locate_file(""))).glob("fabric_skeleton-*.dist-info")
            for directory in metadata:
                shutil.copytree(directory, place / directory.name)
        subprocess.run(["chmod", "-R", "a+rX", place], check=True)
        yield place
    finally:
        shutil.rmtree(place)


def test_an_ordinary_user_has_the_same_lab(readable_project: Path, name: str) -> None:
    up = as_user(readable_project, "up", "--name", name, "--seed", "6")
    try:
        assert up.returncode == 0, up.stderr
        design = draw(6)
        hosts = design.hosts
        far = next(host for host in hosts if host.pod != hosts[0].pod).rnics[0].address
        ping = ["ping", "-q", "-c", "3", "-i", "0.1", "-M", "do", "-s", "8972", far]
        reached = as_user(readable_project, "exec", "--name", name, hosts[0].name, *ping)
        assert " 0% packet loss" in reached.stdout, reached.stderr
        broken = as_user(readable_project, "fault", "--name", name, "silent-loss", design.links[0].id, "100")
        assert broken.returncode == 0, broken.stderr
        status = as_user(readable_project, "status", "--name", name)
        assert "16 of 16 BGP sessions established" in status.stdout
        assert "silent-loss" in status.stdout
    finally:
        down = as_user(readable_project, "down", "--name", name)
    assert down.returncode == 0, down.stderr


def test_a_user_without_subordinate_identifiers_is_told_the_remedy(readable_project: Path, name: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can decide what /etc/subuid says")
    refused = as_user(readable_project, "up", "--name", name, subordinate=False)
    assert refused.returncode == 2
    assert "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 nobody" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_listening_sockets_are_on_the_loopback_only() -> None:
    with sandbox.listen() as listener:
        assert listener.family == socket.AF_INET
        assert listener.getsockname()[0] == "127.0.0.1"
