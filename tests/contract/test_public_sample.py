"""The public SkeletonHunter probe sample is read as it was published."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from skeleton_service.cli import main
from skeleton_service.reading.records import read_records

SAMPLE = Path(__file__).parents[2] / "../shared/data/skeletonhunter/samples.csv"
pytestmark = pytest.mark.skipif(not SAMPLE.exists(), reason="the public sample is not in ../shared/data/skeletonhunter")


def rows() -> list[dict[str, str]]:
    with open(SAMPLE, newline="", encoding="utf-8-sig") as text:
        return list(csv.DictReader(text))


def test_the_sample_is_read_as_it_is() -> None:
    expected = [
        ("RDMA_PING", int(row["ping_time"]), row["src_node_id"], row["dst_real_ip"], int(row["src_port"]), row["dial"],
         float(row["latency"]), float(row["loss_rate"]), None)
        for row in rows()
    ]  # fmt: skip
    columns = (
        "task_type", "ping_time", "src_node_id", "dst_real_ip", "src_port", "dial", "latency", "loss_rate", "route",
    )  # fmt: skip
    table = read_records([SAMPLE])
    assert [tuple(row[column] for column in columns) for row in table.to_pylist()] == expected
    assert len(expected) == 3


def test_the_sample_is_diagnosed_with_a_matching_topology(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hosts: dict[str, dict[str, object]] = {}
    for row in rows():
        for side in ("src", "dst"):
            address = row[f"{side}_real_ip"]
            hosts.setdefault(row[f"{side}_node_sn"], {})[address] = {"name": f"rnic-{address[:6]}", "ip": address}
    topology = {
        "version": 1,
        "hosts": [{"name": name, "rnics": list(rnics.values())} for name, rnics in hosts.items()],
        "switches": [],
        "links": [],
    }
    (tmp_path / "topology.yaml").write_text(yaml.safe_dump(topology))
    skeleton = {
        "version": 1, "job": "sample", "window": {"start": 0, "end": 1, "step_seconds": 1}, "period_seconds": None,
        "confidence": 0, "fallback": "basic", "parallelism": None, "groups": [], "edges": [],
    }  # fmt: skip
    (tmp_path / "skeleton.json").write_text(json.dumps(skeleton))
    options = ["--topology", tmp_path / "topology.yaml", "--skeleton", tmp_path / "skeleton.json"]
    output = tmp_path / "diagnosis.json"
    assert main(["diagnose", "--probes", str(SAMPLE), *map(str, options), "--output", str(output)]) == 0
    assert json.loads(output.read_text()) == {"version": 1, "failures": []}
    assert capsys.readouterr().out == "no failure in these records\n"
