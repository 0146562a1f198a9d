"""A leaf-spine fabric of so many probed paths, with what is broken in it: the subject of what rules are fed with.

Rails: an RNIC's leaf is that of its host's pod and of its rail. An RNIC probes five peers of other pods, each by five
paths, so that every path crosses four links: to the leaf, to a spine, to the far leaf, to the far RNIC.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from exporter.contracts.names import link_id, path_id, port_id

RNICS, SPINES, PEERS = 8, 8, 5
HOSTS_PER_POD = 32
PROBES = (("udp", 26, 61000), ("udp", 26, 61001), ("rdma", 26, 61002), ("mtu", 26, 61000), ("udp", 0, 61000))
"""(type, DSCP, source port) of the paths of a pair."""
PROMISED = 9000
_NOISY = 0.002
"""Share of the paths that lose a little for reasons of their own."""

Fault = Literal["link", "mtu", "rdma", "noise", ""]


@dataclass(frozen=True, slots=True)
class ProbedPath:
    path: str
    source: tuple[str, str]
    """Host and RNIC."""
    destination: tuple[str, str]
    probe: str
    dscp: int
    source_port: int
    links: tuple[str, ...]
    job: str
    fault: Fault

    @property
    def loss(self) -> float:
        """Share of its probes."""
        return {"link": 0.3, "mtu": 1.0, "rdma": 0.8, "noise": 0.06, "": 0.0}[self.fault]


@dataclass(frozen=True, slots=True)
class SwitchPort:
    switch: str
    port: str
    link: str
    far_node: str
    far_port: str


@dataclass(frozen=True)
class RuleFabric:
    paths: tuple[ProbedPath, ...]
    rnics: dict[tuple[str, str], SwitchPort]
    """The port that each RNIC is cabled to."""
    ports: tuple[SwitchPort, ...]
    switches: tuple[str, ...]
    broken_link: str
    small_link: str
    """The link that full-size packets do not pass."""


def pods_and_hosts(paths: int) -> tuple[int, int]:
    """As many hosts as have so many paths, and an equal number in each pod: the ring of peers closes."""
    hosts = max(2 * PEERS, -(-paths // (RNICS * PEERS * len(PROBES))))
    pods = max(2, -(-hosts // HOSTS_PER_POD))
    return pods, -(-hosts // pods) * pods


def fabric(paths: int, jobs: int = 1, seed: int = 1) -> RuleFabric:
    """Of exactly so many paths, dealt to the jobs host by host."""
    pods, hosts = pods_and_hosts(paths)
    ports: list[SwitchPort] = []
    used: dict[str, int] = {}

    def next_port(switch: str) -> str:
        used[switch] = used.get(switch, -1) + 1
        return f"Ethernet{4 * used[switch]}"

    uplinks: dict[tuple[str, str], str] = {}
    for leaf in (_leaf(pod, rail) for pod in range(pods) for rail in range(RNICS)):
        for spine in map(_spine, range(SPINES)):
            near, far = next_port(leaf), next_port(spine)
            link = uplinks[leaf, spine] = link_id(port_id(leaf, near), port_id(spine, far))
            ports += [SwitchPort(leaf, near, link, spine, far), SwitchPort(spine, far, link, leaf, near)]
    rnics: dict[tuple[str, str], SwitchPort] = {}
    for host in range(hosts):
        for rail in range(RNICS):
            leaf, rnic = _leaf(host % pods, rail), (_host(host), f"mlx5_{rail}")
            near = next_port(leaf)
            rnics[rnic] = SwitchPort(leaf, near, link_id(port_id(*rnic), port_id(leaf, near)), *rnic)
    ports += rnics.values()

    def route(source: tuple[str, str], destination: tuple[str, str], spine: str) -> tuple[str, ...]:
        first, last = rnics[source], rnics[destination]
        return first.link, uplinks[first.switch, spine], uplinks[last.switch, spine], last.link

    first_uplink, other_uplink = uplinks[_leaf(0, 0), _spine(0)], uplinks[_leaf(1, 1), _spine(1)]
    sick_rnic = (_host(1), "mlx5_2")
    dice = random.Random(seed)

    def every_path() -> list[ProbedPath]:
        made = []
        for step in _steps(pods):
            for rail in range(RNICS):
                for host in range(hosts):
                    source, destination = (_host(host), f"mlx5_{rail}"), (_host((host + step) % hosts), f"mlx5_{rail}")
                    for probe, dscp, source_port in PROBES:
                        spine = _spine((host * 31 + step * 17 + source_port + rail) % SPINES)
                        links = route(source, destination, spine)
                        fault: Fault = ""
                        if first_uplink in links:
                            fault = "link"
                        elif other_uplink in links and probe == "mtu":
                            fault = "mtu"
                        elif source == sick_rnic and probe == "rdma":
                            fault = "rdma"
                        elif dice.random() < _NOISY:
                            fault = "noise"
                        name = path_id(*source, *destination, probe, dscp << 2 | 2, source_port)
                        job = f"job-{host * jobs // hosts}"
                        made.append(ProbedPath(name, source, destination, probe, dscp, source_port, links, job, fault))
        return made

    switches = [*(_spine(number) for number in range(SPINES))]
    switches += [_leaf(pod, rail) for pod in range(pods) for rail in range(RNICS)]
    return RuleFabric(
        tuple(islice(every_path(), paths)), rnics, tuple(ports), tuple(switches), first_uplink, other_uplink
    )


def _steps(pods: int) -> list[int]:
    """The nearest five hosts that are in other pods, of a ring whose hosts take turns in pods."""
    steps = (step for step in range(1, 1000) if step % pods)
    return list(islice(steps, PEERS))


def _host(number: int) -> str:
    return f"host-{number:04d}"


def _leaf(pod: int, rail: int) -> str:
    return f"leaf-p{pod}-r{rail}"


def _spine(number: int) -> str:
    return f"spine-{number}"
