"""Faults of a switch port's egress queue: packets wait in it, or do not fit into it any more.

The queue is real: an HTB class with a FIFO of so many packets, emptied at the port's rate. A process on the
switch (lab.faults.filling) keeps packets of its own in it, to the discard port of the neighbour, which drops them
unseen. What the network itself needs (class selector 6: BGP, BFD; and ARP) has a queue of its own, unless ``shared``.
"""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

from lab.errors import LabError
from lab.faults.base import Fault, Kind, Parameter, Site, register
from lab.faults.ports import switch_port
from lab.network.design import Design, End
from lab.sandbox.netns import inside

DISCARD_PORT = 9  # RFC 863
BACKGROUND_BYTES = 8972  # of payload
FRAME_BYTES = BACKGROUND_BYTES + 28 + 14
SINK_TABLE = "discard_{}"
CONTROL_TOS = 0xC0  # class selector 6, RFC 4594; what FRR marks BGP and BFD with
QUEUE = "20:"  # handle of the FIFO
OWN_DROPS = struct.Struct("=Q")
CONTROL = Parameter(
    "control",
    "whether BGP and BFD have a queue of their own",
    default="protected",
    choices=("protected", "shared"),
)


class _Queue(Kind):
    """A port's egress with a slow FIFO and a process that fills it."""

    target = "port"

    def check(self, design: Design, fault: Fault) -> None:
        switch_port(design, fault.target, "an RNIC has no egress queue that is shared: name a switch's port")
        if self.depth(fault) < 1:
            raise LabError("a queue holds at least one packet", "more milliseconds, or a higher rate")

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:  # noqa: ARG002
        return frozenset({f"the queue of {fault.target}"})

    def depth(self, fault: Fault) -> float:
        """Packets in a queue that delays by ``milliseconds``."""
        return fault.number("milliseconds") / 1000 * fault.number("rate") * 1e6 / (8 * FRAME_BYTES)

    def begin(self, site: Site, fault: Fault, limit: int, *words: str) -> None:
        end = site.design.end(fault.target)
        far = site.design.far_end(end)
        self.mend(site, fault)
        site.nft(
            far.node,
            f"""
            table netdev {SINK_TABLE.format(far.netdev)} {{
                chain arriving {{
                    type filter hook ingress device "{far.netdev}" priority -10; policy accept;
                    ip saddr {end.address} udp dport {DISCARD_PORT} drop
                }}
            }}
            """,
        )
        rate = f"rate {fault.number('rate'):g}mbit burst 16k cburst 16k quantum 60000"
        lines = [
            f"qdisc replace dev {end.netdev} root handle 1: htb default 2",
            f"class add dev {end.netdev} parent 1: classid 1:1 htb rate 10gbit quantum 60000",
            f"class add dev {end.netdev} parent 1: classid 1:2 htb {rate}",
            f"qdisc add dev {end.netdev} parent 1:2 handle {QUEUE} pfifo limit {limit}",
        ]
        if fault.text("control") == "protected":
            lines += [
                f"filter add dev {end.netdev} parent 1: protocol ip prio 1 "
                f"u32 match ip tos {CONTROL_TOS:#x} 0xff flowid 1:1",
                f"filter add dev {end.netdev} parent 1: protocol arp prio 2 u32 match u32 0 0 flowid 1:1",
            ]
        site.run(end.node, ["tc", "-batch", "-"], "\n".join(lines) + "\n")
        drops = str(self._own_drops(site, fault))
        site.spawn_module(
            fault, "lab.faults.filling", end.netdev, end.address, far.address, drops, *words, node=end.node
        )

    def mend(self, site: Site, fault: Fault) -> None:
        site.stop(fault)
        end = site.design.end(fault.target)
        far = site.design.far_end(end)
        with inside(end.node):  # fails when there is none, which is as good
            subprocess.run(["tc", "qdisc", "del", "dev", end.netdev, "root"], capture_output=True, check=False)
        site.drop_table(far.node, "netdev", SINK_TABLE.format(far.netdev))
        self._own_drops(site, fault).unlink(missing_ok=True)

    def dropped(self, site: Site, fault: Fault) -> int:
        """Packets that found the queue full, the process's own not counted."""
        end = site.design.end(fault.target)
        own = self._own_drops(site, fault)
        mine = OWN_DROPS.unpack(own.read_bytes())[0] if own.exists() else 0
        return max(0, queue_drops(site, end) - mine)

    def _own_drops(self, site: Site, fault: Fault) -> Path:
        return site.directory / f"own-drops-{fault.target.replace(':', '-')}"


def queue_drops(site: Site, end: End) -> int:
    rows = json.loads(site.run(end.node, ["tc", "-s", "-j", "qdisc", "show", "dev", end.netdev]))
    return sum(int(row["drops"]) for row in rows if row["handle"] == QUEUE)


@register
class Congestion(_Queue):
    name = "congestion"
    help = "a switch port's egress queue stays filled: packets leave it later, hardly one is lost"
    parameters = (
        Parameter("milliseconds", "what the queue adds to a packet's way", "ms", default=20.0, lowest=1, highest=1000),
        Parameter("rate", "at which the port sends meanwhile", "Mb/s", default=200.0, lowest=1, highest=2000),
        CONTROL,
    )

    def inflict(self, site: Site, fault: Fault) -> None:
        depth = self.depth(fault)
        # Room for as much again: the packets of others must not be lost.
        self.begin(site, fault, round(2 * depth) + 100, "--hold", f"{depth:.3f}", "--rate", f"{fault.number('rate'):g}")


@register
class Incast(_Queue):
    name = "incast"
    help = "a switch port's egress queue overflows in bursts: tail drop, for whoever comes while it is full"
    # A slow port sends few packets a second, so that the process sees every place that becomes free.
    parameters = (
        Parameter("milliseconds", "that a full queue takes to empty", "ms", default=20.0, lowest=1, highest=1000),
        Parameter("percent", "of the time in which bursts arrive", "%", default=50.0, lowest=1, highest=100),
        Parameter("rate", "at which the port sends meanwhile", "Mb/s", default=40.0, lowest=1, highest=2000),
        CONTROL,
    )

    def inflict(self, site: Site, fault: Fault) -> None:
        limit = max(1, round(self.depth(fault)))
        words = ["--hold", str(limit), "--share", f"{fault.number('percent') / 100:g}"]
        self.begin(site, fault, limit, *words, "--rate", f"{fault.number('rate'):g}")
