"""Resolvers that fail or are late, on DNS records made by hand."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from skeleton_service.diagnosis.resolvers import QUIET_SECONDS, Slowness, failing_resolvers
from skeleton_service.records import KINDS

START = 1_000
FAILED = {"dial": "fail", "latency": None, "loss_rate": 1.0}


def query(second: float, *, resolver: str = "10.0.0.53", host: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "task_type": "DNS",
        "ping_time": int((START + second) * 1e9),
        "src_node_sn": f"host-{host}",
        "dst_node_id": resolver,
        "dial": "success",
        "latency": 800.0,
        "loss_rate": 0.0,
        **changes,
    }


def asked(
    seconds: int, wrong: tuple[int, int] = (0, 0), fate: dict[str, Any] = FAILED, **changes: Any
) -> list[dict[str, Any]]:
    """Two hosts ask once a second; from the one second until the other their queries meet ``fate``."""
    return [
        query(second + host / 2, host=host, **{**changes, **(fate if wrong[0] <= second < wrong[1] else {})})
        for second in range(seconds)
        for host in range(2)
    ]


def found(*rows: dict[str, Any]) -> list[Slowness]:
    schema = pa.schema(list(KINDS.items()))
    return failing_resolvers(pa.Table.from_pylist([{name: row.get(name) for name in KINDS} for row in rows], schema))


def test_a_resolver_that_answers_is_none() -> None:
    assert found(*asked(120)) == []
    assert found() == []


def test_queries_that_fail_are_the_resolvers_failure() -> None:
    (failure,) = found(*asked(60, (30, 60)))
    assert (failure.resolver, failure.start, failure.end) == ("10.0.0.53", START + 30.0, None)
    assert START + 30 < failure.detected_at <= START + 35
    assert failure.failed > 10
    assert failure.hosts == 2


def test_one_stray_query_is_none() -> None:
    rows = asked(120)
    rows[60] |= FAILED
    rows[150] |= FAILED
    assert found(*rows) == []


def test_one_of_a_few_queries_is_none_either() -> None:
    rows = asked(60)[::10]
    rows[6] |= FAILED
    assert found(*rows) == []


def test_late_answers_are_a_failure_by_the_resolvers_own_measure() -> None:
    (failure,) = found(*asked(60, (30, 60), {"latency": 90_000.0}))
    assert START + 30 <= failure.start < failure.detected_at <= START + 41
    assert failure.median == 90_000.0
    assert failure.usual == 800.0


def test_a_resolver_that_always_took_long_is_not_late() -> None:
    assert found(*asked(60, latency=20_000.0)) == []


def test_an_answer_without_an_address_is_the_zones_matter() -> None:
    assert found(*asked(60, (30, 60), {"dial": "fail", "latency": 800.0, "loss_rate": 0.0})) == []


def test_it_ends_with_the_last_bad_window_once_answers_came_for_long_enough() -> None:
    (failure,) = found(*asked(int(60 + QUIET_SECONDS + 15), (30, 40)))
    assert failure.end is not None
    assert START + 40 <= failure.end <= START + 51


def test_resolvers_are_judged_apart() -> None:
    rows = [*asked(60, resolver="10.0.0.1"), *asked(60, (30, 60), resolver="10.0.0.2")]
    assert [failure.resolver for failure in found(*rows)] == ["10.0.0.2"]


def test_the_order_of_rows_and_probes_that_ask_no_resolver_change_nothing() -> None:
    rows = asked(60, (30, 60), {"latency": 90_000.0})
    strangers = [query(second, task_type="UDP_PING", **FAILED) for second in range(60)]
    assert found(*reversed(rows)) == found(*rows, *strangers) == found(*rows) != []
