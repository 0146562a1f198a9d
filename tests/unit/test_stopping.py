"""Whether a signal that comes at any moment stops a loop, and hangs none."""

import os
import resource
import subprocess
import sys

import pytest

from exporter.stopping import Stopping

ROUNDS = """
import random, signal, time
from exporter.stopping import Stopping
until, rounds = time.monotonic() + 3, 0
while time.monotonic() < until:
    stopping = Stopping()
    signal.signal(signal.SIGALRM, lambda *_: stopping.set())
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 3e-4))
    while not stopping.wait(2e-6):
        pass
    rounds += 1
print(rounds)
"""


def test_a_signal_inside_the_wait_does_not_hang_it() -> None:
    """With ``threading.Event`` in its place this hangs within a second, as an exporter once did in CI."""
    done = subprocess.run([sys.executable, "-c", ROUNDS], capture_output=True, text=True, timeout=30, check=True)
    assert int(done.stdout) > 100


def test_it_waits_no_longer_than_asked_for() -> None:
    stopping = Stopping()
    assert not stopping.wait(0.01)
    assert not stopping.wait(-1)
    stopping.set()
    assert stopping.wait(60)


def test_a_process_that_holds_many_files_can_wait() -> None:
    """select(2) takes no descriptor above 1023; an exporter of many RNICs or switches holds more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 2048:
        pytest.skip(f"no more than {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    held = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while held[-1] < 1024:
            held.append(os.dup(held[0]))
        stopping = Stopping()
        assert not stopping.wait(0.01)
        stopping.set()
        assert stopping.wait(60)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
