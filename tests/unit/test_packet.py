"""Probe packets: read back as written, refused when one bit differs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.probing.packet import (
    MAGIC,
    PACKET_BYTES,
    REPLY,
    REQUEST,
    TRACE,
    VERSION,
    Codec,
    Packet,
    quoted_sequence,
)

CODEC = Codec(b"k" * 16)
words = st.integers(0, 2**64 - 1)


@given(st.sampled_from([REQUEST, TRACE]), words, words)
def test_a_request_comes_back_as_written(kind: int, sequence: int, token: int) -> None:
    data = CODEC.request(kind, sequence, token)
    assert len(data) == PACKET_BYTES == 64
    assert CODEC.parse(data) == Packet(kind, 0, sequence, token, 0, 0, 0)


@given(words, words, st.integers(0, 2**16 - 1), words, words, words)
def test_a_reply_carries_its_request_and_is_never_larger(
    sequence: int, token: int, stream: int, epoch: int, answered: int, delay: int
) -> None:
    request = CODEC.request(REQUEST, sequence, token)
    parsed = CODEC.parse(request)
    assert parsed is not None
    reply = CODEC.reply(parsed, stream, epoch, answered, delay)
    assert len(reply) <= len(request)
    assert CODEC.parse(reply) == Packet(REPLY, stream, sequence, token, epoch, answered, delay)


@given(words, words, st.integers(0, PACKET_BYTES - 1), st.integers(1, 255))
def test_a_packet_with_any_byte_changed_is_refused(sequence: int, token: int, place: int, change: int) -> None:
    data = bytearray(CODEC.request(REQUEST, sequence, token))
    data[place] ^= change
    assert CODEC.parse(bytes(data)) is None


@given(st.integers(0, PACKET_BYTES - 1))
def test_a_truncated_packet_is_refused(size: int) -> None:
    assert CODEC.parse(CODEC.request(REQUEST, 1, 2)[:size]) is None


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    assert CODEC.parse(data) is None


def test_padding_is_not_looked_at() -> None:
    data = CODEC.request(REQUEST, 1, 2)
    assert CODEC.parse(data + bytes(1000)) == CODEC.parse(data)


def test_a_packet_under_another_key_is_refused() -> None:
    assert Codec(b"x" * 16).parse(CODEC.request(REQUEST, 1, 2)) is None


@given(words, st.integers(16, PACKET_BYTES))
def test_a_router_that_quotes_16_bytes_quotes_the_sequence(sequence: int, size: int) -> None:
    assert quoted_sequence(CODEC.request(REQUEST, sequence, 2)[:size]) == sequence


@pytest.mark.parametrize("data", [b"", MAGIC, MAGIC + bytes((VERSION,)), CODEC.request(REQUEST, 1, 2)[:15], bytes(64)])
def test_a_quote_cut_short_or_not_ours_has_no_sequence(data: bytes) -> None:
    assert quoted_sequence(data) is None
