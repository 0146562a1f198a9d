"""Bringing the counters of a lab up with it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from lab.counters import subagent
from lab.counters.control import Counters
from lab.counters.dialects import SUBTREES
from lab.counters.timeline import FILE
from lab.errors import LabError
from lab.network.design import Design

SCRIPT = "subagent.sh"
PORTS = "ports.json"  # beside a switch's agent.conf: what its subagent must know


def start(design: Design, directory: Path, daemon: Callable[[str, list[str]], object]) -> None:
    """Begin the timeline, tell each switch's subagent its ports, and start the daemon that keeps the host trees."""
    Counters(directory, design).begin()
    between = {end.id for switch in design.switches for end, _ in design.peers(switch.name)}
    for switch in design.switches:
        home = directory / "snmp" / switch.name
        home.mkdir(parents=True, exist_ok=True)
        ports = [(end.port, end.id not in between) for end in switch.ports]
        document = {"switch": switch.name, "timeline": str(directory / FILE), "ports": ports}
        (home / PORTS).write_text(json.dumps(document))
    daemon("counters", [sys.executable, "-m", "lab.counters.trees", str(directory)])


def agent_configuration(home: Path) -> str:
    """The lines of a switch's agent.conf that hand the subtrees to the scripted subagent; snmpd starts it lazily.

    snmpd cuts the command at white space, quotes or not, so a file of the lab's holds the real one.
    """
    script = home / SCRIPT
    if any(character.isspace() for character in str(script)):
        raise LabError(f"snmpd cannot start {str(script)!r}", "put the lab into a directory without spaces")
    script.write_text(f"exec {shlex.join([sys.executable, '-I', '-S', subagent.__file__, str(home / PORTS)])}\n")
    return "".join(f"pass_persist .{'.'.join(map(str, subtree))} /bin/sh {script}\n" for subtree in SUBTREES)
