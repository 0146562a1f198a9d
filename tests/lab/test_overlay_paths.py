"""Overlay probes of agents in containers, and the links that an agent on their host finds for them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from exporter.contracts.codec import encode, write
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import path_id
from exporter.contracts.plan import Plan, Target
from exporter.underlay.encapsulation import trace_payload
from lab import sandbox
from lab.network.design import Container, Design, Tenant
from lab.network.overlay import tunnel
from lab.running import Running
from tests.lab.processes import stop_exporter, until

PORT = 9505
FLOWS = 8
HOLD = 8.0
SENT, LOST = "fabric_path_probes_sent_total", "fabric_path_probes_lost_total"
LOST_RETURN = "fabric_path_probes_lost_return_total"

# What arrives at every interface of a node as VXLAN for some seconds: [interface, VNI, inner addresses and ports].
# It is written apart from the exporter's own reading of such packets.
_LISTEN = """
import json, socket, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
s.settimeout(0.2)
ends = time.monotonic() + float(sys.argv[1])
seen = set()
while time.monotonic() < ends:
    try:
        p, (device, _, kind, _, _) = s.recvfrom(200)
    except TimeoutError:
        continue
    if kind == 0 and len(p) > 90 and p[0] == 0x45 and p[9] == 17 and p[22:24] == b"\\x12\\xb5" and p[28] & 8:
        i = p[50:]
        if i[0] == 0x45 and i[9] == 17:
            ends_of = socket.inet_ntoa(i[12:16]), socket.inet_ntoa(i[16:20])
            ports = int.from_bytes(i[20:22], "big"), int.from_bytes(i[22:24], "big")
            seen.add((device, int.from_bytes(p[32:35], "big"), *ends_of, *ports))
print(json.dumps(sorted(seen)))
"""


class Agent:
    """An exporter on a node of the lab, a host or a container."""

    def __init__(
        self, fabric: Running, node: str, address: str, directory: Path, configuration: Mapping[str, Any]
    ) -> None:
        self.node, self._fabric = node, fabric
        self._url = f"http://{address}:{PORT}"
        directory.mkdir()
        self._config = directory / "config.yaml"
        self._config.write_text(yaml.safe_dump({"listen": {"address": address, "port": PORT}, **configuration}))
        argv = [sys.executable, "-m", "exporter.cli", "run", "--config", str(self._config)]
        self._process = subprocess.Popen(fabric.command(node, argv), env=sandbox.environment())

    def page(self, page: str) -> str:
        program = f"import urllib.request as u; print(u.urlopen('{self._url}{page}').read().decode())"
        done = self._fabric.run(self.node, [sys.executable, "-c", program], check=False)
        return done.stdout if done.returncode == 0 else ""

    def samples(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        found: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for family in text_string_to_metric_families(self.page("/metrics")):
            for sample in family.samples:
                found[sample.name].append((sample.labels, sample.value))
        return found

    def value(self, name: str) -> float:
        return sum(value for _, value in self.samples()[name])

    def links(self) -> dict[str, frozenset[str]]:
        """{path: links} as ``fabric_path_link_info`` has them."""
        found: dict[str, set[str]] = defaultdict(set)
        for labels, _ in self.samples()["fabric_path_link_info"]:
            found[labels["path"]].add(labels["link"])
        return {path: frozenset(links) for path, links in found.items()}

    def stop(self) -> int:
        return stop_exporter(self._process, self._config)


class Overlay:
    """Agents in two containers of each tenant, of which those on ``near`` probe, and one on the host ``near``."""

    def __init__(self, fabric: Running, design: Design, directory: Path) -> None:
        self.design, self.fabric = design, fabric
        self.near = design.hosts[0]
        self.far = next(host for host in design.hosts if host.pod != self.near.pod)
        topology = directory / "topology.json"
        topology.write_bytes(encode(design.topology()))
        self.flows: dict[str, tuple[int, str, str, int, int]] = {}
        self.sidecars: list[Agent] = []
        self.agents: list[Agent] = []
        plans = []
        try:
            for number, tenant in enumerate(design.tenants):
                key, plan = directory / f"key-{number}", directory / f"plan-{number}.json"
                key.write_bytes(f"{number}".encode() * 32)
                source, destination = self._container(tenant, self.near.name), self._container(tenant, self.far.name)
                write(plan, encode(self._plan(tenant, source, destination, 50_000 + 100 * number)))
                plans.append({"plan": str(plan), "key_file": str(key), "vni": tenant.vni})
                for container in (source, destination):
                    rnics = [
                        {"name": each.rnic, "ip": each.address, "netdev": each.netdev} for each in container.interfaces
                    ]
                    configuration = {
                        "host": container.host,
                        "topology": str(topology),
                        "rnics": rnics,
                        "plan": str(plan),
                        "probing": {"key_file": str(key)},
                    }
                    agent = Agent(fabric, container.name, "127.0.0.1", directory / container.name, configuration)
                    self.agents.append(agent)
                    if container is source:
                        self.sidecars.append(agent)
            underlay = {
                "plans": plans,
                "trace_period_seconds": 3,
                "trace_packets_per_second_per_switch": 40,
                "hold_seconds": HOLD,
            }
            self.host = Agent(
                fabric,
                self.near.name,
                "127.0.0.1",
                directory / "host",
                {"host": self.near.name, "topology": str(topology), "underlay": underlay},
            )
            self.agents.append(self.host)
            until(lambda: all(agent.samples() for agent in self.agents), 20, "the agents answer")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> list[int]:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(Agent.stop, self.agents))

    def _container(self, tenant: Tenant, host: str) -> Container:
        return next(container for container in tenant.containers if container.host == host)

    def _plan(self, tenant: Tenant, source: Container, destination: Container, first: int) -> Plan:
        targets = []
        for own, there in product(source.interfaces, destination.interfaces):
            for port in range(first, first + FLOWS):
                path = path_id(source.host, own.rnic, destination.host, there.rnic, "udp", 106, port)
                self.flows[path] = (tenant.vni, own.address, there.address, port, 65300)
                targets.append(
                    Target(
                        path=path,
                        source=f"{source.name}/{own.rnic}",
                        destination=f"{destination.name}/{there.rnic}",
                        probe="udp",
                        source_address=own.address,
                        destination_address=there.address,
                        source_ports=(port,),
                        traffic_class=106,
                        payload_bytes=64,
                        period_seconds=0.1,
                        active=True,
                        source_host=source.host,
                        source_rnic=own.rnic,
                        destination_host=destination.host,
                        destination_rnic=there.rnic,
                    )
                )
        return Plan(
            version=1,
            job=tenant.name,
            job_uid=None,
            phase="skeleton",
            generation=1,
            expires=9e9,
            targets=tuple(targets),
        )

    def truth(self, seconds: float = 2.0) -> dict[str, frozenset[str]]:
        """{path: links that its packets arrived over}, seen at every switch and at the far host."""
        nodes = [*(switch.name for switch in self.design.switches), self.far.name]
        argv = [sys.executable, "-c", _LISTEN, f"{seconds:g}"]
        listening = {
            node: subprocess.Popen(
                self.fabric.command(node, argv), env=sandbox.environment(), stdout=subprocess.PIPE, text=True
            )
            for node in nodes
        }
        ends = {(end.node, end.netdev): link.id for link in self.design.links for end in link.ends}
        paths = {flow: path for path, flow in self.flows.items()}
        found: dict[str, set[str]] = defaultdict(set)
        for node, process in listening.items():
            for device, *flow in json.loads(process.communicate(timeout=30)[0]):
                if (node, device) in ends and tuple(flow) in paths:
                    found[paths[tuple(flow)]].add(ends[node, device])
        return {path: frozenset(links) for path, links in found.items()}

    def losses(self) -> dict[str, tuple[float, float]]:
        """{path: (sent, lost on the way there)}, as the containers' agents count them."""
        found = {}
        for sidecar in self.sidecars:
            samples = sidecar.samples()
            by_path = {
                name: {labels["path"]: value for labels, value in samples[name]} for name in (SENT, LOST, LOST_RETURN)
            }
            for path, sent in by_path[SENT].items():
                found[path] = (sent, by_path[LOST][path] - by_path[LOST_RETURN][path])
        return found


@pytest.fixture(scope="module")
def overlay(fabric: Running, design: Design, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overlay]:
    made = Overlay(fabric, design, tmp_path_factory.mktemp("overlay"))
    try:
        yield made
    finally:
        codes = made.stop()
    assert set(codes) == {0}


def traced(overlay: Overlay) -> bool:
    return overlay.host.links().keys() == overlay.flows.keys()


def suspicions(losses: Mapping[str, tuple[float, float]], links: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """{link: suspicion}, as the generated rules have it: its paths' mean loss x the share of all loss it explains."""
    loss = {path: lost / sent for path, (sent, lost) in losses.items() if path in links}
    over: dict[str, list[float]] = defaultdict(list)
    for path, ratio in loss.items():
        for link in links[path]:
            over[link].append(ratio)
    whole = sum(loss.values())
    return {link: sum(own) / len(own) * sum(own) / whole for link, own in over.items()}


@pytest.mark.usefixtures("whole")
def test_the_links_of_every_overlay_path_are_those_that_its_packets_cross(overlay: Overlay) -> None:
    until(lambda: traced(overlay), 30, "every overlay path has links")
    found, truth = overlay.host.links(), overlay.truth()
    assert found == truth
    possible = Fabric(overlay.design.topology())
    near, far = (f"{host.name}:{host.rnics[0].name}" for host in (overlay.near, overlay.far))
    assert possible.possible_links(near, far) <= set().union(*found.values())  # both spines carry some of them
    assert not any(sidecar.links() for sidecar in overlay.sidecars)  # a container sees one hop
    learnt, flows = (overlay.host.value(f"fabric_exporter_underlay_{name}flows") for name in ("learnt_", ""))
    assert learnt == flows == len(overlay.flows)


def test_a_lossy_link_is_the_one_that_overlay_losses_point_at(overlay: Overlay, whole: Running) -> None:
    until(lambda: traced(overlay), 30, "every overlay path has links")
    links = overlay.host.links()
    spines = {switch.name for switch in overlay.design.spines}
    leaf = overlay.design.far_end(overlay.design.rnic_end(f"{overlay.near.name}:{overlay.near.rnics[0].name}")).node
    broken = next(
        link.id for link in overlay.design.links if {end.node for end in link.ends} & spines and leaf in link.id
    )
    before = overlay.losses()
    whole.fault("silent-loss", broken, "40")
    time.sleep(4)
    after = overlay.losses()
    losses = {path: (after[path][0] - before[path][0], after[path][1] - before[path][1]) for path in before}
    suspicion = suspicions(losses, {path: sorted(crossed) for path, crossed in links.items()})
    ranked = sorted(suspicion, key=lambda link: -suspicion[link])
    assert ranked[0] == broken
    assert suspicion[ranked[0]] > suspicion[ranked[1]]
    assert overlay.host.links() == links  # traces over a lossy link keep the route


def test_a_changed_route_takes_its_place_once_losses_on_the_old_one_are_out_of_sight(
    overlay: Overlay, whole: Running
) -> None:
    until(lambda: overlay.host.links() == overlay.truth(1.0), 60, "links are the packets' own")
    links = overlay.host.links()
    spines = {switch.name for switch in overlay.design.spines}
    leaf = overlay.design.far_end(overlay.design.rnic_end(f"{overlay.near.name}:{overlay.near.rnics[0].name}")).node
    cut = next(link.id for link in overlay.design.links if {end.node for end in link.ends} & spines and leaf in link.id)
    moved = {path for path, crossed in links.items() if cut in crossed}
    whole.fault("link-down", cut)
    began = time.monotonic()
    until(lambda: all(cut not in crossed for crossed in overlay.truth(1.0).values()), 10, "packets go another way")
    assert overlay.host.links() == links, "losses of the last seconds are the old route's"
    assert time.monotonic() - began < HOLD
    changed = "fabric_path_route_change_timestamp_seconds"
    until(lambda: moved <= {labels["path"] for labels, _ in overlay.host.samples()[changed]}, 8, "changes are told")
    assert overlay.host.links() == links, "and are no vote"
    told = [labels for labels, _ in overlay.host.samples()[changed] if labels["path"] in moved]
    assert all(labels["hop"] in spines - set(labels["before"].split(" > ")) for labels in told)
    until(lambda: overlay.host.links() == overlay.truth(1.0), 40, "links are those of the new route")
    assert time.monotonic() - began > HOLD
    assert moved == {path for path, crossed in overlay.host.links().items() if crossed != links[path]}


def test_what_reaches_the_far_end_of_the_tunnel_is_dropped_and_no_error(fabric: Running, design: Design) -> None:
    """Of an incomplete trace, that is: a complete one ends before."""
    near, far = design.hosts[0], next(host for host in design.hosts if host.pod != design.hosts[0].pod)
    devices = [*(tunnel(tenant) for tenant in design.tenants), *(rnic.netdev for rnic in far.rnics)]

    def counted() -> dict[str, int]:
        lines = fabric.run(far.name, ["cat", "/proc/net/snmp"]).stdout.splitlines()
        values = dict[str, int]()
        for names, numbers in zip(lines[::2], lines[1::2], strict=True):
            protocol = names.split()[0]
            values |= {protocol + name: int(n) for name, n in zip(names.split()[1:], numbers.split()[1:], strict=True)}
        for device in devices:
            (shown,) = json.loads(fabric.run(far.name, ["ip", "-s", "-s", "-j", "link", "show", "dev", device]).stdout)
            values |= {f"{device} {name}": value for name, value in shown["stats64"]["rx"].items()}
        return values

    program = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(({near.rnics[0].address!r}, 0))
for _ in range(500):
    s.sendto({trace_payload(7)!r}, ({far.rnics[0].address!r}, 4789))
"""
    before = counted()
    fabric.run(near.name, [sys.executable, "-c", program])
    until(lambda: counted()["Udp:InDatagrams"] - before["Udp:InDatagrams"] >= 500, 5, "they arrive")
    grown = {name for name, value in counted().items() if value - before[name] >= 100}
    traffic = {f"{device} {name}" for device in devices for name in ("bytes", "packets")}  # containers probe meanwhile
    assert grown - traffic <= {"Ip:InReceives", "Ip:InDelivers", "Ip:OutRequests", "Ip:OutTransmits", "Udp:InDatagrams"}
