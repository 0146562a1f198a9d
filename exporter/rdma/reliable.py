"""Reliable connections (RC) of a device: queue pairs that write into, and read from, the memory of one other.

A device of its own, opened beside that of the datagrams (exporter.rdma.device), with a completion queue of its own:
nothing here delays, or breaks, what is timed there. Source: libibverbs' manual pages; InfiniBand Architecture, 9.7.
"""

from __future__ import annotations

import ctypes
import mmap
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from exporter.contracts.catalogue import MOST_CONNECTIONS
from exporter.probing.loop import Loop
from exporter.rdma.completions import MOST, FoundCompletions
from exporter.rdma.connecting import MAX_24_BITS, MTUS, End
from exporter.rdma.device import HOP_LIMIT, _quietly, explain
from exporter.rdma.ports import PORT, PortState, VerbsError, gid_of
from exporter.rdma.settings import Reliable
from exporter.rdma.verbs import (
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
    SendWR,
    constants,
)

_RNR_TIMER = 12
"""0.64 ms (InfiniBand Architecture, table 45); what is written and read needs no receives, so that nobody waits."""
_SERVE = constants.IBV_ACCESS_LOCAL_WRITE | constants.IBV_ACCESS_REMOTE_WRITE | constants.IBV_ACCESS_REMOTE_READ
REASONS = {
    constants.IBV_WC_RETRY_EXC_ERR: "retry_exceeded",
    constants.IBV_WC_RNR_RETRY_EXC_ERR: "rnr_retry_exceeded",
    constants.IBV_WC_REM_ACCESS_ERR: "remote_access",
    constants.IBV_WC_WR_FLUSH_ERR: "flushed",
}
"""ibv_wc_status -> why an operation failed; all else is ``other``."""


class Way(NamedTuple):
    """Where packets of a connection go, and as what."""

    address: str
    traffic_class: int
    flow_label: int


class Memory:
    """Registered memory; ``close`` it once, before its domain."""

    def __init__(self, domain: PD, length: int, access: int) -> None:
        """Raise PyverbsError, or OSError: there is none."""
        self.bytes = mmap.mmap(-1, length)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.bytes))
        self._region = MR(domain, length, access, address=self.address)
        self.key: int = self._region.lkey
        self.remote_key: int = self._region.rkey

    def close(self) -> None:
        self._region.close()


class ReliablePair:
    """One RC queue pair and its memory: what is read from the other end comes there, or the other end writes to it.

    One that serves has a protection domain of its own: whoever learns the key of another's memory has no use of it.
    """

    def __init__(self, device: ReliableDevice, length: int, *, serves: bool) -> None:
        """Raise PyverbsError, or OSError: there is no memory."""
        self._gid_index = device.port.gid_index
        self._access = _SERVE if serves else 0
        self._serves = serves
        self._closing: list[Any] = []
        domain = self._keep(PD(device.context)) if serves else device.domain
        cap = QPCap(max_send_wr=2, max_recv_wr=1, max_send_sge=1, max_recv_sge=1)
        kind = QPInitAttr(qp_type=constants.IBV_QPT_RC, scq=device.queue, rcq=device.queue, cap=cap, sq_sig_all=1)
        try:
            self.memory: Memory = self._keep(Memory(domain, length, self._access or constants.IBV_ACCESS_LOCAL_WRITE))
            self._pair = self._keep(QP(domain, kind))
        except (PyverbsError, OSError):
            self.close()
            raise
        self._first_packet = secrets.randbelow(MAX_24_BITS + 1)

    def _keep(self, made: Any) -> Any:  # pyverbs has no types
        self._closing.append(made)
        return made

    def end(self, mtu: int) -> End:
        """What the other end has to know."""
        memory = self.memory
        return End(self._pair.qp_num, self._first_packet, mtu, len(memory.bytes), memory.address, memory.remote_key)

    def connect(self, other: End, way: Way, mtu: int, settings: Reliable) -> None:
        """Make it ready; raise PyverbsRDMAError.

        The kernel resolves the next hop for it: as of an address handle, that stands still for a second where it is
        cold (``Device.make_handle``).
        """
        route = GlobalRoute(
            dgid=GID(gid_of(way.address)),
            sgid_index=self._gid_index,
            hop_limit=HOP_LIMIT,
            traffic_class=way.traffic_class,
            flow_label=way.flow_label,
        )
        state = QPAttr(port_num=PORT)
        state.pkey_index, state.qp_access_flags = 0, self._access
        state.ah_attr = AHAttr(port_num=PORT, is_global=1, gr=route)
        state.path_mtu = MTUS.index(mtu) + 1
        state.dest_qp_num, state.rq_psn, state.sq_psn = other.queue_pair, other.first_packet, self._first_packet
        state.max_rd_atomic = state.max_dest_rd_atomic = 1
        state.min_rnr_timer = _RNR_TIMER
        state.timeout, state.retry_cnt = settings.ack_timeout_exponent, settings.retries
        state.rnr_retry = settings.retries  # 7 would be without end
        if self._serves:
            self._pair.to_rtr(state)
        else:
            self._pair.to_rts(state)

    def write(self, identifier: int, source: Memory, offset: int, length: int, other: End) -> None:
        """Have ``length`` bytes of ``source`` written to the other end's memory; raise PyverbsRDMAError."""
        piece = SGE(source.address + offset, length, source.key)
        self._post(identifier, constants.IBV_WR_RDMA_WRITE, piece, other)

    def read(self, identifier: int, other: End) -> None:
        """Have the other end's memory, which is no longer, read into ours; raise PyverbsRDMAError."""
        piece = SGE(self.memory.address, other.length, self.memory.key)
        self._post(identifier, constants.IBV_WR_RDMA_READ, piece, other)

    def _post(self, identifier: int, opcode: int, piece: SGE, other: End) -> None:
        signaled = constants.IBV_SEND_SIGNALED
        request = SendWR(wr_id=identifier, opcode=opcode, num_sge=1, sg=[piece], send_flags=signaled)
        try:
            request.set_wr_rdma(other.key, other.address)
            self._pair.post_send(request)
        finally:  # the device has its own copy, and pyverbs would keep these for ever
            request.close()
            piece.close()

    def close(self) -> None:
        """Once only."""
        for made in reversed(self._closing):
            _quietly(made.close)


class ReliableDevice:
    """An opened device. ``close`` it before it is opened again, and when it is ``broken``.

    ``on_completion`` is called with the identifier of each operation that has come to an end, and its ibv_wc_status.
    """

    def __init__(self, name: str, port: PortState, loop: Loop, on_completion: Callable[[int, int], None]) -> None:
        """Raise VerbsError, which names the device, what it lacks and the remedy."""
        self.name = name
        self.port = port
        self.broken = ""
        self._loop = loop
        self._on_completion = on_completion
        self._pairs: set[ReliablePair] = set()
        self._retired: deque[ReliablePair] = deque()
        self._closing: list[Any] = []
        self._watched = False
        self._closed = False
        try:
            self._open()
        except (PyverbsError, OSError) as error:
            self.close()
            raise VerbsError(explain(name, error)) from error
        loop.watch(self)
        self._watched = True

    def _open(self) -> None:
        self.context = self._keep(Context(name=self.name))
        self.domain = self._keep(PD(self.context))
        # One operation of each connection is under way, and a queue pair that is closed may leave one behind.
        self._completions: FoundCompletions = self._keep(FoundCompletions(self.context, 4 * MOST_CONNECTIONS))
        self.queue = self._completions.queue

    def _keep(self, made: Any) -> Any:  # pyverbs has no types
        self._closing.append(made)
        return made

    def mtu(self) -> int:
        """The port's active MTU now, bytes; raise PyverbsRDMAError."""
        return MTUS[int(self.context.query_port(PORT).active_mtu) - 1]

    def memory(self, length: int) -> Memory:
        """Memory to write from, until the device is closed; raise VerbsError."""
        try:
            made: Memory = self._keep(Memory(self.domain, length, 0))
        except (PyverbsError, OSError) as error:
            raise VerbsError(explain(self.name, error)) from error
        return made

    def pair(self, length: int, *, serves: bool) -> ReliablePair:
        """A new queue pair with so many bytes of memory; raise VerbsError."""
        try:
            made = ReliablePair(self, length, serves=serves)
        except (PyverbsError, OSError) as error:
            raise VerbsError(explain(self.name, error)) from error
        self._pairs.add(made)
        return made

    def retire(self, pair: ReliablePair) -> None:
        """Close a queue pair soon: one in each slot, as that takes time in which replies wait."""
        self._retired.append(pair)
        if len(self._retired) == 1:
            self._loop.after(0, self._close_one)

    def _close_one(self) -> None:
        if self._closed:
            return
        pair = self._retired.popleft()
        self._pairs.discard(pair)
        pair.close()
        if self._retired:
            self._loop.after(0, self._close_one)

    def fileno(self) -> int:
        return self._completions.fileno()

    def on_input(self) -> None:
        try:
            self._completions.rearm()
        except PyverbsError as error:
            self.fail(error)
        self._look()

    def _look(self) -> None:
        if self._closed or self.broken:
            return
        try:
            found = self._completions.look()
        except PyverbsError as error:
            self.fail(error)
            return
        for completion in found:
            self._on_completion(completion.identifier, completion.status)
        if len(found) == MOST:
            self._loop.after(0, self._look)

    def fail(self, why: object) -> None:
        """It is to be closed, and opened again."""
        self.broken = f"RDMA device {self.name}: {why}"
        self._loop.forget(self)  # else it would wake us for ever

    def on_error(self) -> None:
        self.fail("reports no more completions of reliable connections")

    def on_output(self) -> None:
        """Never asked for."""

    def close(self) -> None:
        self._closed = True
        if self._watched:
            self._loop.forget(self)
        for pair in self._pairs:
            pair.close()
        for made in reversed(self._closing):
            _quietly(made.close)
        self._pairs.clear()
        self._retired.clear()
        self._closing.clear()
