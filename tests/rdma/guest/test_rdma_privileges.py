"""What RDMA probes need of whoever runs them, and what is said where it is missing: the table of docs/deployment.md."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from exporter.contracts.codec import encode, write
from exporter.contracts.plan import Plan
from lab.guest.network import FABRIC, Fabric, addresses
from tests.rdma.guest.hosts import LOST, Host, target, until
from tests.rdma.guest.test_rdma_exporter import Exporter

ELSEWHERE = ["ip", "netns", "exec", FABRIC]
READ_ONLY = 'mount --rbind / /mnt && mount -o remount,bind,ro /mnt && cd /mnt && set -- chroot . "$@"'
LITTLE_MEMLOCK = ["prlimit", f"--memlock={64 << 10}"]
NO_MEMLOCK = ["prlimit", "--memlock=0"]


def nobody(*capabilities: str) -> list[str]:
    """As an ordinary user with these capabilities, and with no way to more."""
    wanted = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    return ["setpriv", *user, f"--inh-caps={wanted}", f"--ambient-caps={wanted}", f"--bounding-set={wanted}"]


def root(*capabilities: str) -> list[str]:
    """As root with these capabilities alone, as in a container."""
    return ["setpriv", "--bounding-set=" + ",".join(["-all", *(f"+{name}" for name in capabilities)])]


def after(change: str) -> list[str]:
    """In a mount namespace that was changed so."""
    return ["unshare", "--mount", "sh", "-c", f'{change} && exec "$@"', "sh"]


class Python:
    """Has the processes that tests start run by way of other commands."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file, self._real, self._monkeypatch = directory / "python", sys.executable, monkeypatch

    def by_way_of(self, *commands: Sequence[str]) -> None:
        line = shlex.join(word for command in (*commands, [self._real]) for word in command)
        self._file.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        self._file.chmod(0o755)
        self._monkeypatch.setattr(sys, "executable", str(self._file))


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Python:
    # An ordinary user may come to Python, the checkout and the test's files, wherever they are. (In the guest's layer.)
    for file in (Path(sys.executable), Path(sys.executable).resolve(), Path(__file__), tmp_path / "file"):
        for directory in file.parents:
            directory.chmod(directory.stat().st_mode | 0o055)
    return Python(tmp_path, monkeypatch)


@pytest.mark.virtual_time
@pytest.mark.timeout(80)
def test_an_ordinary_user_without_capabilities_or_a_place_to_write_probes_and_answers(
    fabric: Fabric, tmp_path: Path, python: Python
) -> None:
    near, far = fabric.ports
    python.by_way_of(after(READ_ONLY), nobody())
    with ExitStack() as stack:
        here, there = Exporter(tmp_path / "here", near, 9105), Exporter(tmp_path / "there", far, 9106)
        for each in (here, there):
            stack.callback(each.stop)
        until(lambda: here.value("fabric_rdma_up", rnic="rxe0") == 1 == there.value("fabric_rdma_up", rnic="rxe1"), 40)
        rdma = target(near, far, period=0.05)
        udp = msgspec.structs.replace(rdma, path="udp", probe="udp", destination_port=10_000 + 9106)
        plan = Plan(
            version=1, job="j", job_uid=None, phase="skeleton", generation=1, expires=9e9, targets=(rdma, udp)
        )  # fmt: skip
        write(here.plan, encode(plan))
        for path in (rdma, udp):
            until(lambda kind=path.probe: (here.value("fabric_rtt_seconds_count", probe=kind) or 0) >= 20, 30)
            assert here.value("fabric_path_probes_lost_total", path=path.path) == 0


def test_pinned_memory_is_within_memlock_or_takes_ipc_lock(
    fabric: Fabric, python: Python, capfd: pytest.CaptureFixture[str]
) -> None:
    near, _ = fabric.ports
    for limit in (LITTLE_MEMLOCK, NO_MEMLOCK):
        python.by_way_of(limit, nobody())
        with Host(near) as host:
            until(lambda: "raise memlock (ulimit -l, LimitMEMLOCK=infinity)" in capfd.readouterr().err)
            assert not host.up()
    python.by_way_of(LITTLE_MEMLOCK, nobody("ipc_lock"))
    with Host(near) as host:
        until(host.up)


TROUBLES = {
    "a node of another user": (
        [after("chmod 0600 /dev/infiniband/uverbs*"), nobody()],
        "/dev/infiniband/uverbs0 cannot be opened (Permission denied): run the exporter as its owner or in its group",
    ),
    "a mount without devices": (
        [after("mount --bind /dev/infiniband /dev/infiniband && mount -o remount,bind,nodev /dev/infiniband")],
        "/dev/infiniband/uverbs0 cannot be opened (Permission denied)",
    ),
    "a container without devices": (
        [after("mount -t tmpfs tmpfs /dev/infiniband"), nobody()],
        "/dev/infiniband/uverbs0 cannot be opened (No such file or directory): give the container this device",
    ),
    "libibverbs without drivers": (
        [after("mount -t tmpfs tmpfs /etc/libibverbs.d"), nobody()],
        "libibverbs does not offer it; is its driver installed (ibverbs-providers)?",
    ),
    "another network namespace": (
        [ELSEWHERE, nobody()],
        "10.9.0.1 port 65301/udp, for introductions: the address is not in this network namespace",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_is_missing_is_named_with_its_remedy(
    fabric: Fabric, python: Python, capfd: pytest.CaptureFixture[str], trouble: str
) -> None:
    near, _ = fabric.ports
    through, said = TROUBLES[trouble]
    python.by_way_of(*through)
    with Host(near) as host:
        errors = ""

        def complained() -> bool:
            nonlocal errors
            errors += capfd.readouterr().err
            return said in errors

        until(complained)
        assert host.rnics()["rxe0"]["fabric_rdma_up"] == 0
        assert host.process.running  # and goes on looking
    os.chmod("/dev/infiniband/uverbs0", 0o666)  # noqa: S103 - as it was: /dev is one for all tests


def test_two_exporters_of_one_address_are_one_too_many(fabric: Fabric, capfd: pytest.CaptureFixture[str]) -> None:
    near, _ = fabric.ports
    with Host(near) as host:
        until(host.up)
        with Host(near) as other:
            until(lambda: "introductions: another exporter has it" in capfd.readouterr().err)
            assert not other.up()


@pytest.fixture
def exclusive() -> Iterator[Fabric]:
    """RDMA devices that only their own network namespace sees (rdma-system(8))."""
    subprocess.run(["rdma", "system", "set", "netns", "exclusive"], check=True)
    with Fabric(addresses(2)) as made:
        yield made
    subprocess.run(["rdma", "system", "set", "netns", "shared"], check=True)


def test_an_exclusive_device_is_not_there_in_another_network_namespace(
    exclusive: Fabric, python: Python, capfd: pytest.CaptureFixture[str]
) -> None:
    near, _ = exclusive.ports
    python.by_way_of(ELSEWHERE, nobody())
    with Host(near) as host:
        until(
            lambda: "there is no RDMA device rxe0, nor any other; is its driver loaded, and" in capfd.readouterr().err
        )
        assert not host.up()
    python.by_way_of(nobody())
    with Host(near) as host:
        until(host.up)


def test_an_exporter_elsewhere_enters_the_network_namespace_of_its_ports(fabric: Fabric, python: Python) -> None:
    """As the chart's mode ``setns`` has it, the other way round: ports of rxe work in the first namespace alone."""
    near, far = fabric.ports
    subprocess.run(["ip", "netns", "attach", "first", "1"], check=True)
    enter = ["nsenter", "--net=/run/netns/first"]
    python.by_way_of(ELSEWHERE, root("sys_admin", "setuid", "setgid", "setpcap", "ipc_lock"), enter, nobody("ipc_lock"))
    with Host(near) as here, Host(far) as there:
        until(lambda: here.up() and there.up())
        here.plan([target(near, far)])
        here.answers(20)
        assert here.total(LOST) == 0
    subprocess.run(["ip", "netns", "delete", "first"], check=True)


@pytest.mark.usefixtures("fabric")
def test_to_enter_a_network_namespace_takes_sys_admin_and_for_one_of_a_process_sys_ptrace() -> None:
    with subprocess.Popen(["ip", "netns", "exec", FABRIC, "sleep", "60"]) as holder:
        named, of_process = f"--net=/run/netns/{FABRIC}", f"--net=/proc/{holder.pid}/ns/net"
        until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"))

        def enters(way: str, *capabilities: str) -> bool:
            done = subprocess.run([*nobody(*capabilities), "nsenter", way, "true"], check=False, capture_output=True)
            return done.returncode == 0

        assert [enters(named), enters(named, "sys_admin")] == [False, True]
        assert [enters(of_process, "sys_admin"), enters(of_process, "sys_admin", "sys_ptrace")] == [False, True]
        holder.kill()
