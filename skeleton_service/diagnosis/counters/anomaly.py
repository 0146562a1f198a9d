"""What counters can show, and how strongly each kind speaks for its component being broken."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal

from exporter.contracts.diagnosis import Component

Direction = Literal["ingress", "egress"]
Kind = Literal[
    "port_down", "port_flapping", "bit_errors", "receive_errors", "frames_too_long", "mtu_mismatch", "discards",
    "queue_drops", "pfc_storm", "pfc_deadlock", "pfc_pausing", "watchdog_stuck", "ecn_absent", "ecn_surge",
    "cnp_surge", "cnp_ignored", "bgp_down", "bgp_flapping", "switch_unreachable", "host_silent", "agent_silent",
    "rnic_absent", "rnic_down", "rnic_flapping", "rnic_pausing", "gid_change", "mtu_change", "pcie_stall",
    "retransmission", "traffic_stopped",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """Something that a component's counters show and did not show before.

    ``start`` is the time of the first sample that shows it, ``proven`` that of the sample after which it was beyond
    doubt (never earlier), ``end`` that of the last sample that shows it, None while it lasts (s since the epoch).
    ``magnitude`` is a rate or a value in ``unit``. ``weight`` is a natural logarithm: see ``LIKELIHOODS``.
    ``direction`` is ``ingress`` where packets that arrive at the port are hurt, ``egress`` where those that leave it.
    """

    kind: Kind
    component: Component
    node: str
    port: str | None
    start: float
    proven: float
    end: float | None
    magnitude: float
    unit: str
    evidence: str
    direction: Direction | None = None

    @property
    def weight(self) -> float:
        """Log-likelihood ratio of the anomaly between "this component is broken" and "another is, or none"."""
        broken, otherwise = LIKELIHOODS[self.kind]
        return log(broken / otherwise)


LIKELIHOODS: dict[Kind, tuple[float, float]] = {
    # Kind: probability to be seen (when the component is broken in the way that shows so, when it is not). The second
    # counts what else makes it: a healthy component in a fabric where something else has failed. Where no paper gives
    # a number they are orders of magnitude, and say so by being round.
    "bit_errors": (0.9, 0.001),  # post-FEC errors beyond 1/s happen on no healthy cable (IEEE 802.3: BER 1e-12)
    "receive_errors": (0.9, 0.02),  # ifInErrors has frames too long and others in it
    "port_down": (0.95, 0.02),  # the far end may have lost its power instead
    "port_flapping": (0.95, 0.01),
    "frames_too_long": (0.9, 0.005),  # somebody else's jumbo frame now and then, never ten a second
    "mtu_mismatch": (0.95, 0.01),  # a port's own MTU, read from it; deliberate differences exist
    "discards": (0.5, 0.1),  # congestion discards too: a symptom
    "queue_drops": (0.7, 0.1),
    "pfc_storm": (0.95, 0.002),  # a watchdog that fired, or a queue that froze under pause (Guo, SIGCOMM 2016, 6)
    "pfc_deadlock": (0.95, 0.002),
    "pfc_pausing": (0.7, 0.1),  # an origin of pauses is congested at least; why is another question
    "watchdog_stuck": (0.9, 0.05),  # whoever is at the other end of the port
    "ecn_absent": (0.9, 0.05),  # no marks where marks were: but small incasts pause before they mark
    "ecn_surge": (0.5, 0.3),  # congestion control at work
    "cnp_surge": (0.5, 0.3),
    "cnp_ignored": (0.9, 0.02),  # should stay 0 for ever
    "bgp_down": (0.9, 0.05),  # with its link up
    "bgp_flapping": (0.9, 0.05),
    "switch_unreachable": (0.98, 0.05),  # its management port may be what died
    "host_silent": (0.98, 0.1),  # an exporter that stopped looks alike until the leaf's counters are seen
    "agent_silent": (0.98, 0.01),  # the host sends, its exporter says nothing
    "rnic_absent": (0.9, 0.005),
    "rnic_down": (0.9, 0.05),  # its cable or its leaf's port have the same effect
    "rnic_flapping": (0.9, 0.05),
    "rnic_pausing": (0.8, 0.03),  # slow receiver, PCIe, memory (Bai, NSDI 2023); an RNIC seldom pauses otherwise
    "gid_change": (0.95, 0.005),
    "mtu_change": (0.95, 0.02),
    "pcie_stall": (0.9, 0.01),
    "retransmission": (0.5, 0.3),  # both ends of any path that loses
    "traffic_stopped": (0.8, 0.3),  # so do the peers of a host that died, a little later
}
