"""The overlay state that exporters tell, beside what the lab's own tools read; and that of a real Open vSwitch."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.contracts.overlay import OverlayState, read_overlay
from exporter.overlay.openvswitch import OpenVSwitch, entries
from exporter.overlay.settings import OverlayPort
from lab.network import overlay
from lab.network.design import Container, Design, Host
from lab.running import Running
from tests.lab.agent import Agent, until

PERIOD = 1.0


def section(design: Design, host: Host) -> dict[str, object]:
    ports = [
        {
            "name": overlay.host_side(design, container, interface),
            "container": container.name,
            "address": interface.address,
        }
        for container in design.containers
        if container.host == host.name
        for interface in container.interfaces
    ]
    return {"overlay": {"period_seconds": PERIOD, "dump_seconds": PERIOD, "ports": ports}}


@pytest.fixture
def ends(design: Design) -> tuple[Container, Container]:
    source, destination, *_ = design.tenants[0].containers
    return source, destination


@pytest.fixture
def agent(start: Callable[..., list[Agent]], design: Design, ends: tuple[Container, Container]) -> Agent:
    """On the host of the first of the two containers."""
    host = design.host(ends[0].host)
    (agent,) = start(host, sections=section(design, host))
    return agent


@pytest.fixture
def mended(fabric: Running) -> Iterator[Running]:
    yield fabric
    fabric.act("heal", "all")


def state(agent: Agent, tmp_path: Path) -> OverlayState:
    """The tables as they are now: the last snapshot of the answer."""
    before = agent.get("/v1/overlay-state")
    until(lambda: (answer := agent.get("/v1/overlay-state")) and answer != before)
    path = tmp_path / "overlay-state.json"
    path.write_text(agent.get("/v1/overlay-state"))
    return read_overlay(path)


def ways(state: OverlayState) -> dict[tuple[int, str], set[str | None]]:
    """{(VNI, address): where to}, of the last snapshot."""
    latest = max(snapshot.time for snapshot in state.snapshots)
    before = max((snapshot.time for snapshot in state.snapshots if snapshot.time < latest), default=0.0)
    found: dict[tuple[int, str], set[str | None]] = {}
    for entry in state.entries:
        if entry.time > before:
            found.setdefault((entry.vni, entry.dst), set()).add(entry.next)
    return found


def of_lab(fabric: Running, host: Host, table: str = "rnic") -> dict[tuple[int, str], set[str | None]]:
    found: dict[tuple[int, str], set[str | None]] = {}
    for entry in json.loads(fabric.act("overlay"))["entries"]:
        if (entry["host"], entry["table"]) == (host.name, table):
            found.setdefault((entry["vni"], entry["dst"]), set()).add(entry["next"])
    return found


def inconsistent(agent: Agent) -> dict[str, float]:
    samples = agent.metrics()["fabric_overlay_inconsistent_entries"]
    return {dict(labels)["kind"]: number for labels, number in samples.items()}


def test_the_state_is_what_the_kernel_forwards_by(agent: Agent, fabric: Running, tmp_path: Path) -> None:
    """``bridge fdb`` and the lab's own tables say the same; what is local is told by the configured ports."""
    host = agent.host
    told = state(agent, tmp_path)
    assert ways(told) == of_lab(fabric, host) == of_lab(fabric, host, "vswitch")
    assert any(next_hop.startswith("local:") for next_hops in ways(told).values() for next_hop in next_hops if next_hop)
    assert {entry.host for entry in told.entries} == {host.name}
    assert all(snapshot.complete for snapshot in told.snapshots)
    until(lambda: inconsistent(agent))
    assert inconsistent(agent) == {"missing-entry": 0, "unknown-vtep": 0}  # no driver here tells of offloading
    (entries_told,) = agent.metrics()["fabric_overlay_entries"].values()
    assert entries_told == len(ways(told))


def test_entries_that_cannot_be_right_are_counted_and_named(
    agent: Agent, mended: Running, ends: tuple[Container, Container], tmp_path: Path
) -> None:
    _, destination = ends
    tenant = mended.design().tenants[0]
    interfaces = {(tenant.vni, interface.address) for interface in destination.interfaces}  # tenants' addresses overlap
    mended.fault("fdb-missing", destination.name, agent.host.name)
    until(lambda: inconsistent(agent).get("missing-entry") == len(interfaces))
    assert not interfaces & set(ways(state(agent, tmp_path)))
    mended.act("heal", "all")
    until(lambda: inconsistent(agent).get("missing-entry") == 0)
    mended.fault("fdb-wrong", destination.name, agent.host.name)
    wrong = ways(state(agent, tmp_path))
    assert wrong == of_lab(mended, agent.host)
    mended.act("heal", "all")
    assert ways(state(agent, tmp_path)) != wrong
    interface = destination.interfaces[0]
    words = ["bridge", "fdb", "replace", interface.mac, "dev", overlay.tunnel(tenant), "dst", "203.0.113.9", "self"]
    mended.run(agent.host.name, [*words, "permanent"])
    until(lambda: inconsistent(agent).get("unknown-vtep") == 1)
    assert ways(state(agent, tmp_path))[tenant.vni, interface.address] == {"203.0.113.9"}


# ---- Open vSwitch itself, with a datapath in user space and without devices


class Switch:
    """``ovs-vswitchd`` and ``ovsdb-server`` in a directory, of this test alone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._run("ovsdb-tool", "create", "conf.db", "/usr/share/openvswitch/vswitch.ovsschema")
        self._database = f"unix:{directory}/db.sock"
        quiet = ["-vconsole:off", "--log-file=/dev/null", "--pidfile"]
        self._processes = [
            self._start("ovsdb-server", "conf.db", f"--remote=p{self._database}", "--unixctl=db.ctl", *quiet)
        ]
        until((directory / "db.sock").exists)
        self.configure("--no-wait", "init")
        self._processes.append(
            self._start(
                "ovs-vswitchd", self._database, "--enable-dummy", "--disable-system", "--disable-system-route", *quiet
            )
        )
        until(lambda: list(directory.glob("ovs-vswitchd.*.ctl")))

    def _environment(self) -> dict[str, str]:
        return {"OVS_RUNDIR": str(self.directory), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

    def _start(self, *argv: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(argv, cwd=self.directory, env=self._environment(), stderr=subprocess.DEVNULL)

    def _run(self, *argv: str) -> str:
        done = subprocess.run(
            argv, cwd=self.directory, env=self._environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def configure(self, *words: str) -> str:
        return self._run("ovs-vsctl", f"--db={self._database}", *words)

    def add_flow(self, bridge: str, flow: str) -> None:
        self._run("ovs-ofctl", "add-flow", f"unix:{self.directory}/{bridge}.mgmt", flow)

    def tell(self, *words: str) -> str:
        (control,) = self.directory.glob("ovs-vswitchd.*.ctl")
        return self._run("ovs-appctl", "-t", str(control), *words)

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            process.wait(10)


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[Switch]:
    if shutil.which("ovs-vswitchd", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("no Open vSwitch: make setup installs it (Debian package openvswitch-switch)")
    short = Path(f"/tmp/ovs-{tmp_path.parent.name}-{tmp_path.name}"[:60])  # noqa: S108 - a socket's path is short
    short.mkdir()
    switch = Switch(short)
    try:
        yield switch
    finally:
        switch.stop()
        shutil.rmtree(short)


def ipv4(source: str, destination: str, payload: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + payload


def udp(source: int, destination: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


def frame(destination: str, source: str, packet: bytes) -> bytes:
    return bytes.fromhex(destination.replace(":", "")) + bytes.fromhex(source.replace(":", "")) + b"\x08\x00" + packet


def test_flows_of_a_real_switch_are_entries(switch: Switch) -> None:
    """Packets of two containers go out encapsulated, one comes in: three entries, told by the switch itself."""
    switch.configure("add-br", "br-ul", "--", "set", "bridge", "br-ul", "datapath_type=dummy")
    switch.configure("add-port", "br-ul", "p0", "--", "set", "interface", "p0", "type=dummy")
    switch.configure("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=dummy")
    switch.configure("add-port", "br-int", "veth0", "--", "set", "interface", "veth0", "type=dummy", "ofport_request=1")
    tunnel = ("options:remote_ip=flow", "options:key=flow", "ofport_request=2")
    switch.configure("add-port", "br-int", "vx", "--", "set", "interface", "vx", "type=vxlan", *tunnel)
    switch.tell("netdev-dummy/ip4addr", "br-ul", "192.0.2.11/24")
    switch.tell("ovs/route/add", "192.0.2.0/24", "br-ul")
    for last in (2, 3):
        switch.tell("tnl/neigh/set", "br-ul", f"192.0.2.1{last}", f"aa:55:aa:55:00:1{last}")
        way = f"set_field:100->tun_id,set_field:192.0.2.1{last}->tun_dst,output:2"
        switch.add_flow("br-int", f"priority=10,in_port=1,ip,nw_dst=172.16.0.{last},actions={way}")
    switch.add_flow("br-int", "priority=10,in_port=2,tun_id=100,ip,nw_dst=172.16.0.1,actions=output:1")
    switch.add_flow("br-int", "priority=1,actions=drop")
    asked = OpenVSwitch(switch.directory)
    assert asked.count().current == 0

    inner = udp(1000, 4791, b"x" * 18)
    for last in (2, 3, 9):  # nobody knows the last
        sent = frame("0a:00:00:00:00:02", "0a:00:00:00:00:01", ipv4("172.16.0.1", f"172.16.0.{last}", inner))
        switch.tell("netdev-dummy/receive", "veth0", sent.hex())
    mac = switch.configure("get", "interface", "br-ul", "mac_in_use").strip().strip('"')
    back = frame("0a:00:00:00:00:01", "0a:00:00:00:00:02", ipv4("172.16.0.2", "172.16.0.1", inner))
    vxlan = udp(50000, 4789, struct.pack("!II", 0x08000000, 100 << 8) + back)
    arriving = frame(mac, "aa:55:aa:55:00:12", ipv4("192.0.2.12", "192.0.2.11", vxlan))
    port = OverlayPort(name="veth0", container="worker-0", address="172.16.0.1")

    def told() -> set[tuple[int, str, str | None, str | None]]:
        switch.tell("netdev-dummy/receive", "p0", arriving.hex())
        found = entries(asked.flows(), "h", [port], 0.0)
        return {(entry.vni, entry.dst, entry.next, entry.in_port) for entry in found}

    expected = {
        (100, "172.16.0.2", "192.0.2.12", "veth0"),
        (100, "172.16.0.3", "192.0.2.13", "veth0"),
        (100, "172.16.0.1", "local:worker-0", "vxlan_sys_4789"),
    }
    until(lambda: told() == expected)
    until(lambda: asked.count().current >= 5)
    assert asked.count().offloaded is None
    with pytest.raises(OSError, match="is not a valid command"):
        asked._command("no-such-command")
