"""One host and its RNICs: what they count, how their paths fare, and whether the host measures at all."""

from __future__ import annotations

from grafana.board import Board, Row
from grafana.expressions import FIRING, since
from grafana.panels import GREEN, GREY, LOSS, ORANGE, RED, Column, Query, number, rows, states, to_board, trend
from grafana.variables import one, several

_HOST = '{host="$host"}'
_RNICS = '{host="$host", rnic=~"$rnic"}'
_NAME = "{{rnic}}"


def _each(record: str) -> str:
    return f"max by (rnic) ({record}{_RNICS})"


BOARD = Board(
    "fabric-host",
    "Host and RNICs",
    "One host and its RNICs: what they count, how their paths fare, and whether the host measures at all.",
    [
        Row(
            "The host",
            [
                number(
                    "RNICs up",
                    "Of those that its exporter tells of.",
                    "short",
                    Query(f"sum(max by (rnic) (rnic:fabric_rnic_active:state{_HOST}))"),
                    levels=((None, RED), (1, GREEN)),
                    nothing="none told",
                ),
                number(
                    "Paths that start here and lose",
                    "Of all jobs.",
                    "short",
                    Query('count(job_path:fabric_path_forward_loss:ratio_rate{src_host="$host"} > 0.05)'),
                    levels=((None, GREEN), (1e-9, RED)),
                ),
                number(
                    "Paths that end here and lose",
                    "Of all jobs.",
                    "short",
                    Query('count(job_path:fabric_path_forward_loss:ratio_rate{dst_host="$host"} > 0.05)'),
                    levels=((None, GREEN), (1e-9, RED)),
                ),
                rows(
                    "Where it stands",
                    "Its rack, its first leaf, and its RNICs' cables.",
                    [
                        Column("rnic", "RNIC", width=90),
                        Column("switch", "Leaf", link=to_board("fabric-switch", switch="@Leaf")),
                        Column("switch_port", "Port"),
                        Column("link", "Cable", link=to_board("fabric-link", link="@Cable")),
                        Column("location", "Location"),
                    ],
                    Query(
                        f"max by (rnic, switch, switch_port, link, location) (fabric_rnic_attachment_info{_RNICS}"
                        f" * on (cluster, host) group_left (location) fabric_host_info{_HOST})"
                    ),
                    width=12,
                    height=4,
                    nothing="not in the topology",
                ),
                rows(
                    "Alerts",
                    "What points at this host, its RNICs and their cables.",
                    [
                        Column("alertname", "Alert"),
                        Column("component", "Component"),
                        Column("training_job", "Job"),
                        Column("Value", "Since", "dateTimeFromNow"),
                    ],
                    Query(
                        "min by (alertname, component, training_job) ("
                        + since('component_kind!="path", suspect=~"(.* )?$host(:.*)?"')
                        + ")"
                    ),
                    width=12,
                    height=6,
                    sort="Since",
                    descending=False,
                    nothing="none",
                ),
                states(
                    "RNICs",
                    "Active or not.",
                    Query(f"max by (rnic) (rnic:fabric_rnic_active:state{_RNICS})", _NAME),
                    {"0": ("down", RED), "1": ("active", GREEN)},
                    height=6,
                ),
            ],
        ),
        Row(
            "What RNICs send and receive",
            [
                trend("Sent", "RoCE bytes.", "Bps", Query(_each("rnic:fabric_rnic_rdma_transmit_bytes:rate"), _NAME)),
                trend(
                    "Received", "RoCE bytes.", "Bps", Query(_each("rnic:fabric_rnic_rdma_receive_bytes:rate"), _NAME)
                ),
            ],
        ),
        Row(
            "Loss",
            [
                trend(
                    "Out of sequence",
                    "Packets that arrived after a gap: something before them was lost.",
                    "pps",
                    Query(_each("rnic:fabric_rnic_hw_out_of_sequence:rate"), _NAME),
                    width=8,
                ),
                trend(
                    "Sent again",
                    "Negative acknowledgements received, and requests that nothing answered in time.",
                    "cps",
                    Query(_each("rnic:fabric_rnic_hw_packet_seq_err:rate"), "{{rnic}} NAK"),
                    Query(_each("rnic:fabric_rnic_hw_local_ack_timeout_err:rate"), "{{rnic}} timed out"),
                    width=8,
                ),
                trend(
                    "Damaged frames",
                    "Frames and symbols that arrived broken: the cable or what is behind it.",
                    "pps",
                    Query(_each("rnic:fabric_rnic_port_rcv_errors:rate"), "{{rnic}} errors"),
                    Query(_each("rnic:fabric_rnic_rx_crc_errors_phy:rate"), "{{rnic}} CRC"),
                    Query(_each("rnic:fabric_rnic_port_symbol_error:rate"), "{{rnic}} symbols"),
                    width=8,
                ),
                trend(
                    "No room",
                    "Packets dropped since no receive request was posted, or the RNIC's buffer was full.",
                    "pps",
                    Query(_each("rnic:fabric_rnic_hw_out_of_buffer:rate"), "{{rnic}} no request"),
                    Query(_each("rnic:fabric_rnic_rx_discards_phy:rate"), "{{rnic}} buffer"),
                    width=8,
                ),
                rows(
                    "Paths that start here and lose",
                    "The worst fifty.",
                    [
                        Column("path", "Path", link=to_board("fabric-path", path="@Path")),
                        Column("training_job", "Job", width=120),
                        Column("Value", "Lost", "percentunit", levels=LOSS, width=90),
                    ],
                    Query(
                        "topk(50, max by (path, training_job)"
                        ' (job_path:fabric_path_forward_loss:ratio_rate{src_host="$host"}))'
                    ),
                    width=16,
                    sort="Lost",
                    nothing="none",
                ),
            ],
        ),
        Row(
            "Congestion",
            [
                trend(
                    "CNPs",
                    "Sent as receiver of marked packets, and obeyed as sender.",
                    "pps",
                    Query(_each("rnic:fabric_rnic_hw_np_cnp_sent:rate"), "{{rnic}} sent"),
                    Query(_each("rnic:fabric_rnic_hw_rp_cnp_handled:rate"), "{{rnic}} obeyed"),
                    width=8,
                ),
                trend(
                    "Marked packets received",
                    "Congestion experienced (ECN) somewhere on their way.",
                    "pps",
                    Query(_each("rnic:fabric_rnic_hw_np_ecn_marked_roce_packets:rate"), _NAME),
                    width=8,
                ),
                trend(
                    "Pauses sent",
                    "Share of the time for which the RNIC tells its leaf to wait: a slow receiver.",
                    "percentunit",
                    Query(
                        f"max by (rnic, priority) (rnic_priority:fabric_rnic_pfc_transmit_pause:ratio{_RNICS})",
                        "{{rnic}} priority {{priority}}",
                    ),
                    levels=((None, GREY), (0.1, ORANGE), (0.5, RED)),
                    width=8,
                ),
            ],
        ),
        Row(
            "Measuring",
            [
                trend(
                    "Late",
                    "Slots a second that the prober woke up late for: the host lacks CPU.",
                    "cps",
                    Query(
                        "max by (instance) (rate(fabric_exporter_prober_late_slots_total[$__rate_interval])"
                        ' and on (cluster, instance) fabric_rtt_seconds_count{src_host="$host"})',
                        "{{instance}}",
                    ),
                ),
                trend(
                    "Links covered",
                    "Of the links that its RNICs' traffic may take, those that a probed path crosses.",
                    "percentunit",
                    Query(_each("rnic:fabric_rnic_links_covered:ratio"), _NAME),
                ),
            ],
            collapsed=True,
        ),
    ],
    [
        one("host", "Host", "label_values(fabric_rnic_info, host)"),
        several("rnic", "RNIC", 'label_values(fabric_rnic_info{host="$host"}, rnic)'),
    ],
    alerts=FIRING.replace("}", ', suspect=~"(.* )?$host(:.*)?"}'),
    runbook="FabricRnicLoss.md",
)
