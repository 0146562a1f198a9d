"""What ``lab.cli`` runs inside a lab it has entered: ``python -m lab.running.inside DIRECTORY ACTION [WORD ...]``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from exporter.contracts.codec import encode
from lab.counters import show
from lab.errors import LabError
from lab.faults import Faults
from lab.network import design as drawn
from lab.network import overlay, resolver, routing
from lab.network.design import Design


def established_sessions(design: Design) -> tuple[int, int]:
    """BGP sessions that are up, and those there should be; each is counted at both ends."""
    up = wanted = 0
    for switch in design.switches:
        wanted += sum(1 for _ in design.peers(switch.name))
        answer = subprocess.run(
            ["vtysh", "-N", switch.name, "-c", "show bgp ipv4 unicast summary json"],
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            peers = json.loads(answer.stdout).get("peers", {})
        except json.JSONDecodeError:
            continue
        up += sum(peer.get("state") == "Established" for peer in peers.values())
    return up, wanted


def status(design: Design, faults: Faults) -> None:
    up, wanted = established_sessions(design)
    print(f"routing   {up} of {wanted} BGP sessions established")
    dropped = faults.dropped()
    for fault in faults.active():
        lost = f", {dropped[fault.name]} packets dropped" if fault.name in dropped else ""
        dead = ", DEAD: its process has ended, see logs" if faults.site.has_ended(fault) else ""
        print(f"fault     {fault}{lost}{dead}")
    if not faults.active():
        print("fault     none")


def act(design: Design, faults: Faults, action: str, words: list[str]) -> None:
    match action, words:
        case "status", []:
            status(design, faults)
        case "fault", [name, target, *values]:
            print(faults.inflict(name, target, *values))
        case "wait-converged", []:
            routing.wait_converged(design)
        case "overlay", []:
            print(encode(overlay.state(design, faults.site.directory, time.time())).decode())
        case "counters", [node]:
            print(show.table(design, faults.site.directory, node))
        case "resolver-cache", ["on"]:
            resolver.start_caches(design)
        case "resolver-cache", ["off"]:
            resolver.stop_caches(design)
        case "dropped", []:
            print(json.dumps(faults.dropped()))
        case "heal", [what]:
            # The counters go with the fault: say what they held.
            dropped = faults.dropped()
            for fault in faults.heal(None if what == "all" else what):
                lost = f", {dropped[fault.name]} packets dropped" if fault.name in dropped else ""
                print(f"healed {fault}{lost}")
        case _:
            raise LabError(f"unknown action {action!r} with {len(words)} words")


def main() -> int:
    directory, action, *words = sys.argv[1:]
    try:
        design = drawn.load((Path(directory) / "design.json").read_bytes())
        act(design, Faults(design, Path(directory)), action, words)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
