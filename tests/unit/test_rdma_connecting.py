"""Messages before a reliable connection: read back as written, refused when one bit differs, and no use twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.probing.packet import ACCEPT, CHALLENGE, OPEN, REQUEST, Codec, quoted_sequence
from exporter.rdma.connecting import (
    MAX_24_BITS,
    MESSAGE_BYTES,
    NO_CHALLENGE,
    NOT_YET,
    Challenges,
    End,
    Message,
    parse,
    seal,
)

CODEC = Codec(b"k" * 16)
words, halves = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)
ends = st.builds(End, halves, halves, halves, halves, words, halves)
messages = st.builds(
    Message,
    st.sampled_from([OPEN, CHALLENGE, ACCEPT]),
    st.integers(0, 255),
    words,
    st.binary(min_size=16, max_size=16),
    ends,
)
SOUND = End(queue_pair=17, first_packet=0, mtu=1024, length=256)


@given(messages)
def test_a_message_comes_back_as_written_and_all_are_of_one_size(message: Message) -> None:
    data = seal(CODEC, message)
    assert len(data) == MESSAGE_BYTES == 76
    assert parse(CODEC, data) == message
    assert quoted_sequence(data[:28]) == message.number  # as of the other packets, for ICMP errors


@given(messages, st.integers(0, MESSAGE_BYTES - 1), st.integers(1, 255))
def test_a_message_with_any_byte_changed_is_refused(message: Message, place: int, change: int) -> None:
    data = bytearray(seal(CODEC, message))
    data[place] ^= change
    assert parse(CODEC, bytes(data)) is None


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    assert parse(CODEC, data) is None


@given(messages, st.integers(0, 100))
def test_another_length_is_refused(message: Message, size: int) -> None:
    data = seal(CODEC, message) + bytes(24)
    assert (parse(CODEC, data[:size]) is None) == (size != MESSAGE_BYTES)


def test_neither_kind_of_packet_is_taken_for_the_other() -> None:
    message = seal(CODEC, Message(OPEN, 2, 1, NO_CHALLENGE, NOT_YET))
    assert CODEC.parse(message) is None
    request = CODEC.request(REQUEST, 1, 2)
    assert parse(CODEC, request) is None
    assert parse(CODEC, request + bytes(MESSAGE_BYTES - len(request))) is None
    assert parse(CODEC, CODEC.seal(request[:48] + bytes(12))) is None  # sealed, of another kind
    assert parse(Codec(b"x" * 16), message) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"queue_pair": 0},
        {"queue_pair": MAX_24_BITS + 1},
        {"first_packet": MAX_24_BITS + 1},
        {"mtu": 0},
        {"mtu": 1500},
        {"length": 0},
    ],
)
def test_an_end_that_no_queue_pair_can_have_is_not_sound(wrong: dict[str, int]) -> None:
    assert SOUND.is_sound()
    assert not SOUND._replace(**wrong).is_sound()


def test_a_challenge_is_good_for_whom_it_was_made_and_for_seconds() -> None:
    now = 1_000_000_000_000
    challenges = Challenges(lambda: now)
    made_ns = now
    challenge = challenges.make("10.0.0.1", 106, 7)
    assert len(challenge) == len(NO_CHALLENGE)
    assert challenges.made(challenge, "10.0.0.1", 106, 7) == made_ns
    assert challenges.made(challenge, "10.0.0.2", 106, 7) is None
    assert challenges.made(challenge, "10.0.0.1", 2, 7) is None
    assert challenges.made(challenge, "10.0.0.1", 106, 8) is None
    assert challenges.made((made_ns + 1).to_bytes(8) + challenge[8:], "10.0.0.1", 106, 7) is None
    assert Challenges(lambda: now).made(challenge, "10.0.0.1", 106, 7) is None
    assert challenges.made(NO_CHALLENGE, "10.0.0.1", 106, 7) is None
    now += 4_900_000_000
    assert challenges.made(challenge, "10.0.0.1", 106, 7) == made_ns
    now += 200_000_000
    assert challenges.made(challenge, "10.0.0.1", 106, 7) is None
