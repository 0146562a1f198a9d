"""Answers RDMA probes: from one queue pair of each device, to whoever has been introduced."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import NamedTuple

from exporter.contracts.catalogue import RDMA, RDMA_ANSWERED, RDMA_LIMITED, RDMA_REJECTED, RDMA_REPLAYED
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import LATE, MARKED, REPLY, REQUEST, Codec, Packet
from exporter.probing.responder import Streams
from exporter.rdma.device import MAX_QUEUE_PAIR, STARVED_NS, Arrival, Device, Handle, Message
from exporter.rdma.verbs import PyverbsRDMAError
from exporter.store import RowWriter

RECEIVES = 1024
CONGESTED = 3
"""Both ECN bits: a queue on the way was congested (CE, RFC 3168)."""
_TOGETHER = 16
"""Replies that are sealed, and their delays told, before they are posted with one call."""
_LABEL = 1 << 19
"""Flow label of replies; those of probes are smaller."""
_PEERS = 16_384
_FRESH_NS = 10_000_000_000
_ANSWERED = RDMA.metrics.index(RDMA_ANSWERED)
_REJECTED = RDMA.metrics.index(RDMA_REJECTED)
_REPLAYED = RDMA.metrics.index(RDMA_REPLAYED)
_LIMITED = RDMA.metrics.index(RDMA_LIMITED)


class _Request(NamedTuple):
    arrival: Arrival
    handle: Handle
    packet: Packet
    answered: int
    stream: int
    marked: bool


class RdmaResponder:
    """``streams`` and ``limit`` are shared by all devices of the host; ``counters`` are the RNIC's."""

    def __init__(
        self,
        loop: Loop,
        codec: Codec,
        device: Device,
        epoch: int,
        streams: Streams,
        limit: SourceLimit,
        counters: RowWriter,
    ) -> None:
        self._loop = loop
        self._codec = codec
        self._device = device
        self._epoch = epoch
        self._streams = streams
        self._limit = limit
        self._counters = counters
        self._introduced: OrderedDict[tuple[str, int], int] = OrderedDict()  # (address, class) -> when, monotonic ns
        self._pair = device.pair(RECEIVES)
        self.queue_pair = self._pair.number

    def knows(self, address: str, traffic_class: int) -> bool:
        """Whether it was introduced within the last seconds: whoever asks again may have another next hop."""
        at = self._introduced.get((address, traffic_class))
        return at is not None and self._loop.clock() - at < _FRESH_NS

    def introduce(self, address: str, traffic_class: int) -> None:
        """It has just answered us, so that its next hop is known, and replies to it can be sent."""
        key = (address, traffic_class)
        # Without one its requests are rejected, and it is introduced anew once this is old.
        with suppress(PyverbsRDMAError):
            self._device.make_handle(address, traffic_class, _LABEL)
        self._introduced[key] = self._loop.clock()
        self._introduced.move_to_end(key)
        if len(self._introduced) > _PEERS:
            self._introduced.popitem(last=False)

    def answer(self, arrivals: list[Arrival]) -> None:
        """Answer those that are requests under our key; raise PyverbsRDMAError."""
        requests: list[_Request] = []
        for arrival in arrivals:
            request = self._take(arrival, self._pair.room - len(requests))
            if request is not None:
                requests.append(request)
        for start in range(0, len(requests), _TOGETHER):
            self._send(requests[start : start + _TOGETHER])

    def _take(self, arrival: Arrival, room: int) -> _Request | None:
        packet = self._codec.parse(arrival.data)
        handle = self._device.handle(arrival.source, arrival.traffic_class & ~1, _LABEL)
        if packet is None or packet.kind != REQUEST or handle is None or not 0 < arrival.queue_pair <= MAX_QUEUE_PAIR:
            self._book(_REJECTED)
            return None
        if room <= 0 or not self._limit.allows(arrival.source):
            self._book(_LIMITED)
            return None
        counted = self._streams.count(arrival.source, packet.token, packet.sequence)
        if counted is None:
            self._book(_REPLAYED)
            return None
        marked = arrival.traffic_class & CONGESTED == CONGESTED
        return _Request(arrival, Handle(handle, arrival.queue_pair), packet, *counted, marked)

    def _send(self, requests: list[_Request]) -> None:
        now = self._loop.clock()
        messages = self._sealed(requests, now, 0)
        if self._loop.clock() - now > STARVED_NS:  # the delay that they tell is not what it will have been
            messages = self._sealed(requests, self._loop.clock(), LATE)
        self._pair.send(messages)
        self._book(_ANSWERED, len(messages))

    def _sealed(self, requests: list[_Request], now: int, late: int) -> list[Message]:
        messages: list[Message] = []
        for each in requests:
            kind = REPLY | late | (LATE if each.arrival.is_unsure else 0) | (MARKED if each.marked else 0)
            delay = max(now - each.arrival.at_ns, 0)
            reply = self._codec.reply(each.packet, each.stream, self._epoch, each.answered, delay, kind)
            messages.append((each.handle, reply))
        return messages

    def _book(self, column: int, times: int = 1) -> None:
        self._counters.begin()
        self._counters.add(column, times)
        self._counters.end()
