"""The section ``gnmi`` of the configuration, what is wrong with one, and what its process is told.

Secrets are read from files, go to the process over its pipe, and never appear in an error.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import ssl
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from exporter.contracts.codec import ContractError, read_bytes
from exporter.contracts.metric import Table
from exporter.contracts.switch_counters import (
    SIGNALS,
    SWITCH,
    SWITCH_BGP,
    SWITCH_COVERAGE_TABLE,
    SWITCH_DSCP_TABLE,
    SWITCH_INFO_TABLE,
    SWITCH_PORT,
    SWITCH_PRIORITY,
    SWITCH_QUEUE,
)

MOST_ROWS: Mapping[Table, int] = {
    SWITCH_PORT: 1024,
    SWITCH_PRIORITY: 1024 * 8,
    SWITCH_QUEUE: 1024 * 16,
    SWITCH_BGP: 1024,
    SWITCH_DSCP_TABLE: 64,
}
"""Of one switch, by table. Room that is not used costs no memory."""
_FILES = ("ca_file", "certificate_file", "key_file", "username_file", "password_file")
_TLS = ("ca_file", "certificate_file", "key_file", "tls_name")

Dialect = Literal["sonic", "openconfig"]


class GnmiTarget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    address: str
    port: Annotated[int, Meta(ge=1, le=65535)] = 9339
    dialect: Dialect
    interval_seconds: Annotated[float, Meta(ge=1, le=3600)] = 10.0
    """Between samples of counters; SONiC takes no less than 1 s."""
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    tls_name: str | None = None
    """The name in the switch's certificate, where that is not its ``address``."""
    insecure: bool = False
    """Without TLS: counters, and user and password where given, travel in the clear."""
    username_file: str | None = None
    password_file: str | None = None


class Gnmi(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    targets: tuple[GnmiTarget, ...]

    def resolve(self, base: Path) -> Gnmi:
        """The same with its files relative to ``base``."""
        return Gnmi(targets=tuple(_resolved(target, base) for target in self.targets))


def _resolved(target: GnmiTarget, base: Path) -> GnmiTarget:
    files = {name: str(base / value) for name in _FILES if (value := getattr(target, name)) is not None}
    return msgspec.structs.replace(target, **files)


class TargetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is told of a switch; the TLS files' contents are PEM."""

    name: str
    address: str
    port: int
    dialect: Dialect
    interval_seconds: float
    ports: dict[str, str]
    """{name or alias of a port: its name in the topology}."""
    insecure: bool = False
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    tls_name: str | None = None
    username: str | None = None
    password: str | None = None

    @property
    def endpoint(self) -> str:
        """As gRPC writes it."""
        try:
            bracketed = ipaddress.ip_address(self.address).version == 6
        except ValueError:
            bracketed = False
        return f"[{self.address}]:{self.port}" if bracketed else f"{self.address}:{self.port}"

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.password, self.username)))


class GnmiSettings(msgspec.Struct, frozen=True, kw_only=True):
    targets: tuple[TargetSettings, ...]


def check_gnmi(gnmi: Gnmi, polled: Collection[str], source: str) -> None:
    """Raise ContractError for what can be known to be wrong without a switch.

    ``polled`` are the switches of the section ``switches``: one has one source, or its series would appear twice.
    """
    if any(importlib.util.find_spec(name) is None for name in ("grpc", "google.protobuf")):
        raise ContractError(source, "section 'gnmi': gRPC is not installed", "install fabric-skeleton[gnmi]")
    names = [target.name for target in gnmi.targets]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ContractError(source, f"field 'gnmi.targets': {twice!r} appears twice")
    for name in names:
        if name in polled:
            problem = f"field 'gnmi.targets': {name!r} is one of 'switches.targets' too"
            raise ContractError(source, problem, "leave it in one of them: its series would appear twice")
    for target in gnmi.targets:
        _check(target, source)


def _check(target: GnmiTarget, source: str) -> None:
    where = f"field 'gnmi.targets': {target.name!r}"
    if not target.address or "/" in target.address or any(letter.isspace() for letter in target.address):
        raise ContractError(source, f"{where} has no address", "give a host name or an IP address")
    for first, second in (("certificate_file", "key_file"), ("username_file", "password_file")):
        if (getattr(target, first) is None) != (getattr(target, second) is None):
            raise ContractError(source, f"{where}: {first!r} and {second!r} belong together")
    for name in ("username_file", "password_file"):
        if (path := getattr(target, name)) is not None:
            _secret(path)
    if target.insecure:
        if unused := next((name for name in _TLS if getattr(target, name) is not None), None):
            raise ContractError(source, f"{where}: {unused!r} is of no use", "it is insecure: remove one of the two")
        return
    try:
        context = ssl.create_default_context(cafile=_readable(target.ca_file))
        if target.certificate_file is not None:
            # Without the password of a key that has one, OpenSSL would ask for it at the terminal.
            context.load_cert_chain(target.certificate_file, _readable(target.key_file), password="")
    except (ssl.SSLError, ValueError, OSError) as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError(source, f"{where}: the TLS files are no PEM certificates with their key") from error


def _readable(path: str | None) -> str | None:
    if path is not None:
        read_bytes(path)
    return path


def _secret(path: str) -> str:
    """The first line of a file, as a value of gRPC's metadata; raise ContractError without showing it."""
    text = read_bytes(path).decode("utf-8", "replace").split("\n", 1)[0].strip()
    if not text:
        raise ContractError(path, "holds no secret on its first line")
    if not (text.isascii() and text.isprintable()):
        raise ContractError(path, "line 1 is not visible ASCII", "gRPC can send nothing else")
    return text


def target_settings(target: GnmiTarget, ports: dict[str, str]) -> TargetSettings:
    """What the process is told, with the contents of the files; raise ContractError when one cannot be read."""

    def content(path: str | None) -> bytes | None:
        return None if path is None else read_bytes(path)

    def secret(path: str | None) -> str | None:
        return None if path is None else _secret(path)

    return TargetSettings(
        name=target.name,
        address=target.address,
        port=target.port,
        dialect=target.dialect,
        interval_seconds=target.interval_seconds,
        ports=ports,
        insecure=target.insecure,
        ca=content(target.ca_file),
        certificate=content(target.certificate_file),
        key=content(target.key_file),
        tls_name=target.tls_name,
        username=secret(target.username_file),
        password=secret(target.password_file),
    )


def gnmi_tables(switches: int) -> list[tuple[Table, int]]:
    """Tables of the process' store with their capacities; both processes lay the memory out by this."""
    switches = max(switches, 1)
    return [
        *((table, rows * switches) for table, rows in MOST_ROWS.items()),
        (SWITCH, switches),
        (SWITCH_INFO_TABLE, switches),
        (SWITCH_COVERAGE_TABLE, switches * len(SIGNALS)),
    ]
