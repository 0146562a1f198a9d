"""The lab itself: from a design to namespaces, cables, routes and daemons, and back to nothing.

Everything here runs inside a sandbox (lab.sandbox), in one thread.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.counters import setup as counters
from lab.errors import LabError
from lab.network import carrier, icmp, overlay, resolver, routing
from lab.network import design as drawn
from lab.network.design import Design, Host, Rnic, Switch
from lab.network.snmp import Agents
from lab.sandbox import environment
from lab.sandbox.daemons import Daemons
from lab.sandbox.netns import NAMESPACES, inside

BRIDGE = "management"
MANAGEMENT_PORT = "mgmt0"
FIRST_TABLE = overlay.FIRST_TABLE  # of the routing tables per RNIC
SETTINGS = {
    "net/ipv6/conf/all/disable_ipv6": 1,  # no neighbour discovery among the counted packets
    "net/ipv6/conf/default/disable_ipv6": 1,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    # Paths follow the five-tuple, as on a switch. Policy 1 would take over the hash that the kernel has drawn
    # for the sending *socket*, and a traceroute would not follow the flow whose ports it carries.
    "net/ipv4/fib_multipath_hash_fields": 0x37,  # addresses, protocol, ports (ip-sysctl)
    "net/ipv4/fib_multipath_hash_policy": 3,
    "net/ipv4/icmp_errors_use_inbound_ifaddr": 1,  # a traced hop names the port where the packet came in
    "net/ipv4/icmp_ratelimit": 0,
    "net/ipv4/icmp_msgs_per_sec": 1_000_000,
    "net/ipv4/icmp_msgs_burst": 100_000,
}
SWITCH_SETTINGS = {"net/ipv4/ip_forward": 1}


def _batch(lines: Sequence[str], node: str | None = None) -> None:
    """Run many ``ip`` commands in one process; raise LabError with the first complaint."""
    argv = ["ip", *(["-n", node] if node else []), "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"ip on {node or 'the sandbox'}: {' '.join(done.stderr.split())}")


def _set(settings: Mapping[str, int]) -> None:
    for name, value in settings.items():
        path = Path("/proc/sys", name)
        # Older kernels keep some of these for the whole machine: then they are not ours to set.
        if path.exists():
            path.write_text(f"{value}\n")


def rnic_routes(rnic: Rnic) -> list[str]:
    """``ip`` words for what an RNIC loses with its carrier or address, harmless to repeat."""
    way = f"default via {rnic.gateway} dev {rnic.netdev} src {rnic.address}"
    table = FIRST_TABLE + rnic.rail
    return [
        f"addr replace {rnic.address}/31 dev {rnic.netdev}",
        f"route replace {way} table {table}",
        f"route replace {way} metric {table}",
    ]


class Lab:
    """One running fabric. ``with Lab(design, directory) as lab`` brings it up and takes it down."""

    def __init__(self, design: Design, directory: Path) -> None:
        self.design = design
        self.directory = directory
        self.agents = Agents(directory / "snmp")
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._records = Daemons(directory)

    def __enter__(self) -> Lab:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # ---- up and down

    def up(self) -> None:
        """Build everything and start the daemons; return before routing has converged."""
        self.down()
        (self.directory / "logs").mkdir(parents=True, exist_ok=True)
        (self.directory / "design.json").write_bytes(drawn.dump(self.design))
        _set({name: value for name, value in SETTINGS.items() if "ipv6" in name})
        _batch([f"netns add {node.name}" for node in self.design.nodes])
        for node in self.design.nodes:
            with inside(node.name):
                _set(SETTINGS | (SWITCH_SETTINGS if isinstance(node, Switch) else {}))
        _batch(self._cables())
        for node in self.design.nodes:
            _batch(self._addresses(node), node.name)
        self._police()
        routing.configure(self.design)
        self.agents.configure(self.design.managed)
        counters.start(self.design, self.directory, self.daemon)
        for switch in self.design.switches:
            self.daemon(f"zebra-{switch.name}", routing.daemon("zebra", switch), node=switch.name)
        for switch in self.design.managed:
            argv, environ = self.agents.daemon(switch)
            self.daemon(f"snmpd-{switch.name}", argv, node=switch.name, environ=environ)
        for switch in self.design.switches:
            self._await_zebra(switch)
            self.daemon(f"bfdd-{switch.name}", routing.daemon("bfdd", switch), node=switch.name)
            with_snmp = switch in self.design.managed
            argv = routing.daemon("bgpd", switch, with_snmp=with_snmp)
            environ = routing.subagent_environment(switch)
            self.daemon(f"bgpd-{switch.name}", argv, node=switch.name, environ=environ)
        overlay.build(self.design, self.directory)  # while routing converges
        carrier.start(self.design, self.daemon)
        resolver.start(self.design, self.daemon)
        for switch in self.design.managed:
            argv, environ = self.agents.freshen(switch)
            done = self.run(switch.name, argv, environ=environ, check=False)
            if done.returncode:
                raise LabError(f"snmpd of {switch.name} does not answer: {done.stderr.strip()}", self._see("snmpd"))

    def down(self) -> None:
        """Stop the daemons and remove every namespace; harmless when nothing is up."""
        for process in self._daemons.values():
            process.terminate()
        deadline = time.monotonic() + 2
        for process in self._daemons.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._daemons.clear()
        self._records.end_all()  # those that a fault has ended and started again
        # The kernel takes a namespace apart later; what reaches into the sandbox goes first, and now.
        ports = [f"link del m{index}" for index, _ in enumerate(self.design.nodes)]
        subprocess.run(
            ["ip", "-force", "-batch", "-"],
            input="\n".join([*ports, f"link del {BRIDGE}\n"]).encode(),
            capture_output=True,
            check=False,
        )
        everyone = (*self.design.containers, *self.design.nodes)
        present = [node.namespace for node in everyone if (NAMESPACES / node.namespace).exists()]
        if present:
            _batch([f"netns del {name}" for name in present])

    def _police(self) -> None:
        for switch in self.design.switches:
            with inside(switch.name):
                text = icmp.script(self.design, switch)
                done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, check=False)
            if done.returncode:
                raise LabError(f"nft on {switch.name}: {' '.join(done.stderr.split())}")

    def _cables(self) -> list[str]:
        gateway = f"{drawn.MANAGEMENT_GATEWAY}/{drawn.MANAGEMENT.prefixlen}"
        lines = [f"link add {BRIDGE} type bridge", f"addr add {gateway} dev {BRIDGE}", f"link set {BRIDGE} up"]
        for index, node in enumerate(self.design.nodes):
            lines.append(f"link add name m{index} type veth peer name {MANAGEMENT_PORT} netns {node.name}")
            lines.append(f"link set m{index} master {BRIDGE} up")
        # Without segmentation offload every packet is one on the wire: counted, lost and too long as such.
        each_end = f"mtu {self.design.mtu} gso_max_segs 1"
        for link in self.design.links:
            a, b = link.ends
            lines.append(
                f"link add name {a.netdev} {each_end} netns {a.node} type veth "
                f"peer name {b.netdev} {each_end} netns {b.node}"
            )
        return lines

    def _addresses(self, node: Host | Switch) -> list[str]:
        lines = [
            "link set lo up",
            f"addr add {node.management}/{drawn.MANAGEMENT.prefixlen} dev {MANAGEMENT_PORT}",
            f"link set {MANAGEMENT_PORT} up",
        ]
        if isinstance(node, Switch):
            lines.append(f"addr add {node.loopback}/32 dev lo")
            for end in node.ports:
                lines += [f"addr add {end.address}/31 dev {end.netdev}", f"link set {end.netdev} up"]
            return lines
        for rnic in node.rnics:
            table = FIRST_TABLE + rnic.rail
            lines += [
                f"link set {rnic.netdev} up",
                *rnic_routes(rnic),
                # What comes from an RNIC's address leaves through that RNIC; what is unbound prefers rail 0.
                f"rule add from {rnic.address} lookup {table} priority {table}",
            ]
        return lines

    # ---- commands in the lab

    def command(self, node: str | None, argv: Sequence[str]) -> list[str]:
        """The command line that runs ``argv`` on ``node``; None is the sandbox, where the monitoring lives."""
        if node is None:
            return list(argv)
        return ["ip", "netns", "exec", self.design.namespace(node), *argv]

    def run(
        self,
        node: str | None,
        argv: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float | None = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` on ``node`` to its end, output captured; raise LabError when it fails and ``check`` is set."""
        done = subprocess.run(
            self.command(node, argv),
            env=environment(environ),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise LabError(f"{' '.join(argv)} on {node or 'the sandbox'} failed: {done.stderr.strip()}")
        return done

    def popen(
        self, node: str | None, argv: Sequence[str], *, environ: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start ``argv`` on ``node``; the process returned is ``argv`` itself, not a wrapper."""
        return subprocess.Popen(self.command(node, argv), env=environment(environ), **options)

    def daemon(
        self, name: str, argv: Sequence[str], *, node: str | None = None, environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program that is to live as long as the lab, its output in ``logs/<name>.log``."""
        place = None if node is None else self.design.namespace(node)
        self._daemons[name] = process = self._records.start(name, argv, place, environ)
        return process

    def log(self, name: str) -> Path:
        return self._records.log(name)

    def dead_daemons(self) -> dict[str, int]:
        """Daemons that have ended though the lab is up, with their exit codes."""
        codes = {name: process.poll() for name, process in self._daemons.items()}
        return {name: code for name, code in codes.items() if code is not None and not self._records.is_fine(name)}

    # ---- convergence

    def wait_converged(self, timeout: float = 30) -> None:
        """Return once every leaf has all its equal ways to every other leaf's hosts, in the kernel's tables."""
        routing.wait_converged(self.design, timeout, self._complain_of_the_dead)

    def _await_zebra(self, switch: Switch, timeout: float = 20) -> None:
        deadline = time.monotonic() + timeout
        while not routing.ready(switch):
            self._complain_of_the_dead()
            if time.monotonic() > deadline:
                raise LabError(f"zebra of {switch.name} is not ready after {timeout:g} s", self._see("zebra"))
            time.sleep(0.01)

    def _complain_of_the_dead(self) -> None:
        for name, code in self.dead_daemons().items():
            raise LabError(f"{name} ended with code {code}", f"see {self.log(name)}")

    def _see(self, daemon: str) -> str:
        return f"see {self.directory / 'logs'}/{daemon}-*.log"
