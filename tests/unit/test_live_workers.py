"""What a process beside the service makes has an end."""

from __future__ import annotations

import signal
import time

import pytest

from exporter.contracts.codec import ContractError
from skeleton_service.live.workers import within


def test_what_takes_too_long_is_refused_with_a_reason() -> None:
    began = time.monotonic()

    def endless() -> None:
        with within(0.05, "its plan"):
            while time.monotonic() < began + 30:
                sum(range(1000))

    with pytest.raises(ContractError, match="its plan: takes longer than 0 s"):
        endless()
    assert time.monotonic() < began + 10


def test_what_is_made_in_time_is_not_interrupted_later() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with within(0.05, "its plan"):
        pass
    time.sleep(0.1)
    assert signal.getsignal(signal.SIGALRM) is before
