"""TLS with certificates that are changed while the service runs, and who a client's certificate names."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from exporter.contracts.codec import ContractError
from skeleton_service.live.identity import Identity, NotKnownError, Role


class Certificates:
    """A context for a server, whose handshakes have what the files held last that was good."""

    def __init__(self, certificate: str, key: str, client_ca: str | None) -> None:
        """Raise ContractError where a file cannot be read or does not fit the other."""
        self._files = certificate, key, client_ca
        self._seen = self._state()
        self.generation = 0
        """Grows when files are taken that are others."""
        self._current = self._load()
        self.context = self._load()
        # For each handshake: the certificate, and the authorities that clients' are held against, are the newest.
        self.context.sni_callback = self._turn_to_newest

    def _turn_to_newest(self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        handshake.context = self._current

    def _state(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for name in filter(None, self._files):
            with suppress(OSError):  # told by whoever reads it
                status = os.stat(name)
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return tuple(found)

    def _load(self) -> ssl.SSLContext:
        certificate, key, client_ca = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # A session taken up again would be believed by the authorities of its first handshake.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        for name in filter(None, self._files):
            try:
                with open(name, "rb"):
                    pass
            except OSError as error:
                raise ContractError(name, error.strerror or str(error)) from error
        try:
            context.load_cert_chain(certificate, key)
        except (ssl.SSLError, OSError) as error:
            problem = f"is no certificate with the key {key}: {_reason(error)}"
            raise ContractError(certificate, problem, "both in PEM, the key without a passphrase") from error
        if client_ca is not None:
            try:
                context.load_verify_locations(client_ca)
            except (ssl.SSLError, OSError) as error:
                raise ContractError(
                    client_ca, f"holds no authority: {_reason(error)}", "certificates in PEM"
                ) from error
            context.verify_mode = ssl.CERT_OPTIONAL  # health is asked for without one
        return context

    def refresh(self) -> bool:
        """Take what the files hold if they are others; True when it is. Raise ContractError: what was before stays."""
        seen = self._state()
        if seen == self._seen:
            return False
        self._seen = seen
        self._current = self._load()
        self.generation += 1
        return True


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)


def bearer_of(certificate: Mapping[str, Any]) -> Identity:
    """Who a verified certificate is of: ``spiffe://DOMAIN/ROLE/NAME``, or a subject of OU=ROLE and CN=NAME.

    ``certificate`` is as ``ssl.SSLSocket.getpeercert`` gives it. Raise NotKnownError.
    """
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "URI" and value.startswith("spiffe://"):
            _, role, name = (*value.removeprefix("spiffe://").split("/", 2), "", "")[:3]
            return _identity(role, unquote(name))
    subject = {name: value for pairs in certificate.get("subject", ()) for name, value in pairs}
    return _identity(subject.get("organizationalUnitName", ""), subject.get("commonName", ""))


def _identity(role: str, name: str) -> Identity:
    try:
        known = Role(role)
    except ValueError:
        known = None
    if known is None or not name:
        raise NotKnownError("the client's certificate names no role and bearer: spiffe://…/ROLE/NAME, or OU and CN")
    return Identity(known, name)
