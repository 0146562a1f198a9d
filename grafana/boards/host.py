"""One host and its RNICs: what they count, how their paths fare, and whether the host measures at all."""

from __future__ import annotations

from grafana.board import Board, Row
from grafana.expressions import named, since
from grafana.panels import (
    BAD_ABOVE_ZERO,
    GREEN,
    GREY,
    LOSS,
    ORANGE,
    RED,
    Column,
    Query,
    counted,
    number,
    rows,
    states,
    to_board,
    trend,
)
from grafana.variables import one, several
from skeleton_service.jobalerts import firing

_HOST = '{host="$host"}'
_RNICS = '{host="$host", rnic=~"$rnic"}'
_NAME = "{{rnic}}"
_ALERTS = firing(
    'host="$host"', 'src_host="$host"', 'dst_host="$host"', 'component="$host"', f"suspect=~{named('host')}"
)
_STATE = f"min by (cluster, rnic) (rnic:fabric_rnic_active:state{_RNICS})"
_PATHS = f"job_rnic:fabric_job_paths:count{_HOST}"
_CABLES = f"max by (cluster, host, rnic, switch, switch_port, link) (fabric_rnic_attachment_info{_RNICS})"
_PLACE = f"max by (cluster, host, location) (fabric_host_info{_HOST})"


def _each(record: str) -> str:
    return f"max by (cluster, rnic) ({record}{_RNICS})"


BOARD = Board(
    "fabric-host",
    "Host and RNICs",
    "One host and its RNICs: what they count, how their paths fare, and whether the host measures at all.",
    [
        Row(
            "The host",
            [
                number(
                    "RNICs down",
                    "Of those that somebody tells of: their port or their network device.",
                    "short",
                    Query(counted(f"{_STATE} == 0", _STATE)),
                    levels=BAD_ABOVE_ZERO,
                    nothing="none told",
                ),
                number(
                    "Paths that start here and lose",
                    "Of all jobs.",
                    "short",
                    Query(counted('job_path:fabric_path_forward_loss:ratio_rate{src_host="$host"} > 0.05', _PATHS)),
                    levels=BAD_ABOVE_ZERO,
                    nothing="not probed",
                ),
                number(
                    "Paths that end here and lose",
                    "Of all jobs.",
                    "short",
                    Query(counted('job_path:fabric_path_forward_loss:ratio_rate{dst_host="$host"} > 0.05', _PATHS)),
                    levels=BAD_ABOVE_ZERO,
                    nothing="not probed",
                ),
                rows(
                    "Where it stands",
                    "Its rack, its first leaf, and its RNICs' cables.",
                    [
                        Column("rnic", "RNIC", width=90),
                        Column("switch", "Leaf", link=to_board("fabric-switch", switch="Leaf")),
                        Column("switch_port", "Port"),
                        Column("link", "Cable", link=to_board("fabric-link", link="Cable")),
                        Column("location", "Location"),
                    ],
                    Query(f"{_CABLES} * on (cluster, host) group_left (location) {_PLACE}"),
                    width=12,
                    height=4,
                ),
                rows(
                    "Alerts",
                    "What points at this host, its RNICs and their cables. Empty: nothing.",
                    [
                        Column("alertname", "Alert"),
                        Column("component", "Component"),
                        Column("training_job", "Job"),
                        Column("Value", "Since", "dateTimeFromNow"),
                    ],
                    Query(f"min by (alertname, component, training_job) ({since(_ALERTS)})"),
                    width=12,
                    height=6,
                    sort="Since",
                    descending=False,
                ),
                states(
                    "RNICs",
                    "Active or not.",
                    Query(_STATE, _NAME),
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
                    "The worst fifty. Empty: none.",
                    [
                        Column("path", "Path", link=to_board("fabric-path", path="Path")),
                        Column("training_job", "Job", width=120),
                        Column("Value", "Lost", "percentunit", levels=LOSS, width=90),
                    ],
                    Query(
                        "topk(50, max by (path, training_job)"
                        ' (job_path:fabric_path_forward_loss:ratio_rate{src_host="$host"}))'
                    ),
                    width=16,
                    sort="Lost",
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
            "Whom it carries",
            [
                rows(
                    "Jobs",
                    "Jobs whose probed paths start or end at its RNICs.",
                    [
                        Column("training_job", "Job", link=to_board("fabric-job", training_job="Job")),
                        Column("rnic", "RNIC"),
                        Column("Value", "Paths", "short", decimals=0),
                    ],
                    Query(f"sum by (training_job, rnic) ({_PATHS})"),
                    width=8,
                ),
                states(
                    "Alerts over time",
                    "When which alert pointed at this host, its RNICs or their cables.",
                    Query(f"max by (alertname, component) ({_ALERTS})", "{{alertname}} {{component}}"),
                    {"1": ("firing", RED)},
                    width=16,
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
        one("host", "Host", 'label_values(fabric_rnic_info{cluster=~"$cluster"}, host)'),
        several("rnic", "RNIC", 'label_values(fabric_rnic_info{host="$host"}, rnic)'),
    ],
    alerts=_ALERTS,
    runbook="FabricRnicLoss.md",
)
