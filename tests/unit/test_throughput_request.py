"""Throughput at a fine step on request: the file, what the exporter does of it, and what it answers."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from urllib.error import HTTPError

import pytest

from exporter.contracts.codec import ContractError
from exporter.contracts.request import read_request
from exporter.host.ring import Sample
from exporter.host.throughput import Read, Rings
from tests.unit.rnictrees import Tree
from tests.unit.running import RunningExporter, until
from tests.unit.test_rnic_process import RNICS

PORT_DATA = "ports/1/counters/port_xmit_data"


def request(path: Path, **fields: object) -> Path:
    path.write_text(json.dumps({"version": 1, "start": 100.0, "end": 160.0} | fields))
    return path


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"end": 100.0}, "field 'end' is not after 'start'"),
        ({"start": 1.76e12, "end": 1.76e12 + 60}, "field 'start' is 1.76e.12 .give seconds"),
        ({"end": 701.0}, "lasts 601 s"),
        ({"start": "soon"}, "field 'start': Expected `float`"),
        ({"step_seconds": 0.001}, "field 'step_seconds'"),
        ({"version": 2}, "field 'version' is 2"),
    ],
)
def test_a_request_that_cannot_be_is_refused(tmp_path: Path, fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ContractError, match=problem):
        read_request(request(tmp_path / "request.json", **fields))


def test_times_are_finite(tmp_path: Path) -> None:
    path = tmp_path / "request.yaml"
    path.write_text("version: 1\nstart: 1\nend: .inf\n")
    with pytest.raises(ContractError, match="'start' and 'end' are not both times"):
        read_request(path)


def test_a_request_says_when_how_finely_and_of_which_job(tmp_path: Path) -> None:
    one = read_request(request(tmp_path / "request.json", job="j", unknown=1))
    assert (one.start, one.end, one.step_seconds, one.job) == (100.0, 160.0, 0.1, "j")


def test_rings_take_one_source_at_a_time() -> None:
    """Once an RNIC counts itself its network device's bytes are another thing, and do not come back."""
    rings = Rings(["r0"], 1.0, 100)
    rings.add({"r0": Read(Sample(1.0, 0, 0), by_rnic=False)})
    rings.add({"r0": Read(Sample(2.0, 10, 10), by_rnic=False)})
    rings.add({"r0": Read(Sample(3.0, 1000, 1000), by_rnic=True)})
    rings.add({"r0": Read(Sample(3.0, 1000, 1000), by_rnic=True)})  # read again before it was counted again
    rings.add({"r0": Read(Sample(4.0, 20, 20), by_rnic=False)})
    rings.add({"r0": Read(Sample(5.0, 1400, 1200), by_rnic=True)})
    assert [(rate.time, rate.receive_bytes_per_second) for rate in rings.rates("r0", 0.0, 9.0)] == [(5.0, 200.0)]
    assert not list(rings.rates("r0", 0.0, 4.9))
    assert not list(rings.rates("another", 0.0, 9.0))


def test_the_usual_rings_take_one_sample_a_step_however_often_they_are_read() -> None:
    rings = Rings(["r0"], 1.0, 100)
    for tenth in range(31):
        rings.add({"r0": Read(Sample(100 + tenth / 10 + 0.001, tenth, 0), by_rnic=True)})
    rings.add({"r0": Read(Sample(102.901, 29, 0), by_rnic=True)})  # by another thread, late
    assert [round(rate.time, 3) for rate in rings.rates("r0", 0.0, 200.0)] == [101.001, 102.001, 103.001]


def rows(exporter: RunningExporter, query: str, rnic: str) -> list[tuple[float, float]]:
    """Of each interval: when it ended, and what was sent in it, in bytes a second."""
    lines = [line.split(",") for line in exporter.get(f"/v1/throughput{query}").splitlines()[1:]]
    return [(float(line[0]), float(line[5])) for line in lines if line[4] == rnic]


def test_a_burst_is_seen_as_short_as_it_is_while_a_request_asks(tmp_path: Path) -> None:
    """By the RNIC's own counters, and by its network device's where it has none: the usual second blurs both."""
    first = Tree(tmp_path, "mlx5", "mlx5_0", "eth0")
    plain = tmp_path / "sys/class/net/eth1/statistics"
    plain.mkdir(parents=True)
    for name in ("rx_bytes", "tx_bytes"):
        (plain / name).write_text("0\n")
    settings = "counters: {period_seconds: 10, ethtool: ../ethtool}\nthroughput: {step_seconds: 1, request: r.json}\n"
    exporter = RunningExporter(tmp_path / "exporter", RNICS + settings + f"sysfs: {tmp_path}/sys\n", address="")
    try:
        until(lambda: len(rows(exporter, "", "mlx5_0")) > 1, 10)
        with pytest.raises(HTTPError, match="404"):
            exporter.get("/v1/throughput?step=0.1")
        began = time.time()
        whole = tmp_path / "exporter/r.json"
        request(whole.with_suffix(".new"), start=began + 1.5, end=began + 4, job="j").rename(whole)
        time.sleep(began + 2.75 - time.time())
        first.put({PORT_DATA: 2014 + 1_000_000})
        (plain / "tx_bytes").write_text("5000000\n")
        time.sleep(began + 4.5 - time.time())
        for rnic, sent in (("mlx5_0", 4_000_000), ("mlx5_1", 5_000_000)):
            fine = rows(exporter, f"?step=0.1&job=j&until={began + 4:.3f}", rnic)
            assert len(fine) >= 18, (exporter.log, fine)
            (burst,) = [number for number, (_, rate) in enumerate(fine) if rate > 0]
            length = fine[burst][0] - fine[burst - 1][0]
            assert length < 0.5
            assert fine[burst][1] * length == pytest.approx(sent, rel=0.01)
            assert began + 1.5 < fine[0][0] < began + 2.5
            offsets = [time % 0.1 for time, _ in fine]
            assert sum(min(offset, 0.1 - offset) < 0.02 for offset in offsets) > len(fine) / 2
            usual = [rate for _, rate in rows(exporter, f"?since={began:.3f}", rnic) if rate > 0]
            assert len(usual) == 1
            assert usual[0] < fine[burst][1] / 2
        assert not rows(exporter, "?step=0.1&job=another", "mlx5_0")
        # It ends, and what was taken stays until another one begins.
        assert "throughput request: begins in 1 s" in exporter.log
        taken = len(rows(exporter, "?step=0.1", "mlx5_0"))
        time.sleep(1.2)
        assert len(rows(exporter, "?step=0.1", "mlx5_0")) == taken
        every = rows(exporter, f"?since={began - 1:.3f}", "mlx5_0")
        # A reading may be late on a busy machine; none is made at once because the step has changed.
        assert min(after - before for (before, _), (after, _) in pairwise(every)) > 0.02, every
        for wrong, problem in (("step=0", "'step' is 0"), ("stp=1", "there is no parameter 'stp', only job, since")):
            with pytest.raises(HTTPError) as refusal:
                exporter.get(f"/v1/throughput?{wrong}")
            assert (refusal.value.code, problem in refusal.value.read().decode()) == (400, True)
        request(whole.with_suffix(".new"), job="x", end=120.0).rename(whole)
        until(lambda: "throughput request: no workload of job 'x' here, only of j" in exporter.log)
        request(whole.with_suffix(".new"), end=9e9).rename(whole)
        until(lambda: "throughput request refused: " in exporter.log)
        assert len(rows(exporter, "?step=0.1", "mlx5_0")) == taken
    finally:
        exporter.stop()
