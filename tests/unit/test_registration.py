"""Targets that wait for their destination, on loopback: what registers one, and what must not."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from exporter.contracts.plan import Target
from exporter.probing.packet import HELLO, REPLY, REQUEST, Codec, Packet
from tests.unit.test_prober import FAR, KEY, SOURCE, Running, free_port, target, wait_for

CODEC = Codec(KEY)
STRANGER = "127.0.0.9"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def port() -> int:
    """One that is free on both sides for UDP and TCP."""
    return free_port(FAR, socket.SOCK_STREAM)


def both_ways(port: int) -> tuple[list[Target], list[Target]]:
    """Two paths from SOURCE to FAR and two back, all waiting, ten probes a second each."""
    waiting = {"active": False, "destination_port": port}
    back = {**waiting, "source_address": FAR, "destination_address": SOURCE}
    return (
        [target("there", **waiting), target("there, too", "tcp", **waiting)],
        [target("back", **back), target("back, too", "tcp", **back)],
    )


def lost(prober: Running) -> float:
    return sum(values["probes.lost"] + values["probes.refused"] for values in prober.paths().values())


def test_a_pair_is_probed_both_ways_once_both_are_up_and_silence_is_loss_only_then(stack: ExitStack, port: int) -> None:
    there, back = both_ways(port)
    near = stack.enter_context(closing(Running(SOURCE, port)))
    near.obey(*there)
    wait_for(lambda: near.waiting == 2)
    time.sleep(1.2)  # greeted at least once
    assert (near.paths(), near.waiting) == ({}, 2)
    far = Running(FAR, port)
    far.obey(*back)
    started = time.monotonic()
    wait_for(lambda: len(near.paths()) == len(far.paths()) == 2)
    assert time.monotonic() - started < 2
    wait_for(lambda: all(values["probes.sent"] >= 2 for each in (near, far) for values in each.paths().values()))
    assert (near.waiting, far.waiting, lost(near), lost(far)) == (0, 0, 0, 0)
    far.close()
    wait_for(lambda: lost(near) > 2)
    near.obey(*there)  # the plan again: what has registered does not wait for a destination that is dead by now
    time.sleep(0.3)
    assert (len(near.paths()), near.waiting) == (2, 0)


def test_a_prober_that_starts_again_goes_on_with_what_had_registered(stack: ExitStack, port: int) -> None:
    """Else the peer that died meanwhile would be waited for, and nobody told."""
    there, back = both_ways(port)
    near, far = Running(SOURCE, port), Running(FAR, port)
    near.obey(*there)
    far.obey(*back)
    wait_for(lambda: len(near.paths()) == len(far.paths()) == 2)
    near.close()
    far.close()
    again = stack.enter_context(closing(Running(SOURCE, free_port(SOURCE, socket.SOCK_STREAM), near.store)))
    fresh, _ = both_ways(port)  # from other ports: a thread that ends leaves its sockets open, as no process does
    again.obey(*fresh, target("new", active=False, destination_port=port))
    wait_for(lambda: lost(again) > 2)
    assert (set(again.paths()), again.waiting) == ({"there", "there, too"}, 1)


def test_a_target_taken_from_the_plan_is_forgotten(stack: ExitStack, port: int) -> None:
    there, _ = both_ways(port)
    near = stack.enter_context(closing(Running(SOURCE, port)))
    far = Running(FAR, port)
    near.obey(*there)
    wait_for(lambda: len(near.paths()) == 2)
    near.obey()
    wait_for(lambda: not near.paths())
    far.close()
    near.obey(*there)
    wait_for(lambda: near.waiting == 2)
    time.sleep(0.3)
    assert near.paths() == {}


@pytest.fixture
def silent(stack: ExitStack, port: int) -> socket.socket:
    """What holds FAR's address and port without answering: it sees what a prober sends, and says what it likes."""
    far = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    far.bind((FAR, port))
    far.settimeout(3)
    return far


def test_no_packet_but_the_answer_to_our_own_hello_registers(
    stack: ExitStack, port: int, silent: socket.socket
) -> None:
    near = stack.enter_context(closing(Running(SOURCE, port)))
    near.obey(*both_ways(port)[0])
    data, prober = silent.recvfrom(2000)
    hello = CODEC.parse(data)
    assert hello is not None
    assert (hello.kind, len(data)) == (HELLO, 64)

    def answer(sequence: int, codec: Codec = CODEC) -> bytes:
        return codec.reply(Packet(HELLO, 0, sequence, 0, 0, 0, 0), 0, 1, 0, 0)

    other = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    other.bind((FAR, 0))
    other.sendto(answer(hello.sequence), prober)  # another port
    silent.sendto(answer(hello.sequence + 1), prober)  # another question
    silent.sendto(answer(hello.sequence, Codec(b"z" * 16)), prober)  # another key
    silent.sendto(data, prober)  # our own words
    for kind in (HELLO, REQUEST):
        silent.sendto(CODEC.request(kind, 1, 1), (SOURCE, port))  # under its address, to the responder
    time.sleep(0.4)
    assert (near.paths(), near.waiting) == ({}, 2)
    while True:  # what it has said since, to the last greeting, which comes a second after the first
        data, prober = silent.recvfrom(2000)
        packet = CODEC.parse(data)
        assert packet is not None
        if packet.kind == HELLO:
            break
    silent.sendto(answer(packet.sequence), prober)
    wait_for(lambda: near.waiting == 0)


def test_hellos_bring_one_answer_each_and_one_greeting_a_second(
    stack: ExitStack, port: int, silent: socket.socket
) -> None:
    """Under a forged address: whoever repeats a recorded packet gets out no more bytes than it puts in."""
    near = stack.enter_context(closing(Running(SOURCE, port)))
    near.obey(*both_ways(port)[0])
    first, _ = silent.recvfrom(2000)
    ends, sent, received, greetings = time.monotonic() + 2.5, 0, 0, 0
    silent.settimeout(0.05)
    while time.monotonic() < ends:
        silent.sendto(first, (SOURCE, port))
        sent += 1
        try:
            while True:
                data = silent.recv(2000)
                packet = CODEC.parse(data)
                assert packet is not None
                assert len(data) == 64
                greetings += packet.kind == HELLO
                received += packet.kind == REPLY
        except TimeoutError:
            pass
    assert sent > 20
    assert received <= sent
    assert 2 <= greetings <= 3
    assert near.paths() == {}


def test_a_hello_of_a_stranger_is_answered_and_greets_nobody(stack: ExitStack, port: int) -> None:
    near = stack.enter_context(closing(Running(SOURCE, port)))
    near.obey(*both_ways(port)[0])
    stranger = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    stranger.bind((STRANGER, port))
    stranger.settimeout(1)
    wait_for(lambda: near.waiting == 2)
    stranger.sendto(CODEC.request(HELLO, 5, 0), (SOURCE, port))
    packet = CODEC.parse(stranger.recv(2000))
    assert packet is not None
    assert (packet.kind, packet.sequence, packet.answered) == (REPLY, 5, 0)
    with pytest.raises(TimeoutError):
        stranger.recv(2000)
    assert (near.paths(), near.waiting) == ({}, 2)


def test_each_greeting_goes_another_way_so_that_one_dead_path_keeps_nobody_waiting(
    stack: ExitStack, port: int, silent: socket.socket
) -> None:
    near = stack.enter_context(closing(Running(SOURCE, port)))
    waiting = [target(f"p{n}", active=False, destination_port=port) for n in range(3)]
    near.obey(*waiting)
    seen: set[int] = set()
    while len(seen) < 3:
        data, (_, source_port) = silent.recvfrom(2000)
        if source_port != port:
            seen.add(source_port)
            silent.sendto(data, (SOURCE, port))  # brings the next one forward
    assert seen == {each.source_ports[0] for each in waiting}
