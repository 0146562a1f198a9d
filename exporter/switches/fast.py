"""SNMP v2c and v3 with gufo_snmp: BER in Rust, one connected UDP socket a device.

The library's own asynchronous session steps through each row by a coroutine, which costs three times what decoding
does. So its sockets are driven here, whole answers at a time. They are not the library's public face: a new minor
version is to be tested before it is let in (pyproject.toml), which the tests against pysnmp do.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TypeVar

from gufo.snmp._fast import (
    GetIter,
    SnmpAuthError,
    SnmpV2cClientSocket,
    SnmpV3ClientSocket,
)
from gufo.snmp._fast import SnmpError as LibraryError
from gufo.snmp.user import (
    Aes128Key,
    Aes192Key,
    Aes256Key,
    BaseAuthKey,
    BasePrivKey,
    DesKey,
    KeyType,
    Md5Key,
    Sha1Key,
    Sha224Key,
    Sha256Key,
    Sha384Key,
    Sha512Key,
)
from gufo.snmp.user import User as LibraryUser
from gufo.snmp.utils import format_sock_addr

from exporter.switches.snmp import (
    MAX_ASKED,
    MAX_REPETITIONS,
    Community,
    Credentials,
    NoAnswerError,
    Oid,
    RefusedError,
    Rows,
    SnmpError,
    TooBigError,
    User,
    Value,
    WalkCheck,
    answered_error,
    error_status,
    planned_repetitions,
)

_Answer = TypeVar("_Answer")
_FEW = 12
"""OIDs whose values fit into any answer."""
_HEAD = 512
"""Bytes of an answer within which its error status stands."""
_PANICS = "pyo3_runtime"
"""Module of PanicException, which no module of Python holds: Rust ran over the end of a datagram that was cut short."""
_AUTHENTICATION: dict[str, type[BaseAuthKey]] = {
    "md5": Md5Key,
    "sha": Sha1Key,
    "sha224": Sha224Key,
    "sha256": Sha256Key,
    "sha384": Sha384Key,
    "sha512": Sha512Key,
}
_PRIVACY: dict[str, type[BasePrivKey]] = {"des": DesKey, "aes": Aes128Key, "aes192": Aes192Key, "aes256": Aes256Key}


class FastSession:
    """One device. Not for concurrent use: what is asked is answered before the next is."""

    def __init__(
        self,
        address: str,
        port: int,
        credentials: Credentials,
        timeout: float,
        retries: int,
        max_repetitions: int = MAX_REPETITIONS,
    ) -> None:
        """Raise OSError for an address without a route, SnmpError for one that is none."""
        self._timeout = timeout
        self._tries = retries + 1
        self._repetitions = max_repetitions
        self._target = format_sock_addr(address, port)
        self._user = credentials if isinstance(credentials, User) else None
        self._socket: SnmpV2cClientSocket | SnmpV3ClientSocket
        if isinstance(credentials, Community):
            self._socket = SnmpV2cClientSocket(self._target, credentials.community, 0, 0, 0, 0)
        else:
            self._socket = self._stranger()
        self._readable: asyncio.Future[None] | None = None
        self._watched: int | None = None

    def _stranger(self) -> SnmpV3ClientSocket:
        """A socket of a user without a name, by which a device's engine is discovered (RFC 3414, 4)."""
        nobody = LibraryUser.default()
        return SnmpV3ClientSocket(
            self._target, b"", nobody.name, nobody.get_auth_alg(), b"", nobody.get_priv_alg(), b"", 0, 0, 0, 0
        )

    def close(self) -> None:
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched)
            self._watched = None

    async def refresh(self) -> None:
        if self._user is None:
            return
        # Discovered anew each time: an agent that was replaced has another engine, one that restarted another time.
        self.close()
        try:
            stranger = self._socket = self._stranger()
        except OSError as error:  # there is no way to it any more
            raise NoAnswerError(f"{self._target}: {error.strerror or error}") from None
        await self._exchange(stranger.send_refresh, stranger.recv_refresh)
        user = _library_user(self._user)
        stranger.set_keys(user.name, user.get_auth_alg(), user.get_auth_key(), user.get_priv_alg(), user.get_priv_key())
        if user.require_auth():
            await self._exchange(stranger.send_refresh, stranger.recv_refresh)

    async def get(self, oids: Sequence[Oid]) -> dict[Oid, Value]:
        found: dict[Oid, Value] = {}
        for start in range(0, len(oids), MAX_ASKED):
            answer = await self._get(list(oids[start : start + MAX_ASKED]))
            # Only what was asked for: the rest is the device's invention.
            for oid in oids[start : start + MAX_ASKED]:
                value = answer.get(oid)
                if isinstance(value, (int, bytes, str)):
                    found[oid] = value
        return found

    async def _get(self, asked: list[Oid]) -> Mapping[Oid, object]:
        """In pieces, where the answer would be longer than the device sends; over v3, nothing at all may mean that."""
        try:
            answer = await self._exchange(partial(self._socket.send_get_many, asked), self._socket.recv_get_many)
            if answer or self._user is None or len(asked) <= _FEW:
                return answer
        except TooBigError:
            if len(asked) == 1:
                raise
        half = len(asked) // 2
        return {**await self._get(asked[:half]), **await self._get(asked[half:])}

    async def walk(self, column: Oid, known: Sequence[Oid] = ()) -> Rows:
        rows: Rows = []
        check = WalkCheck(column, known)
        position = GetIter(column, planned_repetitions(known, self._repetitions))
        ended = False
        while not ended:
            try:
                answer = await self._exchange(
                    lambda: self._socket.send_get_bulk(position), lambda: self._socket.recv_get_bulk(position)
                )
            except StopAsyncIteration:  # the device has nothing behind (endOfMibView)
                break
            ended = not answer or answer[-1] is None
            # None closes the list; a value that is none of ours (NULL, a float) is left out with its row.
            batch = [row for row in answer if row is not None]
            check.batch(batch, len(rows))  # type: ignore[arg-type]
            rows += batch  # type: ignore[arg-type]
        check.whole(rows)
        if self._user is not None and len(rows) < len(known) and await self.get([known[len(rows)]]):
            # Over v3 an error looks like the end of a table (see _refusal): what was there before still is.
            raise SnmpError(f"the walk of {column} was cut short: the device answered an error in its middle")
        return rows

    async def _exchange(self, send: Callable[[], None], receive: Callable[[], _Answer]) -> _Answer:
        """Send until an answer to it comes; raise SnmpError, or StopAsyncIteration where a walk is at its end."""
        for _ in range(self._tries):
            try:
                send()
                return await self._await_answer(receive)
            except TimeoutError as error:
                if str(error):  # the library's, of a port that is closed
                    raise self._nobody() from None
            except SnmpAuthError:
                raise RefusedError(
                    "the device refuses the user, its authentication key or its level "
                    "(unknown user, wrong digest, or it wants privacy, or has none for this user)"
                ) from None
            except LibraryError as error:
                raise SnmpError(f"an answer that cannot be read: {error}") from None
            except OSError as error:
                raise NoAnswerError(f"{self._target}: {error.strerror or error}") from None
        hint = ", or a wrong privacy key" if self._user is not None and self._user.privacy else ""
        hint = hint if self._user is not None else ", or a wrong community"
        raise NoAnswerError(
            f"no answer from {self._target} within {self._timeout:g} s, asked {self._tries} times "
            f"(down, filtered{hint})"
        )

    async def _await_answer(self, receive: Callable[[], _Answer]) -> _Answer:
        """Raise TimeoutError without a message when nothing acceptable came in time."""
        deadline = time.monotonic() + self._timeout
        while True:
            await self._until_readable(deadline)
            refusal = self._refusal()
            try:
                answer = receive()
                if refusal and not answer:
                    raise answered_error(refusal)
                return answer
            except StopAsyncIteration:
                if refusal:
                    raise answered_error(refusal) from None
                raise
            except BlockingIOError:  # an answer to an earlier request, or to none: go on waiting
                continue
            except RuntimeError as error:  # of a value whose bytes are none of its type
                raise SnmpError(f"an answer that cannot be read: {error}") from None
            except BaseException as error:
                if type(error).__module__ != _PANICS:
                    raise
                raise SnmpError("an answer that cannot be read: it ends too early, or its lengths are wrong") from None

    def _nobody(self) -> NoAnswerError:
        return NoAnswerError(f"nothing listens at {self._target} (ICMP port unreachable)")

    def _refusal(self) -> str:
        """Name of what the answer that waits says went wrong; the library takes an error for an empty answer.

        Over v3 it is encrypted, so that there an error looks like the end of a table.
        """
        if self._user is not None:
            return ""
        # Its own descriptor, lent: a copy of each would be as many files again.
        lent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 0, self._socket.get_fd())
        try:
            return error_status(lent.recv(_HEAD, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return ""
        except ConnectionRefusedError:  # told but once: what receives would wait
            raise self._nobody() from None
        finally:
            lent.detach()

    async def _until_readable(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        descriptor = self._socket.get_fd()
        if self._watched != descriptor:
            self.close()
            loop.add_reader(descriptor, self._on_readable)
            self._watched = descriptor
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        readable = self._readable = loop.create_future()
        timer = loop.call_later(left, _expire, readable)
        try:
            await readable
        finally:
            timer.cancel()
            self._readable = None

    def _on_readable(self) -> None:
        if self._readable is None:
            # Nobody waits: an answer that came late. Looked at with the next request, not again and again until then.
            self.close()
        elif not self._readable.done():
            self._readable.set_result(None)


def _expire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


@cache
def _master_key(protocol: str, password: str) -> bytes:
    """The key of a password, before it is bound to an engine: a hash over a mebibyte (RFC 3414, A.2), made once."""
    return _AUTHENTICATION[protocol].get_master_key(password.encode())


@cache
def _library_user(user: User) -> LibraryUser:
    if user.authentication is None:
        return LibraryUser(user.name)
    kind = _AUTHENTICATION[user.authentication]
    authentication = kind(_master_key(user.authentication, user.authentication_key), KeyType.Master)
    if user.privacy is None:
        return LibraryUser(user.name, auth_key=authentication)
    privacy = _PRIVACY[user.privacy](_master_key(user.authentication, user.privacy_key), KeyType.Master)
    return LibraryUser(user.name, auth_key=authentication, priv_key=privacy)
