"""What the network is, held against what it is meant to be. Pure: intent, topology and readings to differences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from exporter.contracts import rnic_counters as rnic_metrics
from exporter.contracts import switch_counters as switch_metrics
from exporter.contracts.catalogue import RNIC_MTU
from exporter.contracts.diagnosis import Component
from exporter.contracts.fabric import Fabric
from exporter.contracts.intent import Amount, Intent, Override, QueueEcn, Range
from exporter.contracts.metric import Metric
from exporter.contracts.names import link_id, port_id, split_port
from exporter.contracts.topology import Host, Switch, Topology
from exporter.contracts.verification import Finding, NotTold, Skipped, Verification
from skeleton_service.readings import Reading, Readings
from skeleton_service.readings import Subject as Key
from skeleton_service.verifygroups import Place, Subject, Symptom, group

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
        self._findings: list[Finding] = []
        self._symptoms: list[Symptom] = []
        self._counts: Counter[str] = Counter()
        self._compared: dict[Subject, dict[str, list[Place]]] = defaultdict(lambda: defaultdict(list))
        self._asked: Counter[tuple[Subject, str]] = Counter()
        self._missing: dict[tuple[Subject, str], list[str]] = defaultdict(list)
        self._deaf: dict[str, str] = {}
        """{node whose readings are not to be trusted: why}."""
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
            agrees=not self._findings,
            groups=tuple(group(self._symptoms, self._compared)),
            findings=tuple(self._findings),
            not_told=tuple(self._not_told()),
            skipped=Skipped(
                nodes=tuple(self._skipped_nodes),
                ports=tuple(self._skipped_ports),
                sessions=tuple(self._skipped_sessions),
                unknown=self._unknown(),
            ),
            compared=dict(self._counts),
        )

    def _in_service(self, node: Switch | Host) -> bool:
        if node.state == "drained" and not self._drained:
            self._skipped_nodes.append(node.name)
            return False
        answered = self._readings.get(switch_metrics.SWITCH_REACHABLE, node.name)
        if answered is not None and answered.value == 0:
            self._deaf[node.name] = "did not answer its last poll"
        elif node.name in self._readings.too_old:
            self._deaf[node.name] = f"last read {_clock(self._readings.too_old[node.name])}"
        return True

    # ---- switches

    def _switch(self, switch: Switch) -> None:
        places = list(self._ports_in_service(switch))
        for place in places:
            self._places[place.id] = place
            self._mtu(place, switch_metrics.PORT_MTU, self._meant_of_port(place, "mtu"))
            self._speed(place)
            self._lossless(place, switch_metrics.PRIORITY_LOSSLESS, "priority {}", ("lossy", "lossless"))
            self._pfc(place)
            for queue in self._queues(switch.tier):
                self._queue(place, queue)
        self._dscp(switch.name, switch_metrics.SWITCH_DSCP_PRIORITY, None)
        self._sessions(switch)

    def _ports_in_service(self, switch: Switch) -> Iterator[Place]:
        listed = {port.name: port for port in switch.ports}
        cabled = [split_port(end)[1] for end in self._fabric.ports_of(switch.name)]
        for name in dict.fromkeys([*listed, *cabled]):
            end = port_id(switch.name, name)
            enabled = self._reading(switch_metrics.PORT_ENABLED, switch.name, name)
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

    def _meant_of_port(self, place: Place, what: str) -> Amount | None:
        """The MTU or speed meant of a switch port: of the last override that selects it, or of its tier."""
        tiers = self._intent.mtu.tiers if what == "mtu" else self._intent.speed_mbps
        meant = tiers.get(place.tier or "")
        for override in self._intent.overrides:
            own: Amount | None = getattr(override, what)
            if own is not None and _selects(override, place):
                meant = own
        return meant

    def _speed(self, place: Place) -> None:
        meant = self._meant_of_port(place, "speed_mbps")
        if meant is None:
            return
        subject = ("speed", "speed")
        reading = self._told(subject, switch_metrics.PORT_SPEED, place)
        if reading is not None:
            found = reading.value * 8 / 1e6
            if not self._meets(meant, found):
                self._differ(subject, place, reading, f"speed {_number(found)} Mb/s", f"{_amount(meant)} Mb/s")

    def _pfc(self, place: Place) -> None:
        """The port's mode: coarser than its priorities, so never missed."""
        if self._intent.lossless_priorities is None:
            return
        reading = self._reading(switch_metrics.PORT_PFC_MODE, place.node, place.port)
        if reading is not None:
            self._flag(("pfc", "PFC"), place, reading, bool(self._intent.lossless_priorities), "PFC", ON_OFF)

    def _queues(self, tier: str) -> list[QueueEcn]:
        """What is meant of each queue of a tier's switches: its own word before the general one."""
        meant = {each.queue: each for each in self._intent.ecn.queues if not each.tiers}
        meant |= {each.queue: each for each in self._intent.ecn.queues if tier in each.tiers}
        return list(meant.values())

    def _queue(self, place: Place, meant: QueueEcn) -> None:
        what = f"ECN of queue {meant.queue}"
        reading = self._told(("ecn", what), switch_metrics.QUEUE_ECN_ENABLED, place, meant.queue)
        if reading is not None:
            self._flag(("ecn", what), place, reading, meant.enabled, what, ON_OFF, counted=True)
        thresholds = (
            (meant.low_bytes, switch_metrics.QUEUE_ECN_LOW, f"{what} from"),
            (meant.high_bytes, switch_metrics.QUEUE_ECN_HIGH, f"{what} in full from"),
        )
        for amount, metric, words in thresholds:
            depth = self._reading(metric, place.node, place.port, meant.queue)
            if amount is None or depth is None:  # compared where a switch tells them: many do not
                continue
            subject = ("ecn_threshold", words)
            self._count(subject, place)
            if not self._meets(amount, depth.value):
                self._differ(subject, place, depth, f"{words} {_number(depth.value)} bytes", f"{_amount(amount)} bytes")

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
            told = False
            for reading in self._sessions_of(metric, switch.name):
                told = True
                session = port_id(switch.name, str(reading.subject))
                if self._is_idle(switch.name, reading.subject):
                    if session not in self._skipped_sessions:
                        self._skipped_sessions.append(session)
                    continue
                self._counts["bgp"] += 1
                if reading.value != meant:
                    self._add(
                        subject,
                        Component(kind="bgp_session", name=session),
                        reading,
                        f"{words} {_number(reading.value)} s",
                        f"{meant} s",
                        self._place_of_peer(switch.name, str(reading.subject)),
                    )
            self._asked[subject, switch.name] += 1
            if not told:
                self._missing[subject, switch.name].append("")

    def _sessions_of(self, metric: Metric, switch: str) -> list[Reading]:
        if switch in self._deaf:
            return []
        if metric.name not in self._by_switch:
            own: dict[str, list[Reading]] = defaultdict(list)
            for reading in self._readings.of(metric):
                own[reading.node].append(reading)
            self._by_switch[metric.name] = own
        return self._by_switch[metric.name].get(switch, [])

    def _is_idle(self, switch: str, peer: Key) -> bool:
        states = (switch_metrics.BGP_ENABLED, switch_metrics.BGP_ESTABLISHED)
        own = [self._reading(metric, switch, None, peer) for metric in states]
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
            mtu = self._intent.mtu.rnics
            for override in self._intent.overrides:
                if override.mtu is not None and _selects(override, place):
                    mtu = override.mtu
            self._mtu(place, RNIC_MTU, mtu)
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
        reading = self._told(subject, rnic_metrics.ACTIVE_MTU, place)
        if reading is not None and not self._meets(meant, reading.value):
            self._differ(subject, place, reading, f"RDMA MTU {_number(reading.value)}", _amount(meant))

    def _trust(self, place: Place) -> None:
        if self._intent.trust is None:
            return
        reading = self._told(("trust", "trust"), rnic_metrics.TRUSTS_DSCP, place)
        if reading is not None:
            meant = self._intent.trust == "dscp"
            self._flag(("trust", "trust"), place, reading, meant, "trust", ("pcp", "dscp"), counted=True)

    def _congestion_control(self, place: Place) -> None:
        for each in self._intent.ecn.rnics:
            for metric, meant, words in (
                (rnic_metrics.ECN_NP_ENABLED, each.notification_point, "ECN notification point"),
                (rnic_metrics.ECN_RP_ENABLED, each.reaction_point, "ECN reaction point"),
            ):
                what = f"{words} of priority {each.priority}"
                if meant is None:
                    continue
                reading = self._told(("ecn", what), metric, place, each.priority)
                if reading is not None:
                    self._flag(("ecn", what), place, reading, meant, what, ON_OFF, counted=True)

    # ---- both

    def _mtu(self, place: Place, metric: Metric, meant: Amount | None) -> None:
        if meant is None:
            return
        self._meant_mtu[place.id] = meant
        reading = self._told(("mtu", "MTU"), metric, place)
        if reading is not None and not self._meets(meant, reading.value):
            self._wrong_mtu.add(place.id)
            self._differ(("mtu", "MTU"), place, reading, f"MTU {_number(reading.value)}", _amount(meant))

    def _lossless(self, place: Place, metric: Metric, words: str, states: tuple[str, str]) -> None:
        lossless = self._intent.lossless_priorities
        if lossless is None:
            return
        told = [self._reading(metric, place.node, place.port, priority) for priority in PRIORITIES]
        if not any(told):
            self._note(("lossless", "lossless priorities"), place.node, place.port, None)
            return
        for priority, reading in zip(PRIORITIES, told, strict=True):
            subject = ("lossless", words.format(priority))
            if priority in lossless:  # of one that is to be lossy, a device need not speak
                self._note(subject, place.node, place.port, reading)
            if reading is not None:
                self._flag(subject, place, reading, priority in lossless, subject[1], states)

    def _dscp(self, node: str, metric: Metric, place: Place | None) -> None:
        port = place.port if place else None
        meant = self._intent.priority_of_dscp
        told = {dscp: self._reading(metric, node, port, dscp) for dscp in meant}
        if meant and not any(told.values()):
            self._note(("dscp", "priorities of DSCPs"), node, port or "", None)
            return
        for dscp, priority in meant.items():
            subject = ("dscp", f"priority of DSCP {dscp}")
            reading = told[dscp]
            self._note(subject, node, port or "", reading)
            if reading is None:
                continue
            self._counts["dscp"] += 1
            if place:
                self._compared[subject][node].append(place)
            if reading.value != priority:
                carries = ", where CNPs travel" if priority == self._intent.cnp_queue else ""
                found, should = f"DSCP {dscp} in priority {_number(reading.value)}", f"{priority}{carries}"
                self._add(subject, _config(place.id if place else node), reading, found, should, place)

    def _ends(self, a: str, b: str) -> None:
        """Two ends of a link need one MTU; the port before an RNIC may have more, as it may count other headers."""
        ends = [end for name in (a, b) if (end := self._end(name)) is not None]
        if len(ends) < 2:
            return
        self._counts["mtu_ends"] += 1
        for end in ends:
            self._compared["mtu_ends", "MTU"][end.place.node].append(end.place)
        # A difference from the intent says it already, and what the intent names exactly is meant to be so.
        if {a, b} & self._wrong_mtu or all(isinstance(self._meant_mtu.get(end), int | tuple) for end in (a, b)):
            return
        least, most = sorted(ends, key=lambda end: end.mtu)
        if least.mtu == most.mtu or (least.is_rnic and not most.is_rnic):
            return
        alike = least.is_rnic == most.is_rnic
        for own, far, bound in ((least, most, "at least"), (most, least, "at most")):
            value = _number(far.mtu) if alike else f"{bound} {_number(far.mtu)}"
            meant, found = f"{value} as at the other end", f"MTU {_number(own.mtu)}"
            self._symptoms.append(Symptom(len(self._findings), own.place, ("mtu_ends", "MTU"), found, meant))
        self._add(
            ("mtu_ends", "MTU"),
            Component(kind="link", name=link_id(a, b)),
            least.reading,
            f"MTU {_number(least.mtu)} at {least.place.id}, {_number(most.mtu)} at {most.place.id}",
            "the same at both ends" if alike else "no less at the switch than at the RNIC",
            least.place,
        )

    def _end(self, name: str) -> _End | None:
        place = self._places.get(name)
        if place is None:
            return None
        metric = RNIC_MTU if place.tier is None else switch_metrics.PORT_MTU
        reading = self._reading(metric, place.node, place.port)
        return _End(place, reading) if reading is not None else None

    # ---- booking

    def _reading(self, metric: Metric, node: str, port: str | None, key: Key = None) -> Reading | None:
        return None if node in self._deaf else self._readings.get(metric, node, port, key)

    def _note(self, subject: Subject, node: str, port: str, reading: Reading | None) -> None:
        """Book that something should be told, and whether it is."""
        self._asked[subject, node] += 1
        if reading is None:
            self._missing[subject, node].append(port)

    def _told(self, subject: Subject, metric: Metric, place: Place, key: Key = None) -> Reading | None:
        """The reading, which is about to be compared; where there is none, that is booked."""
        reading = self._reading(metric, place.node, place.port, key)
        self._note(subject, place.node, place.port, reading)
        if reading is not None:
            self._count(subject, place)
        return reading

    def _count(self, subject: Subject, place: Place) -> None:
        self._counts[subject[0]] += 1
        self._compared[subject][place.node].append(place)

    def _flag(
        self,
        subject: Subject,
        place: Place,
        reading: Reading,
        meant: bool,
        words: str,
        states: tuple[str, str],
        *,
        counted: bool = False,
    ) -> None:
        """Compare what is either of two ``states``, by their names when it is 0 and when it is not."""
        if not counted:
            self._count(subject, place)
        if (reading.value != 0) is not meant:
            self._differ(subject, place, reading, f"{words} {states[reading.value != 0]}", states[meant])

    def _meets(self, meant: Amount, value: float) -> bool:
        if isinstance(meant, Range):
            enough = meant.at_least is None or value >= meant.at_least
            return enough and (meant.at_most is None or value <= meant.at_most)
        return value in meant if isinstance(meant, tuple) else value == meant

    def _differ(self, subject: Subject, place: Place, reading: Reading, found: str, meant: str) -> None:
        self._add(subject, _config(place.id), reading, found, meant, place)

    def _add(
        self, subject: Subject, component: Component, reading: Reading, found: str, meant: str, place: Place | None
    ) -> None:
        if place is not None and component.kind == "config":
            self._symptoms.append(Symptom(len(self._findings), place, subject, found, meant))
        self._findings.append(
            Finding(
                component=component,
                item=subject[0],
                found=found,
                meant=meant,
                metric=reading.metric,
                value=reading.value,
                time=reading.time,
                link=place.link if place else None,
                linecard=place.linecard if place else None,
                breakout_group=place.breakout_group if place else None,
                lag=place.lag if place else None,
            )
        )

    def _not_told(self) -> Iterator[NotTold]:
        for (subject, node), ports in sorted(self._missing.items()):
            of = self._asked[subject, node]
            yield NotTold(
                item=subject[0],
                subject=subject[1],
                node=node,
                ports=() if len(ports) == of else tuple(ports),
                of=None if ports == [""] else of,
                reason=self._deaf.get(node),
            )

    def _unknown(self) -> int:
        """How many ports tell an MTU and are not in the topology."""
        known = {*self._places, *self._skipped_ports}
        out_of_service = {*self._skipped_nodes}
        return sum(
            reading.node not in out_of_service and port_id(reading.node, str(reading.port)) not in known
            for metric in (switch_metrics.PORT_MTU, RNIC_MTU)
            for reading in self._readings.of(metric)
        )


def _selects(override: Override, place: Place) -> bool:
    of_host = place.tier is None
    if override.ports and place.port not in override.ports:
        return False
    if of_host:
        return not (override.tiers or override.switches or override.facing) and (
            place.node in override.hosts if override.hosts else bool(override.ports)
        )
    return (
        not override.hosts
        and (not override.tiers or place.tier in override.tiers)
        and (not override.switches or place.node in override.switches)
        and (override.facing is None or place.facing == override.facing)
    )


def _config(name: str) -> Component:
    return Component(kind="config", name=name)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:g}"


def _amount(meant: Amount) -> str:
    if isinstance(meant, tuple):
        return " or ".join(map(str, meant))
    if isinstance(meant, Range):
        if meant.at_least is None:
            return f"at most {meant.at_most}"
        return f"at least {meant.at_least}" if meant.at_most is None else f"{meant.at_least} to {meant.at_most}"
    return str(meant)


def _clock(seconds: float) -> str:
    return f"{datetime.fromtimestamp(min(seconds, _LATEST), UTC):%Y-%m-%d %H:%M:%S} UTC"
