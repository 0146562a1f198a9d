"""Fetching over HTTP: many exporters at once, and what went wrong in a word."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException, IncompleteRead
from math import inf
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from exporter.contracts.codec import ContractError

TIMEOUT_SECONDS = 10.0
MAX_ANSWER_BYTES = 1 << 30
MAX_PARALLEL = 64
_PIECE_BYTES = 1 << 20
_MOST_SAID = 300
_GZIP = b"\x1f\x8b"


def fetch_each(urls: Sequence[str], timeout: float = TIMEOUT_SECONDS) -> Iterator[tuple[str, bytes | ContractError]]:
    """Yield (url, answer or why there is none) in the order given; ``MAX_PARALLEL`` are asked or waiting at a time."""

    def answer(url: str) -> bytes | ContractError:
        try:
            return fetch(Request(url, headers={"Accept-Encoding": "gzip"}), url, timeout)  # noqa: S310 - the caller checked it
        except ContractError as error:
            return error

    waiting: deque[tuple[str, Future[bytes | ContractError]]] = deque()
    with ThreadPoolExecutor(MAX_PARALLEL) as pool:
        try:
            for url in urls:
                waiting.append((url, pool.submit(answer, url)))
                if len(waiting) == MAX_PARALLEL:
                    name, asked = waiting.popleft()
                    yield name, asked.result()
            while waiting:
                name, asked = waiting.popleft()
                yield name, asked.result()
        finally:
            for _, asked in waiting:
                asked.cancel()


def _said(refusal: HTTPError) -> str:
    """The first line of what a server said as it refused, fit for a terminal; nothing where it is no plain text."""
    if not refusal.headers.get("Content-Type", "").startswith("text/plain") or "Content-Encoding" in refusal.headers:
        return ""
    try:
        line = refusal.read(_MOST_SAID).decode(errors="replace").strip().partition("\n")[0]
    except (HTTPException, OSError, ValueError):
        return ""
    return "".join(letter for letter in f": {line}" if letter.isprintable()) if line else ""


def uncompressed(data: bytes, source: str) -> bytes:
    """What an answer holds, gzip or not; raise ContractError naming ``source``."""
    if not data.startswith(_GZIP):
        return data
    unpacking = zlib.decompressobj(wbits=31)
    try:
        plain = unpacking.decompress(data, MAX_ANSWER_BYTES)
    except zlib.error as error:
        raise ContractError(source, f"is not valid gzip: {error}") from error
    if unpacking.unconsumed_tail:
        raise ContractError(source, "serves more than 1 GiB")
    if not unpacking.eof:
        raise ContractError(source, "is not valid gzip: it ends early")
    return plain


def fetch(request: Request, source: str, timeout: float = TIMEOUT_SECONDS, within: float = inf) -> bytes:
    """The body of the answer; raise ContractError naming ``source``.

    ``timeout`` is in seconds, of each wait; ``within`` of the whole answer, which may come in drops.
    """
    data = bytearray()
    latest = time.monotonic() + within
    try:
        with urlopen(request, timeout=timeout) as answer:  # noqa: S310 - the caller checked the scheme
            while len(data) <= MAX_ANSWER_BYTES and (piece := answer.read1(_PIECE_BYTES)):
                data += piece
                if time.monotonic() > latest:
                    raise TimeoutError(f"not complete within {within:.0f} s")
            if answer.length:
                raise IncompleteRead(bytes(data), answer.length)
    except (HTTPException, OSError, ValueError) as error:
        refused = isinstance(error, HTTPError)  # whose reason lacks the number
        reason = (not refused and getattr(error, "reason", None)) or str(error) or type(error).__name__
        if isinstance(error, HTTPError):
            reason = f"{reason}{_said(error)}"
        raise ContractError(source, f"cannot be fetched: {reason}") from error
    if len(data) > MAX_ANSWER_BYTES:
        raise ContractError(source, "serves more than 1 GiB", "ask for less with ?since=")
    return bytes(data)
