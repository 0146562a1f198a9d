"""The plan file as an exporter takes it: watched, checked, cut to what is ours and within our limits."""

from __future__ import annotations

import zlib
from collections.abc import Set

import msgspec

from exporter.contracts.addresses import is_ipv6, is_link_local
from exporter.contracts.plan import Plan, Target, read_plan
from exporter.watchedfile import WatchedFile


class PlanFile(WatchedFile[Plan]):
    def __init__(self, path: str) -> None:
        super().__init__(path, read_plan, "plan")

    @property
    def plan(self) -> Plan | None:
        return self.value


def own_part(plan: Plan, addresses: set[str], now: float, limit: int) -> tuple[Plan, int]:
    """The targets that start at one of our addresses, one a source port; none when the plan has expired.

    Return them with how many more there were than ``limit``.
    """
    targets: list[Target] = []
    if plan.expires > now:
        for target in plan.targets:
            if target.source_address in addresses:
                targets += one_per_port(target)
    if len(targets) > limit:  # cut over all pairs alike, not the last RNICs whole
        targets.sort(key=lambda target: zlib.crc32(target.path.encode()))
    return msgspec.structs.replace(plan, targets=tuple(targets[:limit])), max(len(targets) - limit, 0)


def split(plan: Plan, addresses: Set[str]) -> tuple[Plan, Plan]:
    """The plan without the targets that are probed over RDMA, and with them alone; ``addresses`` can probe so."""
    rdma: list[Target] = []
    rest: list[Target] = []
    for target in plan.targets:
        (rdma if target.source_address in addresses and is_probed_over_rdma(target) else rest).append(target)
    return msgspec.structs.replace(plan, targets=tuple(rest)), msgspec.structs.replace(plan, targets=tuple(rdma))


def is_probed_over_rdma(target: Target) -> bool:
    """Both ends have a GID of one kind; link-local ones of another link may be the same address."""
    source, destination = target.source_address, target.destination_address
    return target.probe == "rdma" and is_ipv6(source) == is_ipv6(destination) and not is_link_local(destination)


def one_per_port(target: Target) -> list[Target]:
    if len(target.source_ports) == 1:
        return [target]
    return [
        msgspec.structs.replace(target, path=f"{target.path}#{port}", source_ports=(port,))
        for port in target.source_ports
    ]
