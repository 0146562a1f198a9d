"""From rows of a table to paths, probes and routes: what tells paths apart, and what is left out."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from exporter.contracts.fabric import Fabric
from exporter.contracts.plan import ROCE_PORT
from skeleton_service.diagnosis.observations import Observations, Path, observe
from skeleton_service.reading.records import KINDS, read_records
from tests.unit.fabrics import leaf_spine

FABRIC = Fabric(leaf_spine(pods=2, rails=1, spines=2, hosts_per_pod=2))
SOURCE, DESTINATION = "host-p0-0", "host-p1-0"
ROUTE = '["leaf-p0-r0", "spine-0", "leaf-p1-r0"]'
LOST = {"dial": "fail", "latency": None, "loss_rate": 1.0}


def address(host: str) -> str:
    return FABRIC.interfaces[f"{host}:mlx5_0"].rnic.ip


def row(second: float = 0.0, source: str = SOURCE, destination: str = DESTINATION, **changes: Any) -> dict[str, Any]:
    return {
        "task_type": "UDP_PING",
        "ping_time": int((1_000 + second) * 1e9),
        "src_node_id": f"c-{source}",
        "dst_node_id": f"c-{destination}",
        "src_node_sn": source,
        "dst_node_sn": destination,
        "src_real_ip": address(source),
        "dst_real_ip": address(destination),
        "src_rnic": "mlx5_0",
        "dst_rnic": "mlx5_0",
        "src_port": 49152,
        "dst_port": 65300,
        "dial": "success",
        "latency": 15.0,
        "loss_rate": 0.0,
        "job": "job-1",
        **changes,
    }


def trace(second: float = 0.0, **changes: Any) -> dict[str, Any]:
    return row(second, **{"task_type": "TRACEROUTE", "route": ROUTE, "latency": None, "loss_rate": None, **changes})


def observed(*rows: dict[str, Any], fabric: Fabric = FABRIC) -> Observations:
    schema = pa.schema(list(KINDS.items()))
    table = pa.Table.from_pylist([{name: each.get(name) for name in KINDS} for each in rows], schema=schema)
    return observe(table, fabric, "default")


def the_path(**changes: Any) -> Path:
    (path,) = observed(row(**changes)).paths
    return path


def test_a_row_is_a_probe_of_its_path_in_seconds() -> None:
    seen = observed(row(1.5))
    (path,) = seen.paths
    assert path.flow[:5] == (f"{SOURCE}:mlx5_0", f"{DESTINATION}:mlx5_0", 49152, 65300, False)
    assert path.ends == (f"c-{SOURCE}/mlx5_0", f"c-{DESTINATION}/mlx5_0")
    assert path.hosts == (SOURCE, DESTINATION)
    assert (seen.time.tolist(), seen.sent.tolist(), seen.lost.tolist()) == ([1_001.5], [1], [0])
    assert seen.latency.tolist() == [15.0]


@pytest.mark.parametrize(
    "changes",
    [
        {"src_port": 49153},
        {"dst_port": ROCE_PORT},
        {"task_type": "MTU"},
        {"task_type": "TCP_PING"},
        {"dscp": 26},
        {"src_node_id": "other"},
        {"dst_node_id": "other"},
        {"job": "other"},
        {"destination": "host-p1-1"},
        {"source": "host-p0-1"},
        {"dst_ip": "172.16.0.9"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_probes_of_another_flow_type_class_container_or_job_are_another_path(changes: dict[str, Any]) -> None:
    assert len(observed(row(), row(), row(1, **changes)).paths) == 2
    assert len(observed(row(**changes), row(2, **changes)).paths) == 1


@pytest.mark.parametrize("changes", [{"latency": 99.0}, {"error": "timeout"}, {"probe_bytes": 64}, {"starved": 1}])
def test_what_happened_to_a_probe_tells_no_paths_apart(changes: dict[str, Any]) -> None:
    assert len(observed(row(), row(1, **changes)).paths) == 1


def test_routes_hang_on_the_flow_whatever_the_class_or_container() -> None:
    flows = {the_path(**changes).flow for changes in ({}, {"dscp": 26}, {"src_node_id": "other"}, {"job": "other"})}
    assert len(flows) == 1


@pytest.mark.parametrize(
    ("changes", "tcp"),
    [
        ({}, False),
        ({"task_type": "MTU"}, False),
        ({"task_type": "TCP_PING"}, True),
        ({"task_type": "RDMA_PING"}, False),
        ({"task_type": "TRACEROUTE", "protocol": "udp"}, False),
        ({"task_type": "TRACEROUTE", "protocol": "tcp"}, True),
    ],
)
def test_a_flow_is_of_the_protocol_and_ports_that_switches_hash(changes: dict[str, Any], tcp: bool) -> None:
    assert the_path(**changes).flow.tcp == tcp
    assert the_path(**changes, dst_port=ROCE_PORT).flow.destination_port == ROCE_PORT


def test_an_address_that_is_not_the_rnics_own_is_the_overlays() -> None:
    assert not the_path().flow.overlay
    assert not the_path(src_ip=address(SOURCE), dst_ip=address(DESTINATION)).flow.overlay
    overlay = the_path(src_ip="172.16.0.1", dst_ip="172.16.0.9")
    assert overlay.flow.overlay
    assert overlay.overlay_destination == "172.16.0.9"
    assert the_path(dst_ip=address(DESTINATION)).overlay_destination is None


def test_an_rnic_is_found_by_its_name_and_else_by_its_underlay_address() -> None:
    assert the_path(src_rnic=None, dst_rnic=None) == the_path()
    assert the_path(src_node_sn="renamed", src_rnic=None).flow == the_path().flow
    assert observed(row(src_node_sn="stranger", src_real_ip="203.0.113.9")).paths == ()
    assert observed(row(src_rnic=None, src_real_ip=None)).paths == ()


def test_records_of_no_job_are_of_the_one_asked_about() -> None:
    assert the_path(job=None).job == the_path(job="").job == "default"
    assert the_path().job == "job-1"


def test_drained_hosts_are_left_out() -> None:
    hosts = tuple(
        msgspec.structs.replace(host, state="drained") if host.name == DESTINATION else host
        for host in FABRIC.topology.hosts
    )
    fabric = Fabric(msgspec.structs.replace(FABRIC.topology, hosts=hosts))
    rows = [row(), row(source=DESTINATION, destination=SOURCE), row(destination="host-p1-1"), trace()]
    seen = observed(*rows, fabric=fabric)
    assert [path.hosts for path in seen.paths] == [(SOURCE, "host-p1-1")]
    assert seen.traces == ()


def test_queries_to_resolvers_are_no_probes_of_paths() -> None:
    assert observed(row(task_type="DNS")).paths == ()


@pytest.mark.parametrize(
    ("changes", "sent", "lost"),
    [
        ({}, 1, 0),
        (LOST, 1, 1),
        ({"packets_sent": 30, "packets_lost": 7}, 30, 7),
        ({"packets_sent": 30, "loss_rate": 0.1}, 30, 3),
        ({"packets_sent": 30, **LOST}, 30, 30),
        ({"packets_sent": 30, **LOST, "packets_lost": 29}, 30, 29),
        ({"loss_rate": None}, 1, 0),
    ],
)
def test_probes_are_counted_as_told_else_as_the_ratio_says_else_as_the_dial(
    changes: dict[str, Any], sent: int, lost: int
) -> None:
    seen = observed(row(**changes))
    assert (seen.sent.tolist(), seen.lost.tolist()) == ([sent], [lost])


@pytest.mark.parametrize("latency", [None, 0.0, -3.0])
def test_a_round_trip_that_is_none_is_not_a_number(latency: float | None) -> None:
    assert np.isnan(observed(row(latency=latency)).latency).all()


def test_a_record_that_lost_some_has_no_round_trip_to_trust() -> None:
    assert np.isnan(observed(row(packets_sent=3, packets_lost=1)).latency).all()


def test_the_way_a_probe_was_lost_is_told_by_its_error() -> None:
    telling = observed(row(0, **LOST, error="timeout"), row(1, **LOST, error="reply lost"), row(2, **LOST))
    assert telling.lost_untold.tolist() == [False, False, True]
    assert telling.lost_back.tolist() == [False, True, False]


@pytest.mark.parametrize("error", ["refused", "restarted"])
def test_a_refusal_is_no_loss(error: str) -> None:
    seen = observed(row(**LOST, error=error), row(1, **LOST))
    assert seen.lost.tolist() == [0, 1]
    assert seen.refused.tolist() == [True, False]


def test_losses_that_a_prober_short_of_processor_booked_are_left_out_and_so_are_its_round_trips() -> None:
    seen = observed(row(0, starved=1, **LOST), row(1, starved=1), row(2, starved=0, **LOST), row(3))
    assert seen.time.tolist() == [1_001.0, 1_002.0, 1_003.0]
    assert seen.lost.tolist() == [0, 1, 0]
    assert np.isnan(seen.latency).tolist() == [True, True, False]


def test_probes_come_in_order_of_time() -> None:
    rows = [row(second, src_port=49152 + second % 3) for second in (5, 1, 4, 2, 3)]
    seen = observed(*rows)
    assert seen.time.tolist() == [1_001.0, 1_002.0, 1_003.0, 1_004.0, 1_005.0]
    assert [seen.paths[number].flow.source_port for number in seen.path] == [49153, 49154, 49152, 49153, 49154]


def test_a_trace_is_a_route_of_its_flow_and_no_probe() -> None:
    seen = observed(trace(3), row(1), trace(2))
    assert seen.time.tolist() == [1_001.0]
    assert [each.time for each in seen.traces] == [1_002.0, 1_003.0]
    assert {each.flow for each in seen.traces} == {the_path().flow}
    assert seen.traces[0].egresses == FABRIC.egresses_of_route(
        f"{SOURCE}:mlx5_0", ["leaf-p0-r0", "spine-0", "leaf-p1-r0"], f"{DESTINATION}:mlx5_0"
    )


@pytest.mark.parametrize(
    "route",
    [
        "",
        "spine-0",
        "{}",
        "null",
        "[1]",
        "[[]]",
        '["spine-0"',
        "[]",
        "[" * 20_000,
        '["leaf-p0-r0", null, "leaf-p1-r0"]',
        '["leaf-p0-r0", "spine-0"]',
        '["leaf-p0-r0", "spine-9", "leaf-p1-r0"]',
        '["leaf-p0-r0", "spine-0", "leaf-p0-r0", "spine-1", "leaf-p1-r0"]',
        "\ufeff" + ROUTE,
        None,
    ],
    ids=lambda route: repr(route)[:40],
)
def test_a_route_that_is_not_whole_is_none(route: str | None) -> None:
    assert observed(trace(route=route), row()).traces == ()


def test_a_trace_that_failed_is_none() -> None:
    assert observed(trace(dial="fail", error="silent")).traces == ()


def test_no_rows_are_nothing() -> None:
    seen = observed()
    assert (seen.paths, seen.traces, len(seen.time), len(seen.path)) == ((), (), 0, 0)


def test_a_table_of_empty_columns_and_of_several_chunks_reads_as_any_other() -> None:
    one, two = (
        pa.Table.from_pylist([{name: row(second).get(name) for name in KINDS}], schema=pa.schema(list(KINDS.items())))
        for second in range(2)
    )
    seen = observe(pa.concat_tables([one, two.slice(0, 0), two]), FABRIC, "default")
    assert (len(seen.paths), seen.time.tolist()) == (1, [1_000.0, 1_001.0])


def test_a_file_with_a_byte_order_mark_and_few_columns_is_observed(tmp_path: Any) -> None:
    """The public sample's: no RNIC names, no job, no counts."""
    names = ("task_type", "ping_time", "src_node_id", "dst_node_id", "src_real_ip", "dst_real_ip", "dial", "latency")
    lines = [",".join(names), *(",".join(str(row(second)[name]) for name in names) for second in range(3))]
    path = tmp_path / "sample.csv"
    path.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    seen = observe(read_records([path]), FABRIC, "default")
    assert [each.flow.destination for each in seen.paths] == [f"{DESTINATION}:mlx5_0"]
    assert seen.time.tolist() == [1_000.0, 1_001.0, 1_002.0]
    assert seen.paths[0].job == "default"
