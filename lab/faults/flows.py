"""Faults that choose among the packets of a link: by the flow they belong to, or by their class."""

from __future__ import annotations

import zlib

from lab.faults.base import Fault, Kind, Parameter, Site, register
from lab.faults.links import PARTS, SPARED, TOWARD, arrivals, drop_arriving
from lab.network.design import Design

FLOW_TABLE = "flows_{}"  # one nftables table per interface
CLASS_TABLE = "dscp_{}"
LOSSLESS_DSCP = 26  # RoCE's, as most fabrics have it


@register
class FlowBlackhole(Kind):
    """A broken member of an ECMP group or LAG, a bad TCAM entry: always the same flows, and all of their packets.

    A conversation is lost in both directions or in none: both ends hash it in one orientation. What has no ports
    (ICMP echo) is hashed by its addresses alone, so a ping between two addresses always works or never does, and
    says nothing about the TCP and UDP flows between them.
    """

    name = "flow-blackhole"
    help = "drop a share of the 5-tuples, always the same ones and completely; BGP, BFD and ARP pass"
    target = "link"
    parameters = (
        Parameter("percent", "share of the flows that die", "%", default=25.0, lowest=100 / PARTS, highest=100),
        TOWARD,
        Parameter(
            "seed",
            "of the hash that chooses; 0 draws one from the lab's seed",
            default=0.0,
            highest=2**32 - 1,
            is_whole=True,
        ),
    )

    def check(self, design: Design, fault: Fault) -> None:
        arrivals(design, fault)

    def inflict(self, site: Site, fault: Fault) -> None:
        self.mend(site, fault)
        link = site.design.link(fault.target)
        limit = round(fault.number("percent") / 100 * PARTS)
        # Zero is nft's way to say that the kernel shall draw one.
        seed = int(fault.number("seed")) or zlib.crc32(f"{site.design.seed} {fault.target}".encode()) or 1
        for end in arrivals(site.design, fault):
            here, there = ("s", "d") if end == link.b else ("d", "s")
            addresses = f"ip {here}addr . ip {there}addr"
            verdict = "" if limit == PARTS else f"mod {PARTS} seed {seed:#x} < {limit}"
            ports = f"jhash {addresses} . th {here}port . th {there}port {verdict}" if verdict else ""
            portless = f"jhash {addresses} {verdict}" if verdict else ""
            rules = (
                f"meta protocol ip meta l4proto {{ tcp, udp }} {ports}",
                f"meta protocol ip meta l4proto != {{ tcp, udp }} {portless}",
            )
            drop_arriving(site, end, FLOW_TABLE, *rules, spared=SPARED)

    def mend(self, site: Site, fault: Fault) -> None:
        for end in site.design.link(fault.target).ends:
            site.drop_table(end.node, "netdev", FLOW_TABLE.format(end.netdev))

    def dropped(self, site: Site, fault: Fault) -> int:
        return sum(site.counted(end.node, FLOW_TABLE.format(end.netdev)) for end in arrivals(site.design, fault))


@register
class ClassLoss(Kind):
    """A queue that is not what the others are: wrong buffer, wrong PFC setting, a watchdog that drops."""

    name = "class-loss"
    help = "drop a share of the packets of one class (DSCP) only"
    target = "link"
    parameters = (
        Parameter("percent", "share of the class's packets dropped", "%", lowest=100 / PARTS, highest=100),
        Parameter("dscp", "the class", default=float(LOSSLESS_DSCP), highest=63, is_whole=True),
        TOWARD,
    )

    def check(self, design: Design, fault: Fault) -> None:
        arrivals(design, fault)

    def inflict(self, site: Site, fault: Fault) -> None:
        self.mend(site, fault)
        limit = round(fault.number("percent") / 100 * PARTS)
        share = "" if limit == PARTS else f"numgen random mod {PARTS} < {limit}"
        rule = f"meta protocol ip ip dscp {fault.number('dscp'):.0f} {share}"
        for end in arrivals(site.design, fault):
            drop_arriving(site, end, CLASS_TABLE, rule, spared=SPARED)

    def mend(self, site: Site, fault: Fault) -> None:
        for end in site.design.link(fault.target).ends:
            site.drop_table(end.node, "netdev", CLASS_TABLE.format(end.netdev))

    def dropped(self, site: Site, fault: Fault) -> int:
        return sum(site.counted(end.node, CLASS_TABLE.format(end.netdev)) for end in arrivals(site.design, fault))
