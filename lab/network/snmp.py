"""snmpd on the lab's switches: SNMP v2c on the management address, the community drawn for this lab only."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from lab.counters.setup import agent_configuration
from lab.network.design import MANAGEMENT, Switch

PORT = 161
AGENTX = "tcp:127.0.0.1:705"
# net-snmp answers ifTable and ifXTable from a copy up to 15 s old; a lab's faults must show sooner.
CACHE_SECONDS = 1
CACHE_TIMEOUT = "1.3.6.1.4.1.8072.1.5.3.1.2"  # NET-SNMP-AGENT-MIB::nsCacheTimeout, indexed by the cached table
IF_TABLE = "1.3.6.1.2.1.2.2"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)


@dataclass(frozen=True)
class Agents:
    """The configuration of all agents of one lab, below ``directory``."""

    directory: Path

    @property
    def community_file(self) -> Path:
        """The community, alone, mode 600."""
        return self.directory / "community"

    @property
    def client_directory(self) -> Path:
        """``SNMPCONFPATH=<this> snmpbulkwalk ADDRESS 1.3.6.1.2.1.2.2`` needs no community on the command line."""
        return self.directory / "client"

    def client_environment(self) -> dict[str, str]:
        return _environment(self.client_directory)

    def configure(self, switches: tuple[Switch, ...]) -> None:
        self.client_directory.mkdir(parents=True, exist_ok=True)
        community, own = secrets.token_hex(12), secrets.token_hex(12)
        write_private(self.community_file, community + "\n")
        write_private(self.client_directory / "snmp.conf", f"defVersion 2c\ndefCommunity {community}\n")
        for switch in switches:
            home = self.directory / switch.name
            (home / "persistent").mkdir(parents=True, exist_ok=True)
            (home / "client").mkdir(exist_ok=True)
            write_private(home / "client" / "snmp.conf", f"defVersion 2c\ndefCommunity {own}\n")
            write_private(
                home / "agent.conf",
                f"agentAddress udp:{switch.management}:{PORT},udp:127.0.0.1:{PORT}\n"
                f"rocommunity {community} {MANAGEMENT}\n"
                f"rwcommunity {own} 127.0.0.1 .{CACHE_TIMEOUT}\n"
                f"sysName {switch.name}\n"
                f"sysDescr switch of a laboratory fabric\n"
                # What veth cannot count (docs/lab-counters.md); not started before somebody asks.
                f"{agent_configuration(home)}"
                # BGP4-MIB is bgpd's, as AgentX's subagent (RFC 2741): each switch has a loopback of its own.
                f"master agentx\nagentXSocket {AGENTX}\n",
            )

    def daemon(self, switch: Switch) -> tuple[list[str], dict[str, str]]:
        """Command line and environment of one agent, in the foreground.

        Its persistent directory is not the one of its configuration: snmpd overwrites files there.
        """
        home = self.directory / switch.name
        # EtherLike-MIB is the subagent's: net-snmp's own rows for veth hold constant zeros.
        without = "-smux,dot3StatsTable"
        argv = ["snmpd", "-f", "-LO", "5", "-C", "-c", str(home / "agent.conf"), "-I", without]
        return argv, _environment(home / "persistent")

    def freshen(self, switch: Switch) -> tuple[list[str], dict[str, str]]:
        """Command line and environment that shorten the agent's cache; to be run on the switch itself."""
        argv = ["snmpset", "-r", "20", "-t", "0.1", "127.0.0.1", f"{CACHE_TIMEOUT}.{IF_TABLE}", "i", str(CACHE_SECONDS)]
        return argv, _environment(self.directory / switch.name / "client")


def _environment(directory: Path) -> dict[str, str]:
    # Debian ships no MIB files: without MIBS every program complains about each of them.
    return {"SNMPCONFPATH": str(directory), "SNMP_PERSISTENT_DIR": str(directory), "MIBS": ""}
