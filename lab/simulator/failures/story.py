"""What a failure adds to counters, and which devices fall silent."""

from __future__ import annotations

from dataclasses import dataclass, field

from lab.simulator.failures.effects import Interval

LOSSLESS = 3  # the priority, and the queue, of RDMA and of its probes
SWITCH_UP = "fabric_switch_port_up"
SWITCH_MTU = "fabric_switch_port_mtu_bytes"
SWITCH_RECEIVE = "fabric_switch_port_receive_bytes_total"
SWITCH_TRANSMIT = "fabric_switch_port_transmit_bytes_total"
RECEIVE_ERRORS = "fabric_switch_port_receive_errors_total"
RECEIVE_DISCARDS = "fabric_switch_port_receive_discards_total"
TRANSMIT_DISCARDS = "fabric_switch_port_transmit_discards_total"


@dataclass(frozen=True, slots=True)
class Event:
    """What a failure does to one series in ``windows``: ``rate`` per second more for a counter, or a gauge's ``level``.

    ``port`` empty: the device's own.
    """

    metric: str
    node: str
    port: str
    windows: tuple[Interval, ...]
    rate: float = 0.0
    level: float | None = None
    priority: int | None = None
    queue: int | None = None
    vlan: int | None = None
    peer: str | None = None


@dataclass(slots=True)
class Story:
    """All that a case's counters tell beside the noise."""

    events: list[Event] = field(default_factory=list)
    silent: list[tuple[str, str, Interval]] = field(default_factory=list)
    """(node, port or empty for all of it, when): nothing is read there."""
    frozen: list[tuple[str, Interval]] = field(default_factory=list)
    """(``node:port``, when): no packet passes, nothing is counted."""
    unmarked: list[str] = field(default_factory=list)
    """Ports (``node:port``) whose queues mark nothing, whatever they hold."""
    resets: list[tuple[str, str, float]] = field(default_factory=list)
    """(node, port, when): its counters start again from 0."""
