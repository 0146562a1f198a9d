"""Faults of links: no carrier, silent loss, silent failure, bit errors."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lab.faults.base import Fault, Kind, Parameter, Site, register
from lab.faults.ports import states
from lab.network.design import Cable, Design, End

PARTS = 1_000_000  # resolution of a loss: 0.0001 %
LOSS_TABLE = "loss_{}"  # one nftables table per interface
DEAD_TABLE = "silent_{}"
CRC_TABLE = "crc_{}"
CRC_PARTS = 1_000_000_000
ETHERNET_BYTES = 18  # header and frame check sequence, which the check covers; beside the IP packet
SHORTEST_FRAME = 64
LONGEST_PACKET = 9216
STEP = 1.05  # packets whose lengths differ by less have the same probability

# What a fabric's own protocols need: BGP, and BFD (RFC 5881, 4784 for multihop), pass a silent fault.
SPARED = """
                tcp sport 179 accept
                tcp dport 179 accept
                udp dport { 3784, 3785, 4784 } accept
"""
TOWARD = Parameter("toward", "port whose arriving packets are hit; both for either end", default="both", is_text=True)


def arrivals(design: Design, fault: Fault) -> list[End]:
    """The ends of the fault's link at which it drops."""
    link = design.link(fault.target)
    toward = fault.text("toward")
    return list(link.ends) if toward == "both" else [design.end_of(link, toward)]


def drop_arriving(site: Site, end: End, table: str, *matches: str, spared: str = "", more: str = "") -> None:
    """Drop and count what arrives at ``end`` and matches an expression of nft(8); ``more`` is further chains."""
    name = table.format(end.netdev)
    rules = "".join(f"\n                {match} counter name dropped drop" for match in matches)
    site.nft(
        end.node,
        f"""
        add table netdev {name}
        delete table netdev {name}
        table netdev {name} {{
            counter dropped {{ }}
            {more}
            chain arriving {{
                type filter hook ingress device "{end.netdev}" priority 0;
                policy accept;{spared}{rules}
            }}
        }}
        """,
    )


@register
class LinkDown(Kind):
    name = "link-down"
    help = "take a link down: no carrier on either end, and routing knows at once"
    target = "link"

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        return states([_switch_end(design.link(fault.target))])

    def inflict(self, site: Site, fault: Fault) -> None:
        site.link(_switch_end(site.design.link(fault.target)), "down")

    def mend(self, site: Site, fault: Fault) -> None:
        site.link(_switch_end(site.design.link(fault.target)), "up")


@register
class SilentLoss(Kind):
    name = "silent-loss"
    help = "drop a share of the IPv4 packets while the link stays up; BGP, BFD and ARP pass"
    target = "link"
    parameters = (
        Parameter("percent", "share of the packets dropped", "%", lowest=100 / PARTS, highest=100),
        TOWARD,
    )

    def check(self, design: Design, fault: Fault) -> None:
        arrivals(design, fault)

    def inflict(self, site: Site, fault: Fault) -> None:
        self.mend(site, fault)
        percent = fault.number("percent")
        packets = f"meta protocol ip numgen random mod {PARTS} < {round(percent / 100 * PARTS)}"
        if percent == 100:  # nftables refuses a comparison that is always true
            packets = "meta protocol ip"
        for end in arrivals(site.design, fault):
            drop_arriving(site, end, LOSS_TABLE, packets, spared=SPARED)

    def mend(self, site: Site, fault: Fault) -> None:
        for end in site.design.link(fault.target).ends:
            site.drop_table(end.node, "netdev", LOSS_TABLE.format(end.netdev))

    def dropped(self, site: Site, fault: Fault) -> int:
        return sum(site.counted(end.node, LOSS_TABLE.format(end.netdev)) for end in arrivals(site.design, fault))


@register
class SilentFailure(Kind):
    """With ``toward``, a unidirectional link: a broken fibre of a pair, a dead transmitter."""

    name = "silent-failure"
    help = "drop everything while the link stays up, ARP, BGP and BFD too: BFD finds it within 3 s"
    target = "link"
    parameters = (TOWARD,)

    def check(self, design: Design, fault: Fault) -> None:
        arrivals(design, fault)

    def inflict(self, site: Site, fault: Fault) -> None:
        self.mend(site, fault)
        for end in arrivals(site.design, fault):
            drop_arriving(site, end, DEAD_TABLE, "")

    def mend(self, site: Site, fault: Fault) -> None:
        for end in site.design.link(fault.target).ends:
            site.drop_table(end.node, "netdev", DEAD_TABLE.format(end.netdev))

    def dropped(self, site: Site, fault: Fault) -> int:
        return sum(site.counted(end.node, DEAD_TABLE.format(end.netdev)) for end in arrivals(site.design, fault))


@register
class CrcErrors(Kind):
    """Dirty optics: each bit is wrong with the same small probability, so long frames die more often.

    A frame of n bits passes its check with probability (1 - ber)^n. Nothing is spared: a bit error does not choose.
    """

    name = "crc-errors"
    help = "drop what arrives at a port with a probability that grows with its length, as bit errors do"
    target = "port"
    parameters = (Parameter("ber", "bit error rate", default=1e-6, lowest=1e-9, highest=1e-2),)

    def inflict(self, site: Site, fault: Fault) -> None:
        end = site.design.end(fault.target)
        chains, cases = [], []
        for shortest, longest in _lengths():
            threshold = round(frame_error_rate((shortest + longest) / 2, fault.number("ber")) * CRC_PARTS)
            if threshold:
                name = f"from_{shortest}"
                rule = f"numgen random mod {CRC_PARTS} < {threshold} counter name dropped drop"
                chains.append(f"chain {name} {{\n{rule}\n}}")
                cases.append(f"{shortest}-{longest} : jump {name}")
        classify = f"meta length vmap {{ {', '.join(cases)} }}" if cases else ""
        hook = f'type filter hook ingress device "{end.netdev}" priority 0; policy accept;'
        table = CRC_TABLE.format(end.netdev)
        newline = "\n"
        site.nft(
            end.node,
            f"add table netdev {table}\ndelete table netdev {table}\ntable netdev {table} {{\ncounter dropped {{ }}\n"
            f"{newline.join(chains)}\nchain arriving {{\n{hook}\n{classify}\n}}\n}}\n",
        )

    def mend(self, site: Site, fault: Fault) -> None:
        end = site.design.end(fault.target)
        site.drop_table(end.node, "netdev", CRC_TABLE.format(end.netdev))

    def dropped(self, site: Site, fault: Fault) -> int:
        end = site.design.end(fault.target)
        return site.counted(end.node, CRC_TABLE.format(end.netdev))


def frame_error_rate(length: float, ber: float) -> float:
    """Probability that the frame of a packet of ``length`` bytes fails its check at this bit error rate."""
    bits = 8 * max(SHORTEST_FRAME, length + ETHERNET_BYTES)
    return -math.expm1(bits * math.log1p(-ber))


def _lengths() -> Iterator[tuple[int, int]]:
    """Ranges of packet lengths in bytes, each within ``STEP``."""
    shortest = 0
    while shortest <= LONGEST_PACKET:
        longest = max(SHORTEST_FRAME - ETHERNET_BYTES, math.floor(shortest * STEP))
        yield shortest, longest
        shortest = longest + 1


def _switch_end(cable: Cable) -> End:
    """The end to be taken down: a host's would forget its routes, a switch's routing puts them back."""
    return cable.b
