"""What the control plane of a switch does with ICMP: how much of it, and from which address.

A switch forwards in hardware and answers in software, so it polices what it has to answer. The rates in use
are low: 150/s for an expired TTL (Brocade ICX 6650 Security Configuration Guide, table 68), 128/s for ICMP to
the switch (ArubaOS-Switch, ``copp traffic-class station-icmp``), 500/s for an expired TTL per Junos device
(``chassis icmp rate-limit``), 100 in 10 s per interface on Nokia SR OS (``icmp ttl-expired``).

The kernel's own limits stay out of the way (lab.network.fabric): nftables polices and counts, so that it is known how
many answers a tracer has not got. Management interfaces are not policed, as on real switches.
"""

from __future__ import annotations

from typing import Literal, get_args

from lab.network.design import Design, Switch

Source = Literal["inbound", "loopback", "off"]
SOURCES: tuple[str, ...] = get_args(Source)
RATE = 100
"""Packets per second, of errors sent and of echo requests taken, each. The burst is one second's worth."""
TABLE = "control_plane"
# RFC 792; what a router says about a packet that it could not forward.
ERRORS = "icmp type { destination-unreachable, time-exceeded, parameter-problem }"
# Before the tables that count what is really sent.
HOOK = 'type filter hook {0} priority -10; policy accept; {1} "mgmt0" accept'


def script(design: Design, switch: Switch) -> str:
    """The nftables script of one switch. Its counters: errors_sent, errors_policed, errors_off, echoes_policed."""
    over = f"limit rate over {design.icmp_rate}/second burst {design.icmp_rate} packets"
    rules = []
    if design.icmp == "off":
        rules.append("counter name errors_off drop")
    if design.icmp_rate:
        rules.append(f"{over} counter name errors_policed drop")
    if design.icmp == "loopback":
        rules.append(f"ip saddr set {switch.loopback}")
    rules.append("counter name errors_sent")
    echoes = f"icmp type echo-request {over} counter name echoes_policed drop" if design.icmp_rate else ""
    newline = "\n            "
    return f"""
    add table ip {TABLE}
    delete table ip {TABLE}
    table ip {TABLE} {{
        counter errors_sent {{ }}
        counter errors_policed {{ }}
        counter errors_off {{ }}
        counter echoes_policed {{ }}
        chain errors {{
            {newline.join(rules)}
        }}
        chain leaving {{
            {HOOK.format("output", "oifname")}
            {ERRORS} jump errors
        }}
        chain arriving {{
            {HOOK.format("input", "iifname")}
            {echoes}
        }}
    }}
    """
