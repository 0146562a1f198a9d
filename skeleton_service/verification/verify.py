"""What the network is, held against what it is meant to be. Pure: intent, topology and readings to differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from exporter.contracts import rnic_counters as rnic_metrics
from exporter.contracts import switch_counters as switch_metrics
from exporter.contracts.catalogue import RNIC_MTU
from exporter.contracts.diagnosis import Component
from exporter.contracts.fabric import Fabric
from exporter.contracts.intent import Amount, Intent, QueueEcn
from exporter.contracts.metric import Metric
from exporter.contracts.names import link_id, port_id, split_port
from exporter.contracts.topology import Host, Switch, Topology
from exporter.contracts.verification import Skipped, Verification
from skeleton_service.verification.book import Book
from skeleton_service.verification.groups import Place
from skeleton_service.verification.meant import amount_text, meets, mtu_of, number_text, queues_of, speed_of
from skeleton_service.verification.readings import Reading, Readings
from skeleton_service.verification.readings import Subject as Key

PRIORITIES = range(8)
ON_OFF = ("off", "on")
_LATEST = 253_402_300_799.0
"""The year 9999, in seconds since the epoch: no calendar here goes beyond."""


def verify(intent: Intent, topology: Topology, readings: Readings, *, drained: bool = False) -> Verification:
    """Compare all that is told with what is meant; the two ends of each link with each other.

    Drained nodes and ports that are administratively down are left out, and counted, unless ``drained``: a card is
    verified before its ports take traffic again. O(ports and RNICs x what is meant of each).
    """
    return _Comparison(intent, topology, readings, drained).verification()


@dataclass(frozen=True, slots=True)
class _End:
    """An end of a link, with the MTU it tells."""

    place: Place
    reading: Reading

    @property
    def mtu(self) -> float:
        return self.reading.value

    @property
    def is_rnic(self) -> bool:
        return self.place.tier is None


class _Comparison:
    def __init__(self, intent: Intent, topology: Topology, readings: Readings, drained: bool) -> None:
        self._intent = intent
        self._topology = topology
        self._fabric = Fabric(topology)
        self._readings = readings
        self._drained = drained
        self._book = Book(readings)
        self._by_switch: dict[str, dict[str, list[Reading]]] = {}
        """{metric of sessions: {switch: its readings}}, made when it is first asked for."""
        self._places: dict[str, Place] = {}
        """{port in service: what it is a part of}."""
        self._meant_mtu: dict[str, Amount] = {}
        self._wrong_mtu: set[str] = set()
        self._skipped_nodes: list[str] = []
        self._skipped_ports: list[str] = []
        self._skipped_sessions: list[str] = []

    def verification(self) -> Verification:
        for switch in self._topology.switches:
            if self._in_service(switch):
                self._switch(switch)
        for host in self._topology.hosts:
            if self._in_service(host):
                self._host(host)
        for link in self._topology.links:
            self._ends(link.a, link.b)
        return Verification(
            version=1,
            agrees=not self._book.findings,
            groups=self._book.groups(),
            findings=tuple(self._book.findings),
            not_told=tuple(self._book.not_told()),
            skipped=Skipped(
                nodes=tuple(self._skipped_nodes),
                ports=tuple(self._skipped_ports),
                sessions=tuple(self._skipped_sessions),
                unknown=self._unknown(),
            ),
            compared=dict(self._book.counts),
        )

    def _in_service(self, node: Switch | Host) -> bool:
        if node.state == "drained" and not self._drained:
            self._skipped_nodes.append(node.name)
            return False
        answered = self._readings.get(switch_metrics.SWITCH_REACHABLE, node.name)
        if answered is not None and answered.value == 0:
            self._book.deaf[node.name] = "did not answer its last poll"
        elif node.name in self._readings.too_old:
            self._book.deaf[node.name] = f"last read {clock(self._readings.too_old[node.name])}"
        return True

    # ---- switches

    def _switch(self, switch: Switch) -> None:
        places = list(self._ports_in_service(switch))
        for place in places:
            self._places[place.id] = place
            self._mtu(place, switch_metrics.PORT_MTU, mtu_of(self._intent, place))
            self._speed(place)
            self._lossless(place, switch_metrics.PRIORITY_LOSSLESS, "priority {}", ("lossy", "lossless"))
            self._pfc(place)
            for queue in queues_of(self._intent, switch.tier):
                self._queue(place, queue)
        self._dscp(switch.name, switch_metrics.SWITCH_DSCP_PRIORITY, None)
        self._sessions(switch)

    def _ports_in_service(self, switch: Switch) -> Iterator[Place]:
        listed = {port.name: port for port in switch.ports}
        cabled = [split_port(end)[1] for end in self._fabric.ports_of(switch.name)]
        for name in dict.fromkeys([*listed, *cabled]):
            end = port_id(switch.name, name)
            enabled = self._book.reading(switch_metrics.PORT_ENABLED, switch.name, name)
            if enabled is not None and enabled.value == 0 and not self._drained:
                self._skipped_ports.append(end)
                continue
            far = self._fabric.far_end(end)
            port = listed.get(name)
            yield Place(
                node=switch.name,
                port=name,
                tier=switch.tier,
                facing=None if far is None else "host" if far in self._fabric.interfaces else "switch",
                link=self._fabric.link_of(end),
                linecard=port.linecard if port else None,
                breakout_group=port.breakout_group if port else None,
                lag=port.lag if port else None,
            )

    def _speed(self, place: Place) -> None:
        meant = speed_of(self._intent, place)
        if meant is None:
            return
        subject = ("speed", "speed")
        reading = self._book.told(subject, switch_metrics.PORT_SPEED, place)
        if reading is not None:
            found = reading.value * 8 / 1e6
            if not meets(meant, found):
                self._book.differ(
                    subject, place, reading, f"speed {number_text(found)} Mb/s", f"{amount_text(meant)} Mb/s"
                )

    def _pfc(self, place: Place) -> None:
        """The port's mode: coarser than its priorities, so never missed."""
        if self._intent.lossless_priorities is None:
            return
        reading = self._book.reading(switch_metrics.PORT_PFC_MODE, place.node, place.port)
        if reading is not None:
            self._book.flag(("pfc", "PFC"), place, reading, bool(self._intent.lossless_priorities), "PFC", ON_OFF)

    def _queue(self, place: Place, meant: QueueEcn) -> None:
        what = f"ECN of queue {meant.queue}"
        reading = self._book.told(("ecn", what), switch_metrics.QUEUE_ECN_ENABLED, place, meant.queue)
        if reading is not None:
            self._book.flag(("ecn", what), place, reading, meant.enabled, what, ON_OFF, counted=True)
        thresholds = (
            (meant.low_bytes, switch_metrics.QUEUE_ECN_LOW, f"{what} from"),
            (meant.high_bytes, switch_metrics.QUEUE_ECN_HIGH, f"{what} in full from"),
        )
        for amount, metric, words in thresholds:
            depth = self._book.reading(metric, place.node, place.port, meant.queue)
            if amount is None or depth is None:  # compared where a switch tells them: many do not
                continue
            subject = ("ecn_threshold", words)
            self._book.compared(subject, place)
            if not meets(amount, depth.value):
                self._book.differ(
                    subject, place, depth, f"{words} {number_text(depth.value)} bytes", f"{amount_text(amount)} bytes"
                )

    def _sessions(self, switch: Switch) -> None:
        timers = self._intent.bgp.get(switch.tier)
        if timers is None:
            return
        for metric, meant, words in (
            (switch_metrics.BGP_HOLD, timers.hold_seconds, "hold time"),
            (switch_metrics.BGP_KEEPALIVE, timers.keepalive_seconds, "keepalive interval"),
        ):
            if meant is None:
                continue
            subject = ("bgp", words)
            readings = self._sessions_of(metric, switch.name)
            self._book.note(subject, switch.name, "", readings[0] if readings else None)
            for reading in readings:
                session = port_id(switch.name, str(reading.subject))
                if self._is_idle(switch.name, reading.subject):
                    if session not in self._skipped_sessions:
                        self._skipped_sessions.append(session)
                    continue
                self._book.compared(subject)
                if reading.value != meant:
                    self._book.add(
                        subject,
                        Component(kind="bgp_session", name=session),
                        reading,
                        f"{words} {number_text(reading.value)} s",
                        f"{meant} s",
                        self._place_of_peer(switch.name, str(reading.subject)),
                    )

    def _sessions_of(self, metric: Metric, switch: str) -> list[Reading]:
        if switch in self._book.deaf:
            return []
        if metric.name not in self._by_switch:
            own: dict[str, list[Reading]] = defaultdict(list)
            for reading in self._readings.of(metric):
                own[reading.node].append(reading)
            self._by_switch[metric.name] = own
        return self._by_switch[metric.name].get(switch, [])

    def _is_idle(self, switch: str, peer: Key) -> bool:
        states = (switch_metrics.BGP_ENABLED, switch_metrics.BGP_ESTABLISHED)
        own = [self._book.reading(metric, switch, None, peer) for metric in states]
        return any(reading is not None and reading.value == 0 for reading in own)

    def _place_of_peer(self, switch: str, peer: str) -> Place | None:
        """The switch's port that leads to a peer, where the topology knows the peer's address."""
        interface = self._fabric.by_address.get(peer)
        far = interface.id if interface else self._fabric.locate(peer)
        near = self._fabric.far_end(far) if far else None
        return self._places.get(near) if near and split_port(near)[0] == switch else None

    # ---- hosts

    def _host(self, host: Host) -> None:
        for rnic in host.rnics:
            end = port_id(host.name, rnic.name)
            place = Place(node=host.name, port=rnic.name, link=self._fabric.link_of(end))
            self._places[end] = place
            self._mtu(place, RNIC_MTU, mtu_of(self._intent, place))
            self._rdma_mtu(place)
            self._lossless(place, rnic_metrics.PFC_ENABLED, "PFC of priority {}", ON_OFF)
            self._trust(place)
            self._dscp(host.name, rnic_metrics.DSCP_PRIORITY, place)
            self._congestion_control(place)

    def _rdma_mtu(self, place: Place) -> None:
        meant = self._intent.mtu.rdma
        if meant is None:
            return
        subject = ("rdma_mtu", "RDMA MTU")
        reading = self._book.told(subject, rnic_metrics.ACTIVE_MTU, place)
        if reading is not None and not meets(meant, reading.value):
            self._book.differ(subject, place, reading, f"RDMA MTU {number_text(reading.value)}", amount_text(meant))

    def _trust(self, place: Place) -> None:
        if self._intent.trust is None:
            return
        reading = self._book.told(("trust", "trust"), rnic_metrics.TRUSTS_DSCP, place)
        if reading is not None:
            meant = self._intent.trust == "dscp"
            self._book.flag(("trust", "trust"), place, reading, meant, "trust", ("pcp", "dscp"), counted=True)

    def _congestion_control(self, place: Place) -> None:
        for each in self._intent.ecn.rnics:
            for metric, meant, words in (
                (rnic_metrics.ECN_NP_ENABLED, each.notification_point, "ECN notification point"),
                (rnic_metrics.ECN_RP_ENABLED, each.reaction_point, "ECN reaction point"),
            ):
                what = f"{words} of priority {each.priority}"
                if meant is None:
                    continue
                reading = self._book.told(("ecn", what), metric, place, each.priority)
                if reading is not None:
                    self._book.flag(("ecn", what), place, reading, meant, what, ON_OFF, counted=True)

    # ---- both

    def _mtu(self, place: Place, metric: Metric, meant: Amount | None) -> None:
        if meant is None:
            return
        self._meant_mtu[place.id] = meant
        reading = self._book.told(("mtu", "MTU"), metric, place)
        if reading is not None and not meets(meant, reading.value):
            self._wrong_mtu.add(place.id)
            self._book.differ(("mtu", "MTU"), place, reading, f"MTU {number_text(reading.value)}", amount_text(meant))

    def _lossless(self, place: Place, metric: Metric, words: str, states: tuple[str, str]) -> None:
        lossless = self._intent.lossless_priorities
        if lossless is None:
            return
        told = [self._book.reading(metric, place.node, place.port, priority) for priority in PRIORITIES]
        if not any(told):
            self._book.note(("lossless", "lossless priorities"), place.node, place.port, None)
            return
        for priority, reading in zip(PRIORITIES, told, strict=True):
            subject = ("lossless", words.format(priority))
            if priority in lossless:  # of one that is to be lossy, a device need not speak
                self._book.note(subject, place.node, place.port, reading)
            if reading is not None:
                self._book.flag(subject, place, reading, priority in lossless, subject[1], states)

    def _dscp(self, node: str, metric: Metric, place: Place | None) -> None:
        port = place.port if place else None
        meant = self._intent.priority_of_dscp
        told = {dscp: self._book.reading(metric, node, port, dscp) for dscp in meant}
        if meant and not any(told.values()):
            self._book.note(("dscp", "priorities of DSCPs"), node, port or "", None)
            return
        for dscp, priority in meant.items():
            subject = ("dscp", f"priority of DSCP {dscp}")
            reading = told[dscp]
            self._book.note(subject, node, port or "", reading)
            if reading is None:
                continue
            self._book.compared(subject, *([place] if place else []))
            if reading.value != priority:
                carries = ", where CNPs travel" if priority == self._intent.cnp_queue else ""
                found, should = f"DSCP {dscp} in priority {number_text(reading.value)}", f"{priority}{carries}"
                self._book.add(subject, _config(place.id if place else node), reading, found, should, place)

    def _ends(self, a: str, b: str) -> None:
        """Two ends of a link need one MTU; the port before an RNIC may have more, as it may count other headers."""
        ends = [end for name in (a, b) if (end := self._end(name)) is not None]
        if len(ends) < 2:
            return
        subject = ("mtu_ends", "MTU")
        self._book.compared(subject, *(end.place for end in ends))
        # A difference from the intent says it already, and what the intent names exactly is meant to be so.
        if {a, b} & self._wrong_mtu or all(isinstance(self._meant_mtu.get(end), int | tuple) for end in (a, b)):
            return
        least, most = sorted(ends, key=lambda end: end.mtu)
        if least.mtu == most.mtu or (least.is_rnic and not most.is_rnic):
            return
        alike = least.is_rnic == most.is_rnic
        for own, far, bound in ((least, most, "at least"), (most, least, "at most")):
            value = number_text(far.mtu) if alike else f"{bound} {number_text(far.mtu)}"
            meant, found = f"{value} as at the other end", f"MTU {number_text(own.mtu)}"
            self._book.show(own.place, subject, found, meant)
        self._book.add(
            subject,
            Component(kind="link", name=link_id(a, b)),
            least.reading,
            f"MTU {number_text(least.mtu)} at {least.place.id}, {number_text(most.mtu)} at {most.place.id}",
            "the same at both ends" if alike else "no less at the switch than at the RNIC",
            least.place,
        )

    def _end(self, name: str) -> _End | None:
        place = self._places.get(name)
        if place is None:
            return None
        metric = RNIC_MTU if place.tier is None else switch_metrics.PORT_MTU
        reading = self._book.reading(metric, place.node, place.port)
        return _End(place, reading) if reading is not None else None

    def _unknown(self) -> int:
        """How many ports tell an MTU and are not in the topology."""
        known = {*self._places, *self._skipped_ports}
        out_of_service = {*self._skipped_nodes}
        return sum(
            reading.node not in out_of_service and port_id(reading.node, str(reading.port)) not in known
            for metric in (switch_metrics.PORT_MTU, RNIC_MTU)
            for reading in self._readings.of(metric)
        )


def _config(name: str) -> Component:
    return Component(kind="config", name=name)


def clock(seconds: float) -> str:
    """A time for people."""
    return f"{datetime.fromtimestamp(min(seconds, _LATEST), UTC):%Y-%m-%d %H:%M:%S} UTC"
