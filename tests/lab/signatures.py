"""Which metrics each path fault of the lab moves, on which paths: what test_fault_signatures.py measures, and what
docs/path-faults.md tells operators (tests/contract/test_docs.py holds the two together).
"""

from __future__ import annotations

from dataclasses import dataclass, field

LOSSLESS, DEFAULT, MTU, TCP = "udp 26", "udp 0", "mtu", "tcp"
"""Probes as the lab's test sends them: UDP in the lossless class (DSCP 26) and in the default one, full-size packets
in the lossless class, and handshakes with an echo in the default class."""
UDP = {LOSSLESS, DEFAULT}
DATAGRAMS = {*UDP, MTU}
EVERY = {*DATAGRAMS, TCP}

LOST = "fabric_path_probes_lost_total"
LOST_RETURN = "fabric_path_probes_lost_return_total"
REFUSED = "fabric_path_probes_refused_total"
UNSENT = "fabric_path_probes_unsent_total"
RESTARTS = "fabric_path_responder_restarts_total"
ROUTE_CHANGES = "fabric_path_route_changes_total"
SYN_RETRANSMITS = "fabric_path_tcp_syn_retransmits_total"
RETRANSMITS = "fabric_path_tcp_retransmits_total"
RESETS = "fabric_path_tcp_resets_total"
RTT = "fabric_path_rtt_seconds"
ECHO_RTT = "fabric_path_tcp_echo_rtt_seconds"
ECHO_ABSENT = "fabric_path_tcp_echo_rtt_seconds absent"
MTU_REPORTED = "fabric_path_mtu_reported_bytes"
MTU_FOUND = "fabric_path_mtu_bytes"
FRAG_NEEDED = "fabric_path_mtu_limit_info frag_needed"
BLACK_HOLE = "fabric_path_mtu_limit_info black_hole"
LOCAL = "fabric_path_mtu_limit_info local"

Moved = dict[str, set[str]]
"""{metric: the probes that show it}; a metric that does not move is not there."""


@dataclass(frozen=True)
class Signature:
    """What a fault moves on paths that cross the broken component on the way there only, and on the way back only.

    On paths that cross it both ways that is both; on others nothing moves, ever.
    """

    there: Moved
    back: Moved = field(default_factory=dict)

    @property
    def both(self) -> Moved:
        return {name: self.there.get(name, set()) | self.back.get(name, set()) for name in {**self.there, **self.back}}


SLOW: Moved = {RTT: EVERY, ECHO_RTT: {TCP}}
DEAD: Moved = {LOST: EVERY, SYN_RETRANSMITS: {TCP}}
LOSSY: Moved = {LOST: EVERY, SYN_RETRANSMITS: {TCP}, RETRANSMITS: {TCP}}

SIGNATURES = {
    "silent-loss, towards the far end": Signature(there=LOSSY),
    # The responder counts what it answers: the loss is known to be on the way back.
    "silent-loss, towards us": Signature(there={}, back={**LOSSY, LOST_RETURN: DATAGRAMS}),
    "silent-failure": Signature(there=DEAD),
    # A flow whose replies all die never hears the responder's count: nothing tells which way was lost.
    "flow-blackhole": Signature(there=DEAD, back=DEAD),
    "class-loss": Signature(there={LOST: {LOSSLESS, MTU}}, back={LOST: {LOSSLESS, MTU}, LOST_RETURN: {LOSSLESS, MTU}}),
    # Replies to full-size probes are short: such a port shows on the way there only.
    "crc-errors": Signature(there={LOST: {MTU}}),
    "port-mtu, of a port that packets leave by": Signature(
        there={LOST: {MTU}, MTU_REPORTED: {MTU}, MTU_FOUND: {MTU}, FRAG_NEEDED: {MTU}},
    ),
    "port-mtu, of a port that packets arrive at": Signature(there={LOST: {MTU}, MTU_FOUND: {MTU}, BLACK_HOLE: {MTU}}),
    "congestion": Signature(there=SLOW),
    "port-down": Signature(there=DEAD),
    "rnic-down": Signature(there=DEAD),
    "rnic-slow": Signature(there=SLOW),
    "host-slow": Signature(there=SLOW),
    "gid-change": Signature(there={LOST: {LOSSLESS, MTU}}),
    # The kernel goes on shaking hands for a process that hangs.
    "agent-stop, hung": Signature(there={LOST: DATAGRAMS, ECHO_ABSENT: {TCP}}),
    "agent-stop, killed and started": Signature(there={REFUSED: EVERY, RESTARTS: EVERY}),
    # Routing mends it before a probe in fifty is lost.
    "link-down": Signature(there={ROUTE_CHANGES: EVERY}),
    "route-change": Signature(
        there={
            LOST: DATAGRAMS,
            LOST_RETURN: DATAGRAMS,
            SYN_RETRANSMITS: {TCP},
            RETRANSMITS: {TCP},
            ROUTE_CHANGES: EVERY,
            **SLOW,
        }
    ),
}


def table() -> str:
    """The signatures as a table in Markdown."""
    lines = ["| fault | paths that cross it on the way there | only on the way back |", "|---|---|---|"]
    for fault, signature in SIGNATURES.items():
        lines.append(f"| {fault} | {_cell(signature.there)} | {_cell(signature.back)} |")
    return "\n".join(lines) + "\n"


def _cell(moved: Moved) -> str:
    shown = []
    for name, probes in moved.items():
        metric, _, what = name.partition(" ")
        which = "all" if probes == EVERY else ", ".join(sorted(probes))
        shown.append(f"`{metric}`{what and ' ' + what}: {which}")
    return "<br>".join(shown) or "–"
