"""The section ``otlp`` of the configuration, and what is wrong with one. Secrets never appear in an error."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from exporter.contracts.codec import ContractError, read_bytes

_FILES = ("headers_file", "ca_file", "certificate_file", "key_file")
_DEFAULT_ENDPOINTS = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*:\s*([\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)\s*")


class Otlp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is None is taken from the environment (OTEL_EXPORTER_OTLP_*), else it has the library's default."""

    endpoint: str | None = None
    """Whole URL; for HTTP with its path, such as /v1/metrics."""
    protocol: Literal["http/protobuf", "grpc"] = "http/protobuf"
    headers_file: str | None = None
    """Lines ``Name: value``."""
    period_seconds: Annotated[float, Meta(ge=1, le=3600)] = 15.0
    timeout_seconds: Annotated[float, Meta(ge=0.1, le=60)] | None = None
    """Of one request with all its retries."""
    compression: Literal["gzip", "none"] | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    max_points: Annotated[int, Meta(ge=100, le=100_000)] = 5000
    insecure: bool = False
    """Send the headers of ``headers_file`` over http:// as well."""

    def resolve(self, base: Path) -> Otlp:
        """The same with its files relative to ``base``."""
        files = {name: str(base / value) for name in _FILES if (value := getattr(self, name)) is not None}
        return msgspec.structs.replace(self, **files)


def endpoint_of(settings: Otlp, environment: Mapping[str, str] = os.environ) -> str:
    """Where to push: the setting, else the environment, as the OpenTelemetry specification has it."""
    if settings.endpoint:
        return settings.endpoint
    if own := environment.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"):
        return own
    common = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or _DEFAULT_ENDPOINTS[settings.protocol]
    return common if settings.protocol == "grpc" else common.removesuffix("/") + "/v1/metrics"


def compression_of(settings: Otlp, environment: Mapping[str, str] = os.environ) -> str:
    """``gzip`` unless something else is asked for: labels repeat themselves, a tenth is left."""
    names = ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION")
    asked: list[str] = [value for name in names if (value := environment.get(name))]
    return settings.compression or (asked[0].strip().lower() if asked else "gzip")


def shown(endpoint: str) -> str:
    """An endpoint as it may be logged: without a query, which may hold a key."""
    return endpoint.split("?", 1)[0]


def read_headers(path: str) -> dict[str, str]:
    """Headers by lower-case name; raise ContractError with the number of a line that is none."""
    headers: dict[str, str] = {}
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        match = _HEADER.fullmatch(line)
        if match is None:
            raise ContractError(path, f"line {number} is no header", "write 'Name: value' in visible ASCII")
        headers[match[1].lower()] = match[2]
    if not headers:
        raise ContractError(path, "holds no header", "write lines 'Name: value'")
    return headers


def check_otlp(settings: Otlp, source: str) -> None:
    """Raise ContractError for what can be known to be wrong without a receiver."""
    endpoint = endpoint_of(settings)
    url = _checked_url(endpoint, source)
    if settings.protocol == "http/protobuf" and url.path in ("", "/"):
        raise ContractError(
            source, f"field 'otlp.endpoint': {shown(endpoint)!r} has no path", "append /v1/metrics, or the receiver's"
        )
    if settings.protocol == "grpc" and importlib.util.find_spec("grpc") is None:
        raise ContractError(
            source, "field 'otlp.protocol': gRPC is not installed", "install fabric-skeleton[otlp-grpc]"
        )
    if compression_of(settings) not in ("gzip", "none"):
        raise ContractError(source, "OTEL_EXPORTER_OTLP_COMPRESSION is neither 'gzip' nor 'none'")
    if settings.headers_file is not None:
        read_headers(settings.headers_file)
        if url.scheme == "http" and not settings.insecure and not _is_loopback(url.hostname or ""):
            remedy = "use https://, or set otlp.insecure: true"
            raise ContractError(source, "field 'otlp.headers_file': its headers would travel in the clear", remedy)
    if (settings.certificate_file is None) != (settings.key_file is None):
        raise ContractError(source, "fields 'otlp.certificate_file' and 'otlp.key_file' belong together")
    for name in ("ca_file", "certificate_file", "key_file"):
        if (path := getattr(settings, name)) is not None:
            if url.scheme != "https":
                raise ContractError(source, f"field 'otlp.{name}' is of use with https:// only")
            read_bytes(path)
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.certificate_file is not None:
            # Without the password of a key that has one, OpenSSL would ask for it at the terminal.
            context.load_cert_chain(settings.certificate_file, settings.key_file, password="")
    except (ssl.SSLError, ValueError, OSError) as error:
        raise ContractError(source, "the TLS files of 'otlp' are no PEM certificates with their key") from error


def _checked_url(endpoint: str, source: str) -> SplitResult:
    remedy = "write http:// or https://, host and port"
    try:
        url = urlsplit(endpoint)
        sound = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port out of range, half an IPv6 address
        sound = False
    if not sound:
        raise ContractError(source, "field 'otlp.endpoint' is no URL", remedy)
    if url.username is not None or url.password is not None:
        raise ContractError(source, "field 'otlp.endpoint' holds a user or password", "put them into otlp.headers_file")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
