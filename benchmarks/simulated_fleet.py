"""An hour of a fleet's life: jobs of containers that are created on hosts and end, and the plans that follow.

A container takes a host whole, as training does, so a host has the paths of one job at a time. Addresses are
loopback ones, which any host answers on without being asked; everything else is made up from the seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from exporter.contracts.names import path_id
from exporter.contracts.plan import UDP_HEADERS, Plan, ProbeType, Target
from exporter.contracts.skeleton import Role
from exporter.contracts.topology import Host, Link, Port, Rnic, Switch, Topology

CREATIONS_PER_MINUTE = 2000
RNICS = 8
JOB_CONTAINERS = 6
SOURCE_PORTS = (61000, 61001)
PATHS_PER_PAIR = 5  # UDP and MTU on both ports, TCP on the first: 25 paths an RNIC towards 5 peers
MOST_LINKS = 4
_NETWORK = 64  # addresses are of 127.64.0.0 and onwards
_HOSTS_PER_POD = 64
_SPINES = 4
_MEAN_LIFETIME = 12.0  # seconds; the most that 512 hosts taken whole allow at 2,000 creations a minute, nearly
_LONGEST_LIFETIME = 120.0
_PRELOAD_SECONDS = 4.0
_PERIODS: dict[ProbeType, float] = {"udp": 2.0, "mtu": 4.0, "tcp": 10.0}
_TRAFFIC_CLASS = (26 << 2) | 2


def host_name(host: int) -> str:
    return f"host-{host:04d}"


def rnic_name(rail: int) -> str:
    return f"mlx5_{rail}"


def address(host: int, rail: int) -> str:
    return f"127.{_NETWORK + host // 256}.{host % 256}.{rail + 1}"


def _place(text: str) -> tuple[int, int]:
    """(host, rail) of an address."""
    _, high, low, rail = map(int, text.split("."))
    return (high - _NETWORK) * 256 + low, rail - 1


def route(source: str, source_port: int, destination: str) -> list[str]:
    """The switches that a leaf-spine fabric would lead a flow through."""
    (near, rail), (far, far_rail) = _place(source), _place(destination)
    first = f"leaf-p{near // _HOSTS_PER_POD}-r{rail}"
    last = f"leaf-p{far // _HOSTS_PER_POD}-r{far_rail}"
    spine = f"spine-{(near * 31 + far * 17 + source_port) % _SPINES}"
    return [first] if first == last else [first, spine, last]


def topology(hosts: int) -> Topology:
    """One leaf per pod and rail, each with one link to every spine."""
    ports: dict[str, list[Port]] = {f"spine-{number}": [] for number in range(_SPINES)}
    links: list[Link] = []

    def port(switch: str) -> str:
        own = ports.setdefault(switch, [])
        own.append(Port(name=f"Ethernet{4 * len(own)}"))
        return f"{switch}:{own[-1].name}"

    for pod in range(-(-hosts // _HOSTS_PER_POD)):
        for rail in range(RNICS):
            links += [Link(a=port(f"leaf-p{pod}-r{rail}"), b=port(f"spine-{number}")) for number in range(_SPINES)]
    for host in range(hosts):
        links += [
            Link(a=f"{host_name(host)}:{rnic_name(rail)}", b=port(f"leaf-p{host // _HOSTS_PER_POD}-r{rail}"))
            for rail in range(RNICS)
        ]
    return Topology(
        version=1,
        hosts=tuple(
            Host(
                name=host_name(host),
                rnics=tuple(Rnic(name=rnic_name(rail), rail=rail, ip=address(host, rail)) for rail in range(RNICS)),
            )
            for host in range(hosts)
        ),
        switches=tuple(
            Switch(name=name, tier=name.split("-", maxsplit=1)[0], ports=tuple(own)) for name, own in ports.items()
        ),
        links=tuple(links),
    )


@dataclass(slots=True, eq=False)
class Job:
    name: str
    created: float
    members: dict[int, str] = field(default_factory=dict)
    """Container by the host that it has."""
    changes: int = 0


class Fleet:
    """``step`` goes on by a second; ``plan`` is what the service would tell a host's exporter then."""

    def __init__(self, hosts: int, seed: int) -> None:
        self.hosts = hosts
        self.now = 0.0
        self.created = self.ended = self.jobs = 0
        self._dice = random.Random(seed)
        self._due = 0.0
        self._free = list(range(hosts))
        self._job_of: dict[int, Job] = {}
        self._ends: list[tuple[float, int]] = []

    def step(self) -> None:
        self.now += 1.0
        while self._ends and self._ends[0][0] <= self.now:
            host = heapq.heappop(self._ends)[1]
            job = self._job_of.pop(host)
            del job.members[host]
            job.changes += 1
            self._free.append(host)
            self.ended += 1
        self._due += CREATIONS_PER_MINUTE / 60
        while self._due >= JOB_CONTAINERS and len(self._free) >= JOB_CONTAINERS:
            self._due -= JOB_CONTAINERS
            self._create_job()

    def _create_job(self) -> None:
        self.jobs += 1
        job = Job(f"job-{self.jobs:05d}", self.now)
        for number in range(JOB_CONTAINERS):
            index = self._dice.randrange(len(self._free))
            self._free[index], self._free[-1] = self._free[-1], self._free[index]
            host = self._free.pop()
            self._job_of[host] = job
            job.members[host] = f"{job.name}-worker-{number}"
            lifetime = min(1 + self._dice.expovariate(1 / (_MEAN_LIFETIME - 1)), _LONGEST_LIFETIME)
            heapq.heappush(self._ends, (self.now + lifetime, host))
            self.created += 1

    def generation(self, host: int) -> tuple[str, int, bool]:
        """Differs whenever the plan of ``host`` does: its job, the job's changes, and whether it is preloaded."""
        job = self._job_of.get(host)
        return ("", 0, False) if job is None else (job.name, job.changes, self._preloaded(job))

    def _preloaded(self, job: Job) -> bool:
        return self.now - job.created < _PRELOAD_SECONDS

    def plan(self, host: int, number: int) -> Plan:
        """The paths between ``host`` and the other members of its job, both ways; none while it has no container."""
        job = self._job_of.get(host)
        peers = [] if job is None else [other for other in job.members if other != host]
        targets: list[Target] = []
        if job is not None:
            for peer in peers:
                role = self._role(job, host, peer)
                targets += targets_between(host, peer, job.members[host], job.members[peer], role)
                targets += targets_between(peer, host, job.members[peer], job.members[host], role)
        return plan_of(targets, job.name if job is not None else "none", number)

    def _role(self, job: Job, one: int, other: int) -> Role:
        if self._preloaded(job):
            return "basic"
        return "dp" if (one + other) % 2 else "pp"


def plan_of(targets: Iterable[Target], job: str, generation: int) -> Plan:
    return Plan(
        version=1, job=job, job_uid=None, phase="skeleton", generation=generation, expires=9e9, targets=tuple(targets)
    )


def targets_between(source: int, destination: int, container: str, far_container: str, role: Role) -> Iterator[Target]:
    for rail in range(RNICS):
        for port in SOURCE_PORTS:
            probes: tuple[ProbeType, ...] = ("udp", "mtu", "tcp") if port == SOURCE_PORTS[0] else ("udp", "mtu")
            for probe in probes:
                names = (host_name(source), rnic_name(rail), host_name(destination), rnic_name(rail))
                yield Target(
                    path=path_id(*names, probe, _TRAFFIC_CLASS, port),
                    source=f"{container}/{rnic_name(rail)}",
                    destination=f"{far_container}/{rnic_name(rail)}",
                    probe=probe,
                    source_address=address(source, rail),
                    destination_address=address(destination, rail),
                    source_ports=(port,),
                    traffic_class=_TRAFFIC_CLASS,
                    payload_bytes=9000 - UDP_HEADERS if probe == "mtu" else 64,
                    period_seconds=_PERIODS[probe],
                    active=True,
                    role=role,
                    source_host=names[0],
                    source_rnic=names[1],
                    destination_host=names[2],
                    destination_rnic=names[3],
                )
