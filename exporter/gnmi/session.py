"""One switch: subscribe, keep what it tells in its rows, subscribe again when that ends.

The only part of this package that speaks gRPC. Each subscription is a stream of its own on one connection: a switch
that refuses one, since it has no such table, serves the others all the same.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from exporter.gnmi import proto
from exporter.gnmi.coverage import coverage, signals_in
from exporter.gnmi.messages import MessageError, encodings_of, request_of, response_of
from exporter.gnmi.openconfig import OPENCONFIG
from exporter.gnmi.rows import SwitchRows
from exporter.gnmi.settings import TargetSettings
from exporter.gnmi.sonic import SONIC
from exporter.gnmi.tree import Names, Tree, Wanted

INTERVALS_OF_SILENCE = 3
"""After which values are too old, and a switch that told none is connected to anew."""
_INTERVALS_OF_A_STREAM = 2  # after which a stream that spoke is asked for anew: before its values are too old
MOST_MESSAGE_BYTES = 8 << 20
_MOST_MESSAGES_A_SECOND = 5000
_MOST_BYTES_A_SECOND = 16 << 20
_LEAVES_A_MESSAGE = 200
_CHANGES_A_MESSAGE = 10
_CONNECT_SECONDS = 10.0
_REFUSED_SECONDS = 600.0  # until a refused subscription is tried again: somebody may have switched it on
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0
_PROBLEM_LETTERS = 200
_DIALECTS = {dialect.profile: dialect for dialect in (SONIC, OPENCONFIG)}
_OPTIONS = (
    ("grpc.max_receive_message_length", MOST_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    # Connections that failed before are no reason to wait: this module has its own delays.
    ("grpc.use_local_subchannel_pool", 1),
)
# What a switch says of one subscription alone: the others may do.
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
}


class SwitchError(Exception):
    """Why a switch tells nothing, in one line without secrets."""


async def follow(target: TargetSettings, rows: SwitchRows, pause: Callable[[float], Any] = asyncio.sleep) -> None:
    """Subscribe to a switch for ever; ``pause`` waits for a number of seconds."""
    switch = _Switch(target, rows)
    # A phase from the name spreads the first connections, and the samples with them, over a second.
    await pause(zlib.crc32(target.name.encode()) / 2**32)
    delay, said = _FIRST_DELAY, ""
    while True:
        rows.begin()
        try:
            await switch.serve()
        except SwitchError as error:
            problem = str(error)
        switch.fail()
        if switch.lasted:
            delay, said = _FIRST_DELAY, ""
        if problem != said:
            print(f"switch {target.name} ({target.endpoint}): {problem}", file=sys.stderr, flush=True)
            said = problem
        await pause(delay * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnections, hides nothing
        delay = min(delay * 2, _LONGEST_DELAY)


class _Switch:
    def __init__(self, target: TargetSettings, rows: SwitchRows) -> None:
        self._target = target
        self._rows = rows
        self._dialect = _DIALECTS[target.dialect]
        self._names = Names(target.name, target.ports)
        self._metadata = [
            (name, value)
            for name, value in (("username", target.username), ("password", target.password))
            if value is not None
        ]
        self._before: set[str] = set()
        self._refused_before: set[str] = set()
        self.lasted = False
        """Whether the last ``serve`` had values for a while: what ended it is news then."""

    async def serve(self) -> None:
        """Follow the switch over one connection; raise SwitchError when that has ended."""
        self.lasted = False
        self._tree = Tree()
        self._began = self._heard = time.monotonic()
        self._heard_at: float | None = None
        self._settled: set[str] = set()
        self._told: set[str] = set()
        self._refused: set[str] = set()
        self._changed = False
        self._left_out = 0
        self._allowance = _Allowance(self._target.interval_seconds)
        async with _channel(self._target) as channel:
            encoding, version = await self._capabilities(channel)
            wanted = self._dialect.subscriptions(self._target.interval_seconds)
            at_once = sum(each.after is None for each in wanted)
            try:
                async with asyncio.TaskGroup() as group:
                    for each in wanted:
                        group.create_task(self._stream(channel, each, encoding, at_once))
                    group.create_task(self._write(version, {each.name for each in wanted}))
            except* SwitchError as errors:
                first: BaseException = errors
                while isinstance(first, BaseExceptionGroup):
                    first = first.exceptions[0]
                problem = str(first)
            raise SwitchError(problem)

    def fail(self) -> None:
        self._rows.fail()
        before = self._before or self._dialect.signals
        self._rows.cover(coverage(self._dialect, (), before, ()))

    async def _capabilities(self, channel: grpc.aio.Channel) -> tuple[int, str]:
        """(Encoding to ask for, version of gNMI). A switch that does not answer the question is asked for JSON_IETF."""
        ask = channel.unary_unary(proto.CAPABILITIES)
        request = proto.CapabilityRequest().SerializeToString()
        try:
            encodings, version = encodings_of(
                await ask(request, timeout=_CONNECT_SECONDS, metadata=self._metadata or None)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() not in (*_REFUSALS, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL):
                raise SwitchError(self._reason(error)) from error
            return proto.JSON_IETF, ""
        except MessageError as error:
            raise SwitchError(str(error)) from error
        known = [encoding for encoding in (proto.JSON_IETF, proto.PROTO, proto.JSON) if encoding in encodings]
        said = version if len(version) <= 32 and version.isascii() and version.isprintable() else ""
        return (known or [proto.JSON_IETF])[0], f"gNMI {said}" if said else ""

    async def _stream(self, channel: grpc.aio.Channel, wanted: Wanted, encoding: int, at_once: int) -> None:
        if wanted.after is not None:
            self._settled.add(wanted.name)  # nothing waits for it
            while not self._tree.tells(wanted.after):
                await asyncio.sleep(min(1.0, wanted.interval_seconds))
        while True:
            try:
                await self._read(channel, wanted, encoding)
            except grpc.aio.AioRpcError as error:
                self._note_refusal(error, wanted, at_once)
                await asyncio.sleep(_REFUSED_SECONDS)
                self._refused.discard(wanted.name)
            except MessageError as error:
                raise SwitchError(f"sent {self._printable(str(error))}") from error

    def _note_refusal(self, error: grpc.aio.AioRpcError, wanted: Wanted, at_once: int) -> None:
        """Take a stream's end for that of one subscription, or raise SwitchError where it is that of all."""
        self._refused.add(wanted.name)
        self._settled.add(wanted.name)
        if not self._is_refusal(error, wanted) or len(self._refused) >= at_once:
            raise SwitchError(self._reason(error)) from error
        if wanted.name not in self._refused_before:
            self._refused_before.add(wanted.name)
            reason = f"refuses {'/'.join(wanted.path)}: {self._reason(error)}"
            print(f"switch {self._target.name}: {reason}", file=sys.stderr, flush=True)

    def _is_refusal(self, error: grpc.aio.AioRpcError, wanted: Wanted) -> bool:
        """Whether it is one subscription's end alone. SONiC gives no status for some tables that it cannot follow."""
        code = error.code()
        return code in _REFUSALS or (code is grpc.StatusCode.UNKNOWN and wanted.name not in self._told)

    async def _read(self, channel: grpc.aio.Channel, wanted: Wanted, encoding: int) -> None:
        """Read one stream until it falls silent; raise AioRpcError, MessageError or SwitchError when it ends."""
        call = channel.stream_stream(proto.SUBSCRIBE)(metadata=self._metadata or None)
        try:
            # The side of the requests stays open: a target takes its end for that of the subscription.
            with suppress(asyncio.InvalidStateError):  # the call has ended already: reading says why
                await call.write(request_of(wanted, encoding).SerializeToString())
            while True:
                # A stream of a table that is empty may say nothing for ever; one that spoke has to go on. Some of
                # SONiC's servers send the first sample alone while a port counts (sonic-buildimage, issue 22201).
                spoke = wanted.name in self._told
                try:
                    async with asyncio.timeout(_INTERVALS_OF_A_STREAM * wanted.interval_seconds if spoke else None):
                        data = await call.read()
                except TimeoutError:
                    return
                if data is grpc.aio.EOF:
                    raise SwitchError(f"ended the stream of {wanted.name}")
                self._take(data, wanted)
        finally:
            call.cancel()

    def _take(self, data: bytes, wanted: Wanted) -> None:
        now = self._heard = time.monotonic()
        self._allowance.take(1, len(data), now)
        notification = response_of(data, wanted.target)
        if notification is None:
            self._settled.add(wanted.name)
            return
        # Each value costs, however small its message; ten of them as much as a message of their own.
        self._allowance.take(len(notification.changes) // _CHANGES_A_MESSAGE, 0, now)
        # A deletion is looked for in all leaves: it costs as much as that many messages.
        self._allowance.take(len(notification.deleted) * (1 + len(self._tree) // _LEAVES_A_MESSAGE), 0, now)
        until = now + INTERVALS_OF_SILENCE * wanted.interval_seconds
        try:
            told = self._tree.apply(self._dialect, notification, until)
        except ValueError as error:
            raise MessageError(str(error)) from error
        self._changed = True
        if told:
            self._told.add(wanted.name)
            self._settled.add(wanted.name)
            self._heard_at = time.time()
            self.lasted |= now - self._began > INTERVALS_OF_SILENCE * self._target.interval_seconds

    async def _write(self, version: str, names: set[str]) -> None:
        """Write down what is known, once all streams have begun; raise SwitchError after a long silence."""
        interval = self._target.interval_seconds
        silence = INTERVALS_OF_SILENCE * interval
        connected = False
        while True:
            await asyncio.sleep(min(1.0, interval / 4))
            now = time.monotonic()
            if now - self._heard > silence:
                raise SwitchError(f"said nothing for {silence:g} s")
            # Names of ports are in a stream of their own: before it has told them, rows would be called otherwise.
            if self._settled < names and now - self._began < silence:
                continue
            held = len(self._tree)
            leaves = self._tree.values(now)
            if not self._changed and len(leaves) == held:
                continue
            self._changed = False
            if not connected:
                connected = True
                self._rows.connected(now - self._began, self._dialect.profile, version)
            rows = self._dialect.rows(leaves, self._names)
            self._note_left_out(self._rows.put(rows, len(leaves), self._heard_at))
            told = signals_in(rows)
            self._before |= told
            disabled = self._dialect.disabled(leaves, self._settled - self._refused)
            self._rows.cover(coverage(self._dialect, told, self._before, disabled))

    def _note_left_out(self, rows: int) -> None:
        left_out = rows + self._tree.refused
        if left_out and not self._left_out:
            print(f"switch {self._target.name}: tells more than there is room for", file=sys.stderr, flush=True)
        self._left_out = left_out

    def _reason(self, error: grpc.aio.AioRpcError) -> str:
        details = self._printable(error.details() or "")
        return f"gRPC status {error.code().name}" + (f": {details}" if details else "")

    def _printable(self, text: str) -> str:
        """A stranger's text, short, printable and without the secrets that it was told."""
        for secret in self._target.secrets:
            text = text.replace(secret, "***")
        text = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * _PROBLEM_LETTERS])
        return text if len(text) <= _PROBLEM_LETTERS else text[:_PROBLEM_LETTERS] + "…"


class _Allowance:
    """What one connection may send, so that a switch run wild takes no other's time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends = 0.0
        self._messages = self._bytes = 0

    def take(self, messages: int, size: int, now: float) -> None:
        """Raise SwitchError when that is too much."""
        if now >= self._ends:
            self._ends = now + self._seconds
            self._messages = self._bytes = 0
        self._messages += messages
        self._bytes += size
        if (
            self._messages > _MOST_MESSAGES_A_SECOND * self._seconds
            or self._bytes > _MOST_BYTES_A_SECOND * self._seconds
        ):
            raise SwitchError("sends more than is read of one switch")


def _channel(target: TargetSettings) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = list(_OPTIONS)
    if target.insecure:
        return grpc.aio.insecure_channel(target.endpoint, options=options)
    if target.tls_name is not None:
        options.append(("grpc.ssl_target_name_override", target.tls_name))
    credentials = grpc.ssl_channel_credentials(target.ca, target.key, target.certificate)
    return grpc.aio.secure_channel(target.endpoint, credentials, options=options)
