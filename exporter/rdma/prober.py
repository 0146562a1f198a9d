"""Sends RDMA probes from one device and books what comes back.

Network round trip = (reply seen - request posted) - the responder's delay, as in R-Pingmesh (SIGCOMM'24); no clocks of
two hosts are compared. Times are those of this process, as soft-RoCE has none of its own: what it finds after it was
busy for long is an answer, with a round trip that nobody knows.

A probe of a path whose responder is not known yet asks for it (exporter.rdma.introduction), and is answered, refused
or lost as that is. One that stays unanswered asks again before it is judged: a responder that has started again, with
another queue pair, is a restart and no loss.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field

from exporter.probing.loop import LATEST_NS, SLOT_NS, Loop
from exporter.probing.packet import LATE, MARKED, REPLY, REQUEST, Codec
from exporter.probing.paths import Path
from exporter.rdma.device import CHAIN, Arrival, Device, Handle, Message, QueuePair
from exporter.rdma.introduction import Introductions
from exporter.rdma.responder import CONGESTED, STARVED_NS
from exporter.rdma.verbs import PyverbsRDMAError

_GRACE_NS = 100_000_000
"""For the answer to the question that comes before a probe is taken for lost."""
_ASK_AGAIN_NS = 1_000_000_000
"""For a peer that is not known. A host refuses once a second and no more often (icmp_ratelimit, icmp(7))."""
_FLAGS = LATE | MARKED


@dataclass(eq=False, slots=True)
class Peer:
    """An address that is probed."""

    address: str
    traffic_class: int
    queue_pair: int = 0
    """0 while it is not known."""
    epoch: int = 0
    asked_ns: int = 0
    refused_ns: int = 0
    """When it was last asked, and said to be closed; monotonic, 0 = never."""
    paths: set[Path] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class Probing:
    """A path that is probed from this device."""

    path: Path
    peer: Peer
    pair: QueuePair
    period_ns: int
    due_ns: int
    removed: bool = False


@dataclass(eq=False, slots=True)
class _Outstanding:
    probing: Probing
    unix_ns: int
    sent_ns: int
    epoch: int
    """Of the responder it was sent to; 0 for one that only asks who that is."""


class RdmaProber:
    """The paths of one device. ``on_starved`` is called for each probe whose round trip a busy process has spoilt."""

    def __init__(
        self,
        loop: Loop,
        codec: Codec,
        device: Device,
        introductions: Introductions,
        timeout_seconds: float,
        numbers: Iterator[int],
        on_starved: Callable[[], None] = lambda: None,
    ) -> None:
        """``numbers`` are for the probes: never again a smaller one, or responders take it for a replay."""
        self._loop = loop
        self._codec = codec
        self._device = device
        self._introductions = introductions
        self._timeout_ns = int(timeout_seconds * 1e9)
        self._on_starved = on_starved
        self._peers: dict[str, Peer] = {}
        self._pairs: dict[int, tuple[QueuePair, int]] = {}  # source port -> queue pair, users
        self._due: list[tuple[int, int, Probing]] = []
        self._slot_ns = 0  # the next that is planned; 0 = none
        self._added = 0
        self._numbers = numbers
        self._outstanding: dict[int, _Outstanding] = {}
        self._by_age: deque[int] = deque()
        self._closed = False

    def close(self) -> None:
        """The device is about to be closed: nobody will know what came of the probes under way."""
        self._closed = True
        for probe in self._outstanding.values():
            probe.probing.path.leave_unjudged(probe.unix_ns)
        self._outstanding.clear()

    def add(self, path: Path, due_ns: int) -> Probing:
        """Probe ``path`` from ``due_ns`` (monotonic) on, every period; raise VerbsError."""
        target = path.target
        port = target.source_ports[0]
        pair, users = self._pairs.get(port) or (self._device.pair(), 0)
        self._pairs[port] = (pair, users + 1)
        address = target.destination_address
        peer = self._peers.setdefault(address, Peer(address, target.traffic_class))
        peer.paths.add(path)
        probing = Probing(path, peer, pair, int(target.period_seconds * 1e9), due_ns)
        self._plan(probing)
        return probing

    def remove(self, gone: Set[Probing]) -> None:
        """Stop probing these. O(probes under way): call once for them all."""
        for probing in gone:
            probing.removed = True
            target, peer = probing.path.target, probing.peer
            peer.paths.discard(probing.path)
            if not peer.paths:
                del self._peers[peer.address]
            pair, users = self._pairs.pop(target.source_ports[0])
            if users > 1:
                self._pairs[target.source_ports[0]] = (pair, users - 1)
            else:
                self._device.forget(pair)
        self._outstanding = {number: probe for number, probe in self._outstanding.items() if probe.probing not in gone}

    # ---- sending

    def _plan(self, probing: Probing) -> None:
        self._added += 1
        heapq.heappush(self._due, (probing.due_ns, self._added, probing))
        if not self._slot_ns or probing.due_ns < self._slot_ns - SLOT_NS:
            self._wake_at(probing.due_ns)

    def _wake_at(self, due_ns: int) -> None:
        self._slot_ns = -(-due_ns // SLOT_NS) * SLOT_NS
        self._loop.at(due_ns, self._on_slot)

    def _on_slot(self) -> None:
        if self._closed:
            return
        now = self._loop.clock()
        ready: list[Probing] = []
        while self._due and self._due[0][0] <= now:
            probing = heapq.heappop(self._due)[2]
            if probing.removed:
                continue
            if self._loop.late_ns > LATEST_NS:
                probing.path.book_unsent()
            else:
                ready.append(probing)
            probing.due_ns += probing.period_ns
            while probing.due_ns <= now:
                probing.path.book_unsent()
                probing.due_ns += probing.period_ns
            self._added += 1
            heapq.heappush(self._due, (probing.due_ns, self._added, probing))
        self._slot_ns = 0
        if self._due:
            self._wake_at(self._due[0][0])
        self._send(ready)

    def _send(self, ready: list[Probing]) -> None:
        batches: dict[QueuePair, list[Probing]] = defaultdict(list)
        for probing in ready:
            if probing.peer.queue_pair:
                batches[probing.pair].append(probing)
            else:
                self._ask_in_its_place(probing)
        for pair, batch in batches.items():
            for start in range(0, len(batch), CHAIN):
                self._post(pair, batch[start : start + CHAIN])

    def _ask_in_its_place(self, probing: Probing) -> None:
        now = self._loop.clock()
        if not self._ask(probing.peer, now, _ASK_AGAIN_NS):
            probing.path.book_unsent()
            return
        self._await(probing, now, 0)

    def _await(self, probing: Probing, sent_ns: int, epoch: int) -> int:
        number = next(self._numbers)
        probing.path.book_sent()
        self._outstanding[number] = _Outstanding(probing, time.time_ns(), sent_ns, epoch)
        if not self._by_age:
            self._loop.at(sent_ns + self._timeout_ns, self._expire)
        self._by_age.append(number)
        return number

    def _post(self, pair: QueuePair, batch: list[Probing]) -> None:
        if pair.room < len(batch):  # completions are not read, or do not come: the host's trouble
            for probing in batch:
                probing.path.book_unsent()
            return
        messages: list[Message] = []
        waiting: list[_Outstanding] = []
        for probing in batch:
            target, peer = probing.path.target, probing.peer
            try:
                label = target.source_ports[0] & 0x3FFF
                handle = self._device.handle(peer.address, target.traffic_class, label)
            except PyverbsRDMAError:
                # Its next hop does not answer any more. To ask is to have it looked for without waiting for it.
                peer.queue_pair = 0
                self._ask_in_its_place(probing)
                continue
            number = self._await(probing, self._loop.clock(), peer.epoch)
            waiting.append(self._outstanding[number])
            messages.append((Handle(handle, peer.queue_pair), self._codec.request(REQUEST, number, probing.path.token)))
        if not messages:
            return
        now = self._loop.clock()
        for probe in waiting:
            probe.sent_ns = now
        try:
            pair.send(messages)
        except PyverbsRDMAError:
            self._device.failures += 1  # its probes are judged when their time is up, as all that got no reply

    # ---- what comes back

    def take(self, arrivals: list[Arrival], arrived_ns: int) -> None:
        """Book the replies among ``arrivals``, found at ``arrived_ns`` (monotonic)."""
        unsure = arrived_ns - self._loop.awake_since_ns > STARVED_NS
        for arrival in arrivals:
            packet = self._codec.parse(arrival.data)
            if packet is None or packet.kind & ~_FLAGS != REPLY:
                continue
            probe = self._outstanding.get(packet.sequence)
            if probe is None:
                continue
            path = probe.probing.path
            if packet.token != path.token or arrival.source != path.target.destination_address:
                continue
            del self._outstanding[packet.sequence]
            path.reconcile(packet.answered, packet.epoch, packet.stream)
            starved = unsure or bool(packet.kind & LATE)
            if starved:
                self._on_starved()
            if packet.kind & MARKED or arrival.traffic_class & CONGESTED == CONGESTED:
                path.book_marked()
            path.book_answer(max(arrived_ns - probe.sent_ns - packet.delay, 0), probe.unix_ns, starved)

    def on_answer(self, address: str, queue_pair: int, epoch: int) -> None:
        """The responder at ``address`` says who it is."""
        peer = self._peers.get(address)
        if peer is None:
            return
        before, peer.queue_pair, peer.epoch = peer.epoch, queue_pair, epoch
        if before and before != epoch:
            self._device.forget_handles(address)
        for number, probe in list(self._outstanding.items()):
            if probe.probing.peer is peer and not probe.epoch:  # it asked, and has its answer
                del self._outstanding[number]
                probe.probing.path.book_answer(None, probe.unix_ns)

    def on_refusal(self, address: str) -> None:
        """The host at ``address`` is there, and nobody answers RDMA probes."""
        peer = self._peers.get(address)
        if peer is not None:
            peer.queue_pair, peer.refused_ns = 0, self._loop.clock()

    def _ask(self, peer: Peer, now: int, pause_ns: int) -> bool:
        """Ask a peer who it is, for all its paths, unless that was asked within ``pause_ns``."""
        if peer.asked_ns and now - peer.asked_ns < pause_ns:
            return True
        peer.asked_ns = now
        return self._introductions.ask(peer.address, peer.traffic_class)

    def _expire(self) -> None:
        """Ask for the peers of what stays unanswered, and judge that a moment later."""
        if self._closed:
            return
        now = self._loop.clock()
        late: list[int] = []
        while self._by_age:
            number = self._by_age[0]
            probe = self._outstanding.get(number)
            if probe is not None:
                if probe.sent_ns + self._timeout_ns > now:
                    self._loop.at(probe.sent_ns + self._timeout_ns, self._expire)
                    break
                late.append(number)
                if probe.epoch:
                    self._ask(probe.probing.peer, now, _GRACE_NS)
            self._by_age.popleft()
        if late:
            self._loop.at(now + _GRACE_NS, lambda: self._judge(late))

    def _judge(self, late: list[int]) -> None:
        now = self._loop.clock()
        for number in late:
            probe = self._outstanding.pop(number, None)
            if probe is None:
                continue
            path, peer = probe.probing.path, probe.probing.peer
            is_closed = peer.refused_ns >= min(probe.sent_ns, peer.asked_ns) > 0
            if is_closed or (probe.epoch and peer.epoch != probe.epoch):
                path.book_refusal(probe.unix_ns)  # nobody answered there then: it has started again, or will
                continue
            path.book_loss(probe.unix_ns, now)
            self._device.forget_handles(peer.address)
