"""The verification: where the running network is not what it is meant to be, for people and pipelines.

``item`` is what was compared: ``mtu``, ``mtu_ends`` (the two ends of a link), ``rdma_mtu``, ``speed``, ``lossless``,
``pfc``, ``trust``, ``dscp``, ``ecn``, ``ecn_threshold``, ``bgp``. Later releases may add some.
"""

from __future__ import annotations

from exporter.contracts.codec import Contract, Version
from exporter.contracts.diagnosis import Component


class Finding(Contract, frozen=True, kw_only=True):
    """One difference. ``found`` and ``meant`` are for people: ``MTU 1500`` and ``9216``.

    The component is a ``config`` named by the port, RNIC or switch it is set on, a ``bgp_session``, or, where the
    intent has no word on either end, the ``link`` whose ends differ.
    """

    component: Component
    item: str
    found: str
    meant: str
    metric: str
    value: float
    time: float
    """Of the reading, in seconds since the epoch."""
    link: str | None = None
    linecard: str | None = None
    breakout_group: str | None = None
    lag: str | None = None


class Group(Contract, frozen=True, kw_only=True):
    """What several ports of one component have in common: a line card that came back with defaults, say.

    ``findings`` are places in the list of findings, ``ports`` counts them, and ``of`` all ports of the component that
    were compared.
    """

    component: Component
    item: str
    found: str
    meant: str
    ports: int
    of: int
    findings: tuple[int, ...]


class NotTold(Contract, frozen=True, kw_only=True):
    """What is meant but not told: blind, not healthy. Without ``ports``, the whole switch or host tells nothing."""

    item: str
    subject: str
    """What it is about, for people: ``ECN of queue 3``."""
    node: str
    ports: tuple[str, ...] = ()
    of: int | None = None
    """Number of ports that should tell it; absent where it is no port that does."""
    reason: str | None = None


class Skipped(Contract, frozen=True, kw_only=True):
    """What was not compared, on purpose."""

    nodes: tuple[str, ...] = ()
    """Drained switches and hosts."""
    ports: tuple[str, ...] = ()
    """Ports that are administratively down."""
    sessions: tuple[str, ...] = ()
    """BGP sessions that are stopped or not established: they have agreed on no timers."""
    unknown: int = 0
    """Ports that tell their settings and are not in the topology."""


class Verification(Contract, frozen=True, kw_only=True):
    version: Version
    agrees: bool
    """Whether all that is told is as it is meant."""
    groups: tuple[Group, ...]
    findings: tuple[Finding, ...]
    not_told: tuple[NotTold, ...]
    skipped: Skipped
    compared: dict[str, int]
    """{item: number of values compared}."""
