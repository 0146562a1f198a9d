"""The stage of a scenario: a lab with a job on its overlay, agents that probe, and recorders."""

from __future__ import annotations

import random
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from exporter.contracts.codec import encode
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import endpoint_id, path_id
from exporter.contracts.plan import Plan, Target
from exporter.contracts.sizes import VXLAN_OVERHEAD
from exporter.contracts.skeleton import Skeleton
from exporter.contracts.topology import Topology
from lab.agents import SWITCH_PERIOD_SECONDS, Exporters, Sidecars
from lab.counters.control import Counters
from lab.counters.timeline import Event
from lab.errors import LabError
from lab.faults import Faults
from lab.jobs.job import Job, draw_job
from lab.network import resolver
from lab.network.design import Cable, Container, Design, End, Host, Rnic, Switch
from lab.network.fabric import Lab
from lab.scenarios.catalogue import Measured
from skeleton_service.planning import plan as planning

PLAN_SECONDS = 86400.0
OVERLAY_SOURCE_PORT = 63000
_UNUSED = 4791  # RoCE v2's: nobody listens there in the lab, so that the kernel answers with an ICMP error
_UDP = f"""
import socket, sys, time
source, destination, dscp, count, flows = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
lost, worst = 0, 0.0
for flow in range(flows):
    least = float("inf")
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((source, 0))
    s.settimeout(0.3)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)
    s.connect((destination, {_UNUSED}))
    for _ in range(count):
        begin = time.perf_counter()
        try:
            s.send(b"x")
            s.recv(1)
        except ConnectionRefusedError:
            least = min(least, time.perf_counter() - begin)
        except TimeoutError:
            lost += 1
    s.close()
    worst = max(worst, least)
print(100 * lost / (count * flows), worst * 1000)
"""


class Scene:
    """Everything a scenario may use. Choices come from ``draw``, so that one seed gives one scenario.

    With ``counted_every`` seconds it is measured as a site would that has Prometheus beside it: the exporters read
    RNICs and resolvers too, and switches as often.
    """

    def __init__(self, directory: Path, seed: int, design: Design, counted_every: float | None = None) -> None:
        self.directory, self.seed, self.design, self.counted_every = directory, seed, design, counted_every
        self.draw = random.Random(f"{seed}/scenario")
        self.lab = Lab(design, directory / "lab")
        self.faults = Faults(design, directory / "lab")
        self.topology: Topology = design.topology()
        self.fabric = Fabric(self.topology)
        self.tenant = design.tenants[0]
        training = {host.name for host in design.hosts}
        hosts = tuple(host for host in self.topology.hosts if host.name in training)
        job = draw_job(seed, msgspec.structs.replace(self.topology, hosts=hosts), period_seconds=(4.0, 5.5))
        self.job: Job = on_containers(job, design)
        self.skeleton: Skeleton = self.job.truth()
        period = SWITCH_PERIOD_SECONDS if counted_every is None else counted_every
        self.exporters = Exporters(self.lab, directory / "exporters", counted_every, period)
        self.sidecars = Sidecars(self.lab, directory / "sidecars", self.tenant)
        self.now = time.time
        self.plans: dict[str, Plan] = {}
        self._names = 0

    @property
    def counters(self) -> Counters:
        return Counters(self.lab.directory, self.design)

    # ---- choices

    def host(self) -> Host:
        return self.design.host(self.draw.choice(self.job.workers).host)

    def rnic(self) -> str:
        """An RNIC of the job, ``host:rnic``."""
        host = self.host()
        return f"{host.name}:{self.draw.choice(host.rnics).name}"

    def container(self) -> Container:
        return self.draw.choice(self.tenant.containers)

    def leaf(self) -> Switch:
        return self.draw.choice(self.design.leaves)

    def spine(self) -> Switch:
        return self.draw.choice(self.design.spines)

    def spine_link(self) -> Cable:
        """A link between leaf and spine that the job's paths may cross."""
        spines = {switch.name for switch in self.design.spines}
        used: set[str] = set()
        for a, b, _ in self.skeleton.pairs():
            used |= self.fabric.possible_links(self._port(a), self._port(b))
        links = [link for link in self.design.links if link.b.node in spines and link.id in used]
        return self.draw.choice(links)

    def _port(self, endpoint: str) -> str:
        container, _, rnic = endpoint.rpartition("/")
        return f"{self.design.container(container).host}:{rnic}"

    def peer_of(self, container: Container) -> Container:
        """A container that the job lets ``container`` speak to, on another host."""
        peers = {
            other.rpartition("/")[0]
            for a, b, _ in self.skeleton.pairs()
            for one, other in ((a, b), (b, a))
            if one.rpartition("/")[0] == container.name
        }
        return self.design.container(self.draw.choice(sorted(peers)))

    def container_on(self, host: str) -> Container:
        """The job's container on a host."""
        return next(container for container in self.tenant.containers if container.host == host)

    def host_elsewhere(self, host: str) -> Host:
        """A host in another pod."""
        pod = self.design.host(host).pod
        return self.draw.choice([each for each in self.design.hosts if each.pod != pod])

    def rail_of(self, rnic: str) -> tuple[Host, Rnic]:
        """Host and RNIC of ``host:rnic``."""
        name, _, device = rnic.partition(":")
        host = self.design.host(name)
        return host, next(each for each in host.rnics if each.name == device)

    def leaf_of(self, container: Container, rail: int) -> str:
        """The leaf behind which a container's interface on a rail is."""
        rnic = next(each.rnic for each in container.interfaces if each.rail == rail)
        return self.design.far_end(self.design.rnic_end(f"{container.host}:{rnic}")).node

    # ---- what goes wrong, besides packets

    def story(self, name: str, events: Sequence[Event]) -> None:
        """Let the counters tell of a fault what packets cannot."""
        self.counters.add(*events, fault=name)

    def repair(self) -> None:
        """Mend every fault and end its counters."""
        self.faults.heal()
        self.counters.clear()

    # ---- independent tools

    def ping(
        self,
        node: str,
        source: str,
        destination: str,
        *,
        what: str = "loss",
        size: int = 56,
        count: int = 100,
        interval: float = 0.02,
        dscp: int | None = None,
    ) -> Measured:
        """ping(8): ``what`` is ``loss`` in percent or ``rtt``, the mean round trip in ms."""
        words = ["ping", "-n", "-q", "-M", "do", "-s", str(size), "-c", str(count), "-i", f"{interval:g}", "-W", "0.5"]
        words += ["-Q", str(dscp << 2)] if dscp is not None else []
        words += ["-I", source, destination]
        answer = self.lab.run(node, words, check=False).stdout
        counts = re.search(r"(\d+) packets transmitted, (\d+) received", answer)
        times = re.search(r"= ([\d.]+)/([\d.]+)/", answer)
        loss = 100.0 if counts is None else 100 * (1 - int(counts[2]) / int(counts[1]))
        value = loss if what == "loss" else float(times[2]) if times else float("inf")
        return Measured("ping", self._shown(node, words), value, "%" if what == "loss" else "ms")

    def between(self, rnic: str, **options: object) -> Measured:
        """Ping an RNIC from one of its rail in another pod, over the underlay."""
        host, own = self.rail_of(rnic)
        other = next(each for each in self.design.hosts if each.pod != host.pod)
        there = next(each for each in other.rnics if each.rail == own.rail)
        return self.ping(other.name, there.address, own.address, **options)  # type: ignore[arg-type]

    def udp(self, rnic: str, *, dscp: int = 0, count: int = 20) -> Measured:
        """Share in percent of UDP packets of a class that do not reach an RNIC: an unused port says that they do."""
        host, own = self.rail_of(rnic)
        other = next(each for each in self.design.hosts if each.pod != host.pod)
        there = next(each for each in other.rnics if each.rail == own.rail)
        words = [sys.executable, "-c", _UDP, there.address, own.address, str(dscp), str(count), "1"]
        value = float(self.lab.run(other.name, words).stdout.split()[0])
        return Measured("udp socket", f"{count} packets to {own.address}:{_UNUSED}, DSCP {dscp}", value, "%")

    def slowest_flow(self, rnic: str, flows: int = 24) -> Measured:
        """The worst of the least round trips in ms of UDP flows to an RNIC, each from a port of its own."""
        host, own = self.rail_of(rnic)
        other = next(each for each in self.design.hosts if each.pod != host.pod)
        there = next(each for each in other.rnics if each.rail == own.rail)
        words = [sys.executable, "-c", _UDP, there.address, own.address, "0", "5", str(flows)]
        value = float(self.lab.run(other.name, words).stdout.split()[1])
        return Measured("udp socket", f"{flows} flows to {own.address}:{_UNUSED}", value, "ms")

    def inner(self, source: Container, destination: Container, rail: int = 0, **options: object) -> Measured:
        """Ping from container to container, over the overlay."""
        addresses = [
            next(each.address for each in container.interfaces if each.rail == rail)
            for container in (source, destination)
        ]
        return self.ping(source.name, *addresses, **options)  # type: ignore[arg-type]

    def across(self, link: Cable, **options: object) -> Measured:
        """Ping across one link, from end to end; a switch's own address answers 100 pings a second."""
        return self.ping(link.a.node, link.a.address, link.b.address, **options)  # type: ignore[arg-type]

    def snmp(self, end: End, oid: str, unit: str = "") -> Measured:
        """snmpget of one switch port's row, its interface index appended to ``oid``."""
        switch = self.design.switch(end.node)
        index = self.lab.run(end.node, ["cat", f"/sys/class/net/{end.netdev}/ifindex"]).stdout.strip()
        words = ["snmpget", "-Oqv", switch.management, oid.format(index=index)]
        environ = self.lab.agents.client_environment()
        text = self.lab.run(None, words, environ=environ).stdout.strip()
        return Measured("snmpget", self._shown("-", words), float(text), unit)

    def vtysh(self, switch: str, command: str, pattern: str, unit: str = "") -> Measured:
        """The first number that ``pattern`` finds in the answer of a switch's routing daemons."""
        words = ["vtysh", "-N", switch, "-c", command]
        found = re.search(pattern, self.lab.run(switch, words).stdout)
        if found is None:
            raise LabError(f"{command!r} on {switch} shows no {pattern!r}")
        return Measured("vtysh", self._shown(switch, words), float(found[1]), unit)

    def flaps(self, switch: str, peer: str, seconds: float) -> Measured:
        """How often a BGP session was lost within ``seconds``, as the switch's bgpd counts; returns at the first."""
        command = f"show bgp neighbors {peer}"
        pattern = r"Connections established \d+; dropped (\d+)"
        before = self.vtysh(switch, command, pattern).value
        deadline = time.monotonic() + (seconds if self.faults.active() else 1)
        while True:
            now = self.vtysh(switch, command, pattern)
            if now.value > before or time.monotonic() > deadline:
                return Measured(now.tool, now.command, now.value - before, "sessions lost")
            time.sleep(0.5)

    def sysfs(self, rnic: str, file: str, unit: str = "") -> Measured:
        """A file of the RNIC's counters; -1 when it is gone."""
        host, device = rnic.split(":")
        path = self.lab.directory / "sysfs" / host / "class/infiniband" / device / "ports/1" / file
        try:
            value = float(path.read_text())
        except FileNotFoundError:
            value = -1.0
        return Measured("cat", f"cat sysfs/{host}/class/infiniband/{device}/ports/1/{file}", value, unit)

    def dig(self, host: Host, count: int = 20, interval: float = 0.3) -> Measured:
        """dig(1) to the host's resolver for new names of the second site: the mean answer in ms, 2,000 for none.

        ``interval`` in seconds from one to the next: a burst comes and goes.
        """
        plan = resolver.plan(self.design)
        server = resolver.resolver_of(self.design, host)
        times = []
        for _ in range(count):
            name = f"dig-{self.draw_name()}.{plan.store}"
            words = ["dig", "+tries=1", "+time=2", f"@{server}", name, "A"]
            answer = self.lab.run(host.name, words, check=False).stdout
            spent = re.search(r"Query time: (\d+) msec", answer)
            answered = spent is not None and "status: NOERROR" in answer
            times.append(float(spent[1]) if answered and spent is not None else 2000.0)
            time.sleep(interval)
        return Measured("dig", self._shown(host.name, words), sum(times) / count, "ms")

    def draw_name(self) -> str:
        """A word never used before, whatever the seed."""
        self._names += 1
        return f"{self.seed}-{self._names}"

    def carrier(self, port: str) -> Measured:
        """1 when a port has carrier (``ip link``)."""
        end = self.design.end(port)
        words = ["ip", "-br", "link", "show", "dev", end.netdev]
        up = " UP " in self.lab.run(end.node, words).stdout
        return Measured("ip", self._shown(end.node, words), float(up), "")

    def _shown(self, node: str, words: Sequence[str]) -> str:
        return f"python -m lab exec {node} {shlex.join(words)}"

    # ---- up

    def raise_lab(self) -> None:
        self.lab.up()
        self.lab.wait_converged()

    def start(self, *, in_containers: bool = True) -> None:
        """Start the job's traffic and the agents on hosts, and in containers as well unless they are not wanted."""
        self.directory.mkdir(exist_ok=True)
        self.exporters.start(self.job)
        if in_containers:
            self.sidecars.start(self.job)
        traffic = self.directory / "lab" / "traffic-job.json"
        traffic.write_bytes(encode(as_bytes_see_it(self.job, self.design)))
        self.lab.daemon("traffic", [sys.executable, "-m", "lab.jobs.traffic", "--job", str(traffic)])
        self.probe("underlay", self.topology, self.exporters.plan, planning.Settings(), self._to_store())
        if not in_containers:
            return
        inner_mtu = self.design.mtu - VXLAN_OVERHEAD
        # Paths are named by their physical ends: with the same ports those of the overlay would be the underlay's.
        settings = planning.Settings(mtu=inner_mtu)
        if self.counted_every is not None:
            settings = replace(settings, first_source_port=OVERLAY_SOURCE_PORT)
        self.probe("overlay", self.sidecars.topology, self.sidecars.plan, settings)

    def record_lookups(self, file: Path) -> bool:
        """Look names up from every host, where the lab has a resolver; whether it has."""
        if self.design.transit is None:
            return False
        words = [str(self.lab.directory), "--output", str(file)]
        self.lab.daemon("lookups", [sys.executable, "-m", "lab.scenarios.lookups", *words])
        return True

    def record_counters(self, file: Path, period: float) -> None:
        words = [str(self.lab.directory), "--output", str(file), "--period", f"{period:g}"]
        self.lab.daemon("counter-recorder", [sys.executable, "-m", "lab.counters.record", *words])

    def _to_store(self) -> list[Target]:
        """A path from every RNIC of rail 0 to the checkpoint store of the second site, where there is one."""
        if self.design.transit is None:
            return []
        store = self.design.service_host(self.design.transit.store)
        there, settings = store.rnics[0], planning.Settings()
        targets = []
        for worker in self.job.workers:
            own = self.design.host(worker.host).rnics[0]
            ends = worker.host, own.name, store.name, there.name
            port = settings.first_source_port + 1000
            targets.append(
                Target(
                    path=path_id(*ends, "udp", settings.traffic_class, port),
                    source=endpoint_id(worker.container, own.name),
                    destination=endpoint_id(store.name, there.name),
                    probe="udp",
                    source_address=own.address,
                    destination_address=there.address,
                    source_ports=(port,),
                    traffic_class=settings.traffic_class,
                    payload_bytes=settings.udp_payload,
                    period_seconds=settings.udp_period,
                    active=True,
                    role="external",
                    source_host=worker.host,
                    source_rnic=own.name,
                    destination_host=store.name,
                    destination_rnic=there.name,
                )
            )
        return targets

    def probe(
        self, name: str, topology: Topology, file: Path, settings: planning.Settings, more: Sequence[Target] = ()
    ) -> None:
        """Plan the job's true skeleton on ``topology``, add ``more``, and give it to the agents that watch ``file``."""
        plan = planning.draft(
            self.skeleton,
            topology,
            phase="skeleton",
            generation=1,
            expires=self.now() + PLAN_SECONDS,
            settings=settings,
        ).whole()
        plan = self.plans[name] = msgspec.structs.replace(plan, targets=(*plan.targets, *more))
        new = file.with_suffix(".new")
        new.write_bytes(encode(plan))
        new.replace(file)


def on_containers(job: Job, design: Design) -> Job:
    """The job with each worker in the first tenant's container on its host."""
    container = {each.host: each.name for each in design.tenants[0].containers}
    workers = tuple(msgspec.structs.replace(worker, container=container[worker.host]) for worker in job.workers)
    return msgspec.structs.replace(job, workers=workers)


def as_bytes_see_it(job: Job, design: Design) -> Job:
    """The same job as its bytes see it: hosts are containers' namespaces, addresses the overlay's."""
    workers = []
    for worker in job.workers:
        container = design.container(worker.container)
        address = {interface.rnic: interface.address for interface in container.interfaces}
        nics = tuple(msgspec.structs.replace(nic, ip=address[nic.name]) for nic in worker.nics)
        workers.append(msgspec.structs.replace(worker, host=container.namespace, nics=nics))
    return msgspec.structs.replace(job, workers=tuple(workers))
