"""What cannot be diagnosed is said: records, counters and tables of another fabric, and none at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from skeleton_service.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
COUNTERS = "time,metric,node,port,value\n1760000000,fabric_switch_port_up,{},Ethernet0,1\n"
TABLES = '{{"version": 1, "entries": [{{"host": "{}", "table": "vswitch", "vni": 1, "dst": "10.9.0.1", "next": null, "time": 1}}]}}'  # noqa: E501


Run = Callable[..., tuple[int, str, str]]
"""Exit code, standard output, standard error."""


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*more: str, probes: str = str(EXAMPLES / "probe-records.csv"), topology: str = "") -> tuple[int, str, str]:
        words = ["--probes", probes, "--topology", topology or str(EXAMPLES / "topology.yaml")]
        words += ["--skeleton", str(EXAMPLES / "skeleton.json"), "--output", "d.json", *more]
        code = main(["diagnose", *words])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


def test_counters_of_another_fabric_end_it_and_of_this_and_another_are_counted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(COUNTERS.format("nowhere"))
    code, out, err = run("--counters", "c.csv")
    assert (code, out) == (2, "")
    assert err == (
        "skeleton-service: c.csv: field 'node': all 1 counter samples are of devices that the topology does not have: "
        "nowhere ('node' is a name of the topology)\n"
    )
    (tmp_path / "c.csv").write_text(COUNTERS.format("nowhere") + COUNTERS.format("leaf-p0-r0").splitlines()[1] + "\n")
    code, _, err = run("--counters", "c.csv")
    assert code == 0
    assert err == "left out: 1 of 2 counter samples are of devices that the topology does not have: nowhere\n"


def test_tables_of_other_hosts_end_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text(TABLES.format("elsewhere"))
    code, _, err = run("--overlay", "o.json")
    assert code == 2
    assert err.startswith("skeleton-service: o.json: field 'host': all 1 entries and snapshots are of devices ")
    assert err.count("\n") == 1


def test_records_without_a_row_are_not_health(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text((EXAMPLES / "probe-records.csv").read_text().splitlines()[0] + "\n")
    assert run(probes="p.csv") == (0, "no records: nothing can be said of this fabric\n", "")


def test_records_of_another_fabric_end_it_naming_an_rnic(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(
        "version: 1\nhosts: [{name: other, rnics: [{name: mlx5_0, ip: 192.0.2.1}]}]\nswitches: []\nlinks: []\n"
    )
    code, _, err = run(topology="t.yaml")
    assert code == 2
    assert "probe records are of RNICs that the topology does not have: host-p" in err
    assert "(give the topology of the hosts in columns src_node_sn and dst_node_sn)" in err
    assert err.count("\n") == 1
