"""The section ``dns`` of the configuration, and what it takes from resolv.conf(5)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from exporter.contracts.codec import ContractError, read_bytes
from exporter.probing.dns.message import encode_name
from exporter.probing.settings import DnsSettings

MOST_RESOLVERS, MOST_NAMES, MOST_DOMAINS = 8, 16, 32
_STUB_RESOLVERS = 3  # MAXNS: so many a stub resolver reads from resolv.conf
_MOST_DOTS = 15  # its limit for ndots
_ANY_LABEL = "0" * 16  # as long as what takes the place of ``*``


class Dns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is None is taken from ``resolv_conf``."""

    names: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MOST_NAMES)]
    """With a final dot as they are, else by the search list. A first label ``*`` is a new one in each query."""
    resolvers: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MOST_RESOLVERS)] | None = None
    """``address`` or ``address:port``; an IPv6 address with a port in brackets."""
    search: Annotated[tuple[str, ...], Meta(max_length=MOST_DOMAINS)] | None = None
    ndots: Annotated[int, Meta(ge=0, le=_MOST_DOTS)] | None = None
    resolv_conf: str = "/etc/resolv.conf"
    period_seconds: Annotated[float, Meta(ge=1, le=3600)] = 15.0
    timeout_seconds: Annotated[float, Meta(ge=0.1, le=30)] = 5.0
    max_queries_per_second: Annotated[float, Meta(ge=0.1, le=100)] = 10.0


class _ResolvConf(NamedTuple):
    resolvers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = 1


def dns_settings(dns: Dns, source: str = "configuration") -> DnsSettings:
    """What the prober is told; raise ContractError, which names ``source``."""
    stub = _ResolvConf()
    if dns.resolvers is None or dns.search is None or dns.ndots is None:
        stub = _read_resolv_conf(dns.resolv_conf)
    if dns.resolvers is None and not stub.resolvers:
        raise ContractError(dns.resolv_conf, "names no 'nameserver' with an IP address", "list 'dns.resolvers'")
    resolvers = stub.resolvers if dns.resolvers is None else dns.resolvers
    search = stub.search if dns.search is None else dns.search
    ndots = stub.ndots if dns.ndots is None else dns.ndots
    for field, values in (("resolvers", resolvers), ("names", dns.names)):
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise ContractError(source, f"field 'dns.{field}': {twice!r} appears twice")
    names = tuple((name, candidates(name, search, ndots)) for name in dns.names)
    for name, asked in names:
        for candidate in asked:
            try:
                encode_name(f"{_ANY_LABEL}{candidate[1:]}" if candidate.startswith("*.") else candidate)
            except ValueError as error:
                problem = f"field 'dns.names': {name!r} would ask for no domain name"
                remedy = "labels of 1 to 63 bytes, 255 bytes with its search domain"
                raise ContractError(source, problem, remedy) from error
    rate = len(resolvers) * sum(len(asked) for _, asked in names) / dns.period_seconds
    if rate > dns.max_queries_per_second:
        problem = f"section 'dns' may take {rate:.3g} queries/s, more than its max_queries_per_second"
        raise ContractError(source, problem, "raise it or period_seconds, or end names with a dot")
    return DnsSettings(
        resolvers=tuple(_resolver(text, source) for text in resolvers),
        names=names,
        period_seconds=dns.period_seconds,
        timeout_seconds=dns.timeout_seconds,
        max_queries_per_second=dns.max_queries_per_second,
    )


def candidates(name: str, search: Sequence[str], ndots: int) -> tuple[str, ...]:
    """What a stub resolver asks for in turn, until one has an address (``options ndots``, resolv.conf(5)).

    A name with fewer than ``ndots`` dots is tried as it is only after all of the search list.
    """
    if name.endswith("."):
        return (name,)
    searched = tuple(f"{name}.{domain.removesuffix('.')}".removesuffix(".") for domain in search)
    return (name, *searched) if name.count(".") >= ndots else (*searched, name)


_RESOLVER = re.compile(r"\[(?P<six>[^\]]*)\](:(?P<six_port>.*))?|(?P<four>[^:]*)(:(?P<four_port>[^:]*))?|(?P<bare>.*)")


def _resolver(text: str, source: str) -> tuple[str, str, int]:
    """(label, address, port) of an address, or of ``192.0.2.53:5353`` or ``[2001:db8::53]:5353``."""
    parts = _RESOLVER.fullmatch(text)
    found = {} if parts is None else {name: value for name, value in parts.groupdict().items() if value is not None}
    address = found.get("six") or found.get("four") or found.get("bare") or ""
    port = found.get("six_port", found.get("four_port", "53"))
    remedy = "write 192.0.2.53, 192.0.2.53:5353, 2001:db8::53 or [2001:db8::53]:5353"
    if not _is_address(address) or ("six" in found and ":" not in address):
        raise ContractError(source, f"field 'dns.resolvers': {text!r} is no IP address", remedy)
    if not (port.isdecimal() and 1 <= int(port) <= 65535):
        raise ContractError(source, f"field 'dns.resolvers': {text!r} has no port of 1 to 65535", remedy)
    return text, address, int(port)


def _read_resolv_conf(path: str) -> _ResolvConf:
    """As a stub resolver reads it: three resolvers, the last ``search`` or ``domain``."""
    resolvers: list[str] = []
    search: tuple[str, ...] = ()
    ndots = 1
    for line in read_bytes(path).decode("utf-8", "replace").splitlines():
        keyword, *values = line.split() or [""]
        if keyword == "nameserver" and values and _is_address(values[0]) and values[0] not in resolvers:
            resolvers.append(values[0])
        elif keyword in ("search", "domain") and values:
            search = tuple(values[:MOST_DOMAINS])
        elif keyword == "options":
            dots = [value.removeprefix("ndots:") for value in values if value.startswith("ndots:")]
            ndots = next((min(int(text), _MOST_DOTS) for text in reversed(dots) if text.isdecimal()), ndots)
    return _ResolvConf(tuple(resolvers[:_STUB_RESOLVERS]), search, ndots)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
