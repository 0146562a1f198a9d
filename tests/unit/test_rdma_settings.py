"""Settings of reliable connections: what devices are given, and that retries come to an end."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts.catalogue import (
    CATALOGUE,
    MOST_CONNECTIONS,
    RELIABLE,
    RELIABLE_FAILURE,
    RELIABLE_OPERATION,
    SERIES_TERMS,
)
from exporter.contracts.codec import ContractError
from exporter.rdma.settings import RdmaSettings, Reliable, check_reliable, rdma_tables


@given(st.floats(0.001, 8))
def test_an_ack_timeout_is_rounded_up_to_what_devices_know(seconds: float) -> None:
    settings = Reliable(ack_timeout_seconds=seconds)
    assert 8 <= settings.ack_timeout_exponent <= 21  # five bits
    assert seconds <= settings.ack_timeout_ns / 1e9 * (1 + 1e-9)
    assert settings.ack_timeout_ns / 2e9 <= seconds * (1 + 1e-9)


def test_the_default_is_67_ms_and_over_within_a_second() -> None:
    assert Reliable().ack_timeout_exponent == 14
    assert Reliable().ack_timeout_ns == 67_108_864
    assert Reliable().longest_seconds == pytest.approx(1.074, abs=0.001)
    check_reliable(Reliable(), "it")


@pytest.mark.parametrize(
    "settings", [{"retries": 7}, {"bytes": 262_145}, {"bytes": 64}, {"period_seconds": 61}, {"retry": 1}]
)
def test_what_has_no_end_or_no_bound_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, Reliable)


def test_retries_that_outlast_the_period_are_refused() -> None:
    with pytest.raises(ContractError, match=r"retries may take 1\.88 s, longer than its period_seconds"):
        check_reliable(Reliable(period_seconds=1, retries=6), "it")


def test_the_other_process_is_told_all_of_it() -> None:
    settings = RdmaSettings(
        host="h", rnics={}, key=b"k" * 16, timeout_seconds=1, max_paths=1, reliable=Reliable(bytes=4096, retries=0)
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(settings), type=RdmaSettings) == settings


def test_tables_hold_as_many_connections_as_the_formulas_say_and_none_unasked() -> None:
    rnics = 2
    capacities = {table.name: rows for table, rows in rdma_tables(10_000, rnics, reliable=True)}
    terms = dict.fromkeys(SERIES_TERMS, 0) | {"connections": MOST_CONNECTIONS * rnics}
    for table in (RELIABLE, RELIABLE_OPERATION, RELIABLE_FAILURE):
        assert {metric.series_bound(terms) for metric in table.metrics} == {capacities[table.name]}
    assert not any(table.name.startswith("reliable") for table, _ in rdma_tables(10_000, rnics))
    assert {metric for table, _ in rdma_tables(1, 1, reliable=True) for metric in table.metrics} <= set(CATALOGUE)
