"""The section ``dns``: what is asked of whom, and what of it resolv.conf says."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.contracts.codec import ContractError
from exporter.dnsconfig import Dns, candidates, dns_settings


def test_a_name_goes_through_the_search_list_as_a_stub_resolver_takes_it() -> None:
    assert candidates("a.b", ("x.y", "z."), 5) == ("a.b.x.y", "a.b.z", "a.b")
    assert candidates("a.b", ("x.y", "z"), 1) == ("a.b", "a.b.x.y", "a.b.z")
    assert candidates("a.b.", ("x.y",), 5) == ("a.b.",)
    assert candidates("a", (".",), 1) == ("a", "a")


def test_what_is_left_out_is_taken_from_resolv_conf(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# a comment\ndomain old.example\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver 192.0.2.1\n"
        "nameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n"
        "search a.example b.example\noptions edns0 ndots:2 timeout:1\noptions ndots:99\nnameserver\n"
    )
    got = dns_settings(Dns(names=("x.y",), resolv_conf=str(path)))
    assert got.resolvers == tuple((text, text, 53) for text in ("192.0.2.1", "2001:db8::1", "192.0.2.2"))
    assert got.names == (("x.y", ("x.y.a.example", "x.y.b.example", "x.y")),)
    own = Dns(names=("x.y",), resolvers=("192.0.2.9:5353",), search=(), ndots=1, resolv_conf="/nowhere")
    assert dns_settings(own).resolvers == (("192.0.2.9:5353", "192.0.2.9", 5353),)
    assert dns_settings(own).names == (("x.y", ("x.y",)),)


def test_a_resolv_conf_without_a_resolver_says_so(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver resolver.example\n")
    with pytest.raises(ContractError, match="names no 'nameserver' with an IP address"):
        dns_settings(Dns(names=("x",), resolv_conf=str(path)))


def resolver_of(text: str) -> tuple[str, str, int]:
    (found,) = dns_settings(Dns(names=("x.",), resolvers=(text,), search=(), ndots=1)).resolvers
    return found


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.53", "192.0.2.53", 53),
        ("192.0.2.53:5353", "192.0.2.53", 5353),
        ("2001:db8::53", "2001:db8::53", 53),
        ("[2001:db8::53]", "2001:db8::53", 53),
        ("[2001:db8::53]:5353", "2001:db8::53", 5353),
        ("fe80::1%eth0", "fe80::1%eth0", 53),
        ("::1", "::1", 53),
    ],
)
def test_a_resolver_is_an_address_and_may_have_a_port(text: str, address: str, port: int) -> None:
    assert resolver_of(text) == (text, address, port)


@pytest.mark.parametrize(
    "text", ["", "ns.example", "192.0.2.53:", "192.0.2.53:0", "[192.0.2.53]:53", "[::1]:x", "[::1"]
)
def test_what_is_no_resolver_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match=r"field 'dns\.resolvers'"):
        resolver_of(text)
