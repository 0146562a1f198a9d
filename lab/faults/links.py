"""Faults of links and ports: no carrier, silent loss, a wrong MTU."""

from __future__ import annotations

from lab.design import Cable, Design, End
from lab.faults.base import Fault, Kind, Parameter, Site, register

PARTS = 1_000_000  # resolution of a loss: 0.0001 %
SMALLEST_MTU = 68  # RFC 791
LOSS_TABLE = "loss_{}"  # one nftables table per interface

# What a fabric's own protocols need: BGP, and BFD (RFC 5881, 4784 for multihop), pass a silent fault.
SPARED = """
                tcp sport 179 accept
                tcp dport 179 accept
                udp dport { 3784, 3785, 4784 } accept
"""


@register
class LinkDown(Kind):
    name = "link-down"
    help = "take a link down: no carrier on either end, and routing knows at once"
    target = "link"

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
        Parameter(
            "toward", "port whose arriving packets are dropped; both for either end", default="both", is_text=True
        ),
    )

    def check(self, design: Design, fault: Fault) -> None:
        _arrivals(design, fault)

    def inflict(self, site: Site, fault: Fault) -> None:
        self.mend(site, fault)
        for end in _arrivals(site.design, fault):
            _drop_at(site, end, fault.number("percent"))

    def mend(self, site: Site, fault: Fault) -> None:
        for end in site.design.link(fault.target).ends:
            site.drop_table(end.node, "netdev", LOSS_TABLE.format(end.netdev))

    def dropped(self, site: Site, fault: Fault) -> int:
        return sum(site.counted(end.node, LOSS_TABLE.format(end.netdev)) for end in _arrivals(site.design, fault))


@register
class PortMtu(Kind):
    name = "port-mtu"
    help = "set the MTU of one port only: longer packets die there, whichever way they go"
    target = "port"
    parameters = (Parameter("mtu", "the port's MTU", "bytes", default=1500.0, lowest=SMALLEST_MTU, highest=9000),)

    def inflict(self, site: Site, fault: Fault) -> None:
        site.link(site.design.end(fault.target), "mtu", f"{fault.number('mtu'):g}")

    def mend(self, site: Site, fault: Fault) -> None:
        restore_mtu(site, [site.design.end(fault.target)])


def restore_mtu(site: Site, ends: list[End]) -> None:
    for end in ends:
        site.link(end, "mtu", str(site.design.mtu))
    # What hosts have learnt of the smaller MTU would outlive the fault by ten minutes.
    namespaces = [host.namespace for host in site.design.hosts] + [each.namespace for each in site.design.containers]
    for namespace in namespaces:
        site.run(namespace, ["ip", "route", "flush", "cache"])


def _switch_end(cable: Cable) -> End:
    """The end to be taken down: a host's would forget its routes, a switch's routing puts them back."""
    return cable.b


def _arrivals(design: Design, fault: Fault) -> list[End]:
    """The ends at which the fault drops."""
    link = design.link(fault.target)
    toward = fault.text("toward")
    return list(link.ends) if toward == "both" else [design.end_of(link, toward)]


def _drop_at(site: Site, end: End, percent: float) -> None:
    table = LOSS_TABLE.format(end.netdev)
    packets = f"meta protocol ip numgen random mod {PARTS} < {round(percent / 100 * PARTS)}"
    if percent == 100:  # nftables refuses a comparison that is always true
        packets = "meta protocol ip"
    site.nft(
        end.node,
        f"""
        table netdev {table} {{
            counter dropped {{ }}
            chain arriving {{
                type filter hook ingress device "{end.netdev}" priority 0;
                policy accept;{SPARED}
                {packets} counter name dropped drop
            }}
        }}
        """,
    )
