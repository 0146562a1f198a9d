"""A prober that gets no CPU: what it did not see is no loss, what it saw late says so, what it missed is not sent."""

from __future__ import annotations

import csv
import io
import os
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.running import THERE, RunningExporter, until

SENT, LOST, UNSENT = (f"fabric_path_probes_{what}_total" for what in ("sent", "lost", "unsent"))
STARVED, UNJUDGED = (f"fabric_exporter_prober_{what}_probes_total" for what in ("starved", "unjudged"))
STALL_SECONDS = 2.0


@pytest.fixture
def there(tmp_path: Path) -> Iterator[RunningExporter]:
    exporter = RunningExporter(tmp_path / "there", "", address=THERE)
    yield exporter
    assert exporter.stop() == 0, exporter.log


def stall(exporter: RunningExporter, seconds: float = STALL_SECONDS) -> None:
    """Stop the prober process for so long, and let it go on."""
    prober = exporter.children()["exporter.probing.process"]
    os.kill(prober, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(prober, signal.SIGCONT)


def sent(exporter: RunningExporter, path: str) -> float:
    return exporter.value(SENT, path=path) or 0


def test_two_seconds_without_cpu_are_no_loss_of_a_healthy_path(here: RunningExporter, there: RunningExporter) -> None:
    """What was on its way is answered, timed as it arrived, and marked; what was due meanwhile is unsent."""
    here.plan(
        *(here.target(f"u{n}", "udp", there.responder, period_seconds=3) for n in range(50)),
        here.target("m", "mtu", there.responder, payload_bytes=8972),
        *(here.target(f"t{n}", "tcp", there.responder) for n in range(5)),
    )
    until(lambda: all(sent(here, path) >= 10 for path in ("m", "t0")))
    for _ in range(2):
        stall(here)
        before = sent(here, "m")
        until(lambda before=before: sent(here, "m") >= before + 20)  # type: ignore[misc]
    metrics = here.metrics()
    assert len(metrics[LOST]) == 56
    assert sum(metrics[LOST].values()) == 0
    for path, missed in (("m", 35), ("t0", 35)):
        assert (here.value(UNSENT, path=path) or 0) >= 2 * missed
    records = list(csv.DictReader(io.StringIO(here.get("/v1/probe-records"))))
    # "refused": before the far exporter was up.
    assert {row["error"] for row in records if row["dial"] != "success"} <= {"refused"}
    starved = [row for row in records if row["starved"] == "1"]
    assert 0 < len(starved) < len(records)
    assert [row for row in records if row["latency"] and float(row["latency"]) >= 100_000] == []
    assert here.value(UNJUDGED) == 0
    assert (here.value(STARVED) or 0) >= len(starved)  # a busy machine may have starved others since


def test_samples_of_a_starved_prober_say_so(here: RunningExporter, there: RunningExporter) -> None:
    """A stall of 90 ms delays a probe in eleven of a path that is probed each second; all of them are sent."""
    here.plan(*(here.target(f"p{n}", "udp", there.responder, period_seconds=1) for n in range(50)))
    until(lambda: sent(here, "p0") >= 1)
    for _ in range(5):
        stall(here, 0.09)
        time.sleep(0.3)
    timed = sum(here.metrics()["fabric_rtt_seconds_count"].values())
    records = list(csv.DictReader(io.StringIO(here.get("/v1/probe-records"))))
    starved = [row for row in records if row["starved"] == "1"]
    assert 10 <= len(starved) < len(records)
    assert {row["dial"] for row in starved} == {"success"}
    answered = [row for row in records if row["task_type"] == "UDP_PING" and row["dial"] == "success"]
    assert 0 < timed <= len(answered) - len(starved), "their round trips are in no metric"
    assert (here.value(STARVED) or 0) >= len(starved)
    assert sum(here.metrics()[LOST].values()) == 0


def test_a_stall_hides_no_loss_but_its_own(here: RunningExporter) -> None:
    """A path that nobody answers on: probes that the stall outlived are unjudged, all others lost."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((THERE, 0))
        here.plan(*(here.target(f"s{n}", "udp", silent.getsockname()[1]) for n in range(20)))
        until(lambda: sent(here, "s0") >= 10)
        stall(here)
        until(lambda: sent(here, "s0") >= 30)
        records = [row for row in csv.DictReader(io.StringIO(here.get("/v1/probe-records"))) if row["task_type"]]
    unjudged = here.value(UNJUDGED) or 0
    # Of each path what was sent in the timeout of 0.3 s, and in the 0.1 s in which it is judged.
    assert 20 <= unjudged <= 20 * (0.4 / 0.05 + 2)
    assert Counter(row["dial"] for row in records).keys() == {"fail"}
    lost = Counter(row["src_port"] for row in records)
    assert min(lost.values()) >= 10


def arrivals(receiver: socket.socket, times: list[int], stopping: threading.Event) -> None:
    """Kernel receive times in ns, SO_TIMESTAMPNS."""
    while not stopping.is_set():
        try:
            _, ancillary, _, _ = receiver.recvmsg(2048, 128)
        except TimeoutError:
            continue
        seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2])
        times.append(seconds * 1_000_000_000 + nanoseconds)


def test_probes_that_a_stall_delayed_do_not_leave_in_a_clump(here: RunningExporter) -> None:
    """200 paths a second to one destination: all of them used to be sent in the moment in which the prober woke up."""
    stopping, times = threading.Event(), list[int]()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind((THERE, 0))
        far.settimeout(0.2)
        far.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
        reader = threading.Thread(target=arrivals, args=(far, times, stopping))
        reader.start()
        port = far.getsockname()[1]
        here.plan(*(here.target(f"p{n}", "udp", port, period_seconds=1) for n in range(200)))
        until(lambda: len(times) > 200)
        woke = len(times)
        stall(here)
        until(lambda: len(times) > woke + 200)
        stopping.set()
        reader.join()
    slots = Counter(moment // 10_000_000 for moment in times)
    # 100 ms hold 20, the tenth slot after them 20 more, and half as much again for this machine; the stall held 400.
    assert max(slots.values()) <= 60
    metrics = here.metrics()
    assert sum(metrics[UNSENT].values()) >= 200
