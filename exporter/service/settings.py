"""Section ``service`` of the configuration, and what its process is told."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.metric import Table
from exporter.contracts.secrets import read_secret
from exporter.contracts.service_metrics import SERVICE


class Service(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who hands out plans, and as whom it is asked. Files are looked at again for each connection."""

    url: str
    plans: str
    """A directory for the plans, which is this exporter's alone."""
    token_file: str | None = None
    """A bearer token, on its first line."""
    ca_file: str | None = None
    """Whom to believe that signs the service's certificate; else the system's authorities."""
    certificate: str | None = None
    key: str | None = None

    def resolve(self, base: Path) -> Service:
        """With whole paths."""
        files = {name: getattr(self, name) for name in ("plans", "token_file", "ca_file", "certificate", "key")}
        return msgspec.structs.replace(
            self, **{name: str(base / value) for name, value in files.items() if value is not None}
        )


class ServiceSettings(msgspec.Struct, frozen=True):
    """Of the process that asks."""

    service: Service
    host: str
    version: str


class Told(msgspec.Struct, frozen=True):
    """What the service is to know of this exporter: other than before, it is said again."""

    boot_epoch: int
    ready: dict[str, bool]
    """{RNIC: whether its responder answers}"""


def service_tables() -> list[tuple[Table, int]]:
    return [(SERVICE, 1)]


def check_service(service: Service, source: str) -> None:
    """Raise ContractError naming the field and the remedy."""
    parts = urlsplit(service.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise ContractError(source, f"field 'service.url': {service.url!r} is no URL of a service", "https://NAME:9106")
    if (service.certificate is None) != (service.key is None):
        raise ContractError(source, "section 'service' has one of 'certificate' and 'key'", "give both, or neither")
    if service.token_file is None and service.certificate is None:
        raise ContractError(source, "section 'service' says not who asks", "name a 'token_file', or a 'certificate'")
    if service.token_file is not None:
        read_secret(service.token_file)
    for name in filter(None, (service.ca_file, service.certificate, service.key)):
        try:
            with open(name, "rb"):
                pass
        except OSError as error:
            raise ContractError(name, error.strerror or str(error)) from error
    directory = Path(service.plans)
    if directory.exists() and not directory.is_dir():
        raise ContractError(source, f"field 'service.plans': {directory} is no directory")
