"""One path: its round trips, loss, route and MTU, and under them what each switch port on its way counts."""

from __future__ import annotations

from grafana import ports
from grafana.board import Board, Row
from grafana.panels import (
    GREY,
    LOSS,
    ORANGE,
    RED,
    Column,
    Query,
    number,
    rows,
    states,
    to_board,
    trend,
)
from grafana.variables import found, one
from skeleton_service.jobalerts import firing

_PATH = '{path="$path"}'
_LINKS = f"fabric_path_link_info{_PATH}"
_OF_PORTS = '{switch=~"$switches", switch_port=~"$ports"}'
_PORTS = f"max by (cluster, link, switch, switch_port) (fabric_link_info{_OF_PORTS})"
_ON_WAY = f"max by (cluster, switch, switch_port) ({_PORTS} and on (cluster, link) {_LINKS})"
"""1 for each switch port on the path's way."""
_DISCARDS = (
    ports.rate("fabric_switch_port_receive_discards_total", _OF_PORTS)
    + " + on (cluster, switch, switch_port) "
    + ports.rate("fabric_switch_port_transmit_discards_total", _OF_PORTS)
)
_ENDS = f"fabric_job_path_info{_PATH}"


_RNICS = " or ".join(
    f'label_replace(label_replace({_ENDS}, "host", "$1", "{end}_host", "(.+)"), "rnic", "$1", "{end}_rnic", "(.+)")'
    for end in ("src", "dst")
)
"""1 for each RNIC at the path's ends."""


def _of_ends(record: str) -> str:
    """A record of RNICs, of the two at the path's ends."""
    return f'{record}{{host=~"$hosts"}} and on (cluster, host, rnic) ({_RNICS})'


BOARD = Board(
    "fabric-path",
    "Path",
    "One path: its round trips, loss, route and MTU, and under them what each switch port on its way counts.",
    [
        Row(
            "The path",
            [
                number(
                    "Lost now",
                    "Share of its probes without an answer, either way was lost.",
                    "percentunit",
                    Query(
                        f"max(rate(fabric_path_probes_lost_total{_PATH}[$__rate_interval])"
                        f" / (rate(fabric_path_probes_sent_total{_PATH}[$__rate_interval]) > 0))"
                    ),
                    levels=LOSS,
                    nothing="not probed",
                ),
                number(
                    "Round trip",
                    "The last one, without the responder's delay.",
                    "s",
                    Query(f"max(fabric_path_rtt_seconds{_PATH})"),
                    levels=((None, GREY),),
                    nothing="none",
                ),
                number(
                    "Packets pass up to",
                    "Bytes of the largest IP packet that was shown to pass on the way there.",
                    "none",
                    Query(f"min(fabric_path_mtu_bytes{_PATH})"),
                    levels=((None, GREY),),
                    nothing="not searched",
                ),
                rows(
                    "What it is",
                    "Its ends, and the jobs that it is probed for.",
                    [
                        Column("training_job", "Job", link=to_board("fabric-job", training_job="Job")),
                        Column("role", "Role"),
                        Column("src_host", "From", link=to_board("fabric-host", host="From")),
                        Column("src_rnic", "RNIC"),
                        Column("dst_host", "To", link=to_board("fabric-host", host="To")),
                        Column("dst_rnic", "To RNIC"),
                        Column("probe", "Probe"),
                        Column("dscp", "DSCP"),
                    ],
                    Query(
                        f"max by (training_job, role, src_host, src_rnic, dst_host, dst_rnic, probe, dscp) ({_ENDS})"
                    ),
                    width=12,
                    height=4,
                ),
                trend(
                    "Round trips",
                    "The last round trip, and what the path learnt to be enough (dashed).",
                    "s",
                    Query(f"max(fabric_path_rtt_seconds{_PATH})", "round trip"),
                    Query(f"max(fabric_path_rtt_threshold_seconds{_PATH})", "learnt threshold"),
                    dashed="learnt threshold",
                    width=8,
                ),
                trend(
                    "Loss",
                    "Share of probes lost, and of those the part that is known to be lost on the way back.",
                    "percentunit",
                    Query(
                        f"max(rate(fabric_path_probes_lost_total{_PATH}[$__rate_interval])"
                        f" / (rate(fabric_path_probes_sent_total{_PATH}[$__rate_interval]) > 0))",
                        "lost",
                    ),
                    Query(
                        f"max(rate(fabric_path_probes_lost_return_total{_PATH}[$__rate_interval])"
                        f" / (rate(fabric_path_probes_sent_total{_PATH}[$__rate_interval]) > 0))",
                        "lost on the way back",
                    ),
                    levels=LOSS,
                    width=8,
                ),
                trend(
                    "MTU",
                    "Bytes of the largest packet that passes, and of what the fabric promises (dashed).",
                    "none",
                    Query(f"min(fabric_path_mtu_bytes{_PATH})", "passes"),
                    Query(f"max(fabric_path_mtu_promised_bytes{_PATH})", "promised"),
                    dashed="promised",
                    width=8,
                ),
                states(
                    "Route",
                    "Links that the path crossed in the time shown: 1, or of a sprayed path the share of its packets.",
                    Query(f"max by (link) (fabric_path_link_info{_PATH})", "{{link}}"),
                    {},
                    width=12,
                ),
                rows(
                    "Its links",
                    "In no order; what each must lose to explain the paths over it.",
                    [
                        Column("link", "Link", link=to_board("fabric-link", link="Link")),
                        Column("Value #share", "Share", "percentunit", width=80),
                        Column("Value #loss", "Must lose", "percentunit", levels=LOSS, width=100),
                    ],
                    Query(f"max by (link) (fabric_path_link_info{_PATH})", ref="share"),
                    Query(
                        "max by (link) (job_link:fabric_link_loss:ratio_rate"
                        f" and on (cluster, link) fabric_path_link_info{_PATH})",
                        ref="loss",
                    ),
                    width=12,
                ),
            ],
        ),
        Row(
            "Switch ports on its way",
            [
                trend(
                    "Errors",
                    "Frames received damaged: a cable, a transceiver, or a box further up.",
                    "pps",
                    Query(
                        ports.of(ports.rate("fabric_switch_port_receive_errors_total", _OF_PORTS), _ON_WAY),
                        ports.NAME,
                    ),
                    width=8,
                ),
                trend(
                    "Discards",
                    "Packets that found no room, in or out.",
                    "pps",
                    Query(
                        ports.of(_DISCARDS, _ON_WAY),
                        ports.NAME,
                    ),
                    width=8,
                ),
                trend(
                    "Pauses",
                    "Share of the time for which the neighbour pauses the port, by priority.",
                    "percentunit",
                    Query(
                        ports.of(f"port_priority:fabric_switch_port_pfc_receive_pause:ratio{_OF_PORTS} > 0", _ON_WAY),
                        ports.NAME + " priority {{priority}}",
                    ),
                    levels=((None, GREY), (0.1, ORANGE), (0.5, RED)),
                    width=8,
                ),
                trend(
                    "Marked (ECN)",
                    "Packets that the port's queues marked.",
                    "pps",
                    Query(
                        ports.of(
                            ports.rate("fabric_switch_port_queue_ecn_marked_packets_total", _OF_PORTS, "queue"),
                            _ON_WAY,
                        ),
                        ports.NAME,
                    ),
                    width=8,
                ),
                trend(
                    "Bytes sent",
                    "What the ports send, of everybody's traffic.",
                    "Bps",
                    Query(
                        ports.of(ports.rate("fabric_switch_port_transmit_bytes_total", _OF_PORTS), _ON_WAY),
                        ports.NAME,
                    ),
                    width=8,
                ),
                trend(
                    "MTU of the ports",
                    "Bytes. The least of them is what the path can carry.",
                    "none",
                    Query(
                        ports.of(
                            f"max by (cluster, switch, switch_port) (fabric_switch_port_mtu_bytes{_OF_PORTS})",
                            _ON_WAY,
                        ),
                        ports.NAME,
                    ),
                    width=8,
                    least=None,
                ),
            ],
        ),
        Row(
            "RNICs at its ends",
            [
                trend(
                    "Out of sequence",
                    "Packets that arrived after a gap: something before them was lost.",
                    "pps",
                    Query(_of_ends("rnic:fabric_rnic_hw_out_of_sequence:rate"), "{{host}}:{{rnic}}"),
                    width=8,
                ),
                trend(
                    "Damaged frames",
                    "Received by the RNICs.",
                    "pps",
                    Query(_of_ends("rnic:fabric_rnic_port_rcv_errors:rate"), "{{host}}:{{rnic}}"),
                    width=8,
                ),
                trend(
                    "CNPs sent",
                    "In answer to marked packets.",
                    "pps",
                    Query(_of_ends("rnic:fabric_rnic_hw_np_cnp_sent:rate"), "{{host}}:{{rnic}}"),
                    width=8,
                ),
            ],
        ),
    ],
    [
        one("path", "Path", 'label_values(fabric_path_probes_sent_total{cluster=~"$cluster"}, path)'),
        found("switches", "switch", f"fabric_link_info and on (cluster, link) {_LINKS}"),
        found("ports", "switch_port", f"fabric_link_info and on (cluster, link) {_LINKS}"),
        found("hosts", "host", _RNICS),
    ],
    alerts=firing('path="$path"'),
    runbook="FabricPathLoss.md",
)
