"""An exporter without RDMA says so, and everything else goes on."""

from __future__ import annotations

from pathlib import Path

from tests.unit.running import THERE, RunningExporter, until


def test_an_rdma_target_is_counted_as_unsupported_and_the_other_paths_go_on(tmp_path: Path) -> None:
    far = RunningExporter(tmp_path / "far", "", address=THERE)
    here = RunningExporter(tmp_path / "here", "")
    try:
        here.plan(here.target("u", "udp", far.responder), *(here.target(f"r{n}", "rdma") for n in range(3)))
        until(lambda: (here.value("fabric_path_probes_sent_total", path="u") or 0) > 5)
        assert here.value("fabric_exporter_unsupported_targets") == 3
        assert here.value("fabric_exporter_paths") == 1
        assert here.paths() == {"u"}
        assert here.value("fabric_path_probes_lost_total", path="u") == 0
        here.plan(here.target("u2", "udp", far.responder), generation=2)
        until(lambda: here.paths() == {"u2"})
        assert here.value("fabric_exporter_unsupported_targets") == 0
    finally:
        assert here.stop() == 0
        assert far.stop() == 0
