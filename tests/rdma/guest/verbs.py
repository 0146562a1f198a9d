"""A UD queue pair of pyverbs, just large enough to ask and to answer. Works in virtual time: it waits, and never polls.

Its constants are found by exporter/rdma/verbs.py, whatever the version.
"""

from __future__ import annotations

import ctypes
import ipaddress
import mmap
import os
import select
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

try:
    from pyverbs.addr import AH, GID, AHAttr, GlobalRoute
    from pyverbs.cq import CQ, CompChannel
    from pyverbs.device import Context
    from pyverbs.mr import MR
    from pyverbs.pd import PD
    from pyverbs.pyverbs_error import PyverbsRDMAError
    from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
    from pyverbs.wr import SGE, RecvWR, SendWR

    from exporter.rdma.verbs import constants as verbs
except Exception as error:  # noqa: BLE001 - after a mismatch of versions the second import fails with a KeyError
    pytest.skip(f"pyverbs cannot be imported: {error} (scripts/setup)", allow_module_level=True)

from lab.guest.network import Port

ROCE_V2 = 2  # ibv_gid_type of verbs.h, which query_gid_table() gives
QKEY = 0x11111111
GLOBAL_ROUTE_BYTES = 40  # before each message; of RoCEv2 over IPv4 the second half is the IPv4 header
SLOT_BYTES = 256
SLOTS = 256
ECT0 = 2
PAYLOAD = struct.Struct("!BQQ")  # question or answer; a number; when it was asked, ns
QUESTION, ANSWER = 0, 1


def gid(address: str) -> str:
    """The GID of an address as pyverbs writes one: eight groups of four digits; of IPv4 the mapped address."""
    ip = ipaddress.ip_address(address)
    return (ip if ip.version == 6 else ipaddress.IPv6Address(f"::ffff:{ip}")).exploded


@dataclass(frozen=True)
class Message:
    kind: int
    number: int
    asked_ns: int
    source: str
    """Address of the sender, from the IP header."""
    queue_pair: int
    traffic_class: int
    """As it arrived: a congested queue has set its last bit."""
    hop_limit: int


class Endpoint:
    """One UD queue pair at one port, with a completion channel to wait on."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self._context = Context(name=port.device)
        self._domain = PD(self._context)
        before = _channels()
        self._channel = CompChannel(self._context)
        # CompChannel.fd exists since rdma-core 57. The context has a descriptor of the same kind, hence the difference.
        self.descriptor = (_channels() - before).pop()
        os.set_blocking(self.descriptor, False)
        self._queue = CQ(self._context, 3 * SLOTS, None, self._channel, 0)
        self._index = self._gid_index()
        capabilities = QPCap(
            max_send_wr=SLOTS, max_recv_wr=SLOTS, max_send_sge=1, max_recv_sge=1, max_inline_data=PAYLOAD.size
        )
        state = QPAttr(port_num=1)
        state.qkey, state.pkey_index, state.sq_psn = QKEY, 0, 0
        kind = QPInitAttr(qp_type=verbs.IBV_QPT_UD, scq=self._queue, rcq=self._queue, cap=capabilities, sq_sig_all=0)
        self._pair = QP(self._domain, kind, state)
        self.queue_pair: int = self._pair.qp_num
        self._memory = mmap.mmap(-1, 2 * SLOTS * SLOT_BYTES)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._region = MR(self._domain, len(self._memory), verbs.IBV_ACCESS_LOCAL_WRITE, address=start)
        self._receives = [
            RecvWR(wr_id=slot, num_sge=1, sg=[SGE(start + slot * SLOT_BYTES, SLOT_BYTES, self._region.lkey)])
            for slot in range(SLOTS)
        ]
        for receive in self._receives:
            self._pair.post_recv(receive)
        self._sending = start + SLOTS * SLOT_BYTES
        self._handles: dict[tuple[str, int], AH] = {}
        self._sends: dict[tuple[str, int, int], SendWR] = {}
        self._sent = 0
        self._queue.req_notify()

    def _gid_index(self) -> int:
        wanted = gid(self.port.address)
        for entry in self._context.query_gid_table(256):
            if entry.gid_type == ROCE_V2 and entry.gid_str() == wanted:
                return int(entry.gid_index)
        raise LookupError(f"{self.port.device} has no RoCEv2 GID {wanted}")

    def mtu(self) -> int:
        """The port's active MTU, bytes of payload."""
        return 128 << int(self._context.query_port(1).active_mtu)  # enum ibv_mtu: 1 is 256

    def send(
        self, kind: int, number: int, asked_ns: int, address: str, queue_pair: int, traffic_class: int = ECT0
    ) -> None:
        key = (address, queue_pair, traffic_class)
        if key not in self._sends:
            handle = self._handles.get(key[::2])
            if handle is None:
                route = GlobalRoute(
                    dgid=GID(gid(address)), sgid_index=self._index, hop_limit=64, traffic_class=traffic_class
                )
                handle = self._handles[key[::2]] = AH(self._domain, attr=AHAttr(port_num=1, is_global=1, gr=route))
            # Inline: the payload is copied as it is posted, so that one buffer serves all.
            piece = SGE(self._sending, PAYLOAD.size, 0)
            self._sends[key] = SendWR(wr_id=SLOTS, opcode=verbs.IBV_WR_SEND, num_sge=1, sg=[piece])
            self._sends[key].set_wr_ud(handle, queue_pair, QKEY)
        PAYLOAD.pack_into(self._memory, SLOTS * SLOT_BYTES, kind, number, asked_ns)
        self._sent += 1
        # A completion now and then frees the entries of the send queue.
        signalled = verbs.IBV_SEND_SIGNALED if self._sent % (SLOTS // 8) == 0 else 0
        self._sends[key].send_flags = verbs.IBV_SEND_INLINE | signalled
        self._pair.post_send(self._sends[key])

    def received(self) -> Iterator[Message]:
        """What has arrived, after the descriptor became readable."""
        try:
            self._channel.get_cq_event(self._queue)
            self._queue.ack_events(1)
        except PyverbsRDMAError:  # EAGAIN: no event
            pass
        self._queue.req_notify()  # before the last look, else an arrival between the two would wake nobody
        while True:
            count, completions = self._queue.poll(16)
            if not count:
                return
            for completion in completions:
                if completion.wr_id < SLOTS and completion.status == verbs.IBV_WC_SUCCESS:
                    yield self._message(completion.wr_id, completion.src_qp)
                    self._pair.post_recv(self._receives[completion.wr_id])

    def _message(self, slot: int, queue_pair: int) -> Message:
        start = slot * SLOT_BYTES
        header = self._memory[start : start + GLOBAL_ROUTE_BYTES]
        if self.port.interface.version == 4:
            traffic_class, hop_limit, source = header[21], header[28], str(ipaddress.ip_address(header[32:36]))
        else:
            traffic_class = (header[0] & 0xF) << 4 | header[1] >> 4
            hop_limit, source = header[7], str(ipaddress.ip_address(header[8:24]))
        kind, number, asked_ns = PAYLOAD.unpack_from(self._memory, start + GLOBAL_ROUTE_BYTES)
        return Message(kind, number, asked_ns, source, queue_pair, traffic_class, hop_limit)

    def close(self) -> None:
        """Give everything back, in the order that pyverbs wants."""
        for handle in self._handles.values():
            handle.close()
        for each in (self._pair, self._region, self._queue, self._channel, self._domain, self._context):
            each.close()


@dataclass
class Answers:
    rtt_us: list[float]
    arrived: list[Message]
    """Questions, as the responders saw them."""
    asked: int
    pairs: set[tuple[str, str]]
    """Asker and responder of each answer, by address."""

    @property
    def lost(self) -> int:
        return self.asked - len(self.rtt_us)


def ping(
    pairs: list[tuple[Endpoint, Endpoint]],
    rounds: int,
    *,
    interval: float = 0.002,
    patience: float = 0.2,
    traffic_class: int = ECT0,
    address: str = "",
    queue_pair: int = 0,
) -> Answers:
    """Have the first of each pair ask the second, once a round, and all answer; wait ``patience`` s for the last.

    ``address`` and ``queue_pair`` are where to send to, those of the second unless given.
    """
    endpoints = {end.descriptor: end for pair in pairs for end in pair}
    answers = Answers([], [], 0, set())
    poll = select.epoll()
    for descriptor in endpoints:
        poll.register(descriptor, select.EPOLLIN)

    def serve(until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(left):
                end = endpoints[descriptor]
                for message in end.received():
                    if message.kind == QUESTION:
                        answers.arrived.append(message)
                        end.send(ANSWER, message.number, message.asked_ns, message.source, message.queue_pair)
                    else:
                        answers.rtt_us.append((time.monotonic_ns() - message.asked_ns) / 1e3)
                        answers.pairs.add((end.port.address, message.source))
            if len(answers.rtt_us) == rounds * len(pairs):
                return

    with poll:
        for number in range(rounds):
            start = time.monotonic()
            for asker, responder in pairs:
                answers.asked += 1
                asker.send(
                    QUESTION,
                    number,
                    time.monotonic_ns(),
                    address or responder.port.address,
                    queue_pair or responder.queue_pair,
                    traffic_class,
                )
            serve(start + interval)
        serve(time.monotonic() + patience)
    return answers


def _channels() -> set[int]:
    """Descriptors of this process that verbs events come from."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").endswith("[infinibandevent]"):
                found.add(int(name))
        except OSError:  # that of the listing itself
            continue
    return found
