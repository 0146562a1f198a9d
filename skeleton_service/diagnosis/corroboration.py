"""What device counters say of the suspects that probes accuse: a broken device often counts what it breaks.

An anomaly speaks for the component that it is seen at, for the link of its port and, more softly, for the switch or
host that the port belongs to. It comes in time when it begins about when the probes began to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from exporter.contracts.diagnosis import Symptom
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import split_link
from skeleton_service.diagnosis.circles import members
from skeleton_service.diagnosis.counters import Anomaly
from skeleton_service.diagnosis.suspects import Suspect

EARLY_SECONDS, LATE_SECONDS = 35.0, 40.0
"""Counters are read seconds apart: how long before and after the probes an anomaly may begin and belong to them."""
_MOST_WEIGHT = 9.0
_TOGETHER = 8.0
_MOST_PORTS = 8
"""What it says that several ports of one thing, or that face it, went down together; and a little more for each."""
_WHOLE = 0.5
"""Of an anomaly's weight, what it says of the switch, line card or host around its port."""

AT_RNIC = frozenset(
    {
        "rnic_absent",
        "rnic_down",
        "rnic_flapping",
        "rnic_pausing",
        "gid_change",
        "mtu_change",
        "pcie_stall",
        "cnp_ignored",
    }
)
"""Kinds that tell an RNIC from its cable."""
AT_CABLE = frozenset({"bit_errors", "port_down", "port_flapping", "receive_errors"})
"""Kinds that tell a cable from its RNIC, where the RNIC does not say the same."""


@dataclass(frozen=True, slots=True)
class Corroboration:
    """Anomalies, and the fabric that they are in."""

    anomalies: Sequence[Anomaly]
    fabric: Fabric
    moves: Callable[[str, float, float], bool | None] = lambda _host, _since, _until: None
    """Whether a host has moved traffic between two times; None where nobody knows."""

    def during(self, start: float, end: float | None) -> list[Anomaly]:
        """Those that belong to what probes saw from ``start`` on, as far as they are proven."""
        latest = start + LATE_SECONDS if end is None else max(end, start + LATE_SECONDS)
        return [
            each
            for each in self.anomalies
            if start - EARLY_SECONDS <= each.start <= latest and (each.end is None or each.end >= start - 1)
        ]

    def weight(self, suspect: Suspect, anomalies: Iterable[Anomaly]) -> float:
        """Log-likelihood ratio that these add to a suspect, bounded: no device is believed without limit."""
        by_kind: dict[tuple[str, str], float] = {}
        ports: set[str] = set()
        for each in anomalies:
            share = self._share(suspect, each)
            if share:
                # Both ends of a link count the same thing once.
                family = "state" if each.kind.startswith(("port_", "rnic_")) else each.kind
                key = (family, each.node if suspect.kind not in ("link", "cable") else "")
                by_kind[key] = max(by_kind.get(key, -_MOST_WEIGHT), share * each.weight)
                if suspect.kind not in ("link", "cable") and each.kind in ("port_down", "rnic_down", "port_flapping"):
                    ports |= self._ends(each)
        links = {self.fabric.link_of(end) or end for end in ports}
        if len(links) > 1 and not (suspect.kind == "switch" and self._on_one_card(suspect.name, ports)):
            # Several ports of one thing went down together: no cable does that.
            return _TOGETHER + min(len(links), _MOST_PORTS)
        return min(sum(by_kind.values()), _MOST_WEIGHT)

    def _on_one_card(self, switch: str, ports: set[str]) -> bool:
        """Whether these ports of a switch are of one line card while it has others."""
        cards = {(port.linecard if (port := self.fabric.port(end)) else None) for end in self.fabric.ports_of(switch)}
        own = {
            (port.linecard if (port := self.fabric.port(end)) else None)
            for end in ports
            if end.partition(":")[0] == switch
        }
        return len(own) == 1 and len(cards) > 1 and None not in own

    def concerning(self, suspect: Suspect, anomalies: Iterable[Anomaly]) -> list[Anomaly]:
        """Those at the suspect, the strongest first."""
        own = [each for each in anomalies if self._share(suspect, each) > 0]
        return sorted(own, key=lambda each: (-each.weight, each.start, each.component.name))

    def _share(self, suspect: Suspect, anomaly: Anomaly) -> float:
        """How much of an anomaly's weight a suspect gets: 1 where it is seen, a part for what is around, else 0."""
        name = anomaly.component.name
        ends = self._ends(anomaly)
        if suspect.kind == "link":
            return 1.0 if ends & set(split_link(suspect.name)) else 0.0
        if suspect.kind == "cable":
            return 1.0 if ends & {suspect.name, self.fabric.far_end(suspect.name)} else 0.0
        if suspect.kind in ("switch", "host", "vswitch", "container"):
            if name == suspect.name:
                return 1.0
            around = {anomaly.node, *((self.fabric.far_end(end) or "").partition(":")[0] for end in ends)}
            return _WHOLE if suspect.kind in ("switch", "host") and suspect.name in around else 0.0
        if suspect.kind == "circle":
            own = members(suspect.name)
            known = anomaly.kind.startswith("pfc_") or anomaly.kind == "queue_drops"
            return 0.0 if not known else 1.0 if name in own else _WHOLE if anomaly.node in own else 0.0
        if suspect.kind in ("linecard", "breakout_group", "lag"):
            if name == suspect.name:
                return 1.0
            ports = [self.fabric.port(end) for end in ends if end.startswith(suspect.name.partition(":")[0] + ":")]
            group = suspect.name.partition(":")[2]
            return _WHOLE if any(port and getattr(port, suspect.kind) == group for port in ports) else 0.0
        return 0.0

    def _ends(self, anomaly: Anomaly) -> set[str]:
        """Ports that an anomaly is about."""
        kind, name = anomaly.component.kind, anomaly.component.name
        if kind in ("port", "rnic"):
            return {name}
        if kind == "link":
            return set(split_link(name))
        if kind == "bgp_session":
            switch, _, peer = name.partition(":")
            far = self.fabric.locate(peer) or peer
            ends = {end for end in self.fabric.ports_of(switch) if self.fabric.far_end(end) == far}
            ends |= {
                end
                for end in self.fabric.ports_of(switch)
                if (other := self.fabric.far_end(end)) and other.partition(":")[0] == far.partition(":")[0]
            }
            return ends
        return {f"{anomaly.node}:{anomaly.port}"} if anomaly.port else set()


def symptom_of(anomaly: Anomaly) -> Symptom:
    """How a failure shows that nothing but counters tell of."""
    if anomaly.kind.endswith("flapping"):
        return "flap"
    if anomaly.kind in ("mtu_mismatch", "mtu_change", "frames_too_long"):
        return "mtu"
    if anomaly.kind in ("bit_errors", "receive_errors"):
        return "loss"
    if anomaly.kind in ("port_down", "rnic_down", "rnic_absent", "switch_unreachable", "bgp_down", "gid_change"):
        return "unreachable"
    return "congestion"
