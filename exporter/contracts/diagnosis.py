"""The diagnosis file: what is broken, how sure we are, and the evidence a person can check."""

from __future__ import annotations

from typing import Literal

from exporter.contracts.codec import Contract, Version

Symptom = Literal["unreachable", "loss", "latency", "flap", "mtu", "congestion", "path_change", "resolution", "config"]
Layer = Literal["underlay", "overlay", "rnic", "host", "service", "unknown"]
ComponentKind = Literal[
    "link", "switch", "port", "linecard", "breakout_group", "lag", "rnic", "host", "vswitch", "container",
    "bgp_session", "resolver", "vlan", "provider", "config", "agent",
]  # fmt: skip


class Component(Contract, frozen=True, kw_only=True):
    kind: ComponentKind
    name: str
    location: str | None = None


class Alternative(Contract, frozen=True, kw_only=True):
    kind: ComponentKind
    name: str
    score: float


class Failure(Contract, frozen=True, kw_only=True):
    id: str
    job: str
    start: float
    detected_at: float
    end: float | None
    symptom: Symptom
    layer: Layer
    component: Component
    alternatives: tuple[Alternative, ...]
    confidence: float
    paths: tuple[tuple[str, str], ...]
    evidence: tuple[str, ...]


class Diagnosis(Contract, frozen=True, kw_only=True):
    version: Version
    failures: tuple[Failure, ...]


def lasting(diagnosis: Diagnosis | None) -> list[Failure]:
    """What is broken still, the surest first; nothing of no diagnosis."""
    failures = () if diagnosis is None else diagnosis.failures
    return sorted((each for each in failures if each.end is None), key=lambda each: -each.confidence)
