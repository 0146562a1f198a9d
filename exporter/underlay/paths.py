"""The overlay paths of the host's containers: from their plans to flows, and from traced flows to links."""

from __future__ import annotations

import json
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

from exporter.contracts.catalogue import (
    MOST_ROUTE_CHANGES,
    PATH_LINK_INFO,
    ROUTE_CHANGE_TIME,
    UNDERLAY_ROUTE,
    UNDERLAY_ROUTE_CHANGE,
)
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import port_id, split_endpoint
from exporter.contracts.plan import Plan, Target
from exporter.exposition import Series
from exporter.planfile import NO_JOBS, JobPath, PlanFile, one_per_port
from exporter.routetext import change_text
from exporter.store import Row, Store
from exporter.underlay.encapsulation import Inner
from exporter.underlay.settings import FlowKey, OverlayFlow, Underlay, UnderlaySettings

_PROBES = ("udp", "mtu")
"""A handshake's outer source port is another each time (exporter.underlay.learning)."""


NO_LINKS = Series(PATH_LINK_INFO, ())
NO_CHANGES = Series(ROUTE_CHANGE_TIME, ())


def underlay_settings(
    underlay: Underlay, devices: Sequence[str], keys: Sequence[bytes], fabric: Fabric
) -> UnderlaySettings:
    """What the process is told once; ``keys`` are those of the plans."""
    last: dict[str, tuple[str, ...]] = {}
    for host in fabric.topology.hosts:
        leaves = [fabric.leaf_of(port_id(host.name, rnic.name)) for rnic in host.rnics]
        last |= dict.fromkeys(host.vteps, tuple(sorted(set(leaves))))
        for rnic, leaf in zip(host.rnics, leaves, strict=True):
            last |= dict.fromkeys(rnic.addresses, (leaf,))
    return UnderlaySettings(
        devices=tuple(devices),
        port=underlay.port,
        tenants=tuple((plan.vni, key) for plan, key in zip(underlay.plans, keys, strict=True)),
        last_switches=last,
        switch_addresses={
            switch.name: (*switch.addresses, *(address for port in switch.ports for address in port.addresses))
            for switch in fabric.topology.switches
        },
        max_flows=underlay.max_flows,
        trace_period_seconds=underlay.trace_period_seconds,
        trace_max_hops=underlay.trace_max_hops,
        trace_packets_per_second_per_switch=underlay.trace_packets_per_second_per_switch,
        hold_seconds=underlay.hold_seconds,
    )


class OverlayPaths:
    """Follows the containers' plans, and names the links of their paths once the underlay was traced."""

    def __init__(self, underlay: Underlay, host: str, fabric: Fabric) -> None:
        self.flows: list[OverlayFlow] = []
        self.jobs = NO_JOBS
        self._host = host
        self._fabric = fabric
        self._most = underlay.max_flows
        self._files = [PlanFile(plan.plan) for plan in underlay.plans]
        self._targets: dict[FlowKey, list[tuple[str, Target]]] = {}
        self._ends: dict[str, tuple[str, ...]] = {}
        for each in fabric.topology.hosts:
            own = tuple(port_id(each.name, rnic.name) for rnic in each.rnics)
            self._ends |= dict.fromkeys(each.vteps, own)
        self._ends |= {address: (interface.id,) for address, interface in fabric.by_address.items()}
        self._valid: list[bool] = []
        self._own: frozenset[str] = frozenset()
        self._series = NO_LINKS
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}  # links of the routes of the last time: most stay
        self._prober = NO_LINKS
        self._version: int | None = None
        self._changes, self._prober_changes = NO_CHANGES, NO_CHANGES
        self._changes_version: int | None = None

    @property
    def rejected(self) -> int:
        return sum(file.rejected for file in self._files)

    @property
    def refused(self) -> bool:
        return any(file.refused for file in self._files)

    def follow(self, now: float, own: frozenset[str]) -> bool:
        """Look at the plan files at Unix time ``now``; True when ``flows`` are others.

        Paths that this exporter probes itself (``own``) are left out: one name can have one route only.
        """
        changed = [file.changed() for file in self._files]
        plans = [file.plan if file.plan is not None and file.plan.expires > now else None for file in self._files]
        valid = [plan is not None for plan in plans]
        if not any(changed) and valid == self._valid and own is self._own:
            return False
        self._valid, self._own = valid, own
        self._targets = self._sort(plans, own)
        served = (each for targets in self._targets.values() for each in targets)
        self.jobs = {target.path: (JobPath.of(job, target),) for job, target in served}
        self._version = self._changes_version = None  # at last: another thread may be at the series
        self.flows = [
            OverlayFlow(plan=number, inner=inner, period_seconds=min(target.period_seconds for _, target in served))
            for (number, inner), served in self._targets.items()
        ]
        return True

    def _sort(self, plans: Sequence[Plan | None], own: frozenset[str]) -> dict[FlowKey, list[tuple[str, Target]]]:
        """{flow: (job, target) of each path that it carries}, without those that cannot be told; says how many."""
        named = set(own)
        targets: dict[FlowKey, list[tuple[str, Target]]] = defaultdict(list)
        twice = 0
        for number, plan in enumerate(plans):
            if plan is None:
                continue
            ours = (each for target in plan.targets if self._is_ours(target) for each in one_per_port(target))
            for target in ours:
                if target.path in named:
                    twice += 1
                    continue
                named.add(target.path)
                targets[number, _inner(target)].append((plan.job, target))
        keys = sorted(targets, key=lambda key: zlib.crc32(repr(key).encode()))  # cut over all pairs alike
        over = len(keys) - self._most
        for count, why in ((twice, "paths are in another plan too"), (over, "flows are more than underlay.max_flows")):
            if count > 0:
                print(f"underlay: {count} {why}: left out", file=sys.stderr, flush=True)
        return {key: targets[key] for key in keys[: self._most]}

    def _is_ours(self, target: Target) -> bool:
        """Whether its packets are encapsulated here: nothing is that stays on the host."""
        return target.probe in _PROBES and target.source_host == self._host != target.destination_host

    def series(self, store: Store, prober: Series = NO_LINKS) -> Series:
        """Links of these paths, after those of the paths that the ``prober`` traced itself.

        The same object again while no plan or route comes or goes, so that renderers keep what they made of it.
        """
        version, torn = store.version(UNDERLAY_ROUTE), store.torn_reads
        if version != self._version or prober is not self._prober:
            self._version, self._prober = version, prober
            self._series = Series(PATH_LINK_INFO, [*prober.samples, *self._samples(store)])
            if store.torn_reads != torn:  # a row that could not be read is looked for again the next time
                self._version = None
        return self._series

    def changes(self, store: Store, prober: Series = NO_CHANGES) -> Series:
        """Last changes of these paths' routes beside those that the ``prober`` saw itself: of all the newest."""
        version, torn = store.version(UNDERLAY_ROUTE_CHANGE), store.torn_reads
        if version != self._changes_version or prober is not self._prober_changes:
            self._changes_version, self._prober_changes = version, prober
            samples = sorted([*prober.samples, *self._changed(store)], key=lambda sample: sample[1])
            self._changes = Series(ROUTE_CHANGE_TIME, samples[-MOST_ROUTE_CHANGES:])
            if store.torn_reads != torn:
                self._changes_version = None
        return self._changes

    def _changed(self, store: Store) -> Iterator[tuple[Sequence[str], float]]:
        for row in store.read(UNDERLAY_ROUTE_CHANGE):
            time, before, after = row.labels[5:]
            text = change_text(self._fabric, before.split(), after.split())
            for _, target in self._served(row):
                yield (target.path, *text), float(time)

    def _samples(self, store: Store) -> Iterator[tuple[Sequence[str], float]]:
        before, self._known = self._known, {}
        for row in store.read(UNDERLAY_ROUTE):
            found = source, destination, hops = row.labels[5:]
            if found not in self._known:
                known = before.get(found)
                self._known[found] = self._links(source, json.loads(hops), destination) if known is None else known
            links = self._known[found]
            for _, target in self._served(row):
                for link in links:
                    yield (target.path, link), 1.0

    def _served(self, row: Row) -> list[tuple[str, Target]]:
        number, source, source_port, destination, destination_port = row.labels[:5]
        return self._targets.get((int(number), (source, int(source_port), destination, int(destination_port))), [])

    def _links(self, source: str, hops: Sequence[str], destination: str) -> tuple[str, ...]:
        """Links between the ends of a tunnel. An address that is no RNIC's is behind any of its host's."""
        for one in self._ends.get(source, ()):
            for other in self._ends.get(destination, ()):
                links = self._fabric.links_of_route(one, hops, other)
                if links is not None:
                    return links
        return ()

    def records(self, store: Store, now_ns: int) -> Iterator[dict[str, object]]:
        """A TRACEROUTE probe record (exporter.contracts.tables) for each traced flow."""
        for row in store.read(UNDERLAY_ROUTE):
            for job, target in self._served(row)[:1]:
                yield {
                    "task_type": "TRACEROUTE",
                    "ping_time": now_ns,
                    "src_node_id": split_endpoint(target.source)[0],
                    "dst_node_id": split_endpoint(target.destination)[0],
                    "src_node_sn": target.source_host,
                    "dst_node_sn": target.destination_host,
                    "src_ip": target.source_address,
                    "dst_ip": target.destination_address,
                    "src_real_ip": row.labels[5],
                    "dst_real_ip": row.labels[6],
                    "src_port": target.source_ports[0],
                    "dst_port": target.destination_port,
                    "dial": "success",
                    "latency": None,
                    "loss_rate": None,
                    "route": row.labels[7],
                    "job": job,
                    "src_rnic": target.source_rnic,
                    "dst_rnic": target.destination_rnic,
                    "dscp": target.traffic_class >> 2,
                }


def _inner(target: Target) -> Inner:
    return (target.source_address, target.source_ports[0], target.destination_address, target.destination_port)
