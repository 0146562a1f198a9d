"""One trace as a state machine: hop limit after hop limit until the destination answers, or too many hops are silent.

It knows neither packets nor sockets: whoever traces gives it a way to ask and tells it what came back. One hop is asked
at a time: a router may quote as little as 8 bytes of what it dropped (RFC 792), too few to tell two outstanding hops
apart, and one at a time is gentle with the control plane that answers.
"""

from __future__ import annotations

from collections.abc import Callable

from exporter.probing.loop import LATEST_NS, Loop, Timer

HOP_TIMEOUT_SECONDS = 0.3
_ATTEMPTS = 2
_SILENT_HOPS_GIVEN_UP = 3
_GRACE_SECONDS = 0.1
"""After a stall, for the answers that wait in sockets: they are read before a hop is taken for silent."""


class Walk:
    """A trace under way: ``hops`` holds the addresses that answered so far in order, None for silence.

    ``rtts_ns`` holds the round trip to each of them and at last to the destination, None where nobody knows it.

    ``ask(hop_limit)`` sends a packet with that hop limit and returns 0, or the seconds after which the walk may ask for
    that again; where it raises OSError the walk ends. Answers come later, to ``on_hop`` and ``on_destination``: never
    out of ``ask``. ``on_end`` is called once, unless the walk is stopped before.
    """

    __slots__ = (
        "_ask", "_asked", "_is_out", "_last", "_loop", "_max_hops", "_number", "_on_end", "_timer",
        "ended", "hops", "reached", "rtts_ns", "unreachable_from",
    )  # fmt: skip

    def __init__(
        self,
        loop: Loop,
        ask: Callable[[int], float],
        on_end: Callable[[Walk], None],
        *,
        max_hops: int,
        last: frozenset[str] = frozenset(),
    ) -> None:
        """``last`` holds the addresses of routers behind which the destination is, where it does not answer itself."""
        self.hops: list[str | None] = []
        self.rtts_ns: list[int | None] = []
        self.reached = False
        """Whether the destination answered, which is no hop of its own; or a router of ``last``."""
        self.unreachable_from: str | None = None
        """The router that ended the walk: it knows no way to the destination."""
        self.ended = False
        self._loop = loop
        self._ask = ask
        self._on_end = on_end
        self._max_hops = max_hops
        self._last = last
        self._asked = 0  # of the hop under way
        self._is_out = False  # whether a packet of that hop may still be answered
        self._timer: Timer | None = None
        self._number = 0  # of the timer: one of the slot under way cannot be cancelled, and must not count

    @property
    def complete(self) -> bool:
        """Whether every hop up to the destination is known."""
        return self.reached and None not in self.hops

    def start(self) -> None:
        self._send()

    def stop(self) -> None:
        """End without a word: nobody wants the rest."""
        self.ended = True
        self._cancel()

    def on_hop(self, address: str, rtt_ns: int | None = None) -> None:
        """A router says that the packet of the hop under way ended there; while none was sent, it is of one before."""
        if not self.ended and self._asked:
            self._advance(address, rtt_ns)

    def on_destination(self, rtt_ns: int | None = None) -> None:
        """The destination itself answered the packet of the hop under way."""
        if not self.ended:
            self.reached = True
            self.rtts_ns.append(rtt_ns)
            self._end()

    def on_unreachable(self, address: str) -> None:
        """A router, not always that of the hop under way, says that no way leads on."""
        if not self.ended:
            self.unreachable_from = address
            self._end()

    def give_way(self) -> None:
        """What was asked can be answered no more, for the sender needed its port: as if its time were up."""
        if not self.ended and self._is_out:
            self._on_silence()

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._cancel()
        number = self._number
        self._timer = self._loop.after(seconds, lambda: action() if number == self._number else None)

    def _cancel(self) -> None:
        self._number += 1
        if self._timer is not None:
            self._loop.cancel(self._timer)

    def _send(self) -> None:
        try:
            wait = self._ask(len(self.hops) + 1)
        except OSError:
            self._end()
            return
        if wait > 0:
            self._after(wait, self._send)
            return
        self._asked += 1
        self._is_out = True
        self._after(HOP_TIMEOUT_SECONDS, self._on_timeout)

    def _on_timeout(self) -> None:
        if self._loop.late_ns > LATEST_NS:
            self._after(_GRACE_SECONDS, self._on_timeout)
        else:
            self._on_silence()

    def _on_silence(self) -> None:
        self._is_out = False
        self._cancel()
        if self._asked < _ATTEMPTS:
            self._send()
        else:
            self._advance(None)

    def _advance(self, address: str | None, rtt_ns: int | None = None) -> None:
        self._cancel()
        self.hops.append(address)
        self.rtts_ns.append(rtt_ns)
        self._asked, self._is_out = 0, False
        self.reached = address in self._last
        gave_up = self.hops[-_SILENT_HOPS_GIVEN_UP:] == [None] * _SILENT_HOPS_GIVEN_UP
        if self.reached or gave_up or len(self.hops) >= self._max_hops:
            self._end()
        else:
            self._send()

    def _end(self) -> None:
        self.stop()
        self._on_end(self)
