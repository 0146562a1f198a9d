"""The plan file: which paths an exporter probes. An exporter obeys it within its own limits."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from exporter.contracts.addresses import canonical, is_ipv6
from exporter.contracts.codec import Contract, ContractError, Version, read
from exporter.contracts.names import split_endpoint
from exporter.contracts.skeleton import Role

ProbeType = Literal["rdma", "tcp", "udp", "mtu", "dns", "trace"]
Phase = Literal["preload", "skeleton"]

RESPONDER_PORT = 65300
"""UDP and TCP port of the responder: outside Linux's default ephemeral range (32768-60999)."""

INTRODUCTION_PORT = RESPONDER_PORT + 1
"""UDP port where exporters tell which queue pair answers RDMA probes."""

ROCE_PORT = 4791
"""UDP destination port of RoCEv2 (InfiniBand Architecture, annex A17.3)."""

ROCE_SOURCE_PORTS = range(0xC001, 0x10000)
"""UDP source ports that a flow label of its own stands for (rdma_flow_label_to_udp_sport in the kernel). That of 49152
would be 0, which leaves the choice to the device."""

MAX_RDMA_SOURCE_PORTS = 32
"""Of one RNIC: each takes a queue pair."""

UDP_HEADERS = 28
"""IPv4 (20) and UDP (8) header bytes between a payload and the size that an MTU limits."""

Unsigned = Annotated[int, Meta(ge=0, le=2**63 - 1)]
SourcePort = Annotated[int, Meta(ge=1024, le=65535)]


class RdmaResponder(Contract, frozen=True, kw_only=True):
    """Where an RDMA probe finds its responder; a boot epoch other than this is a restart, not loss."""

    queue_pair: Unsigned
    boot_epoch: Unsigned


class Target(Contract, frozen=True, kw_only=True):
    """One probed path, or several that differ in nothing but the source port."""

    path: Annotated[str, Meta(min_length=1, max_length=300)]
    source: str
    destination: str
    probe: ProbeType
    source_address: str
    destination_address: str
    destination_port: Annotated[int, Meta(ge=1, le=65535)] = RESPONDER_PORT
    source_ports: tuple[SourcePort, ...]
    traffic_class: Annotated[int, Meta(ge=0, le=255)]
    payload_bytes: Annotated[int, Meta(ge=0, le=65507)]
    period_seconds: Annotated[float, Meta(ge=0.01, le=3600)]
    active: bool
    role: Role = "basic"
    source_host: str | None = None
    source_rnic: str | None = None
    destination_host: str | None = None
    destination_rnic: str | None = None
    responder: RdmaResponder | None = None


class Coverage(Contract, frozen=True, kw_only=True):
    """What the targets reach: the share of ECMP paths they are expected to exercise, and where they fall short."""

    path_probability: float
    pairs_total: int
    pairs_probed: int
    links_ambiguous: tuple[tuple[str, ...], ...] = ()
    """Links that no probe of this plan can tell apart, group by group."""


class Plan(Contract, frozen=True, kw_only=True):
    version: Version
    job: str
    job_uid: str | None
    phase: Phase
    generation: Unsigned
    expires: float
    targets: tuple[Target, ...]
    coverage: Coverage | None = None


def read_plan(path: Path | str) -> Plan:
    """Read and check a plan; its IPv6 addresses are in one spelling from here on."""
    plan = read(path, Plan, check_plan)
    return msgspec.structs.replace(plan, targets=tuple(map(_with_canonical_addresses, plan.targets)))


def _with_canonical_addresses(target: Target) -> Target:
    source, destination = target.source_address, target.destination_address
    if not is_ipv6(source) and not is_ipv6(destination):
        return target
    return msgspec.structs.replace(target, source_address=canonical(source), destination_address=canonical(destination))


def check_plan(plan: Plan, source: str) -> None:
    """Refuse paths named twice and addresses that are not unicast IP addresses."""
    paths: set[str] = set()
    ends: set[str] = set()  # found good, and not looked at again: many targets share them
    addresses: set[str] = set()
    for number, target in enumerate(plan.targets):
        where = f"field 'targets[{number}]'"
        if target.path in paths:
            raise ContractError(source, f"{where}: path {target.path!r} appears twice")
        paths.add(target.path)
        if not target.source_ports:
            raise ContractError(source, f"{where}: source_ports is empty")
        try:
            for name in (target.source, target.destination):
                if name not in ends:
                    split_endpoint(name)
            for address in (target.source_address, target.destination_address):
                if address not in addresses:
                    _check_unicast(address)
        except ValueError as error:
            raise ContractError(source, f"{where}: {error}") from error
        ends.update((target.source, target.destination))
        addresses.update((target.source_address, target.destination_address))


def _check_unicast(text: str) -> None:
    address = ipaddress.ip_address(canonical(text))
    if address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255":
        raise ValueError(f"{text} is not a unicast address")
