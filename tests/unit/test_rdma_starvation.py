"""What tells that a process was kept from running: /proc/thread-self/schedstat, and SIGCONT."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.rdma.starvation import run_delay

SPINS = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
ends = time.monotonic() + 0.5
while time.monotonic() < ends: pass
"""


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="the kernel has no CONFIG_SCHED_INFO")
def test_to_share_a_processor_is_a_delay() -> None:
    before = os.sched_getaffinity(0)
    processor = max(before)
    os.sched_setaffinity(0, {processor})
    try:
        delay = run_delay()
        other = subprocess.Popen([sys.executable, "-c", SPINS, str(processor)])
        start = delay()
        while other.poll() is None:
            pass
        assert delay() - start > 50_000_000
    finally:
        os.sched_setaffinity(0, before)


def test_a_kernel_that_does_not_say_has_no_delay(tmp_path: Path) -> None:
    assert run_delay(tmp_path / "none")() == 0


def test_the_second_figure_is_the_delay(tmp_path: Path) -> None:
    (tmp_path / "schedstat").write_text("123 456 7\n")
    assert run_delay(tmp_path / "schedstat")() == 456
