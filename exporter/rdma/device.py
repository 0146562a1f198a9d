"""An RDMA device opened for probing: queue pairs for datagrams (UD), one completion queue, and what arrives on it.

Source: libibverbs' manual pages, and the InfiniBand Architecture's annex 17 (RoCEv2). Traps of pyverbs: its calls hold
the interpreter's lock; work requests leak unless closed, so all are made once; CompChannel has no ``fd`` before
rdma-core 57.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import mmap
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from exporter.rdma.ports import PORT, PortState, VerbsError, gid_of
from exporter.rdma.verbs import (
    AH,
    CQ,
    GID,
    MR,
    PD,
    QP,
    SGE,
    AHAttr,
    CompChannel,
    Context,
    GlobalRoute,
    PyverbsError,
    PyverbsRDMAError,
    QPAttr,
    QPCap,
    QPInitAttr,
    RecvWR,
    SendWR,
    constants,
)

QKEY = 0x46534B50
"""Of all our queue pairs; the top bit is clear, as a process without privilege needs it."""
MESSAGE_BYTES = 64
"""What a message carries, sent inline: the buffer is free again once it is posted."""
GLOBAL_ROUTE_BYTES = 40
"""Room before each received message; of RoCEv2 over IPv4 its second half is the IPv4 header."""
HOP_LIMIT = 64
CHAIN = 32
"""Messages posted with one call."""
_SLOT_BYTES = 128
_CHAINS = 4
_HANDLES = 16_384
_COMPLETIONS = 64


class Arrival(NamedTuple):
    """A message, and what its headers say."""

    pair: int
    """Number of our queue pair."""
    data: bytes
    source: str
    """Address of the sender."""
    queue_pair: int
    """Number of its queue pair."""
    traffic_class: int
    hop_limit: int


class Handle(NamedTuple):
    """Whom to send to: an address handle of the device, and a queue pair there."""

    address: AH
    queue_pair: int


Message = tuple[Handle, bytes]


class QueuePair:
    """One UD queue pair: what its messages have in common is their UDP source port, which the device derives.

    Messages wait here while the send queue is full, oldest first, ``_BACKLOG`` at most.
    """

    def __init__(self, device: Device, receives: int) -> None:
        self._device = device
        domain, queue = device.domain, device.queue
        cap = QPCap(
            max_send_wr=CHAIN * _CHAINS,
            max_recv_wr=receives,
            max_send_sge=1,
            max_recv_sge=1,
            max_inline_data=MESSAGE_BYTES,
        )
        state = QPAttr(port_num=PORT)
        state.qkey, state.pkey_index, state.sq_psn = QKEY, 0, 0
        kind = QPInitAttr(qp_type=constants.IBV_QPT_UD, scq=queue, rcq=queue, cap=cap, sq_sig_all=0)
        self._pair = QP(domain, kind, state)
        self.number: int = self._pair.qp_num
        self._memory = mmap.mmap(-1, -(-(receives + CHAIN) * _SLOT_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._region = MR(domain, len(self._memory), constants.IBV_ACCESS_LOCAL_WRITE, address=start)
        key = self._region.lkey
        self._pieces = [SGE(start + slot * _SLOT_BYTES, _SLOT_BYTES, key) for slot in range(receives)]
        self._receives = [RecvWR(wr_id=slot, num_sge=1, sg=[piece]) for slot, piece in enumerate(self._pieces)]
        for receive in self._receives:
            self._pair.post_recv(receive)
        self._sends_at = receives * _SLOT_BYTES
        sending = [SGE(start + self._sends_at + slot * _SLOT_BYTES, MESSAGE_BYTES, key) for slot in range(CHAIN)]
        self._pieces += sending
        self._sends = [
            SendWR(
                wr_id=receives + slot,
                opcode=constants.IBV_WR_SEND,
                num_sge=1,
                sg=[piece],
                send_flags=constants.IBV_SEND_INLINE | (constants.IBV_SEND_SIGNALED if slot == CHAIN - 1 else 0),
            )
            for slot, piece in enumerate(sending)
        ]
        # A chain cannot be cut: to send m messages, its last m requests are filled and posted.
        for request, following in zip(self._sends, self._sends[1:], strict=False):
            request.next_wr = following
        self._posted: deque[int] = deque()  # how many messages each chain under way has
        self._free = CHAIN * _CHAINS

    @property
    def room(self) -> int:
        """Messages that can be posted now."""
        return self._free

    def send(self, messages: Sequence[Message]) -> None:
        """Post ``messages``, ``CHAIN`` and ``room`` at most; raise PyverbsRDMAError, as when the device is gone."""
        first = CHAIN - len(messages)
        for slot, (handle, data) in enumerate(messages, first):
            at = self._sends_at + slot * _SLOT_BYTES
            self._memory[at : at + MESSAGE_BYTES] = data
            self._sends[slot].set_wr_ud(handle.address, handle.queue_pair, QKEY)
        self._pair.post_send(self._sends[first])
        self._posted.append(len(messages))
        self._free -= len(messages)

    def on_sent(self) -> None:
        """The chain that was posted first has left."""
        if self._posted:
            self._free += self._posted.popleft()

    def take(self, slot: int, queue_pair: int) -> Arrival:
        """What arrived in ``slot``, which receives again from now on."""
        start = slot * _SLOT_BYTES
        raw = self._memory[start : start + GLOBAL_ROUTE_BYTES + MESSAGE_BYTES]
        self._pair.post_recv(self._receives[slot])
        data = raw[GLOBAL_ROUTE_BYTES:]
        if raw[20] >> 4 == 4:  # RoCEv2 over IPv4; over IPv6 the whole is the header, whose source never looks so
            return Arrival(self.number, data, _ipv4(raw[32:36]), queue_pair, raw[21], raw[28])
        source = str(ipaddress.IPv6Address(raw[8:24]))
        return Arrival(self.number, data, source, queue_pair, (raw[0] & 0xF) << 4 | raw[1] >> 4, raw[7])

    def is_receive(self, identifier: int) -> bool:
        return identifier < len(self._receives)

    def close(self) -> None:
        self._pair.close()
        self._region.close()
        for request in (*self._sends, *self._receives):
            request.close()
        for piece in self._pieces:
            piece.close()


class Device:
    """An opened device. ``close`` it before it is opened again.

    ``fileno`` is readable when something completed; ``arrivals`` then says what arrived.
    """

    def __init__(self, name: str, port: PortState, completions: int = 4096) -> None:
        """Raise VerbsError, which names the device, what it lacks and the remedy."""
        self.name = name
        self.port = port
        self.failures = 0
        """Messages that the device refused to send, or to deliver."""
        self._pairs: dict[int, QueuePair] = {}
        self._handles: OrderedDict[tuple[str, int, int], AH] = OrderedDict()
        self.has_more = False
        """Whether the last look found as much as one may."""
        self._closing: list[Any] = []
        try:
            self._open(completions)
        except PyverbsError as error:
            self.close()
            raise VerbsError(explain(name, error)) from error

    def _open(self, completions: int) -> None:
        self._context = self._keep(Context(name=self.name))
        self.domain = self._keep(PD(self._context))
        before = _channels()
        self._channel = self._keep(CompChannel(self._context))
        self._descriptor: int = (_channels() - before).pop()
        os.set_blocking(self._descriptor, False)
        most: int = self._context.query_device().max_cqe
        self.queue = self._keep(CQ(self._context, min(completions, most), None, self._channel, 0))
        self.queue.req_notify()

    def _keep(self, made: Any) -> Any:  # pyverbs has no types
        self._closing.append(made)
        return made

    def fileno(self) -> int:
        return self._descriptor

    def pair(self, receives: int = 64) -> QueuePair:
        """A new queue pair; raise VerbsError."""
        try:
            made = QueuePair(self, receives)
        except PyverbsError as error:
            raise VerbsError(explain(self.name, error)) from error
        self._pairs[made.number] = made
        return made

    def forget(self, pair: QueuePair) -> None:
        del self._pairs[pair.number]
        pair.close()

    def handle(self, address: str, traffic_class: int, flow_label: int) -> AH:
        """The address handle for these; raise PyverbsRDMAError.

        To make one, the kernel resolves the next hop: where no neighbour entry is there yet, that stands still for a
        second (rdma_resolve_ip). Whoever calls has exchanged packets with the address just before. Devices whose source
        port is not of the queue pair derive it from the flow label (rdma_flow_label_to_udp_sport in the kernel).
        """
        key = (address, traffic_class, flow_label)
        made = self._handles.get(key)
        if made is None:
            route = GlobalRoute(
                dgid=GID(gid_of(address)),
                sgid_index=self.port.gid_index,
                hop_limit=HOP_LIMIT,
                traffic_class=traffic_class,
                flow_label=flow_label,
            )
            made = self._handles[key] = AH(self.domain, attr=AHAttr(port_num=PORT, is_global=1, gr=route))
            if len(self._handles) > _HANDLES:
                self._handles.popitem(last=False)[1].close()
        else:
            self._handles.move_to_end(key)
        return made

    def forget_handles(self, address: str) -> None:
        """Resolve the next hop of an address anew when it is next sent to: that may be another by now."""
        for key in [key for key in self._handles if key[0] == address]:
            self._handles.pop(key).close()

    def arrivals(self) -> list[Arrival]:
        """What has arrived since, ``_COMPLETIONS`` at most: when it is as many, there may be more."""
        try:
            self._channel.get_cq_event(self.queue)
            self.queue.ack_events(1)
        except PyverbsRDMAError:  # EAGAIN: none
            pass
        self.queue.req_notify()  # before the look, or what completes between the two would wake nobody
        return self.look()

    def look(self) -> list[Arrival]:
        """As ``arrivals``, without an event to take."""
        found: list[Arrival] = []
        count, completions = self.queue.poll(_COMPLETIONS)
        for completion in completions if count else ():
            pair = self._pairs.get(completion.qp_num)
            if pair is None:
                continue  # closed meanwhile
            if completion.status != constants.IBV_WC_SUCCESS:
                self.failures += 1
            if not pair.is_receive(completion.wr_id):
                pair.on_sent()
            elif completion.status == constants.IBV_WC_SUCCESS:
                if completion.byte_len == GLOBAL_ROUTE_BYTES + MESSAGE_BYTES:
                    found.append(pair.take(completion.wr_id, completion.src_qp))
                else:
                    pair.take(completion.wr_id, completion.src_qp)
        self.has_more = count == _COMPLETIONS
        return found

    def close(self) -> None:
        for pair in self._pairs.values():
            _quietly(pair.close)
        for handle in self._handles.values():
            _quietly(handle.close)
        for made in reversed(self._closing):
            _quietly(made.close)
        self._pairs.clear()
        self._handles.clear()
        self._closing.clear()


def _quietly(close: Callable[[], None]) -> None:
    """What a device that is gone says of being closed helps nobody."""
    with suppress(PyverbsError):
        close()


def _ipv4(octets: bytes) -> str:
    return f"{octets[0]}.{octets[1]}.{octets[2]}.{octets[3]}"


def explain(name: str, error: PyverbsError) -> str:
    """What a failure to open or to use a device means, and the remedy."""
    code: int = getattr(error, "error_code", None) or 0
    known = {
        errno.EACCES: "the exporter may not open /dev/infiniband/uverbs*: run it in the group that owns them",
        errno.EPERM: "the exporter may not open /dev/infiniband/uverbs*: run it in the group that owns them",
        errno.ENOMEM: "no memory may be pinned: raise memlock (ulimit -l, LimitMEMLOCK=infinity)",
        errno.EBUSY: "the device is busy: another process holds what there is only one of",
        errno.ENODEV: "the device has gone",
        errno.ENOENT: "/dev/infiniband is not there: give it to the container",
        errno.EMFILE: "too many open files: raise ulimit -n",
    }
    return f"RDMA device {name}: {known.get(code, 'cannot be used')} ({error})"


def _channels() -> set[int]:
    """Descriptors of this process that completion and device events come from."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").endswith("[infinibandevent]"):
                found.add(int(name))
        except OSError:  # that of the listing itself
            continue
    return found
