"""A guest runs a command and nothing of it stays, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.guest import kernel
from lab.guest.machine import Guest
from tests.unit.running import until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def uml() -> kernel.Kernel:
    try:
        found = kernel.find()
    except LabError as error:
        pytest.skip(str(error))
    if found.machine != "uml":
        pytest.skip("no User-Mode Linux (make uml-kernel)")
    return found


def test_it_writes_to_a_layer_and_returns_output_and_exit_code(uml: kernel.Kernel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("machine\n")
    command = ["sh", "-c", 'cat file; echo "$GREETING" > file; cat file; exit 7']
    with Guest(command, uml, cwd=tmp_path, environ={"GREETING": "it's a guest"}) as guest:
        until(lambda: guest.poll() is not None)
        assert guest.poll() == 7
        assert guest.output() == b"machine\nit's a guest\n"
    assert (tmp_path / "file").read_text() == "machine\n"
    assert not guest.share.exists()


def test_a_panic_is_told_with_the_end_of_the_console(uml: kernel.Kernel) -> None:
    exhaust = "echo 1 > /proc/sys/vm/panic_on_oom; exec tail /dev/zero"
    with Guest(["sh", "-c", exhaust], uml, memory_mb=64) as guest, pytest.raises(LabError, match="Kernel panic"):
        guest.wait(20)


def test_one_that_hangs_is_ended(uml: kernel.Kernel) -> None:
    start = time.monotonic()
    with Guest(["sleep", "1000"], uml) as guest, pytest.raises(LabError, match="not ended within 2 s"):
        guest.wait(2)
    assert time.monotonic() - start < 10
    until(lambda: not _mentioning(str(guest.share)))


def test_waiting_takes_no_time_in_virtual_time(uml: kernel.Kernel) -> None:
    start = time.monotonic()
    with Guest(["sleep", "3600"], uml, virtual_time=True) as guest:
        assert guest.wait(60) == 0
    assert time.monotonic() - start < 60


def test_nothing_stays_when_its_maker_is_killed(uml: kernel.Kernel) -> None:
    boot = (
        "import sys; from pathlib import Path; from lab.guest import kernel, machine\n"
        f"guest = machine.Guest(['sleep', '1000'], kernel.Kernel('uml', Path({str(uml.path)!r})))\n"
        "print(guest.share, flush=True); guest.wait(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", boot], cwd=ROOT, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        share = maker.stdout.readline().strip()
        until(lambda: _mentioning(share))
        os.kill(maker.pid, signal.SIGKILL)
    until(lambda: not _mentioning(share) and not Path(share).exists())


def test_a_named_kernel_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UML_KERNEL", str(tmp_path / "linux"))
    with pytest.raises(LabError, match=r"UML_KERNEL=.*linux is not a program \(make uml-kernel"):
        kernel.find()


def test_without_any_kernel_the_remedies_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UML_KERNEL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("QEMU_KERNEL", str(tmp_path / "vmlinuz-6.1"))
    with pytest.raises(LabError, match=r"make uml-kernel.*UML_KERNEL=.*apt-get install qemu-system-x86"):
        kernel.find()


def _mentioning(word: str) -> list[str]:
    """Command lines of the processes that have ``word`` in theirs."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found
