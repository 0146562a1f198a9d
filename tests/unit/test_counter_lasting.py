"""Anomalies that last for longer than samples are kept: ten minutes of these, of two hours."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa
import pytest

from exporter.contracts import catalogue, counters, switch_counters
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import split_link, split_port
from skeleton_service.diagnosis.counters import Anomaly, Kind, Lasting, anomalies
from skeleton_service.reading.counters import KINDS
from tests.unit.fabrics import leaf_spine
from tests.unit.sampled import Of

FABRIC = Fabric(leaf_spine())
LEAF = "leaf-p0-r0"
UPLINK, DOWNLINK, UNCABLED = f"{LEAF}:Ethernet0", f"{LEAF}:Ethernet8", f"{LEAF}:Ethernet63"
RNIC = next(iter(set(split_link(FABRIC.link_of(DOWNLINK) or "")) - {DOWNLINK}))
HOST = RNIC.partition(":")[0]
BEGIN, STEP, KEPT = 1_760_000_000.0, 20.0, 600.0
FAILS, MENDED, LAST = 800.0, 5000.0, 6000.0
OTHERS = [interface.id for interface in FABRIC.interfaces.values() if interface.id != RNIC]

Value = Callable[[float], float | None]
"""Of a series, at so many seconds after BEGIN."""


def gauge(well: float, ill: float) -> Value:
    return lambda at: ill if FAILS <= at < MENDED else well


def counter(rate: float, usual: float = 0.0) -> Value:
    """Rises by so much a second while it fails."""
    return lambda at: 1000.0 + usual * at + rate * (min(max(at - FAILS, 0), MENDED - FAILS))


def still(at: float) -> float:
    """Bytes sent, but for the time in which nothing is."""
    return 1e8 * (min(at, FAILS) + max(at - MENDED, 0))


def unread(value: Value) -> Value:
    return lambda at: None if FAILS <= at < MENDED else value(at)


class Case(NamedTuple):
    kind: Kind
    name: str
    series: dict[Of, Value]


def moving(*ends: str) -> dict[Of, Value]:
    return {Of(catalogue.RNIC_TRANSMIT.name, end): lambda at: 1e8 * at for end in ends}


def session(up: Value) -> dict[Of, Value]:
    return {Of(counters.BGP_ESTABLISHED, LEAF, peer="spine-0"): up}


FULL_SHUT = 400e9 / (65535 * 512)
STORM = {
    Of(counters.RNIC_PFC_SENT, RNIC, 3): counter(FULL_SHUT),
    Of(counters.RNIC_STORM_WARNINGS, RNIC): lambda at: float(at >= FAILS),
}
CASES = (
    Case("port_down", UPLINK, {Of(switch_counters.PORT_UP.name, UPLINK): gauge(1, 0)}),
    Case("port_down", UNCABLED, {Of(switch_counters.PORT_UP.name, UNCABLED): gauge(1, 0)}),
    Case("mtu_mismatch", UPLINK, {Of(switch_counters.PORT_MTU.name, UPLINK): gauge(9216, 1500)}),
    Case("bgp_down", f"{LEAF}:spine-0", session(gauge(1, 0))),
    Case("bit_errors", UPLINK, {Of(counters.FCS_ERRORS, UPLINK): counter(50.0)}),
    Case("discards", UPLINK, {Of(switch_counters.PORT_RECEIVE_DISCARDS.name, UPLINK): counter(50.0, 0.1)}),
    Case("pfc_storm", RNIC, STORM),
    Case("traffic_stopped", RNIC, {Of(catalogue.RNIC_TRANSMIT.name, RNIC): still, **moving(*OTHERS)}),
    Case(
        "rnic_absent", RNIC,
        {
            Of(catalogue.RNIC_UP.name, RNIC): unread(lambda _: 1.0),
            Of(counters.RNIC_CNP_IGNORED, RNIC): lambda _: 0.0,
            **moving(*OTHERS),
        },
    ),
    Case(
        "host_silent", HOST,
        {
            Of(catalogue.RNIC_UP.name, RNIC): unread(lambda _: 1.0),
            **moving(*(end for end in OTHERS if not end.startswith(HOST))),
        },
    ),
)  # fmt: skip


def samples(series: dict[Of, Value], now: float) -> pa.Table:
    rows = []
    for of, value in series.items():
        node, port = split_port(of.end) if ":" in of.end else (of.end, None)
        at = max(0.0, now - KEPT)
        while at < now:
            read = value(at)
            if read is not None:
                rows.append((BEGIN + at, of.metric, node, port, *of[2:], read))
            at += STEP
    columns = zip(*rows, strict=True)
    return pa.table({name: pa.array(each, kind) for (name, kind), each in zip(KINDS.items(), columns, strict=True)})


def rounds(case: Case, lasting: Lasting | None) -> dict[float, list[Anomaly]]:
    """The anomalies of the case that are known at each time; with none to carry them on, those that samples show."""
    told = {}
    now = FAILS - 100
    while now < LAST:
        came = samples(case.series, now)
        found = anomalies(came, FABRIC)
        every = found if lasting is None else lasting.update(found, came)
        told[now] = [each for each in every if (each.kind, each.component.name) == (case.kind, case.name)]
        now += 2 * STEP if now % 1000 < 200 else 5 * STEP
    return told


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.name}")
def test_an_anomaly_is_one_until_samples_show_that_it_is_over(case: Case) -> None:
    told = rounds(case, Lasting())
    lasting = {now: each for now, each in told.items() if FAILS + 200 <= now <= MENDED}
    starts = {each.start for own in lasting.values() for each in own}
    assert [len(own) for own in lasting.values()] == [1] * len(lasting)
    assert all(own[0].end is None for own in lasting.values())
    assert len(starts) == len({own[0].proven for own in lasting.values()}) == 1
    assert starts.pop() == pytest.approx(BEGIN + FAILS, abs=STEP)
    (ended,) = told[max(now for now in told if now < MENDED + 500)]
    assert ended.end == pytest.approx(BEGIN + MENDED, abs=2 * STEP)
    assert told[max(told)] == [], "it is forgotten once no sample is of its time"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.name}")
def test_samples_alone_show_another_anomaly_or_none(case: Case) -> None:
    told = rounds(case, None)
    lasting = [each for now, each in told.items() if FAILS + 200 <= now <= MENDED]
    assert len({own[0].start if own else None for own in lasting}) > 1


def test_while_all_that_it_is_known_by_is_kept_the_samples_have_the_word() -> None:
    series = CASES[0].series
    own = Lasting()
    came = samples(series, FAILS + 100)
    found = anomalies(came, FABRIC)
    assert own.update(found, came) == found != []
    assert own.update([], came) == []


def test_where_no_samples_are_left_nothing_is_over() -> None:
    for case in CASES:
        own = Lasting()
        came = samples(case.series, FAILS + 400)
        before = own.update(anomalies(came, FABRIC), came)
        assert before
        assert own.update([], came.slice(0, 0)) == before


def test_an_episode_that_follows_is_another() -> None:
    series = {Of(switch_counters.PORT_UP.name, UPLINK): lambda at: float(not (800 <= at < 1500 or at >= 1700))}
    own = Lasting()
    for now in range(820, 2600, 40):
        came = samples(series, float(now))
        told = own.update(anomalies(came, FABRIC), came)
        if now > 1800:
            assert [each.start - BEGIN for each in told if each.end is None] == [1700.0]
        if 1600 < now < 2000:
            assert [each.start - BEGIN for each in told if each.end is not None] == [800.0]
