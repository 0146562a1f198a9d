"""Certificates for tests: an authority of their own, and what it signs."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_UNIT, _COMMON = NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.COMMON_NAME


class Authority:
    """Writes ``ca.pem`` at once, and ``NAME.pem`` with ``NAME.key`` for whom it signs."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(_COMMON, name)])
        own = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        self.certificate = directory / f"{name}.pem"
        self.certificate.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )

    def sign(self, file: str, common_name: str = "", unit: str = "", uri: str = "") -> tuple[Path, Path]:
        """(certificate, key) of a client, or of a server on 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(kind, value) for kind, value in ((_UNIT, unit), (_COMMON, common_name)) if value]
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        names += [x509.UniformResourceIdentifier(uri)] if uri else []
        made = self._builder(x509.Name(parts), key).add_extension(x509.SubjectAlternativeName(names), False)
        certificate, secret = self._directory / f"{file}.pem", self._directory / f"{file}.key"
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return certificate, secret
