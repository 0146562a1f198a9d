"""Where a job's containers run: hosts, RNICs and names, all drawn, so that nothing tells the rank of one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exporter.contracts.names import port_id
from exporter.contracts.topology import Host, Link, Rnic, Switch, Topology
from lab.simulator.traffic import Integers


@dataclass(frozen=True, slots=True)
class Placement:
    """``host`` (containers,) is the index into ``topology.hosts``; ``rails`` (containers, RNICs) indexes its RNICs.

    Container c sits at stage ``c // replicas`` of replica ``c % replicas``; ``rank`` (containers,) is its node rank.
    """

    topology: Topology
    host: Integers
    rails: Integers
    containers: tuple[str, ...]
    rank: Integers

    def rnic(self, container: int, local: int) -> Rnic:
        return self.topology.hosts[int(self.host[container])].rnics[int(self.rails[container, local])]


def draw_placement(
    draw: np.random.Generator,
    *,
    job: str,
    containers: int,
    per_host: int,
    rnics: int,
    spare: float,
    rank: Integers,
) -> Placement:
    """Place ``containers`` with ``rnics`` each, ``per_host`` on a host, on random hosts of a fabric with spare ones."""
    used = containers // per_host
    if per_host > 1 or rnics == 8:
        on_host = per_host * rnics
        sets = np.arange(on_host).reshape(per_host, rnics)
    else:
        # Either the host has no more RNICs, or the rest belongs to others.
        on_host = int(draw.choice([rnics, 8]))
        sets = np.sort(draw.permutation(on_host)[:rnics])[None, :]
    topology = draw_topology(draw, used + round(used * spare), on_host)
    places = draw.permutation(len(topology.hosts))[:used]
    slots = draw.permutation(containers)
    labels = draw.choice(16**6, size=containers, replace=False)
    return Placement(
        topology=topology,
        host=places[slots // per_host],
        rails=sets[slots % per_host],
        containers=tuple(f"{job}-{int(label):06x}" for label in labels),
        rank=rank,
    )


def draw_topology(draw: np.random.Generator, hosts: int, rails: int) -> Topology:
    """A rail-optimised fabric: per pod one leaf for each rail, above them spines that join all leaves of a rail."""
    pod_size = int(draw.choice([16, 32, 64, 128]))
    pods = -(-hosts // pod_size)
    spines = 2 if pods > 1 else 0
    style = str(draw.choice(["host-{:05d}", "gpu{:05d}", "node-{:05d}"]))
    nic = str(draw.choice(["mlx5_{}", "mlx5_bond_{}", "roce{}"]))
    numbers = draw.choice(99_999, size=hosts, replace=False)
    machines = []
    links = []
    for index, number in enumerate(numbers.tolist()):
        name, pod = style.format(number), index // pod_size
        addresses = f"{index // 250}.{index % 250 + 1}"
        cards = tuple(Rnic(name=nic.format(k), rail=k, ip=f"10.{k}.{addresses}") for k in range(rails))
        machines.append(Host(name=name, rack=f"r{index // 8}", pod=f"p{pod}", rnics=cards))
        links += [
            Link(a=port_id(name, card.name), b=port_id(f"leaf-p{pod}-r{k}", f"Ethernet{index % pod_size}"))
            for k, card in enumerate(cards)
        ]
    switches = [Switch(name=f"leaf-p{pod}-r{k}", tier="leaf") for pod in range(pods) for k in range(rails)]
    switches += [Switch(name=f"spine-r{k}-{n}", tier="spine") for k in range(rails) for n in range(spines)]
    links += [
        Link(a=f"leaf-p{pod}-r{k}:Ethernet{pod_size + n}", b=f"spine-r{k}-{n}:Ethernet{pod}")
        for pod in range(pods)
        for k in range(rails)
        for n in range(spines)
    ]
    return Topology(version=1, hosts=tuple(machines), switches=tuple(switches), links=tuple(links))
