"""The section ``traps`` of the configuration, what is wrong with one, and what its process is told.

Secrets are read from files and go to the process over its pipe; none of them is ever in an error, a log or a metric.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from exporter.contracts.addresses import canonical, is_ipv6
from exporter.contracts.codec import ContractError, read_bytes
from exporter.contracts.metric import Table
from exporter.contracts.switch_counters import NOTIFICATIONS_REFUSED_TABLE, REFUSALS, SWITCH_NOTIFICATION
from exporter.contracts.topology import Topology

LABEL_SETS_PER_SWITCH = 4096
"""Links of 512 ports up and down, sessions, and room for what matters more: room that is not used costs nothing."""
_SHORTEST_PASSPHRASE = 8  # RFC 3414, section 11.2
_PRIVILEGED = 1024

Authentication = Literal["sha256", "sha384", "sha512", "sha224", "sha", "md5"]
Privacy = Literal["aes", "aes192", "aes256", "des"]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every part of the section: unknown keys are errors."""


class TrapUser(_Section, frozen=True, kw_only=True):
    """A user of SNMP v3. Without a key there is no proof of anything, so the one for digests is not optional."""

    name: Annotated[str, Meta(min_length=1, max_length=32)]
    authentication: Authentication = "sha256"
    authentication_key_file: str
    """Passphrase on its first line, as the switch was given it."""
    privacy: Privacy | None = None
    privacy_key_file: str | None = None
    engine_id: str | None = None
    """In hexadecimal: the only engine whose traps may be of this user. Left out, that of any switch."""


class TrapSource(_Section, frozen=True, kw_only=True):
    name: str
    """Of the switch, as in the topology."""
    addresses: tuple[str, ...]
    """That its traps come from."""


class Traps(_Section, frozen=True, kw_only=True):
    """Receive traps and informs of switches. v2c with ``community_file``, v3 with ``users``; both may be there."""

    address: str = "0.0.0.0"  # noqa: S104 - switches send to it
    port: Annotated[int, Meta(ge=1, le=65535)] = 162
    community_file: str | None = None
    users: tuple[TrapUser, ...] = ()
    engine_id: str | None = None
    """The receiver's own, in hexadecimal, for switches that have to be told it before they send informs of v3."""
    sources: tuple[TrapSource, ...] | None = None
    """Left out, the switches of ``switches.targets`` and of the topology with all their addresses."""
    notifications_per_second: Annotated[int, Meta(ge=10, le=100_000)] = 500
    """That are counted at most; one switch has half of it. What exceeds it is counted as refused and thrown away."""

    def resolve(self, base: Path) -> Traps:
        """The same with its files relative to ``base``."""

        def whole(name: str | None) -> str | None:
            return None if name is None else str(base / name)

        users = tuple(
            msgspec.structs.replace(
                user,
                authentication_key_file=str(base / user.authentication_key_file),
                privacy_key_file=whole(user.privacy_key_file),
            )
            for user in self.users
        )
        return msgspec.structs.replace(self, community_file=whole(self.community_file), users=users)


class UserKeys(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    authentication: Authentication
    authentication_key: bytes
    privacy: Privacy | None
    privacy_key: bytes
    engine_id: bytes | None

    def __repr__(self) -> str:
        return f"UserKeys({self.name!r})"  # never with the keys: a traceback may print it


class TrapSettings(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    port: int
    community: bytes | None
    users: tuple[UserKeys, ...]
    engine_id: bytes | None
    sources: dict[str, str]
    """Switch by the address that its datagrams come from."""
    ports: dict[str, dict[int, str]]
    """Port by ifIndex, by switch."""
    aliases: dict[str, dict[str, str]]
    """Port by another name that the switch has for it, by switch."""
    notifications_per_second: int

    def __repr__(self) -> str:
        return f"TrapSettings({self.address}:{self.port})"

    @property
    def switches(self) -> int:
        return len(set(self.sources.values()))


def trap_tables(switches: int) -> list[tuple[Table, int]]:
    """Tables of the process's store with their capacities; both processes lay the memory out by this."""
    return [
        (SWITCH_NOTIFICATION, max(switches, 1) * LABEL_SETS_PER_SWITCH),
        (NOTIFICATIONS_REFUSED_TABLE, len(REFUSALS)),
    ]


def check_traps(traps: Traps, source: str) -> None:
    """Raise ContractError for what can be known to be wrong without a switch; ``traps`` has whole paths."""
    if traps.community_file is None and not traps.users:
        raise ContractError(source, "section 'traps' would take nothing", "name a 'community_file', or 'users' of v3")
    try:
        ipaddress.ip_address(traps.address)
    except ValueError as error:
        raise ContractError(source, f"field 'traps.address': {traps.address!r} is no IP address") from error
    if traps.community_file is not None:
        _secret(traps.community_file)
    _engine(traps.engine_id, "traps.engine_id", source)
    names = [user.name for user in traps.users]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ContractError(source, f"field 'traps.users': {twice!r} appears twice")
    for number, user in enumerate(traps.users):
        where = f"traps.users[{number}]"
        _passphrase(user.authentication_key_file)
        if (user.privacy is None) != (user.privacy_key_file is None):
            raise ContractError(source, f"fields '{where}.privacy' and '{where}.privacy_key_file' belong together")
        if user.privacy_key_file is not None:
            _passphrase(user.privacy_key_file)
        _engine(user.engine_id, f"{where}.engine_id", source)
    if traps.sources is not None:
        _sources([(each.name, each.addresses) for each in traps.sources], source, "field 'traps.sources'")


def trap_settings(traps: Traps, polled: Mapping[str, Sequence[str]], topology: Topology | None) -> TrapSettings:
    """What the process is told: ``polled`` are the addresses that switches are polled at, by switch.

    Raise ContractError where no switch is known, or one address has two.
    """
    switches = topology.switches if topology is not None else ()
    if traps.sources is not None:
        named: list[tuple[str, Sequence[str]]] = [(each.name, each.addresses) for each in traps.sources]
    else:
        named = [
            (name, [address for address in addresses if _is_address(address)]) for name, addresses in polled.items()
        ]
        for switch in switches:
            own = [*switch.addresses, *(address for port in switch.ports for address in port.addresses)]
            if switch.management is not None and _is_address(switch.management):
                own.append(switch.management)
            named.append((switch.name, own))
    sources = _sources(named, "section 'traps'", "sources")
    known = set(sources.values())
    if missing := sorted(set(polled) - known) if traps.sources is None else []:
        shown = ", ".join(missing[:5])
        raise ContractError("section 'traps'", f"no IP address of {shown} is known", "list it in traps.sources")
    if not sources:
        remedy = "list traps.sources" if topology is None else "give switches 'management' in the topology"
        remedy += ", or name a 'topology'" if topology is None else ", or list traps.sources"
        raise ContractError("section 'traps'", "no address of any switch is known", remedy)
    return TrapSettings(
        address=traps.address,
        port=traps.port,
        community=_secret(traps.community_file) if traps.community_file is not None else None,
        users=tuple(
            UserKeys(
                name=user.name,
                authentication=user.authentication,
                authentication_key=_passphrase(user.authentication_key_file),
                privacy=user.privacy,
                privacy_key=_passphrase(user.privacy_key_file) if user.privacy_key_file is not None else b"",
                engine_id=_engine(user.engine_id, "traps.users.engine_id", "section 'traps'"),
            )
            for user in traps.users
        ),
        engine_id=_engine(traps.engine_id, "traps.engine_id", "section 'traps'"),
        sources=sources,
        ports={
            switch.name: {port.ifindex: port.name for port in switch.ports if port.ifindex is not None}
            for switch in switches
            if switch.name in known
        },
        aliases={
            switch.name: {alias: port.name for port in switch.ports for alias in port.aliases}
            for switch in switches
            if switch.name in known
        },
        notifications_per_second=traps.notifications_per_second,
    )


def bind(address: str, port: int) -> socket.socket:
    """A socket for datagrams, told the local address of each; ``::`` takes IPv4 too. Raise OSError."""
    sock = socket.socket(socket.AF_INET6 if is_ipv6(address) else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


_IP_PKTINFO = 8  # linux/in.h; the module socket has no name for it before Python 3.14


def bind_problem(error: OSError, port: int) -> tuple[str, str]:
    """Why a port was not had, and what to do about it."""
    elsewhere = "set another traps.port, and the switches' or a redirection to it"
    if error.errno == errno.EACCES and port < _PRIVILEGED:
        return (
            f"ports below {_PRIVILEGED} need CAP_NET_BIND_SERVICE",
            "give it: AmbientCapabilities=CAP_NET_BIND_SERVICE in its systemd unit, capabilities.add: "
            f"[NET_BIND_SERVICE] in its pod; or {elsewhere} (iptables -t nat -A PREROUTING -p udp --dport {port} "
            "-j REDIRECT --to-ports 1162)",
        )
    if error.errno == errno.EADDRINUSE:
        return "another process listens there", f"stop it (ss -ulpn names it), or {elsewhere}"
    return f"cannot be listened on: {error.strerror or error}", "set traps.address to an address of this host"


def require_port(traps: Traps) -> None:
    """Raise ContractError where the port cannot be had now, so that ``run`` says so instead of a log line."""
    try:
        bind(traps.address, traps.port).close()
    except OSError as error:
        problem, remedy = bind_problem(error, traps.port)
        raise ContractError(f"{traps.address}:{traps.port}/udp", f"traps: {problem}", remedy) from error


def _sources(named: Sequence[tuple[str, Sequence[str]]], source: str, where: str) -> dict[str, str]:
    """Switch by address in one spelling; raise ContractError."""
    found: dict[str, str] = {}
    for name, addresses in named:
        for address in addresses:
            try:
                known = canonical(address)
            except ValueError as error:
                raise ContractError(source, f"{where}: {address!r} of {name!r} is no IP address") from error
            if found.setdefault(known, name) != name:
                raise ContractError(source, f"{where}: {address!r} is of {found[known]!r} and of {name!r}")
    return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _secret(path: str) -> bytes:
    secret = read_bytes(path).split(b"\n", 1)[0].strip()
    if not secret:
        raise ContractError(path, "holds no secret on its first line")
    return secret


def _passphrase(path: str) -> bytes:
    secret = _secret(path)
    if len(secret) < _SHORTEST_PASSPHRASE:
        problem = f"holds a passphrase of {len(secret)} bytes"
        raise ContractError(path, problem, f"SNMP v3 wants {_SHORTEST_PASSPHRASE} at least")
    return secret


def _engine(text: str | None, field: str, source: str) -> bytes | None:
    if text is None:
        return None
    try:
        engine = bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise ContractError(source, f"field '{field}': {text!r} is not hexadecimal") from error
    if not 5 <= len(engine) <= 32:
        raise ContractError(source, f"field '{field}' has {len(engine)} bytes", "an engine ID has 5 to 32")
    return engine
