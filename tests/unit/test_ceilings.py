"""Ceilings: none is exceeded, no path starves, and what they keep back is evenly spread."""

from __future__ import annotations

import ipaddress
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts.plan import Target
from exporter.probing.ceilings import Ceilings, Thinning, Transit, packets_per_second, shares
from tests.unit.test_plan_contract import TARGET


def target(number: int, destination: int, period: float, probe: str = "udp") -> Target:
    return msgspec.structs.replace(
        TARGET,
        path=f"p{number}",
        probe=probe,
        destination_address=str(ipaddress.IPv4Address("10.0.0.0") + 64 * destination),
        period_seconds=period,
    )


TARGETS = st.lists(
    st.tuples(st.integers(0, 15), st.sampled_from([0.01, 0.1, 1.0, 5.0]), st.sampled_from(["udp", "mtu", "tcp"])),
    max_size=60,
).map(lambda drawn: [target(number, *each) for number, each in enumerate(drawn)])
BEHIND = ipaddress.IPv4Network("10.0.2.0/23")


@given(TARGETS, st.integers(1, 2000), st.integers(1, 500), st.integers(1, 300))
def test_no_ceiling_is_exceeded_and_no_path_starves(
    targets: list[Target], whole: int, destination: int, transit: int
) -> None:
    ceilings = Ceilings(
        packets_per_second=whole,
        packets_per_second_per_destination=destination,
        transits=(Transit(prefixes=(str(BEHIND),), packets_per_second=transit),),
    )
    share = shares(targets, ceilings)
    rates: Counter[str] = Counter()
    for each in targets:
        rates[each.destination_address] += packets_per_second(each) * share[each.path]
    assert share.keys() == {each.path for each in targets}
    assert all(0 < value <= 1 for value in share.values())
    assert sum(rates.values()) <= whole * 1.000001
    assert max(rates.values(), default=0) <= destination * 1.000001
    assert sum(rate for address, rate in rates.items() if ipaddress.ip_address(address) in BEHIND) <= transit * 1.000001


def test_only_the_paths_under_a_ceiling_that_is_exceeded_are_thinned() -> None:
    near, far = [target(n, 0, 1) for n in range(4)], [target(10 + n, 8, 1) for n in range(4)]
    share = shares([*near, *far], Ceilings(transits=(Transit(prefixes=(str(BEHIND),), packets_per_second=1),)))
    assert [share[each.path] for each in near] == [1.0] * 4
    assert [share[each.path] for each in far] == [0.25] * 4


@given(st.floats(0.001, 1), st.floats(0, 1, exclude_max=True), st.integers(1, 500))
def test_a_thinned_path_sends_its_share_of_any_run(share: float, place: float, probes: int) -> None:
    thinning = Thinning(share, place)
    sent = sum(thinning.sends() for _ in range(probes))
    assert sent == pytest.approx(probes * share, abs=1.001)


def test_paths_thinned_alike_take_turns() -> None:
    """200 paths that may send one probe in ten do not all send the same one."""
    thinnings = [Thinning(0.1, number / 200) for number in range(200)]
    each_period = [sum(thinning.sends() for thinning in thinnings) for _ in range(50)]
    assert set(each_period) <= set(range(18, 23))
