"""One trace: what ends it, what a silent hop costs, and what a stalled machine must not do to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from exporter.probing.loop import Loop
from exporter.probing.tracing.walk import HOP_TIMEOUT_SECONDS, Walk


class Clock:
    """A loop without descriptors, whose time is told it."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.loop = Loop(clock=lambda: self.now_ns)

    def pass_by(self, seconds: float, step: float = 0.01) -> None:
        """Let time go by; with a ``step`` as long as it, the machine stands still meanwhile."""
        ends = self.now_ns + round(seconds * 1e9)
        while self.now_ns < ends:
            self.now_ns += round(step * 1e9)
            self.loop._run_due_slots()


class Asked:
    """A walk, what it asked for, and how it ended."""

    def __init__(self, clock: Clock, answer: Callable[[int], float] = lambda _: 0.0, max_hops: int = 8) -> None:
        self.limits: list[int] = []
        self.ends: list[Walk] = []

        def ask(hop_limit: int) -> float:
            self.limits.append(hop_limit)
            return answer(hop_limit)

        self.walk = Walk(clock.loop, ask, self.ends.append, max_hops=max_hops)
        self.walk.start()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_goes_on_hop_by_hop_until_the_destination_answers(clock: Clock) -> None:
    asked = Asked(clock)
    asked.walk.on_hop("10.0.0.1")
    asked.walk.on_hop("10.0.0.2")
    asked.walk.on_destination()
    assert (asked.limits, asked.ends) == ([1, 2, 3], [asked.walk])
    assert (asked.walk.hops, asked.walk.complete) == (["10.0.0.1", "10.0.0.2"], True)
    asked.walk.on_hop("10.0.0.9")  # what comes later is nobody's
    clock.pass_by(5)
    assert (asked.limits, asked.walk.hops[2:], len(asked.ends)) == ([1, 2, 3], [], 1)
    assert not clock.loop._slots


def test_a_silent_hop_is_asked_twice_and_leaves_the_route_incomplete(clock: Clock) -> None:
    asked = Asked(clock)
    clock.pass_by(2 * HOP_TIMEOUT_SECONDS + 0.05)
    assert asked.limits == [1, 1, 2]
    asked.walk.on_destination()
    assert (asked.walk.hops, asked.walk.reached, asked.walk.complete) == ([None], True, False)


def test_three_silent_hops_in_a_row_end_it(clock: Clock) -> None:
    asked = Asked(clock)
    asked.walk.on_hop("10.0.0.1")
    clock.pass_by(5)
    assert asked.limits == [1, 2, 2, 3, 3, 4, 4]
    assert (asked.walk.hops, asked.walk.reached) == (["10.0.0.1", None, None, None], False)
    assert asked.ends == [asked.walk]


def test_a_loop_ends_at_the_most_hops(clock: Clock) -> None:
    asked = Asked(clock, max_hops=4)
    for _ in range(9):
        asked.walk.on_hop("10.0.0.1")
    assert (len(asked.walk.hops), asked.ends) == (4, [asked.walk])


def test_it_waits_as_long_as_it_is_told_to_without_taking_a_hop_for_silent(clock: Clock) -> None:
    waits = iter([0.0, 0.5, 0.25, 0.0])
    asked = Asked(clock, lambda _: next(waits))
    asked.walk.on_hop("10.0.0.1")
    clock.pass_by(0.6)
    assert asked.limits == [1, 2, 2]
    clock.pass_by(0.25)
    assert (asked.limits, asked.walk.hops) == ([1, 2, 2, 2], ["10.0.0.1"])


def test_what_answers_an_earlier_hop_is_not_taken_for_one_that_was_not_asked_yet(clock: Clock) -> None:
    waits = iter([0.0, 0.5, 0.0, 0.0])
    asked = Asked(clock, lambda _: next(waits))
    for _ in range(3):  # asked twice, it answered twice
        asked.walk.on_hop("10.0.0.1")
    assert asked.walk.hops == ["10.0.0.1"]
    clock.pass_by(0.6)
    asked.walk.on_hop("10.0.0.2")
    assert asked.walk.hops == ["10.0.0.1", "10.0.0.2"]


def test_what_cannot_be_sent_ends_it(clock: Clock) -> None:
    def fail(_: int) -> float:
        raise OSError(1, "Operation not permitted")

    asked = Asked(clock, fail)
    assert (asked.walk.hops, asked.walk.complete, asked.ends) == ([], False, [asked.walk])


def test_a_stall_leaves_time_for_the_answers_that_came_meanwhile(clock: Clock) -> None:
    """An answer that waits in the socket must be read before its hop is taken for silent."""
    asked = Asked(clock)
    clock.pass_by(5, step=5)
    assert (asked.limits, asked.walk.hops) == ([1], [])
    asked.walk.on_hop("10.0.0.1")
    assert asked.walk.hops == ["10.0.0.1"]


def test_a_stopped_walk_says_nothing_and_holds_no_timer(clock: Clock) -> None:
    asked = Asked(clock)
    asked.walk.stop()
    assert not any(clock.loop._slots.values())
    asked.walk.on_destination()
    clock.pass_by(5)
    assert (asked.limits, asked.ends) == ([1], [])


def test_an_answer_in_the_slot_of_its_time_out_does_not_use_up_the_next_hop(clock: Clock) -> None:
    """A timer of the slot under way cannot be cancelled any more: it counted as the silence of the next hop."""
    due = clock.now_ns + round(HOP_TIMEOUT_SECONDS * 1e9)
    clock.loop.at(due, lambda: asked.walk.on_hop("10.0.0.1"))
    asked = Asked(clock)
    clock.pass_by(HOP_TIMEOUT_SECONDS + 0.02)
    assert asked.limits == [1, 2]


def test_giving_way_again_and_again_leaves_one_timer(clock: Clock) -> None:
    """Each time left a second one behind, which left two: the prober did nothing else before long."""
    asked = Asked(clock, lambda _: 0.02)
    for number in range(1, 6):
        clock.loop.at(clock.now_ns + number * 20_000_000, asked.walk.give_way)
    clock.pass_by(0.5)
    assert len(asked.limits) <= 27
    assert sum(map(len, clock.loop._slots.values())) == 1


def test_giving_way_is_a_time_out_of_what_was_asked(clock: Clock) -> None:
    asked = Asked(clock)
    asked.walk.give_way()
    assert (asked.limits, asked.walk.hops) == ([1, 1], [])
    asked.walk.give_way()
    assert (asked.limits, asked.walk.hops) == ([1, 1, 2], [None])


def test_a_router_without_a_way_on_ends_it(clock: Clock) -> None:
    asked = Asked(clock)
    asked.walk.on_hop("10.0.0.1", 1500)
    asked.walk.on_unreachable("10.0.0.2")
    assert (asked.walk.hops, asked.walk.unreachable_from, asked.walk.reached) == (["10.0.0.1"], "10.0.0.2", False)
    assert (asked.walk.rtts_ns, asked.ends) == ([1500], [asked.walk])


def test_a_router_behind_which_the_destination_keeps_silent_is_the_last_one_asked() -> None:
    clock, limits, ends = Clock(), list[int](), list[Walk]()

    def ask(hop_limit: int) -> float:
        limits.append(hop_limit)
        return 0.0

    walk = Walk(clock.loop, ask, ends.append, max_hops=8, last=frozenset({"c", "d"}))
    walk.start()
    for address in ("a", "b", "c"):
        walk.on_hop(address)
    assert ends == [walk]
    assert walk.complete
    assert (walk.hops, limits) == (["a", "b", "c"], [1, 2, 3])
