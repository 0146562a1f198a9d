"""RNICs and switches as one: who pauses, who is paused, who marks and answers, and whose settings differ."""

from __future__ import annotations

from grafana import ports
from grafana.board import Board, Row
from grafana.panels import GREEN, ORANGE, RED, Column, Query, ranking, rows, to_board, trend
from grafana.variables import several

_PAUSED = ((None, GREEN), (0.1, ORANGE), (0.5, RED))
_PRIORITY = '{priority=~"$priority"}'
_PORT = "{{switch}}:{{switch_port}} priority {{priority}}"
_RNIC = "{{host}}:{{rnic}}"


def _worst(record: str) -> str:
    return f"topk(12, {record} > 0)"


BOARD = Board(
    "fabric-rdma",
    "RNICs and switches",
    "RNICs and switches as one: who pauses, who is paused, who marks and answers, and whose settings differ.",
    [
        Row(
            "Pauses (PFC), by priority",
            [
                ranking(
                    "Most paused ports",
                    "Share of the time for which their neighbour makes them wait.",
                    "percentunit",
                    Query(_worst(f"port_priority:fabric_switch_port_pfc_receive_pause:ratio{_PRIORITY}"), _PORT),
                    levels=_PAUSED,
                    width=12,
                    nothing="no port is paused",
                    link=to_board("fabric-switch", switch="label.switch"),
                ),
                ranking(
                    "Ports that pause most",
                    "Share of the time for which they make their neighbour wait. Not paused itself: the origin.",
                    "percentunit",
                    Query(_worst(f"port_priority:fabric_switch_port_pfc_transmit_pause:ratio{_PRIORITY}"), _PORT),
                    levels=_PAUSED,
                    width=12,
                    nothing="no port pauses",
                    link=to_board("fabric-switch", switch="label.switch"),
                ),
                trend(
                    "Paused switches over time",
                    "The worst port of each of the twelve most paused switches.",
                    "percentunit",
                    Query(
                        _worst(f"switch_priority:fabric_switch_pfc_receive_pause:max{_PRIORITY}"),
                        "{{switch}} priority {{priority}}",
                    ),
                    levels=_PAUSED,
                    width=8,
                ),
                trend(
                    "RNICs that pause",
                    "Share of the time for which an RNIC makes its leaf wait: a slow receiver.",
                    "percentunit",
                    Query(
                        _worst(f"rnic_priority:fabric_rnic_pfc_transmit_pause:ratio{_PRIORITY}"),
                        _RNIC + " priority {{priority}}",
                    ),
                    levels=_PAUSED,
                    width=8,
                ),
                trend(
                    "Drops of lossless priorities",
                    "What must never be dropped, the twelve worst ports.",
                    "pps",
                    Query(_worst(f"port_priority:fabric_switch_port_lossless_drops:rate{_PRIORITY}"), _PORT),
                    width=8,
                ),
            ],
        ),
        Row(
            "Congestion control (ECN and CNP)",
            [
                trend(
                    "Marked by switches",
                    "Packets marked with congestion experienced, the twelve ports that mark most.",
                    "pps",
                    Query(f"topk(12, {ports.TROUBLE.format('marks')})", ports.NAME),
                    width=8,
                ),
                trend(
                    "CNPs sent",
                    "What receivers of marked packets answer, the twelve that answer most.",
                    "pps",
                    Query(_worst("rnic:fabric_rnic_hw_np_cnp_sent:rate"), _RNIC),
                    width=8,
                ),
                trend(
                    "CNPs obeyed and ignored",
                    "By senders. Ignored ones are a setting that is wrong.",
                    "pps",
                    Query(_worst("rnic:fabric_rnic_hw_rp_cnp_handled:rate"), _RNIC + " obeys"),
                    Query(_worst("rnic:fabric_rnic_hw_rp_cnp_ignored:rate"), _RNIC + " ignores"),
                    width=8,
                ),
            ],
        ),
        Row(
            "Retransmissions",
            [
                trend(
                    "Negative acknowledgements",
                    "Received by senders: something that they sent was lost.",
                    "cps",
                    Query(_worst("rnic:fabric_rnic_hw_packet_seq_err:rate"), _RNIC),
                    width=8,
                ),
                trend(
                    "Nothing answered in time",
                    "Requests whose timer ran out: the last packets were lost, or a black hole.",
                    "cps",
                    Query(_worst("rnic:fabric_rnic_hw_local_ack_timeout_err:rate"), _RNIC),
                    width=8,
                ),
                trend(
                    "Out of sequence",
                    "Packets that arrived after a gap.",
                    "pps",
                    Query(_worst("rnic:fabric_rnic_hw_out_of_sequence:rate"), _RNIC),
                    width=8,
                ),
            ],
        ),
        Row(
            "Settings that differ",
            [
                rows(
                    "RNICs of a job that are set otherwise",
                    "Than half of the job's: MTU, PFC, ECN, trust, bonds, firmware. Empty: all are set alike.",
                    [
                        Column("training_job", "Job", link=to_board("fabric-job", training_job="Job")),
                        Column("setting", "Setting"),
                        Column("host", "Host", link=to_board("fabric-host", host="Host")),
                        Column("rnic", "RNIC"),
                        Column("Value", "Is set to", "none"),
                    ],
                    Query(
                        "topk(100, max by (training_job, setting, host, rnic) (job_rnic:fabric_rnic_setting:drift"
                        '{training_job=~"$training_job"}))'
                    ),
                    width=14,
                ),
                rows(
                    "Values of each setting",
                    "Of each job: how many RNICs have which.",
                    [
                        Column("training_job", "Job"),
                        Column("setting", "Setting"),
                        Column("is", "Value"),
                        Column("Value", "RNICs", "short"),
                    ],
                    Query(
                        'count_values by (training_job, setting) ("is", job_rnic:fabric_rnic_setting:value'
                        '{training_job=~"$training_job"})'
                    ),
                    width=10,
                ),
            ],
        ),
    ],
    [
        several("training_job", "Job (training)", "label_values(fabric_job_path_info, training_job)"),
        several("priority", "Priority", "label_values(switch_priority:fabric_switch_pfc_receive_pause:max, priority)"),
    ],
    runbook="FabricPfcCongestion.md",
)
