"""Small fabrics for tests, as topologies."""

from __future__ import annotations

from exporter.contracts.topology import Host, Link, Port, Rnic, Switch, Topology


def rails_only(hosts: int, rails: int) -> Topology:
    """Hosts and RNICs without switches: all that inference needs."""
    return Topology(
        version=1,
        hosts=tuple(
            Host(
                name=f"host-{n:04d}",
                rnics=tuple(Rnic(name=f"mlx5_{k}", rail=k, ip=f"10.{k}.{n // 256}.{n % 256}") for k in range(rails)),
            )
            for n in range(hosts)
        ),
        switches=(),
        links=(),
    )


def leaf_spine(pods: int = 2, rails: int = 2, spines: int = 2, hosts_per_pod: int = 4, mtu: int = 9216) -> Topology:
    """One leaf per pod and rail, each with one link to every spine."""
    hosts, links = [], []
    ports: dict[str, list[Port]] = {f"spine-{s}": [] for s in range(spines)}

    def port(switch: str) -> str:
        ports[switch].append(Port(name=f"Ethernet{4 * len(ports[switch])}", mtu=mtu))
        return f"{switch}:{ports[switch][-1].name}"

    for pod in range(pods):
        for rail in range(rails):
            leaf = f"leaf-p{pod}-r{rail}"
            ports[leaf] = []
            links += [Link(a=port(leaf), b=port(f"spine-{s}")) for s in range(spines)]
        for n in range(hosts_per_pod):
            name = f"host-p{pod}-{n}"
            rnics = tuple(Rnic(name=f"mlx5_{k}", rail=k, ip=f"10.{pod}.{n}.{k + 1}") for k in range(rails))
            hosts.append(Host(name=name, rnics=rnics))
            links += [Link(a=f"{name}:mlx5_{k}", b=port(f"leaf-p{pod}-r{k}")) for k in range(rails)]
    switches = tuple(
        Switch(name=name, tier=name.split("-")[0], ports=tuple(own)) for name, own in sorted(ports.items())
    )
    return Topology(version=1, hosts=tuple(hosts), switches=switches, links=tuple(links))
