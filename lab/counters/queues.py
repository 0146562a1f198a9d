"""Drops at a switch port's egress queue, for real: the packets are gone, and the queue's drop counter has them.

Inside the sandbox. What arrives for the queue is dropped before it is counted as sent, so that a queue whose packets
are all dropped stands still, as one that PFC holds shut under the watchdog does. What the switch itself sends passes.
"""

from __future__ import annotations

import subprocess

from lab.counters.kernel import TABLE
from lab.counters.names import QUEUES
from lab.errors import LabError
from lab.network.design import Design
from lab.sandbox.netns import inside

PARTS = 1_000_000  # resolution of a share: 0.0001 %


def drop(design: Design, port: str, queue: int, percent: float = 100) -> None:
    """Drop this share of what ``port`` (``switch:port``) would send from ``queue``; replaces an earlier drop."""
    if queue not in QUEUES or not 100 / PARTS <= percent <= 100:
        raise LabError(f"queue {queue} cannot drop {percent:g} %", f"queue 0 to 7, {100 / PARTS:g} to 100 %")
    name = _chain(port, queue)
    match = f'oifname "{design.end(port).netdev}" ip dscp {8 * queue}-{8 * queue + 7}'
    if percent < 100:  # nftables refuses a comparison that is always true
        match += f" numgen random mod {PARTS} < {round(percent / 100 * PARTS)}"
    _nft(
        design,
        port,
        f"""
        add chain ip {TABLE} {name} {{ type filter hook forward priority -10; policy accept; }}
        flush chain ip {TABLE} {name}
        add rule ip {TABLE} {name} {match} add @dropped {{ meta oif . ip dscp }} drop
        """,
    )


def restore(design: Design, port: str, queue: int) -> None:
    """Let the queue send again; harmless when it does. What it has dropped stays counted."""
    name = _chain(port, queue)
    chain = f"chain ip {TABLE} {name}"
    hook = "{ type filter hook forward priority -10; policy accept; }"
    _nft(design, port, f"add {chain} {hook}\nflush {chain}\ndelete {chain}\n")


def _chain(port: str, queue: int) -> str:
    return f"drop_{port.partition(':')[2]}_{queue}"


def _nft(design: Design, port: str, script: str) -> None:
    switch = design.end(port).node
    if switch not in {each.name for each in design.switches}:
        raise LabError(f"{port} has no egress queues", "name a switch's port")
    with inside(design.node(switch).namespace):
        done = subprocess.run(["nft", "-f", "-"], input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"nft on {switch}: {' '.join(done.stderr.split())}", "is the counters daemon up?")
