"""Sends RDMA probes from one device and books what comes back.

Network round trip = (reply seen - request posted) - the responder's delay, as in R-Pingmesh (SIGCOMM'24); no clocks of
two hosts are compared. Times are those of this process, as soft-RoCE has none of its own: what it finds after it was
busy for long is an answer, with a round trip that nobody knows.

A probe of a path whose responder is not known asks for it (exporter.rdma.introduction). Its silence is a loss and a
refusal a refusal, but its answer is none of RDMA, and nothing is booked for it. A probe that stays unanswered has its
responder asked before it is judged: one that has another queue pair by now has started again, which is no loss.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field

from exporter.probing.loop import LATE_NS, LATEST_NS, SLOT_NS, Loop, Timer
from exporter.probing.packet import LATE, MARKED, REPLY, REQUEST, Codec
from exporter.probing.paths import Path
from exporter.rdma.device import MAX_QUEUE_PAIR, STARVED_NS, Arrival, Device, Handle, Message, QueuePair
from exporter.rdma.introduction import Introductions
from exporter.rdma.responder import CONGESTED
from exporter.rdma.verbs import PyverbsRDMAError

_GRACE_NS = 100_000_000
"""For the answer to the question that comes before a probe is taken for lost."""
_REFUSED_NS = 2_000_000_000
"""A refusal holds for so long: a host refuses once a second and no more often (icmp_ratelimit, icmp(7))."""
_SILENT_NS, _REPEAT_NS = 1_000_000_000, 500_000_000
"""A peer that is silent for so long is asked twice a second, and the probes due meanwhile share a question: the kernel
may have to keep them all, and says of each that it could not be delivered."""
_UNANSWERED = 8
"""With so many probes of a path unanswered its peer is asked in their place. Where the next hop has gone, the kernel
keeps packets for 3 s; with 64 of them under way that holds up the queue pair (of soft-RoCE), and all its paths."""
_RETRY_NS = 10_000_000_000
"""After an address handle could not be made, though its peer had just answered; or a new one has not helped."""
_TOGETHER = 16
"""Probes that are posted with one call, before what has come back meanwhile is looked for."""
_FLAGS = LATE | MARKED


@dataclass(eq=False, slots=True)
class Peer:
    """An address that is probed in a traffic class. Times are monotonic, 0 = never."""

    address: str
    traffic_class: int
    queue_pair: int = 0
    """0 while it is not known."""
    epoch: int = 0
    asked_ns: int = 0
    refused_ns: int = 0
    is_lost: bool = False
    """Whether a probe was, since it last said who it is."""
    remade_ns: int = 0
    """When its address handles were made anew after a loss: where that has not helped, it does not at once."""
    silent_ns: int = 0
    """When it was first asked in place of a probe, since anything was heard of it."""
    no_handle_ns: int = 0
    """When no address handle could be made."""
    users: int = 0
    asking: set[int] = field(default_factory=set)
    """Numbers of the probes under way that ask who it is."""


@dataclass(eq=False, slots=True)
class Probing:
    """A path that is probed from this device."""

    path: Path
    peer: Peer
    pair: QueuePair
    period_ns: int
    due_ns: int
    unanswered: int = 0
    """Probes sent since one was answered, or its peer was heard of by a question."""
    removed: bool = False


@dataclass(eq=False, slots=True)
class _Outstanding:
    probing: Probing
    unix_ns: int
    sent_ns: int
    responder: tuple[int, int] | None
    """Queue pair and boot epoch that it was sent to; None for a probe that asks who that is."""
    is_unsure: bool = False
    """Nobody knows to ``STARVED_NS`` when it was sent."""


def flow_label(source_port: int) -> int:
    """That from which a device derives this UDP source port, from 49152 on (rdma_flow_label_to_udp_sport)."""
    return source_port & 0x3FFF


class RdmaProber:
    """The paths of one device.

    ``on_starved`` is called for each probe whose round trip a busy process has spoilt. A device that cannot send is
    ``broken``.
    """

    def __init__(
        self,
        loop: Loop,
        codec: Codec,
        device: Device,
        introductions: Introductions,
        timeout_seconds: float,
        numbers: Iterator[int],
        look: Callable[[], None] = lambda: None,
        on_starved: Callable[[], None] = lambda: None,
    ) -> None:
        """``numbers`` are for the probes: never again a smaller one, or responders take it for a replay.

        ``look`` deals with what has arrived: it is called just before probes are posted, and once all are. So what
        comes back is found soon after it came, and all that was there before is known to have been.
        """
        self._loop = loop
        self._codec = codec
        self._device = device
        self._introductions = introductions
        self._timeout_ns = int(timeout_seconds * 1e9)
        self._look = look
        self._on_starved = on_starved
        self._peers: dict[tuple[str, int], Peer] = {}
        self._pairs: dict[int, tuple[QueuePair, int]] = {}  # source port -> queue pair, users
        self._due: list[tuple[int, int, Probing]] = []
        self._timer: Timer | None = None
        self._added = 0
        self._numbers = numbers
        self._outstanding: dict[int, _Outstanding] = {}
        self._by_age: deque[int] = deque()
        self._closed = False

    def close(self) -> None:
        """The device is about to be closed: nobody will know what came of the probes under way."""
        self._closed = True
        for probe in self._outstanding.values():
            self._leave(probe)
        self._outstanding.clear()

    @staticmethod
    def _leave(probe: _Outstanding) -> None:
        if probe.responder is None:
            probe.probing.path.leave_question(probe.unix_ns, answered=False)
        else:
            probe.probing.path.leave_unjudged(probe.unix_ns)

    def add(self, path: Path, due_ns: int | None) -> Probing:
        """Probe ``path`` from ``due_ns`` (monotonic) on, every period, or (None) whenever told to; raise VerbsError."""
        target = path.target
        port = target.source_ports[0]
        pair, users = self._pairs.get(port) or (self._device.pair(), 0)
        self._pairs[port] = (pair, users + 1)
        key = (target.destination_address, target.traffic_class)
        peer = self._peers.setdefault(key, Peer(*key))
        peer.users += 1
        probing = Probing(path, peer, pair, int(target.period_seconds * 1e9), due_ns or 0)
        if due_ns is not None:
            self._plan(probing)
            self._wake()
        return probing

    def probe(self, probing: Probing) -> None:
        """Probe its path now. To be called in a slot."""
        if self._loop.late_ns > LATEST_NS:
            probing.path.book_unsent()
        else:
            self._send_last([probing], self._loop.clock())

    def remove(self, gone: Set[Probing]) -> None:
        """Stop probing these. O(probes under way): call once for them all."""
        for probing in gone:
            probing.removed = True
            port, peer = probing.path.target.source_ports[0], probing.peer
            peer.users -= 1
            if not peer.users:
                del self._peers[peer.address, peer.traffic_class]
                for known in self._pairs:  # its next hop may be another by the time that it is probed again
                    self._device.forget_handle(peer.address, peer.traffic_class, flow_label(known))
            pair, users = self._pairs.pop(port)
            if users > 1:
                self._pairs[port] = (pair, users - 1)
            else:
                self._device.forget(pair)
        self._outstanding = {number: probe for number, probe in self._outstanding.items() if probe.probing not in gone}
        for peer in {probing.peer for probing in gone}:
            peer.asking.intersection_update(self._outstanding)

    # ---- sending

    def _plan(self, probing: Probing) -> None:
        self._added += 1
        heapq.heappush(self._due, (probing.due_ns, self._added, probing))

    def _wake(self) -> None:
        """Have one timer, for what is due first."""
        if self._due:
            slot = -(-self._due[0][0] // SLOT_NS)
            if self._timer is None or slot != self._timer.slot:
                if self._timer is not None:
                    self._loop.cancel(self._timer)
                self._timer = self._loop.at(self._due[0][0], self._on_slot)

    def _on_slot(self) -> None:
        if self._closed:
            return
        self._timer = None
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
            missed = (now - probing.due_ns) // probing.period_ns
            if missed:
                probing.path.book_unsent(missed)
            probing.due_ns += (missed + 1) * probing.period_ns
            self._plan(probing)
        self._wake()
        if ready:
            self._send_last(ready, now)

    def _send_last(self, ready: list[Probing], now: int) -> None:
        """Once all else is done that this slot holds: what comes between a probe and its reply adds to it."""
        self._loop.at(now // SLOT_NS * SLOT_NS, lambda: self._send(ready, now))

    def _send(self, ready: list[Probing], now: int) -> None:
        if self._closed:
            return
        if self._device.broken:
            for probing in ready:
                probing.path.book_unsent()
            return
        batches: dict[QueuePair, list[tuple[Probing, Handle]]] = defaultdict(list)
        for probing in ready:
            handle = None if probing.removed else self._handle(probing, now)
            if handle is not None:
                batches[probing.pair].append((probing, handle))
        for pair, batch in batches.items():
            for start in range(0, len(batch), _TOGETHER):
                self._post(pair, batch[start : start + _TOGETHER])
        if batches:
            self._look()

    def _handle(self, probing: Probing, now: int) -> Handle | None:
        """Where to send the probe that is due; None where it has been seen to otherwise."""
        peer, target = probing.peer, probing.path.target
        if peer.no_handle_ns and now - peer.no_handle_ns < _RETRY_NS:
            probing.path.book_unsent()
            return None
        label = flow_label(target.source_ports[0])
        made = self._device.handle(peer.address, peer.traffic_class, label)
        if made is not None and peer.queue_pair and probing.unanswered < _UNANSWERED:
            return Handle(made, peer.queue_pair)
        self._ask_in_its_place(probing, now)
        return None

    def _ask_in_its_place(self, probing: Probing, now: int) -> None:
        peer = probing.peer
        peer.silent_ns = peer.silent_ns or now
        if now - peer.silent_ns < _SILENT_NS or now - peer.asked_ns > _REPEAT_NS:
            if not self._introductions.ask(peer.address, peer.traffic_class):
                probing.path.book_unsent()
                return
            peer.asked_ns = now
        peer.asking.add(self._await(probing, time.time_ns(), now, None))

    def _await(self, probing: Probing, unix_ns: int, sent_ns: int, responder: tuple[int, int] | None) -> int:
        number = next(self._numbers)
        self._outstanding[number] = _Outstanding(probing, unix_ns, sent_ns, responder)
        if not self._by_age:
            self._loop.at(sent_ns + self._timeout_ns, self._expire)
        self._by_age.append(number)
        return number

    def _post(self, pair: QueuePair, batch: list[tuple[Probing, Handle]]) -> None:
        if pair.room < len(batch):  # completions are not read, or do not come: the host's trouble
            for probing, _ in batch:
                probing.path.book_unsent()
            return
        messages: list[Message] = []
        waiting: list[int] = []
        now, unix_ns = self._loop.now_ns, time.time_ns()
        for probing, handle in batch:
            number = self._await(probing, unix_ns, now, (probing.peer.queue_pair, probing.peer.epoch))
            waiting.append(number)
            messages.append((handle, self._codec.request(REQUEST, number, probing.path.token)))
        self._look()
        try:
            posted_ns = pair.send(messages)
        except PyverbsRDMAError as error:
            self._device.broken = f"RDMA device {self._device.name}: cannot send ({error})"
            for probing, number in zip((probing for probing, _ in batch), waiting, strict=True):
                if self._outstanding.pop(number, None) is not None:
                    probing.path.book_unsent()
            return
        is_unsure = self._loop.clock() - posted_ns > STARVED_NS
        for number in waiting:
            probe = self._outstanding.get(number)
            if probe is None:  # answered by whoever guessed its number, who has our key
                continue
            probe.sent_ns, probe.is_unsure = posted_ns, is_unsure
            probe.probing.unanswered += 1
            probe.probing.path.book_sent()

    # ---- what comes back

    def take(self, arrivals: list[Arrival]) -> None:
        """Book the replies among ``arrivals``."""
        for arrival in arrivals:
            packet = self._codec.parse(arrival.data)
            if packet is None or packet.kind & ~_FLAGS != REPLY:
                continue
            probe = self._outstanding.get(packet.sequence)
            if probe is None or probe.responder is None:
                continue
            path = probe.probing.path
            if packet.token != path.token or arrival.source != path.target.destination_address:
                continue
            del self._outstanding[packet.sequence]
            probe.probing.unanswered = 0
            probe.probing.peer.silent_ns = 0
            path.reconcile(packet.answered, packet.epoch, packet.stream)
            rtt_ns = arrival.at_ns - probe.sent_ns - packet.delay
            impossible = rtt_ns < -STARVED_NS  # a clock that is not what it seems
            starved = probe.is_unsure or arrival.is_unsure or impossible or bool(packet.kind & LATE)
            if starved:
                self._on_starved()
            if packet.kind & MARKED or arrival.traffic_class & CONGESTED == CONGESTED:
                path.book_marked()
            path.book_answer(max(rtt_ns, 0), probe.unix_ns, starved)

    def on_answer(self, address: str, traffic_class: int, queue_pair: int, epoch: int) -> None:
        """The responder at ``address`` says who it is."""
        key = (address, traffic_class)
        peer = self._peers.get(key)
        if peer is None or not 0 < queue_pair <= MAX_QUEUE_PAIR:
            return
        peer.queue_pair, peer.epoch = queue_pair, epoch
        asked = [self._outstanding.pop(number) for number in peer.asking if number in self._outstanding]
        peer.asking.clear()
        for probe in asked:
            probe.probing.unanswered = 0
            probe.probing.path.leave_question(probe.unix_ns, answered=True)
        labels = {flow_label(probe.probing.path.target.source_ports[0]) for probe in asked}
        known = {label for label in map(flow_label, self._pairs) if self._device.handle(*key, label) is not None}
        now = self._loop.clock()
        if peer.is_lost and (not peer.remade_ns or now - peer.remade_ns > _RETRY_NS):  # its next hop may be another
            peer.remade_ns = now
            for label in known:
                self._device.forget_handle(*key, label)
            labels |= known
        else:
            labels -= known
        peer.is_lost, peer.silent_ns = False, 0
        self._make_handles(peer, labels)

    def _make_handles(self, peer: Peer, labels: Set[int]) -> None:
        """Make those to a peer that has just answered. At no other time: its next hop may be cold again soon."""
        try:
            for label in labels:
                self._device.make_handle(peer.address, peer.traffic_class, label)
        except PyverbsRDMAError:  # only UDP has a way to it; the others would take as long to fail
            peer.no_handle_ns = self._loop.clock()

    def on_refusal(self, address: str) -> None:
        """The host at ``address`` is there, and nobody answers RDMA probes."""
        for (known, _), peer in self._peers.items():
            if known == address:
                peer.queue_pair, peer.refused_ns, peer.silent_ns = 0, self._loop.clock(), 0

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
                peer = probe.probing.peer
                if probe.responder is not None and now - peer.asked_ns > _GRACE_NS:
                    peer.asked_ns, peer.is_lost = now, True
                    self._introductions.ask(peer.address, peer.traffic_class)
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
            peer.asking.discard(number)
            late_ns = now - probe.sent_ns - self._timeout_ns - _GRACE_NS
            if late_ns > self._timeout_ns:  # as of UDP: to have stood still for so long is no evidence of the network
                self._leave(probe)
                continue
            if probe.responder is None:
                path.book_sent()
            is_closed = peer.refused_ns and probe.sent_ns - peer.refused_ns < _REFUSED_NS
            if is_closed or (probe.responder and probe.responder != (peer.queue_pair, peer.epoch) and peer.queue_pair):
                path.book_refusal(probe.unix_ns)  # nobody answered there then: it has started again, or will
            else:
                starved = late_ns > LATE_NS + 2 * SLOT_NS  # asked, and then judged, in the slot that follows
                path.book_loss(probe.unix_ns, now, starved)
