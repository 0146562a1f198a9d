"""The search of a path's MTU: its arithmetic, and on loopback against responders behind a network of a chosen MTU."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts.catalogue import PATH as PATH_TABLE
from exporter.contracts.catalogue import PATH_MTU_LIMIT, RTT_TABLE
from exporter.contracts.plan import UDP_HEADERS
from exporter.probing.loop import Loop
from exporter.probing.mtu.search import MOST_AT_ONCE, SPACING_SECONDS, Limit, MtuSearcher, _Watched
from exporter.probing.mtu.sizes import CALIBRATION, LIKELY, SMALLEST, next_size, packets_needed
from exporter.probing.packet import TRACE, Codec
from exporter.probing.paths import LOSSES, MTU, MTU_PROMISED, SENT, Path
from exporter.probing.settings import prober_tables
from exporter.probing.udp import UdpProber
from exporter.results import ResultRing
from exporter.store import Store
from tests.unit.narrow import ROUTER, Network, running
from tests.unit.test_prober import FAR, KEY, SOURCE, forge_icmp, target

PROMISE = 9000


# ---- arithmetic


@given(st.integers(SMALLEST, 65534), st.integers(SMALLEST + 1, 65535), st.lists(st.integers(68, 65535), max_size=4))
def test_the_search_finds_every_mtu_whatever_it_was_told(mtu: int, promise: int, hints: list[int]) -> None:
    passes, fails, tried = SMALLEST, promise, []
    mtu = min(mtu, promise - 1)
    while (size := next_size(passes, fails, tuple(hints))) is not None:
        assert passes < size < fails
        tried.append(size)
        passes, fails = (size, fails) if size <= mtu else (passes, size)
    assert (passes, fails) == (mtu, mtu + 1)
    assert len(tried) <= 2 * (len(LIKELY) + len(hints)) + 16  # and bisection of 65,535


def test_an_mtu_that_a_router_reported_is_settled_by_two_sizes() -> None:
    assert next_size(SMALLEST, PROMISE, (1734,)) == 1734
    assert next_size(1734, PROMISE, (1734,)) == 1735
    assert next_size(1734, 1735, (1734,)) is None


def test_an_ordinary_mtu_is_settled_by_few_sizes_that_fail() -> None:
    """Each costs five packets and a timeout; one that passes costs a round trip."""
    passes, fails, failed = SMALLEST, PROMISE, 0
    while (size := next_size(passes, fails, ())) is not None:
        passes, fails, failed = (size, fails, failed) if size <= 1500 else (passes, size, failed + 1)
    assert failed <= 3


@pytest.mark.parametrize(("lost", "needed"), [(0, 5), (1, 7), (3, 11), (5, 17), (6, None), (10, None)])
def test_the_more_a_path_loses_the_more_packets_prove_a_size_too_large(lost: int, needed: int | None) -> None:
    assert packets_needed(lost) == needed


# ---- packets


class Probed:
    """Paths of full-size probes through a network, in a loop of their own."""

    def __init__(self, network: Network, paths: int = 1, timeout: float = 0.1) -> None:
        self.store = Store(prober_tables(64))
        self.ended: list[tuple[Path, Limit | None]] = []
        self.loop = Loop()
        self.udp = UdpProber(self.loop, Codec(KEY), timeout)
        limits = self.store.writer(PATH_MTU_LIMIT)
        self.searcher = MtuSearcher(self.loop, self.udp, limits, timeout, lambda *end: self.ended.append(end))
        rows, histogram = self.store.writer(PATH_TABLE), self.store.writer(RTT_TABLE).add(("h",))
        self.paths = []
        for number in range(paths):
            full = target(f"p{number}", "mtu", destination_port=network.port, payload_bytes=PROMISE - UDP_HEADERS)
            path = Path(full, 1, rows.add((full.path,)), histogram, ResultRing(1024))
            self.paths.append(path)
            flow = self.udp.acquire(SOURCE, full.source_ports[0])
            self.searcher.add(path, flow)

    @property
    def path(self) -> Path:
        return self.paths[0]

    @property
    def mtu(self) -> float:
        return self.path.row.get(MTU)

    @property
    def limits(self) -> list[tuple[str, ...]]:
        return [row.labels for row in self.store.read(PATH_MTU_LIMIT)]

    def probe(self, times: int = 1) -> None:
        """Send full-size probes on every path and wait until they are judged."""
        for _ in range(times):
            for path in self.paths:
                self.udp.send(path, self.udp._flows[path.flow[:2]])
            while self.udp._outstanding:
                self.run(0.02)

    def run(self, seconds: float) -> None:
        self.loop.after(seconds, self.loop.stop)
        self.loop._running = True
        self.loop.run()

    def search(self, seconds: float = 60.0) -> None:
        """Run until every search under way has ended."""
        ends = time.monotonic() + seconds
        while len(self.ended) < len(self.paths):
            assert time.monotonic() < ends, "the search did not end"
            self.run(0.05)

    def close(self) -> None:
        for path in self.paths:
            self.searcher.remove(path)
            self.udp.release(self.udp._flows[path.flow[:2]])


@pytest.fixture
def network() -> Iterator[Network]:
    with running() as made:
        yield made


@pytest.fixture
def probed(network: Network, monkeypatch: pytest.MonkeyPatch) -> Iterator[Probed]:
    monkeypatch.setattr(MtuSearcher._send_soon, "__defaults__", (0.01,))  # SPACING_SECONDS, bound when it was defined
    # On a busy machine a loss may be of a probe that was starved, which begins no search: here each counts.
    monkeypatch.setattr("exporter.probing.udp.LATE_NS", 60_000_000_000)
    made = Probed(network)
    yield made
    made.close()


def test_a_healthy_path_has_its_promise_and_no_limit(probed: Probed) -> None:
    assert math.isnan(probed.mtu), "absent before it is known"
    assert probed.path.row.get(MTU_PROMISED) == PROMISE
    probed.probe()
    assert (probed.mtu, probed.limits) == (PROMISE, [])


@pytest.mark.parametrize("mtu", [1500, 1504, 8999])
def test_a_black_hole_is_found_to_the_byte_and_is_over_when_the_promise_passes(
    network: Network, probed: Probed, mtu: int
) -> None:
    probed.probe()
    network.mtu = mtu
    probed.probe(2)
    assert probed.mtu == PROMISE, "two losses in a row are loss"
    probed.probe()
    assert math.isnan(probed.mtu), "the promise does not hold, and nothing is found yet"
    probed.search()
    assert probed.mtu == mtu
    assert probed.limits == [("p0", "black_hole", "")]
    network.mtu = PROMISE
    probed.probe()
    assert (probed.mtu, probed.limits) == (PROMISE, [])


def test_the_packets_of_a_search_are_counted_by_nobody(network: Network, probed: Probed) -> None:
    network.mtu = 1500
    probed.probe(3)
    probed.search()
    network.mtu = PROMISE
    probed.probe(2)
    row = probed.path.row
    assert (row.get(SENT), row.get(LOSSES)) == (5, 3)
    assert {kind for _, _, kind in network.seen} == {1, TRACE}  # which agents of the version before answer as well


@pytest.mark.parametrize("quotes", [64, 16, 0])
def test_the_router_that_says_frag_needed_is_named_however_little_it_quotes(
    network: Network, probed: Probed, quotes: int
) -> None:
    network.mtu = network.says = 1734
    network.quotes = quotes
    probed.probe()
    assert math.isnan(probed.mtu), "its word alone begins the search"
    probed.search()
    assert (probed.mtu, probed.limits) == (1734, [("p0", "frag_needed", ROUTER)])
    tried = {size for _, size, kind in network.seen if kind == TRACE}
    assert tried == {SMALLEST, PROMISE, 1734, 1735}


@pytest.mark.parametrize("says", [0, 68, 1400, 65535])
def test_a_router_that_names_no_mtu_or_a_wrong_one_is_named_and_not_believed(
    network: Network, probed: Probed, says: int
) -> None:
    network.mtu, network.says = 1500, says
    probed.probe()
    probed.search()
    assert (probed.mtu, probed.limits) == (1500, [("p0", "frag_needed", ROUTER)])


def test_a_forger_of_words_leads_no_search_about(network: Network, probed: Probed) -> None:
    """Each word one byte below what failed last: believed for ever, it would try every size."""
    network.mtu = 1500
    flow = (SOURCE, probed.path.target.source_ports[0])

    def forge() -> None:
        search = next(iter(probed.searcher._by_sequence.values()), None)
        if search is not None:
            forge_icmp(3, 4, flow, (FAR, network.port), search.fails - 1, payload=b"", router=ROUTER)
        probed.loop.after(0.02, forge)

    probed.searcher.search(probed.path)
    forge()
    probed.search(30)
    assert probed.mtu == 1500
    assert len({size for _, size, kind in network.seen if kind == TRACE}) < 25


def test_a_black_hole_behind_a_router_that_speaks_is_a_black_hole(network: Network, probed: Probed) -> None:
    """The word was about 4,000 bytes: what drops 1,501 says nothing."""
    network.mtu = 1500
    flow = (SOURCE, probed.path.target.source_ports[0])
    probed.probe(3)
    forge_icmp(3, 4, flow, (FAR, network.port), 4000, payload=b"", router=ROUTER)
    probed.search()
    assert (probed.mtu, probed.limits) == (1500, [("p0", "black_hole", "")])


def test_a_dead_path_has_no_mtu(network: Network, probed: Probed) -> None:
    probed.probe()
    network.mtu = 0
    probed.probe(3)
    probed.search()
    assert math.isnan(probed.mtu)
    assert probed.limits == []
    assert len([size for _, size, kind in network.seen if kind == TRACE]) == CALIBRATION, "and costs little"


def test_a_port_that_was_replaced_and_comes_back_with_a_small_mtu_is_found_soon(
    network: Network, probed: Probed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait does not grow while the path is dead, or its new MTU would go unseen for minutes."""
    monkeypatch.setattr("exporter.probing.mtu.search.FIRST_WAIT_SECONDS", 0.1)
    network.mtu = 0
    probed.searcher.search(probed.path)
    while len(probed.ended) < 4:
        probed.search()
        probed.run(0.1)
    network.mtu = 1500
    ends = time.monotonic() + 3
    while probed.mtu != 1500 and time.monotonic() < ends:
        probed.run(0.05)
    assert (probed.mtu, probed.limits) == (1500, [("p0", "black_hole", "")])


def test_random_loss_makes_no_mtu(network: Network, probed: Probed) -> None:
    """A fifth each way: three full-size probes in a row are lost now and then, and the search acquits the path."""
    network.loss = 0.2
    for _ in range(4):
        probed.ended.clear()
        probed.searcher.search(probed.path)
        probed.search()
        assert probed.mtu == PROMISE
    assert probed.limits == []


def test_a_small_mtu_is_found_to_the_byte_through_random_loss(network: Network, probed: Probed) -> None:
    network.mtu, network.loss = 4321, 0.05
    probed.searcher.search(probed.path)
    probed.search()
    assert probed.mtu == 4321


def test_a_path_that_loses_most_packets_of_any_size_has_no_mtu(network: Network, probed: Probed) -> None:
    network.loss = 0.7
    probed.searcher.search(probed.path)
    probed.search()
    assert math.isnan(probed.mtu)


def test_starved_losses_begin_no_search(network: Network, probed: Probed) -> None:
    probed.probe()
    for _ in range(10):
        probed.searcher.on_loss(probed.path, starved=True)
    probed.run(0.3)
    assert probed.mtu == PROMISE
    assert TRACE not in {kind for _, _, kind in network.seen}


def test_searches_of_many_paths_take_turns_at_a_bounded_pace(network: Network) -> None:
    many = Probed(network, paths=2 * MOST_AT_ONCE, timeout=0.3)
    try:
        network.mtu = 1500
        for path in many.paths:
            many.searcher.search(path)
        many.search(40)
        times = [at for at, _, kind in network.seen if kind == TRACE]
        busiest = max(sum(start <= at < start + 1 for at in times) for start in times)
        assert busiest <= MOST_AT_ONCE / SPACING_SECONDS + MOST_AT_ONCE
        assert [path.row.get(MTU) for path in many.paths] == [1500] * len(many.paths)
    finally:
        many.close()


def test_paths_that_wait_for_a_search_leave_without_being_looked_for(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each was looked for among all that waited: work that grew with the square of the paths, in the probing loop."""
    compared: list[object] = []
    monkeypatch.setattr(_Watched, "__eq__", lambda one, other: compared.append(one) or one is other)
    many = Probed(network, paths=60)
    for path in many.paths:
        many.searcher.search(path)
    assert len(many.searcher._waiting) == len(many.paths) - MOST_AT_ONCE
    many.close()
    assert (len(compared), len(many.searcher._waiting), many.searcher._under_way) == (0, 0, 0)


def test_a_path_that_goes_on_failing_is_searched_again_and_ever_more_rarely(
    network: Network, probed: Probed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.probing.mtu.search.FIRST_WAIT_SECONDS", 0.2)
    monkeypatch.setattr("exporter.probing.mtu.search.LONGEST_WAIT_SECONDS", 0.4)
    network.mtu = 1500
    probed.searcher.search(probed.path)
    probed.search()
    assert probed.mtu == 1500
    network.mtu = 1400  # another port broke as well
    probed.ended.clear()
    probed.search()
    assert (probed.mtu, probed.limits) == (1400, [("p0", "black_hole", "")])


def test_a_path_that_leaves_in_the_middle_of_a_search_leaves_nothing(network: Network, probed: Probed) -> None:
    network.mtu = 1500
    probed.probe(3)
    probed.run(0.3)
    assert any(kind == TRACE for _, _, kind in network.seen)
    probed.searcher.remove(probed.path)
    searcher = probed.searcher
    assert (searcher._by_sequence, searcher._by_flow, searcher._watched, searcher._under_way) == ({}, {}, {}, 0)
    probed.run(0.5)
    assert probed.limits == []
    probed.searcher.add(probed.path, probed.udp._flows[probed.path.flow[:2]])


def test_a_prober_that_stood_still_takes_no_silence_for_a_limit(network: Network, probed: Probed) -> None:
    """What was lost while it slept is tried again."""

    def asleep() -> None:
        if not any(kind == TRACE and size == PROMISE for _, size, kind in network.seen):
            probed.loop.after(0.01, asleep)
            return
        time.sleep(0.3)
        network.mtu = PROMISE

    probed.searcher.search(probed.path)
    network.mtu = SMALLEST
    asleep()
    probed.search()
    assert probed.mtu == PROMISE
    assert {size for _, size, kind in network.seen if kind == TRACE} == {SMALLEST, PROMISE}
