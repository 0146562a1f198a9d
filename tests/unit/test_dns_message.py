"""DNS messages: what is asked, and what of an answer is believed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.probing.dns.message import Answer, decode_answer, encode_name, encode_query
from tests.unit.resolvers import A_RECORD, ALIAS, NAME, reply


def test_a_query_is_what_rfc_1035_says() -> None:
    assert encode_query(0x1234, "ns.example.").hex() == "123401000001000000000000026e73076578616d706c650000010001"


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64, ".".join(["abcdefg"] * 32), "caf\xe9.example"])
def test_what_is_no_domain_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"label|bytes|ascii"):
        encode_name(name)


def test_the_longest_name_is_one() -> None:
    assert len(encode_name(".".join(["x" * 63] * 3 + ["x" * 61]))) == 255


def test_addresses_are_counted_past_aliases_and_compressed_names() -> None:
    query = encode_query(7, NAME)
    plain = encode_name(NAME) + A_RECORD[2:]
    assert decode_answer(query, reply(query, records=(ALIAS, A_RECORD, plain))) == Answer(0, False, 2)


@given(st.binary(max_size=80))
def test_no_datagram_breaks_the_reader(data: bytes) -> None:
    assert decode_answer(encode_query(7, NAME), data) is None


@given(st.binary(max_size=120), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_no_answer_to_our_question_breaks_the_reader(tail: bytes, flags: int, records: int) -> None:
    query = encode_query(7, NAME)
    data = query[:2] + struct.pack("!5H", flags, 1, records, 0, 0) + query[12:] + tail
    answer = decode_answer(query, data)
    assert answer is None or 0 <= answer.addresses <= len(tail) // 15
