"""FRR on the lab's switches: eBGP between neighbours watched by BFD, every equal path used, seconds to converge."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

from lab.errors import LabError
from lab.network import transit
from lab.network.design import MANAGEMENT, Design, Switch
from lab.network.snmp import AGENTX

CONFIGURATION = Path("/etc/frr")  # a private, empty file system inside a sandbox (lab.sandbox.init)
SOCKETS = Path("/run/frr")
SUBAGENT = "agentx"
HOLD_SECONDS = 9  # keepalive is a third of it, as in FRR's profile "datacenter"
BFD_MULTIPLIER = 3
BFD_MILLISECONDS = 1000  # FRR's default is 300; a laboratory of many nodes shares few processors


def bgp_configuration(design: Design, switch: Switch) -> str:
    """The bgpd.conf of one switch."""
    asn = {each.name: each.asn for each in design.switches}
    peers = [(far.address, asn[far.node]) for _, far in design.peers(switch.name)]
    lines = [
        f"hostname {switch.name}",
        "log stdout informational",
        *(["agentx"] if switch in design.managed else []),
        f"ip prefix-list fabric seq 5 deny {MANAGEMENT} le 32",
        "ip prefix-list fabric seq 10 permit any",
        "route-map fabric permit 10",
        " match ip address prefix-list fabric",
        "exit",
        *transit.policies(design, switch),
        f"router bgp {switch.asn}",
        f" bgp router-id {switch.loopback}",
        " no bgp ebgp-requires-policy",
        # Leaves have numbers of their own: paths through different spines to one leaf are equal all the same.
        " bgp bestpath as-path multipath-relax",
        f" timers bgp {HOLD_SECONDS // 3} {HOLD_SECONDS}",
        *(f" neighbor {address} remote-as {number}" for address, number in peers),
        *(f" neighbor {address} timers connect 1" for address, _ in peers),
        *(f" neighbor {address} advertisement-interval 0" for address, _ in peers),
        *(f" neighbor {address} bfd profile fabric" for address, _ in peers),
        " address-family ipv4 unicast",
        "  redistribute connected route-map fabric",
        "  maximum-paths 64",
        *(f"  {line}" for line in transit.neighbor_policies(design, switch)),
        " exit-address-family",
        "exit",
    ]
    return "\n".join(lines) + "\n"


def zebra_configuration(switch: Switch) -> str:
    """The zebra.conf of one switch."""
    return (
        f"hostname {switch.name}\n"
        "log stdout informational\n"
        # With next-hop objects the kernel takes a member out of a group when its port loses carrier, and
        # zebra 8.4 never puts it back: after a repair the link would stay unused.
        "no zebra nexthop kernel enable\n"
    )


def bfd_configuration(switch: Switch) -> str:
    """The bfdd.conf of one switch; the sessions themselves are asked for by bgpd."""
    return (
        f"hostname {switch.name}\n"
        "log stdout informational\n"
        "bfd\n"
        " profile fabric\n"
        f"  detect-multiplier {BFD_MULTIPLIER}\n"
        f"  receive-interval {BFD_MILLISECONDS}\n"
        f"  transmit-interval {BFD_MILLISECONDS}\n"
        " exit\n"
        "exit\n"
    )


def configure(design: Design) -> None:
    """Write the configuration of every switch where its daemons look for it."""
    for directory in (CONFIGURATION, SOCKETS):
        directory.mkdir(exist_ok=True)
        shutil.chown(directory, "frr", "frr")
    (CONFIGURATION / "vtysh.conf").write_text("no service integrated-vtysh-config\n")
    for switch in design.switches:
        for base in (CONFIGURATION, SOCKETS):
            (base / switch.name).mkdir(exist_ok=True)
            shutil.chown(base / switch.name, "frr", "frr")
        directory = CONFIGURATION / switch.name
        shutil.copy(CONFIGURATION / "vtysh.conf", directory)
        (directory / "zebra.conf").write_text(zebra_configuration(switch))
        (directory / "bfdd.conf").write_text(bfd_configuration(switch))
        (directory / "bgpd.conf").write_text(bgp_configuration(design, switch))
        subagent = directory / SUBAGENT  # where bgpd can read and write once it has become the user frr
        subagent.mkdir(exist_ok=True)
        # A switch that boots starts its agent last; bgpd then looks for it each second.
        (subagent / "frr.conf").write_text(f"agentXSocket {AGENTX}\nagentXPingInterval 1\n")
        shutil.chown(subagent, "frr", "frr")


def daemon(program: str, switch: Switch, *, with_snmp: bool = False) -> list[str]:
    """The command line of ``zebra``, ``bfdd`` or ``bgpd`` for one switch, in the foreground, with no TCP console.

    ``with_snmp`` for a bgpd that serves BGP4-MIB to the switch's agent, in the environment ``subagent_environment``.
    """
    return [program, "-N", switch.name, "-P", "0", *(["-M", "snmp"] if with_snmp else [])]


def subagent_environment(switch: Switch) -> dict[str, str]:
    directory = str(CONFIGURATION / switch.name / SUBAGENT)
    return {"SNMPCONFPATH": directory, "SNMP_PERSISTENT_DIR": directory, "MIBS": ""}


def ready(switch: Switch) -> bool:
    """Whether zebra listens; the others would try only every ten seconds."""
    return (SOCKETS / switch.name / "zserv.api").exists()


def forget_ready(switch: Switch) -> None:
    """Remove what a zebra that was killed has left behind."""
    (SOCKETS / switch.name / "zserv.api").unlink(missing_ok=True)


def _bgp_routes(switch: Switch) -> dict[str, int]:
    """Destinations in the kernel's table that BGP put there, with their number of next hops.

    The kernel keeps a next hop behind a fallen port, flagged dead, until zebra has written the route anew: not counted.
    """
    answer = subprocess.run(
        ["ip", "-n", switch.name, "-j", "route", "show", "proto", "bgp"], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise LabError(f"cannot read the routes of {switch.name}: {answer.stderr.strip()}")
    return {
        route["dst"]: sum("dead" not in hop.get("flags", ()) for hop in route.get("nexthops", [route]))
        for route in json.loads(answer.stdout or "[]")
    }


def missing_routes(design: Design) -> Iterator[str]:
    """What full convergence still lacks: every leaf reaches all other hosts through every spine, and so on."""
    hosts = {host.name for host in (*design.hosts, *design.service_hosts)}
    home = {link.a.address: link.b.node for link in design.links if link.a.node in hosts}
    leaves = _names(design.leaves)
    for switch in design.switches:
        routes = _bgp_routes(switch)
        for address, gateway in home.items():
            prefix = str(IPv4Network(f"{address}/31", strict=False))
            wanted = len(design.spines) if _over_spines(design, switch, to_leaf=gateway in leaves) else 1
            if gateway != switch.name and routes.get(prefix, 0) != wanted:
                yield f"{switch.name} has {routes.get(prefix, 0)} of {wanted} ways to {prefix}"


def _over_spines(design: Design, switch: Switch, *, to_leaf: bool) -> bool:
    """Whether a switch has a choice of spines: a leaf always, the fabric's border towards leaves."""
    at_border = design.transit is not None and switch.name == design.transit.border
    return switch.tier == "leaf" or (at_border and to_leaf)


def wait_converged(design: Design, timeout: float = 30, watch: Callable[[], None] = lambda: None) -> None:
    """Return once nothing is missing; raise LabError after ``timeout`` s, or what ``watch``, called often, raises."""
    deadline = time.monotonic() + timeout
    while missing := next(missing_routes(design), None):
        watch()
        if time.monotonic() > deadline:
            raise LabError(f"routing has not converged in {timeout:g} s: {missing}", "see the logs of bgpd")
        time.sleep(0.1)


def _names(switches: tuple[Switch, ...]) -> frozenset[str]:
    return frozenset(switch.name for switch in switches)
