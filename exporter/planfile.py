"""The plan file as an exporter takes it: watched, checked, cut to what is ours and within our limits."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Set
from pathlib import Path

import msgspec

from exporter.contracts.addresses import is_ipv6, is_link_local
from exporter.contracts.codec import ContractError
from exporter.contracts.plan import Plan, Target, read_plan


class PlanFile:
    """Remembers the last good plan; a bad file is refused with a reason and changes nothing."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.plan: Plan | None = None
        self.rejected = 0
        self.refused = False
        self.present = False
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """Read the file when it is another than last time; True when there is a new good plan."""
        try:
            status = os.stat(self.path)
        except OSError:
            self.present, self.refused, self._seen = False, False, None
            return False  # no plan yet, or none any more: the last one stays until it expires
        self.present = True
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self.plan = read_plan(Path(self.path))
        except ContractError as error:
            self.rejected += 1
            self.refused = True
            print(f"plan refused: {error}", file=sys.stderr, flush=True)
            return False
        self.refused = False
        return True


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
