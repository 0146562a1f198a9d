"""The throughput ring: rates over the interval that ends at their time; a reset or a clock step is a gap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.host.ring import Rate, Sample, ThroughputRing


def ring(*samples: tuple[float, int, int], capacity: int = 10) -> ThroughputRing:
    made = ThroughputRing(capacity)
    for sample in samples:
        made.append(Sample(*sample))
    return made


def test_a_rate_is_the_mean_over_the_interval_that_ends_at_its_time() -> None:
    assert list(ring((10, 0, 0), (12, 100, 400)).rates()) == [Rate(12, 200, 50)]


def test_a_counter_that_fell_is_a_gap() -> None:
    assert [rate.time for rate in ring((1, 9, 9), (2, 3, 12), (3, 4, 13)).rates()] == [3]


def test_a_clock_that_stepped_back_starts_the_ring_afresh() -> None:
    assert list(ring((10, 0, 0), (11, 1, 1), (5, 2, 2), (6, 3, 4)).rates()) == [Rate(6, 2, 1)]


def test_only_rates_that_end_after_since_are_given() -> None:
    assert [rate.time for rate in ring((1, 0, 0), (2, 1, 1), (3, 2, 2)).rates(2)] == [3]


@given(st.integers(1, 5), st.integers(0, 20))
def test_the_ring_holds_capacity_rates(capacity: int, count: int) -> None:
    made = ring(*((n, n, n) for n in range(count)), capacity=capacity)
    assert len(list(made.rates())) == min(max(count - 1, 0), capacity)
