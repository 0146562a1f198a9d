"""Answers RDMA probes: from one queue pair of each device, to whoever has been introduced."""

from __future__ import annotations

from collections import OrderedDict

from exporter.contracts.catalogue import RDMA, RDMA_ANSWERED, RDMA_LIMITED, RDMA_REJECTED, RDMA_REPLAYED
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import LATE, MARKED, REPLY, REQUEST, Codec, Packet
from exporter.probing.responder import Streams
from exporter.rdma.device import CHAIN, Arrival, Device, Handle, Message
from exporter.rdma.verbs import PyverbsRDMAError
from exporter.store import RowWriter

RECEIVES = 1024
STARVED_NS = 200_000
"""The process was busy for longer than this: what it finds may have arrived at any time of it. No other clock tells."""
CONGESTED = 3
"""Both ECN bits: a queue on the way was congested (CE, RFC 3168)."""
_PEERS = 65_536
_ANSWERED = RDMA.metrics.index(RDMA_ANSWERED)
_REJECTED = RDMA.metrics.index(RDMA_REJECTED)
_REPLAYED = RDMA.metrics.index(RDMA_REPLAYED)
_LIMITED = RDMA.metrics.index(RDMA_LIMITED)


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
        self._introduced: OrderedDict[str, None] = OrderedDict()
        self._pair = device.pair(RECEIVES)
        self.queue_pair = self._pair.number

    def introduce(self, address: str) -> None:
        """It has just asked for us, so its next hop is known here."""
        self._introduced[address] = None
        self._introduced.move_to_end(address)
        if len(self._introduced) > _PEERS:
            self._introduced.popitem(last=False)

    def answer(self, arrivals: list[Arrival], arrived_ns: int) -> None:
        """Answer those that are requests under our key. ``arrived_ns``: monotonic, when they were found."""
        late = self._loop.clock() - self._loop.awake_since_ns > STARVED_NS
        messages: list[Message] = []
        for arrival in arrivals:
            request = self._codec.parse(arrival.data)
            if request is None or request.kind != REQUEST or arrival.source not in self._introduced:
                self._book(_REJECTED)
            elif not self._limit.allows(arrival.source):
                self._book(_LIMITED)
            else:
                message = self._reply(arrival, request, arrived_ns, late)
                if message is not None:
                    messages.append(message)
        while messages:
            count = min(CHAIN, self._pair.room, len(messages))
            if not count:
                return  # the send queue is full: the probers see these as lost on the way back
            self._pair.send(messages[:count])
            self._book(_ANSWERED, count)
            del messages[:count]

    def _reply(self, arrival: Arrival, request: Packet, arrived_ns: int, late: bool) -> Message | None:
        counted = self._streams.count(arrival.source, request.token, request.sequence)
        if counted is None:
            self._book(_REPLAYED)
            return None
        answered, stream = counted
        try:
            handle = self._device.handle(arrival.source, arrival.traffic_class & ~1, request.token & 0x3FFF)
        except PyverbsRDMAError:
            return None  # its next hop has gone since it asked: it will ask again
        delay = max(self._loop.clock() - arrived_ns, 0)
        marked = arrival.traffic_class & CONGESTED == CONGESTED
        kind = REPLY | (LATE if late else 0) | (MARKED if marked else 0)
        sealed = self._codec.reply(request, stream, self._epoch, answered, delay, kind)
        return Handle(handle, arrival.queue_pair), sealed

    def _book(self, column: int, times: int = 1) -> None:
        self._counters.begin()
        self._counters.add(column, times)
        self._counters.end()
