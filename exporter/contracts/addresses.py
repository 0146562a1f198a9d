"""IP addresses in one spelling, for texts are what is compared: one IPv6 address can be written in many ways."""

from __future__ import annotations

import ipaddress
import socket


def canonical(text: str) -> str:
    """The address as the kernel's own tools write it; raise ValueError for what is no address.

    IPv6 is compressed and in lower case (RFC 5952), and an IPv4 address in IPv6 notation (``::ffff:10.0.0.1``) is the
    IPv4 one. One with a zone (``fe80::1%eth0``) means something else on each host, and is refused.
    """
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv4Address):
        return text
    if address.scope_id is not None:
        raise ValueError(f"{text!r} has a zone, which no other host knows")
    return str(address.ipv4_mapped or socket.inet_ntop(socket.AF_INET6, address.packed))


def is_ipv6(address: str) -> bool:
    return ":" in address


def is_link_local(address: str) -> bool:
    """Whether it is an IPv6 address of one link only (RFC 4291, section 2.5.6): no router forwards it."""
    return is_ipv6(address) and ipaddress.ip_address(address).is_link_local
