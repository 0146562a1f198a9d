"""Resolvers that fail or are late, on DNS records made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from skeleton_service.diagnosis import resolvers
from skeleton_service.diagnosis.resolvers import IDLE_SECONDS, QUIET_SECONDS, Resolvers, Slowness, failing_resolvers
from skeleton_service.reading.records import KINDS

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


def table(*rows: dict[str, Any]) -> pa.Table:
    schema = pa.schema(list(KINDS.items()))
    return pa.Table.from_pylist([{name: row.get(name) for name in KINDS} for row in rows], schema)


def found(*rows: dict[str, Any]) -> list[Slowness]:
    return failing_resolvers(table(*rows))


def rounds(
    own: Resolvers, rows: list[dict[str, Any]], *, settling: float = 30.0, step: float = 5.0
) -> list[list[Slowness]]:
    """What is told every ``step`` seconds while these come, all but those of the last ``settling`` taken for good."""
    came = table(*rows)
    at = came["ping_time"].to_numpy() / 1e9
    told, taken = [], 0.0
    for now in np.arange(at.min() + step, at.max() + step, step):
        own.advance(came.filter(pa.array((at >= taken) & (at < now - settling))))
        taken = max(taken, now - settling)
        own.forget(now - 360)
        told.append(own.failures(came.filter(pa.array((at >= taken) & (at < now))), now))
    return told


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


@pytest.mark.parametrize("fate", [FAILED, {"latency": 90_000.0}])
def test_a_failure_that_outlasts_all_that_is_kept_is_one_until_answers_come(fate: dict[str, Any]) -> None:
    told = rounds(Resolvers(), asked(1500, (60, 1400), fate))
    lasting = [each for each in told if each and each[0].end is None]
    assert len({(each.resolver, each.start, each.detected_at) for (each,) in lasting}) == 1
    assert len(lasting) > 250
    (ended,) = told[-1]
    assert (ended.start, ended.usual) == (lasting[0][0].start, 800.0)
    assert ended.end == pytest.approx(START + 1400, abs=10)


def test_pieces_give_the_failures_of_the_whole() -> None:
    random = np.random.default_rng(1)
    rows = [*asked(400, (100, 160)), *asked(400, (200, 260), {"latency": 60_000.0}, resolver="10.0.0.54")]
    for row in rows:
        row["ping_time"] += int(random.integers(10**8))
        if row["dial"] == "success":
            row["latency"] += float(random.integers(1000))
    for step, settling in ((5.0, 30.0), (7.0, 0.0), (60.0, 11.0)):
        assert rounds(Resolvers(), rows, settling=settling, step=step)[-1] == found(*rows) != []


def test_queries_that_come_late_still_count() -> None:
    rows = asked(60, (30, 60))
    own = Resolvers()
    assert own.failures(table(*(row for row in rows if row["dial"] == "success")), START + 60.0) == []
    assert repr(own.failures(table(*rows), START + 60.0)) == repr(found(*rows)) != "[]"


def test_a_resolver_that_is_asked_seldom_ends_with_its_answers_not_with_the_questions() -> None:
    seldom = [query(60 + 15 * number, **FAILED) for number in range(12)]
    (failure,) = found(*asked(60, (30, 60)), *seldom)
    assert (failure.start, failure.end) == (START + 30.0, None)
    (failure,) = found(*asked(60, (30, 60)), *seldom, query(250), query(270))
    assert failure.end == START + 60 + 15 * 11


def test_a_resolver_that_nobody_asks_any_more_fails_no_more() -> None:
    rows = table(*asked(60, (30, 60)))
    own = Resolvers()
    own.advance(rows)
    (lasting,) = own.failures(rows.slice(0, 0), START + 59.5 + IDLE_SECONDS)
    assert lasting.end is None
    assert own.failures(rows.slice(0, 0), START + 61 + IDLE_SECONDS) == [replace(lasting, end=START + 59.5)]
    anew = asked(60, (20, 60))
    for row in anew:
        row["ping_time"] += int((60 + IDLE_SECONDS) * 1e9)
    first, second = own.failures(table(*anew), START + 120 + IDLE_SECONDS)
    assert (first.end, second.start, second.end) == (START + 59.5, START + 80.0 + IDLE_SECONDS, None)


def test_what_is_kept_and_the_work_of_a_round_do_not_grow_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = []
    judge = resolvers._judge
    monkeypatch.setattr(resolvers, "_judge", lambda *window: judged.append(0) or judge(*window))
    own = Resolvers()
    told = rounds(own, asked(1000), step=5.0)
    assert len(judged) <= 2 * (30 + 5 + 5) * len(told), "each query for good, and those of half a minute each round"
    (history,) = own._histories.values()
    assert len(history.queries.time) < 700
    own.forget(START + 5000.0)
    assert not own._histories
