"""An SNMP v2c agent without a socket: a datagram in, a datagram out, and what may be wrong with that."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import chain

from lab.switches import ber
from lab.switches.ber import Oid, Request
from lab.switches.walk import UPTIME, Walk

_UPTIME_WRAPS = 1 << 32


class Agent:
    """Answers from a walk as RFC 3416 says; a test may set any of the attributes at any time, from any thread.

    ``max_bytes`` is the longest answer: a GETBULK gets as many varbinds as fit, a GET or GETNEXT ``tooBig``.
    ``max_varbinds`` holds for a GETBULK, as devices have it that limit the repetitions they are asked for.
    sysUpTime.0, where the walk has it, advances with ``clock`` from its recorded value, and moving counters with it.
    """

    def __init__(
        self,
        walk: Walk,
        community: bytes = b"public",
        max_varbinds: int | None = None,
        max_bytes: int = 1472,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.walk = walk
        self.community = community
        self.max_varbinds = max_varbinds
        self.max_bytes = max_bytes

        self.requests = 0
        """Requests with the right community so far."""

        self.delay = 0.0
        """Seconds until an answer is sent. ``answer`` itself does not wait: who serves the agent does."""
        self.drop: float | Callable[[bytes], bool] = 0.0
        """Probability that a request is lost, or who decides it of each."""
        self.loop_at: Oid | None = None
        """The walk goes back after this OID, if it has it: to ``loop_to``, or to the OID before it."""
        self.loop_to: Oid | None = None
        """Where ``loop_at`` leads; the same OID as ``loop_at`` is repeated for ever."""
        self.truncate: int | None = None
        """Send this many bytes of each answer."""
        self.error_status = 0
        """Answer with this error (5 is genErr) and the names asked for."""
        self.wrong_request_id = False
        """Answer with an id that was not asked with."""
        self.corrupt: Callable[[bytes], bytes] | None = None
        """What happens to each answer on its way."""
        self.restart_after: int | None = None
        """Restart once after so many more requests."""

        self._random = random.Random(0)
        self._clock = clock
        self._moving_since = self._up_since = clock()
        recorded = walk.get(UPTIME) if UPTIME in walk else 0
        self.uptime = recorded if isinstance(recorded, int) else 0

    @property
    def uptime(self) -> int:
        """sysUpTime in hundredths of a second. May be set."""
        return self._ticks(self._clock())

    @uptime.setter
    def uptime(self, ticks: int) -> None:
        self._up_since = self._clock() - ticks / 100

    def restart(self) -> None:
        """Reboot: uptime and counters begin at 0."""
        with self.walk.lock:
            self._moving_since = self._up_since = self._clock()
            self.walk.clear_counters()

    def answer(self, datagram: bytes) -> bytes | None:
        """The answer to a datagram, None for none: it is lost, cannot be read, or has another community."""
        try:
            request = ber.decode_request(datagram)
            if request.version != ber.VERSION_2C or request.community != self.community:
                return None
            self.requests += 1
            if self.drop and self._lost(datagram):
                return None
            if self.restart_after is not None:
                self._count_down()
            with self.walk.lock:
                now = self._clock()
                self.walk.advance_to(now - self._moving_since, self._ticks(now))
                response = self._respond(request)
        except ValueError:
            return None
        if self.corrupt:
            response = self.corrupt(response)
        return response if self.truncate is None else response[: self.truncate]

    def _ticks(self, now: float) -> int:
        # Rounded: a clock of floats may be a little short of the hundredth that was set.
        return round((now - self._up_since) * 100) % _UPTIME_WRAPS

    def _lost(self, datagram: bytes) -> bool:
        return self.drop(datagram) if callable(self.drop) else self._random.random() < self.drop

    def _count_down(self) -> None:
        if self.restart_after == 0:
            self.restart()
            self.restart_after = None
        elif self.restart_after is not None:
            self.restart_after -= 1

    def _respond(self, request: Request) -> bytes:
        request_id = request.request_id
        if self.wrong_request_id:  # another one that still has 31 bits
            request_id ^= 1
        if self.error_status:
            named = b"".join(ber.encode_varbind(name, b"\x05\x00") for name in request.names)
            return ber.encode_response(self.community, request_id, named, self.error_status, 1)
        if request.kind == ber.GET_BULK:
            varbinds = self._bulk(request)
        elif request.kind == ber.GET_NEXT:
            varbinds = [self._following(name, 1)[0] for name in request.names]
        else:
            varbinds = [self._get(name) for name in request.names]
        body = b"".join(varbinds)
        response = ber.encode_response(self.community, request_id, body)
        excess = len(response) - self.max_bytes
        if excess <= 0:
            return response
        if request.kind != ber.GET_BULK:
            return ber.encode_response(self.community, request_id, b"", ber.TOO_BIG)
        length = len(body)
        while excess > 0 and varbinds:
            dropped = len(varbinds.pop())
            length -= dropped
            excess -= dropped
        return ber.encode_response(self.community, request_id, body[:length])

    def _get(self, name: bytes) -> bytes:
        position = self.walk.at(name)
        if position is not None:
            return self.walk.varbinds(position, position + 1)[0]
        # A walk does not say which objects there are. One is known by a sibling of the instance that is asked for, or
        # by what is below the name, as when a scalar is asked for without its .0.
        oid = ber.decode_oid(name)
        first, last = self.walk.below(oid[:-1])
        return ber.encode_varbind(name, ber.NO_SUCH_INSTANCE if first < last else ber.NO_SUCH_OBJECT)

    def _bulk(self, request: Request) -> list[bytes]:
        once = min(max(request.non_repeaters, 0), len(request.names))
        # No more are made than can be sent, whatever is asked for.
        repetitions = min(max(request.max_repetitions, 0), self.max_bytes // ber.SMALLEST_VARBIND)
        names = request.names[once:]
        varbinds = [self._following(name, 1)[0] for name in request.names[:once]]
        if names and repetitions:
            columns = [self._following(name, repetitions) for name in names]
            if len(columns) == 1:
                varbinds += columns[0]
            else:
                rows = max(map(len, columns))
                # Those that have ended repeat their end until all have.
                filled = [column + column[-1:] * (rows - len(column)) for column in columns]
                varbinds += chain.from_iterable(zip(*filled, strict=True))
        if self.max_varbinds is not None:
            del varbinds[self.max_varbinds :]
        return varbinds

    def _following(self, name: bytes, count: int) -> list[bytes]:
        """So many varbinds that follow a name; where the walk ends, what says so is the last."""
        walk = self.walk
        first = walk.after(name)
        if self.loop_at is not None and self.loop_at in walk:
            return self._around(walk.after(ber.encode_oid(self.loop_at)), first, count, name)
        varbinds = walk.varbinds(first, first + count)
        if len(varbinds) < count:
            last = walk.name(first + len(varbinds) - 1) if varbinds else name
            varbinds.append(ber.encode_varbind(last, ber.END_OF_MIB_VIEW))
        return varbinds

    def _around(self, turn: int, position: int, count: int, name: bytes) -> list[bytes]:
        """As ``_following``, from a position, in a walk that goes back instead of reaching ``turn``."""
        walk = self.walk
        back = turn - 2 if self.loop_to is None else walk.after(ber.encode_oid(self.loop_to)) - 1
        varbinds = []
        for _ in range(count):
            if position == turn:
                position = max(back, 0)
            if position >= len(walk):
                varbinds.append(ber.encode_varbind(name, ber.END_OF_MIB_VIEW))
                break
            varbinds += walk.varbinds(position, position + 1)
            name = walk.name(position)
            position += 1
        return varbinds
