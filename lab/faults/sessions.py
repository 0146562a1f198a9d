"""Faults of routing sessions: BGP's keepalives are lost under load while every link is up."""

from __future__ import annotations

from lab.faults.base import Fault, Kind, Parameter, Site, register
from lab.faults.ports import switch_port
from lab.faults.queues import DISCARD_PORT
from lab.network.design import Design

TABLE = "starvation_{}"
OVERLOAD_MILLISECONDS = 500  # so long after the last packet too many, BGP gets through again


@register
class BgpStarvation(Kind):
    """BGP has no share of the queue to the processor that is its own: under load its packets are those dropped.

    What arrives at the port beyond ``rate`` is dropped, and BGP altogether while there is too much. BFD passes:
    switches answer it in hardware; else it, not the hold timer, would end the session. ARP passes, the link stays up.
    """

    name = "bgp-starvation"
    help = "at a switch's port, load beyond a rate is dropped and BGP with it: the session flaps, the link stays up"
    target = "port"
    parameters = (
        Parameter("rate", "that the port can take", "packets/s", default=1000.0, lowest=10, highest=1e6),
        Parameter("load", "that the neighbour sends besides; 0: none", "packets/s", default=3000.0, highest=50000),
        Parameter("busy", "how long the load lasts each time", "s", default=12.0, lowest=1, highest=3600),
        Parameter("pause", "between two loads", "s", default=4.0, lowest=0, highest=3600),
    )

    def check(self, design: Design, fault: Fault) -> None:
        switch_port(design, fault.target, "only switches speak BGP here")
        switch_port(design, design.far_end(design.end(fault.target)).id, "name a port between two switches")

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:
        # What fills that queue is addressed like the load here, and is discarded before it is counted.
        return frozenset({f"the queue of {design.far_end(design.end(fault.target)).id}"})

    def inflict(self, site: Site, fault: Fault) -> None:
        self.mend(site, fault)
        end = site.design.end(fault.target)
        far = site.design.far_end(end)
        rate = fault.number("rate")
        site.nft(
            end.node,
            f"""
            table netdev {TABLE.format(end.netdev)} {{
                counter dropped {{ }}
                counter dropped_bgp {{ }}
                set overloaded {{
                    typeof meta iif
                    flags dynamic,timeout
                    timeout {OVERLOAD_MILLISECONDS}ms
                    size 16
                }}
                chain too_many {{
                    update @overloaded {{ meta iif }}
                    counter name dropped drop
                }}
                chain bgp {{
                    meta iif @overloaded counter name dropped_bgp drop
                    accept
                }}
                chain arriving {{
                    type filter hook ingress device "{end.netdev}" priority 0; policy accept;
                    meta protocol != ip accept
                    udp dport {{ 3784, 3785, 4784 }} accept
                    tcp sport 179 jump bgp
                    tcp dport 179 jump bgp
                    limit rate over {rate:.0f}/second burst {max(5, rate / 10):.0f} packets jump too_many
                    ip saddr {far.address} udp dport {DISCARD_PORT} drop
                }}
            }}
            """,
        )
        load = fault.number("load")
        if load:
            words = [far.address, end.address, f"{load:g}", f"{fault.number('busy'):g}", f"{fault.number('pause'):g}"]
            site.spawn_module(fault, "lab.faults.loading", *words, node=far.node)

    def mend(self, site: Site, fault: Fault) -> None:
        site.stop(fault)
        end = site.design.end(fault.target)
        site.drop_table(end.node, "netdev", TABLE.format(end.netdev))

    def dropped(self, site: Site, fault: Fault) -> int:
        """Packets beyond the rate, BGP's and the load's own among them."""
        end = site.design.end(fault.target)
        return site.counted(end.node, TABLE.format(end.netdev))
