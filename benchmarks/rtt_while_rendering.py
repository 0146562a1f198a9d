"""Round trips of a real prober while the control process renders, against those while it rests.

``python -m benchmarks.rtt_while_rendering [--seconds N]``. Two prober processes on loopback, one the responder of
the other. This process plays the control process: in turns it rests (A) and renders 100,000 series without a
pause, as /metrics and as OTLP (B). Only processors are shared, as in the field; on two cores that is a hard case.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.render import filled_store, touch
from exporter.child import Child
from exporter.contracts.plan import Target
from exporter.exposition import Renderer
from exporter.otlp.encode import Encoder
from exporter.probing.settings import RESULT_CAPACITY, ProberSettings, prober_tables
from exporter.results import ANSWERED, ResultRing
from exporter.store import Store

HERE, THERE = "127.0.0.2", "127.0.0.3"
PATHS, PERIOD_SECONDS = 100, 0.1
SERIES = 100_000


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((THERE, 0))
        return int(probe.getsockname()[1])


def _start(address: str, port: int, results: ResultRing) -> Child:
    store = Store(prober_tables(PATHS))
    settings = ProberSettings(
        host=address, addresses={address: "r0"}, key=b"k" * 32, timeout_seconds=0.5, max_paths=PATHS, responder=True,
        responder_port=port, trace_period_seconds=86400, trace_max_hops=1,
    )  # fmt: skip
    child = Child("exporter.probing.process", (store.descriptor, results.descriptor), msgspec.msgpack.encode(settings))
    child.tick(time.monotonic())
    return child


def _targets(port: int) -> tuple[Target, ...]:
    return tuple(
        Target(
            path=f"p{number}", source="a/r0", destination="b/r0", probe="udp", source_address=HERE,
            destination_address=THERE, source_ports=(40000 + number,), destination_port=port, traffic_class=0,
            payload_bytes=64, period_seconds=PERIOD_SECONDS, active=True,
        )
        for number in range(PATHS)
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each of the two states (default 30)")
    seconds = parser.parse_args().seconds
    port = _free_port()
    results = ResultRing(RESULT_CAPACITY)
    store, rows = filled_store(SERIES)
    renderer, encoder = Renderer(), Encoder({"service.name": "fabric-exporter"}, 5000)
    far, near = _start(THERE, port, ResultRing(RESULT_CAPACITY)), _start(HERE, port, results)
    round_trips: dict[str, list[int]] = {"A": [], "B": []}
    rendered = lost = 0
    try:
        near.tell(msgspec.msgpack.encode(_targets(port)))
        renderer.render([store])  # the first time costs more, and once in the life of a process
        encoder.delivered(encoder.encode([store], [], time.time_ns()))
        time.sleep(2.0)
        turn = 1.0
        _, last, _ = results.read(0)
        for _ in range(round(seconds / turn)):
            for state in "AB":
                ends = time.monotonic() + turn
                while (now := time.monotonic()) < ends:
                    if state == "A":
                        time.sleep(ends - now)
                    else:
                        touch(rows[:1000], float(rendered))
                        renderer.render([store])
                        encoder.delivered(encoder.encode([store], [], time.time_ns()))
                        rendered += 1
                new, last, _ = results.read(last)
                round_trips[state] += [result.rtt_ns for result in new if result.outcome == ANSWERED]
                lost += sum(result.outcome != ANSWERED for result in new)
            if not round_trips["A"]:
                print("no probe was answered", file=sys.stderr)
                return 1
    finally:
        near.stop()
        far.stop()
    cores = len(Path("/proc/cpuinfo").read_text().split("processor\t")) - 1
    print(f"{PATHS} paths at {1 / PERIOD_SECONDS:g} Hz, {cores} cores; {SERIES} series rendered {rendered} times")
    print(f"{'round trip, us':34}{'probes':>8}{'p50':>8}{'p90':>8}{'p99':>8}{'p99.9':>8}")
    table = {}
    for state, what in (("A", "A: the control process rests"), ("B", "B: it renders without a pause")):
        table[state] = np.percentile(np.array(round_trips[state]) / 1e3, [50, 90, 99, 99.9])
        print(f"{what:34}{len(round_trips[state]):8}" + "".join(f"{value:8.1f}" for value in table[state]))
    print(f"{'B / A':42}" + "".join(f"{value:8.2f}" for value in table["B"] / table["A"]))
    print(f"{lost} lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
