"""Secrets in files; a secret never appears in an error."""

from __future__ import annotations

from exporter.contracts.codec import ContractError, read_bytes


def read_secret(path: str) -> str:
    """First line of a secret file; raise ContractError, which does not hold it."""
    text = read_bytes(path).decode("utf-8", "replace").split("\n", 1)[0].strip()
    if not text:
        raise ContractError(path, "holds no secret on its first line")
    if not text.isprintable():
        raise ContractError(path, "holds something unprintable on its first line", "write the secret alone")
    return text


def read_key(path: str) -> bytes:
    """A key of 16 to 32 bytes; a final newline is not part of it. Raise ContractError."""
    key = read_bytes(path).rstrip(b"\n")
    if not 16 <= len(key) <= 32:
        raise ContractError(path, f"holds a key of {len(key)} bytes", "16 to 32 are needed: head -c 32 /dev/urandom")
    return key
