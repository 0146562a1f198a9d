"""Plan files as an exporter takes them: watched, checked, cut to what is ours and within our limits."""

from __future__ import annotations

import ipaddress
import math
import os
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from exporter.config import Workload
from exporter.contracts.addresses import canonical, is_ipv6, is_link_local
from exporter.contracts.plan import Plan, Target, read_plan
from exporter.contracts.topology import Topology
from exporter.contracts.watchedfile import WatchedFile

MOST_PLANS = 256
"""Files of a directory; a host has fewer containers, and each is of one job."""
_SUFFIXES = (".json", ".yaml", ".yml")


class JobPath(NamedTuple):
    """What a path is to a job that it is probed for."""

    job: str
    role: str
    probe: str
    dscp: str

    @classmethod
    def of(cls, job: str, target: Target) -> JobPath:
        return cls(job, target.role, target.probe, str(target.traffic_class >> 2))


JobsOfPaths = Mapping[str, Sequence[JobPath]]
"""{path: what it is to each job that it is probed for}"""
NO_JOBS: JobsOfPaths = {}


class Work(NamedTuple):
    """What an exporter is to probe, for all jobs together."""

    targets: tuple[Target, ...] = ()
    """One a path and source port."""
    jobs: JobsOfPaths = NO_JOBS
    over_limit: int = 0
    """Paths that are left out."""
    elsewhere: int = 0
    """Targets that are left out, since they are none of ours to probe."""


class PlanFile(WatchedFile[Plan]):
    def __init__(self, path: str) -> None:
        super().__init__(path, read_plan, "plan")

    @property
    def plan(self) -> Plan | None:
        return self.value


@dataclass(slots=True)
class _Followed:
    file: PlanFile
    lapsed: bool = False
    gone: bool = False
    """Lapsed and taken away on purpose: nobody misses it."""


@dataclass
class PlanFiles:
    """One plan file, or a directory of them, as it is found to be: one for each job that has containers here.

    A plan is obeyed until it expires, though its file may be gone; one that is removed from its directory, and so
    taken back, no longer.
    """

    path: str
    valid: tuple[Plan, ...] = ()
    """Plans that have not expired, as of the last look."""
    rejected: int = 0
    """Files that were refused, each time that they were."""
    _files: dict[str, _Followed] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether a file is, now."""
        return any(each.file.refused for each in self._files.values())

    @property
    def generation(self) -> float:
        """The newest; NaN without a plan."""
        return max((plan.generation for plan in self._missed()), default=math.nan)

    @property
    def expires(self) -> float:
        """The first, Unix seconds; NaN without a plan."""
        return min((plan.expires for plan in self._missed()), default=math.nan)

    def _missed(self) -> list[Plan]:
        return [each.file.plan for each in self._files.values() if each.file.plan is not None and not each.gone]

    def follow(self, now: float) -> bool:
        """Look at the files at Unix time ``now``; True when there is another plan, or the end of one.

        A clock that was wrong and is set right brings a plan back.
        """
        names = self._names()
        changed = False
        for name in self._files.keys() - names:
            changed |= self._files.pop(name).file.plan is not None
        for name in names:
            changed |= self._look(self._files.setdefault(name, _Followed(PlanFile(name))), now)
        if changed:
            plans = (self._files[name].file.plan for name in names)
            self.valid = tuple(plan for plan in plans if plan is not None and plan.expires > now)
        return changed

    def _names(self) -> list[str]:
        try:
            listed = sorted(os.listdir(self.path))
        except NotADirectoryError:
            return [self.path]
        except OSError:  # neither is there, now: what was known stays
            return sorted(self._files) or [self.path]
        names = [str(Path(self.path, name)) for name in listed if name.endswith(_SUFFIXES) and not name.startswith(".")]
        if len(names) > MOST_PLANS and len(self._files) < MOST_PLANS:
            print(f"plan: {self.path} holds {len(names)} files: {MOST_PLANS} are read", file=sys.stderr, flush=True)
        return names[:MOST_PLANS]

    def _look(self, followed: _Followed, now: float) -> bool:
        file, before = followed.file, followed.file.rejected
        changed = file.changed()
        self.rejected += file.rejected - before
        plan = file.plan
        if plan is None:
            return False
        lapsed = plan.expires <= now
        gone = lapsed and not file.present
        if not changed and (lapsed, gone) == (followed.lapsed, followed.gone):
            return False
        if lapsed and (changed or not followed.lapsed):
            print(f"plan of job {plan.job} has expired: its paths are not probed", file=sys.stderr, flush=True)
        followed.lapsed, followed.gone = lapsed, gone
        return True


class Destinations:
    """Where probes may go, whatever a plan says: to addresses of the topology, and into networks that were named."""

    def __init__(self, topology: Topology, networks: Iterable[str]) -> None:
        rnics = (rnic for host in topology.hosts for rnic in host.rnics)
        self._known = {canonical(address) for rnic in rnics for address in rnic.addresses}
        self._known |= {canonical(address) for host in topology.hosts for address in host.vteps}
        self._networks = [ipaddress.ip_network(each) for each in networks]

    def __contains__(self, address: str) -> bool:
        if address in self._known or canonical(address) in self._known:
            return True
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in self._networks)


def own_part(plans: Iterable[Plan], addresses: Set[str], limit: int, allowed: Destinations | None = None) -> Work:
    """What starts at one of our addresses, one target a source port, and no more than ``limit``.

    Without what is not ``allowed``; None allows all. A path of several jobs is probed once, as often as the most
    eager wants it, and belongs to all of them.
    """
    targets: dict[str, Target] = {}
    jobs: dict[str, tuple[JobPath, ...]] = {}
    elsewhere = 0
    for plan in plans:
        ours = [target for target in plan.targets if target.source_address in addresses]
        near = [target for target in ours if allowed is None or target.destination_address in allowed]
        elsewhere += len(ours) - len(near)
        for target in (each for every in near for each in one_per_port(every)):
            path, known = target.path, targets.get(target.path)
            targets[path] = target if known is None else _for_both(known, target)
            others = jobs.get(path, ())
            if all(other.job != plan.job for other in others):
                jobs[path] = (*others, JobPath.of(plan.job, target))
    own = list(targets.values())
    if len(own) > limit:  # cut over all pairs alike, not the last RNICs whole
        own.sort(key=lambda target: zlib.crc32(target.path.encode()))
        for target in own[limit:]:
            del jobs[target.path]
    return Work(tuple(own[:limit]), jobs, max(len(own) - limit, 0), elsewhere)


def workloads_of(plans: Iterable[Plan], rnics: Mapping[str, str]) -> tuple[Workload, ...]:
    """Whose traffic our RNICs carry, as plans tell by their targets' sources; ``rnics`` are ours by address."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for plan in plans:
        for target in plan.targets:
            if (rnic := rnics.get(target.source_address)) is not None:
                container = target.source.rpartition("/")[0]
                found.setdefault((plan.job, container), {})[rnic] = None
    return tuple(
        Workload(job=job, container=container, rnics=tuple(names)) for (job, container), names in found.items()
    )


def _for_both(one: Target, other: Target) -> Target:
    period = min(one.period_seconds, other.period_seconds)
    return msgspec.structs.replace(one, period_seconds=period, active=one.active or other.active)


def split(targets: Iterable[Target], addresses: Set[str]) -> tuple[tuple[Target, ...], tuple[Target, ...]]:
    """Those that are not probed over RDMA, and those that are; ``addresses`` can probe so."""
    rdma: list[Target] = []
    rest: list[Target] = []
    for target in targets:
        (rdma if target.source_address in addresses and is_probed_over_rdma(target) else rest).append(target)
    return tuple(rest), tuple(rdma)


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
