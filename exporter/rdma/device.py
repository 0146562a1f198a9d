"""An RDMA device opened for probing: queue pairs for datagrams (UD), one completion queue, and what arrives on it.

Source: libibverbs' manual pages, and the InfiniBand Architecture's annex 17 (RoCEv2). Traps of pyverbs: its calls hold
the interpreter's lock; work requests leak unless closed, so all are made once.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import socket
import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from exporter.contracts.plan import MAX_RDMA_SOURCE_PORTS
from exporter.probing.loop import Loop
from exporter.rdma.completions import MOST, Completion, FoundCompletions, open_completions
from exporter.rdma.ports import PORT, PortState, VerbsError, gid_of, is_ipv4_gid, why_closed
from exporter.rdma.verbs import (
    AH,
    CQ,
    CQEX,
    GID,
    MR,
    PD,
    QP,
    SGE,
    AHAttr,
    Context,
    GlobalRoute,
    PyverbsError,
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
"""Messages that can be posted with one call."""
MAX_QUEUE_PAIR = 0xFFFFFF
MAX_PAIRS = MAX_RDMA_SOURCE_PORTS
"""Of a device, for as many source ports: what they may have under way has to fit into one completion queue."""
_SLOT_BYTES = 128
_CHAINS = 4
_RECEIVES = 256
_HANDLES = 16_384
STARVED_NS = 200_000
"""What may have come so long before it was found seems slow: its time is not known, unless the device's clock tells."""
STUCK_NS = 10_000_000_000
"""What was posted has completed after so long. Where a next hop has gone the kernel keeps it for 3 s."""
_SPILL_BYTES = 4096
_IPV4_HEADER = struct.Struct("!10H")


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
    at_ns: int
    """When it came, monotonic."""
    is_unsure: bool
    """That is when it was found; it may have come ``STARVED_NS`` before or more."""


class Handle(NamedTuple):
    """Whom to send to: an address handle of the device, and a queue pair there."""

    address: AH
    queue_pair: int


Message = tuple[Handle, bytes]


class QueuePair:
    """One UD queue pair: what its messages have in common is their UDP source port, which the device derives."""

    def __init__(self, device: Device, receives: int, clock: Callable[[], int]) -> None:
        self._clock = clock
        domain, queue = device.domain, device.queue
        self._over_ipv4 = is_ipv4_gid(device.port.gid)
        cap = QPCap(
            max_send_wr=CHAIN * _CHAINS,
            max_recv_wr=receives,
            max_send_sge=1,
            max_recv_sge=2,
            max_inline_data=MESSAGE_BYTES,
        )
        state = QPAttr(port_num=PORT)
        state.qkey, state.pkey_index, state.sq_psn = QKEY, 0, 0
        kind = QPInitAttr(qp_type=constants.IBV_QPT_UD, scq=queue, rcq=queue, cap=cap, sq_sig_all=0)
        self._closing: list[Any] = []  # pyverbs has no types
        self._receives: list[RecvWR] = []
        self._sends: list[SendWR] = []
        self._sends_at = receives * _SLOT_BYTES
        self._memory = mmap.mmap(-1, (receives + CHAIN) * _SLOT_BYTES + _SPILL_BYTES)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        try:
            self._region = self._keep(MR(domain, len(self._memory), constants.IBV_ACCESS_LOCAL_WRITE, address=start))
            self._pair = self._keep(QP(domain, kind, state))
            self.number: int = self._pair.qp_num
            self._prepare(start, receives)
        except BaseException:
            self.close()
            raise
        self._posted: deque[tuple[int, int]] = deque()  # messages of each chain under way, and when it was posted
        self.room = CHAIN * _CHAINS
        """Messages that can be posted now."""

    def _keep(self, made: Any) -> Any:
        self._closing.append(made)
        return made

    def _prepare(self, start: int, receives: int) -> None:
        key = self._region.lkey
        # What is longer than ours is anybody's. Where it does not fit a device puts the queue pair into error.
        spill = self._keep(SGE(start + self._sends_at + CHAIN * _SLOT_BYTES, _SPILL_BYTES, key))
        for slot in range(receives):
            piece = self._keep(SGE(start + slot * _SLOT_BYTES, _SLOT_BYTES, key))
            receive = self._keep(RecvWR(wr_id=slot, num_sge=2, sg=[piece, spill]))
            self._receives.append(receive)
            self._pair.post_recv(receive)
        for slot in range(CHAIN):
            last = slot == CHAIN - 1
            request = SendWR(
                wr_id=receives + slot,
                opcode=constants.IBV_WR_SEND,
                num_sge=1,
                sg=[self._keep(SGE(start + self._sends_at + slot * _SLOT_BYTES, MESSAGE_BYTES, key))],
                send_flags=constants.IBV_SEND_INLINE | (constants.IBV_SEND_SIGNALED if last else 0),
            )
            self._sends.append(self._keep(request))
        # A chain cannot be cut: to send m messages, its last m requests are filled and posted.
        for request, following in zip(self._sends, self._sends[1:], strict=False):
            request.next_wr = following

    def send(self, messages: Sequence[Message]) -> int:
        """Post ``messages``, ``CHAIN`` and ``room`` at most, and return when (monotonic ns, just before).

        Raise PyverbsRDMAError, as when the device is gone.
        """
        first = CHAIN - len(messages)
        for slot, (handle, data) in enumerate(messages, first):
            at = self._sends_at + slot * _SLOT_BYTES
            self._memory[at : at + MESSAGE_BYTES] = data
            self._sends[slot].set_wr_ud(handle.address, handle.queue_pair, QKEY)
        posted_ns = self._clock()
        self._pair.post_send(self._sends[first])
        self._posted.append((len(messages), posted_ns))
        self.room -= len(messages)
        return posted_ns

    @property
    def waits_since_ns(self) -> int | None:
        """When the first was posted of what has not left; None when all has."""
        return self._posted[0][1] if self._posted else None

    def on_sent(self) -> None:
        """The chain that was posted first has left."""
        if self._posted:
            self.room += self._posted.popleft()[0]

    def take(self, slot: int, queue_pair: int, at_ns: int, is_unsure: bool) -> Arrival:
        """What arrived in ``slot``, which receives again from now on."""
        start = slot * _SLOT_BYTES
        raw = self._memory[start : start + GLOBAL_ROUTE_BYTES + MESSAGE_BYTES]
        self._pair.post_recv(self._receives[slot])
        data = raw[GLOBAL_ROUTE_BYTES:]
        if self._over_ipv4 and is_ipv4(raw[20:40]):  # an IPv6 packet's last half may look like it
            source = f"{raw[32]}.{raw[33]}.{raw[34]}.{raw[35]}"
            return Arrival(self.number, data, source, queue_pair, raw[21], raw[28], at_ns, is_unsure)
        source = socket.inet_ntop(socket.AF_INET6, raw[8:24])
        traffic_class = (raw[0] & 0xF) << 4 | raw[1] >> 4
        return Arrival(self.number, data, source, queue_pair, traffic_class, raw[7], at_ns, is_unsure)

    def is_receive(self, identifier: int) -> bool:
        return identifier < len(self._receives)

    def close(self) -> None:
        """Once only: pyverbs does not look whether a request is closed already."""
        for made in reversed(self._closing):
            _quietly(made.close)
        self._closing.clear()


class Device:
    """An opened device. ``close`` it before it is opened again.

    ``fileno`` is readable when something completed, or -1: then one has to look. Once it is ``broken``, nothing of it
    can be relied on: a queue pair in error stays so.
    """

    def __init__(self, name: str, port: PortState, loop: Loop) -> None:
        """Raise VerbsError, which names the device, what it lacks and the remedy."""
        self.name = name
        self.port = port
        self._loop = loop
        self._empty_ns = 0  # when the queue was last seen empty
        self._event_is_unspent = True  # of what there may be an event for, nothing has been found yet
        self.broken = ""
        """Why it has to be opened again."""
        self.has_more = False
        """Whether the last look found as much as one may."""
        self._pairs: dict[int, QueuePair] = {}
        self._handles: OrderedDict[tuple[str, int, int], AH] = OrderedDict()
        self._retired: deque[tuple[int, AH]] = deque()  # when it went out of use
        self._closing: list[Any] = []
        try:
            self._open()
        except (PyverbsError, OSError) as error:
            self.close()
            raise VerbsError(explain(name, error)) from error

    def _open(self) -> None:
        self._context = self._keep(Context(name=self.name))
        self.domain = self._keep(PD(self._context))
        self._completions = self._keep(open_completions(self._context))
        if self._completions.timestamps == "hardware" and not self._takes_queue_pairs():
            self._closing.remove(self._completions)
            self._completions.close()
            self._completions = self._keep(FoundCompletions(self._context))
        self.timestamps: str = self._completions.timestamps
        """``hardware`` or ``software``: who knows when something completed."""

    def _takes_queue_pairs(self) -> bool:
        """Some devices have queues that stamp, and queue pairs for none of them (real-time stamps only, of mlx5)."""
        try:
            QueuePair(self, 1, self._loop.clock).close()
        except PyverbsError:
            return False
        return True

    @property
    def queue(self) -> CQ | CQEX:
        return self._completions.queue

    def _keep(self, made: Any) -> Any:  # pyverbs has no types
        self._closing.append(made)
        return made

    def fileno(self) -> int:
        return int(self._completions.fileno())

    def pair(self, receives: int = _RECEIVES) -> QueuePair:
        """A new queue pair; raise VerbsError."""
        if len(self._pairs) > MAX_PAIRS:  # and one that answers
            raise VerbsError(f"RDMA device {self.name}: paths from more than {MAX_PAIRS} source ports are not probed")
        try:
            made = QueuePair(self, receives, self._loop.clock)
        except (PyverbsError, OSError) as error:
            raise VerbsError(explain(self.name, error)) from error
        self._pairs[made.number] = made
        return made

    def forget(self, pair: QueuePair) -> None:
        del self._pairs[pair.number]
        pair.close()

    def handle(self, address: str, traffic_class: int, flow_label: int) -> AH | None:
        """The address handle for these that was made; None when there is none."""
        return self._handles.get((address, traffic_class, flow_label))

    def make_handle(self, address: str, traffic_class: int, flow_label: int) -> AH:
        """Make an address handle, in place of an older one; raise PyverbsRDMAError.

        The kernel resolves the next hop for it: where no neighbour entry is there, that stands still for a second
        (rdma_resolve_ip). So whoever calls has exchanged packets with the address just before. Devices whose source
        port is not of the queue pair derive it from the flow label (rdma_flow_label_to_udp_sport in the kernel).
        """
        route = GlobalRoute(
            dgid=GID(gid_of(address)),
            sgid_index=self.port.gid_index,
            hop_limit=HOP_LIMIT,
            traffic_class=traffic_class,
            flow_label=flow_label,
        )
        made = AH(self.domain, attr=AHAttr(port_num=PORT, is_global=1, gr=route))
        self._retire((address, traffic_class, flow_label))
        self._handles[address, traffic_class, flow_label] = made
        if len(self._handles) > _HANDLES:
            self._retire(next(iter(self._handles)))
        return made

    def forget_handle(self, address: str, traffic_class: int, flow_label: int) -> None:
        self._retire((address, traffic_class, flow_label))

    def _retire(self, key: tuple[str, int, int]) -> None:
        handle = self._handles.pop(key, None)
        if handle is not None:
            self._retired.append((self._loop.clock(), handle))

    def tidy(self) -> None:
        """Close handles out of use that nothing under way can need; see whether anything is stuck. Once a second."""
        now = self._loop.clock()
        posted = [pair.waits_since_ns for pair in self._pairs.values()]
        oldest_ns = min((at for at in posted if at is not None), default=now)
        # A queue pair that is held up may have messages left for a handle, and fails for good without it.
        while self._retired and self._retired[0][0] < oldest_ns:
            _quietly(self._retired.popleft()[1].close)
        if now - oldest_ns > STUCK_NS:
            self.broken = f"RDMA device {self.name}: what was sent has not completed for {STUCK_NS // 10**9} s"

    def on_event(self, asked_ns: int) -> list[Arrival]:
        """``look`` because ``fileno`` is readable; it is again with what comes after. Raise PyverbsError.

        What it was readable for is the first that is found, unless an earlier look has found that already.
        """
        is_first, self._event_is_unspent = self._event_is_unspent, True
        self._completions.rearm()
        return self.look(asked_ns, self._loop.woken_ns if is_first else None)

    def look(self, asked_ns: int, first_ns: int | None = None) -> list[Arrival]:
        """What has arrived; raise PyverbsError. When ``has_more``, look again.

        ``asked_ns``: monotonic, at this moment or some microseconds ago; to read a clock has its price, and of looks
        that find nothing there are many. ``first_ns``: when the first was there at the latest, if that is known.
        """
        completions: list[Completion] = self._completions.look()
        if not completions:
            self._empty_ns = asked_ns
            self.has_more = False
            return []
        found_ns = self._loop.clock()
        # More than one: some may have come after the queue was rearmed, and there is an event for them.
        self._event_is_unspent = self._event_is_unspent and first_ns is not None and len(completions) == 1
        empty_ns = self._empty_ns
        since_ns = max(empty_ns, self._loop.awake_since_ns)
        self.has_more = len(completions) == MOST
        if not self.has_more:
            self._empty_ns = asked_ns
        found: list[Arrival] = []
        first = completions[0]
        for each in completions:
            pair = self._pairs.get(each.pair)
            if pair is None:
                continue  # closed meanwhile
            if each.status != constants.IBV_WC_SUCCESS:
                self.broken = f"RDMA device {self.name}: a message ended with status {each.status} (ibv_wc_status)"
            elif not pair.is_receive(each.identifier):
                pair.on_sent()
            else:
                if each.at_ns is not None and each.at_ns > empty_ns - STARVED_NS:  # or the clock is not what it seems
                    at_ns, is_unsure = each.at_ns, False
                else:
                    at_ns = first_ns if each is first and first_ns is not None else found_ns
                    is_unsure = at_ns - since_ns > STARVED_NS
                arrival = pair.take(each.identifier, each.source_pair, at_ns, is_unsure)
                if each.bytes == GLOBAL_ROUTE_BYTES + MESSAGE_BYTES:
                    found.append(arrival)
        return found

    def close(self) -> None:
        for pair in self._pairs.values():
            pair.close()
        for handle in (*self._handles.values(), *(handle for _, handle in self._retired)):
            _quietly(handle.close)
        for made in reversed(self._closing):
            _quietly(made.close)
        self._pairs.clear()
        self._handles.clear()
        self._retired.clear()
        self._closing.clear()


def _quietly(close: Callable[[], None]) -> None:
    """What a device that is gone says of being closed helps nobody."""
    with suppress(PyverbsError):
        close()


def is_ipv4(header: bytes) -> bool:
    """Whether 20 bytes are an IPv4 header: by its checksum, as the kernel tells (ib_get_rdma_header_version)."""
    return header[0] == 0x45 and sum(_IPV4_HEADER.unpack(header)) % 0xFFFF == 0


def explain(name: str, error: Exception) -> str:
    """What a failure to open or to use a device means, and the remedy."""
    code: int = getattr(error, "error_code", None) or getattr(error, "errno", None) or 0
    pinning = "no memory may be pinned: raise memlock (ulimit -l, LimitMEMLOCK=infinity), or give it CAP_IPC_LOCK"
    known = {
        errno.EPERM: pinning,  # memlock is 0
        errno.ENOMEM: pinning,
        errno.EBUSY: "the device is busy: another process holds what there is only one of",
        errno.ENODEV: "the device has gone",
        errno.EMFILE: "too many open files: raise ulimit -n",
    }
    unknown = "libibverbs does not offer it; is its driver installed (ibverbs-providers)?" if code <= 0 else ""
    return f"RDMA device {name}: {why_closed(name) or known.get(code) or unknown or 'cannot be used'} ({error})"
