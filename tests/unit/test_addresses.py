"""One spelling of each address."""

from __future__ import annotations

import socket

import pytest

from exporter.contracts.addresses import canonical, is_ipv6, is_link_local


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("FD00:0:0:0:0:0:0:1", "fd00::1"),
        ("fd00:0::00A0:1", "fd00::a0:1"),
        (
            "2001:db8:0:1:1:1:1:1",
            "2001:db8:0:1:1:1:1:1",
        ),  # one group of zeros is not shortened (RFC 5952, section 4.2.2)
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:0A00:0001", "10.0.0.1"),
        ("::1", "::1"),
    ],
)
def test_an_address_has_one_spelling_which_is_the_kernels(written: str, meant: str) -> None:
    assert canonical(written) == canonical(meant) == meant
    if is_ipv6(meant):
        assert meant == socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, written))


@pytest.mark.parametrize(
    "text", ["", "host", "10.0.0", "10.0.0.01", "fd00::1::2", "fd00::g", "fd00::1/64", "fe80::1%eth0"]
)
def test_what_is_no_address_of_all_hosts_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|zone|IPv"):
        canonical(text)


def test_link_local_addresses_are_those_of_fe80() -> None:
    assert [is_link_local(each) for each in ("fe80::1", "febf::1", "fec0::1", "fd00::1", "169.254.0.1", "::1")] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
