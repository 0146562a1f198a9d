"""The section ``underlay`` of the configuration, and what the control process tells the underlay process."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from exporter.contracts.catalogue import MOST_ROUTE_CHANGES, UNDERLAY, UNDERLAY_ROUTE, UNDERLAY_ROUTE_CHANGE
from exporter.contracts.metric import Table
from exporter.underlay.encapsulation import VXLAN_PORT, Inner


class ContainerPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The plan of agents in containers of one tenant, which probe over the overlay."""

    plan: str
    key_file: str | None = None
    """The key of their probes; None: that of ``probing``."""
    vni: Annotated[int, Meta(ge=0, le=0xFFFFFF)] | None = None
    """Their VXLAN network, needed where tenants use the same addresses under one key; None: any."""


class Underlay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    plans: Annotated[tuple[ContainerPlan, ...], Meta(min_length=1, max_length=64)]
    devices: tuple[str, ...] = ()
    """Network devices that encapsulated packets leave by; those of the host's RNICs when empty."""
    port: Annotated[int, Meta(ge=1, le=65535)] = VXLAN_PORT
    max_flows: Annotated[int, Meta(ge=1, le=100_000)] = 4096
    trace_period_seconds: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    trace_max_hops: Annotated[int, Meta(ge=1, le=32)] = 8
    trace_packets_per_second_per_switch: Annotated[float, Meta(ge=0.01, le=10_000)] = 1.0
    """From each VTEP address of the host; a switch polices its answers to all hosts together, often at 100/s."""
    hold_seconds: Annotated[float, Meta(ge=0, le=86400)] = 90.0
    """A changed route is taken when it has been the route for so long."""


FlowKey = tuple[int, Inner]
"""Place of a plan in the configuration, and a flow of its probes."""


class OverlayFlow(msgspec.Struct, frozen=True, kw_only=True):
    """A flow of probes over the overlay."""

    plan: int
    """Place of its plan in the configuration."""
    inner: Inner
    period_seconds: float
    """From one of its probes to the next."""

    @property
    def key(self) -> FlowKey:
        return (self.plan, self.inner)


class UnderlaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """First message down the pipe: what does not change while the process lives. Then follow ``OverlayFlow`` lists."""

    devices: tuple[str, ...]
    port: int
    tenants: tuple[tuple[int | None, bytes], ...]
    """VXLAN network and key of each plan."""
    last_switches: dict[str, tuple[str, ...]]
    """{address of a tunnel's end: the switches that its host hangs off}."""
    switch_addresses: dict[str, tuple[str, ...]]
    """{switch: addresses of its own and of its ports}."""
    max_flows: int
    trace_period_seconds: float
    trace_max_hops: int
    trace_packets_per_second_per_switch: float
    hold_seconds: float


def underlay_tables(max_flows: int) -> list[tuple[Table, int]]:
    """Tables of the underlay process' store with their capacities; both processes lay the memory out by this."""
    changes = (UNDERLAY_ROUTE_CHANGE, min(max_flows, MOST_ROUTE_CHANGES))
    return [(UNDERLAY, 1), (UNDERLAY_ROUTE, max_flows), changes]
