"""One link: how the paths over it fare, what its two ends count, and whom it hurts."""

from __future__ import annotations

from grafana import ports
from grafana.board import Board, Row
from grafana.expressions import since
from grafana.panels import (
    BAD_ABOVE_ZERO,
    GREEN,
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

_LINK = '{link="$link"}'
_ENDS = '{switch=~"$switches", switch_port=~"$ports"}'
_PORTS = f"max by (cluster, switch, switch_port) (fabric_link_info{_LINK})"
_ALERTS = firing('suspect="$link"', 'link="$link"')
_PATHS = f"job_link:fabric_job_paths:count{_LINK}"
_RNIC = f"max by (cluster, host, rnic) (fabric_rnic_attachment_info{_LINK})"


def _of_rnic(record: str) -> str:
    """A record of RNICs, of the one at the link's end, if there is one."""
    return f'{record}{{host=~"$hosts"}} and on (cluster, host, rnic) {_RNIC}'


BOARD = Board(
    "fabric-link",
    "Link",
    "One link: how the paths over it fare, what its two ends count, and whom it hurts.",
    [
        Row(
            "The link",
            [
                number(
                    "Suspicion",
                    "What the link must lose to explain its paths, times the share of a job's loss that it explains.",
                    "percentunit",
                    Query(f"max(job_link:fabric_link_suspicion:ratio{_LINK}) or 0 * max({_PATHS})"),
                    levels=LOSS,
                ),
                number(
                    "Votes",
                    "Paths over the link that lose, of all jobs.",
                    "short",
                    Query(f"sum(job_link:fabric_link_votes:count{_LINK}) or 0 * sum({_PATHS})"),
                    levels=BAD_ABOVE_ZERO,
                ),
                number(
                    "Slow paths",
                    "Paths over the link that are above their thresholds.",
                    "short",
                    Query(f"sum(job_link:fabric_link_slow_votes:count{_LINK}) or 0 * sum({_PATHS})"),
                    levels=((None, GREEN), (1e-9, ORANGE)),
                ),
                number(
                    "Paths",
                    "Paths over the link, of all jobs, by their last complete routes.",
                    "short",
                    Query(f"sum({_PATHS})"),
                    levels=((None, GREY),),
                ),
                rows(
                    "Alerts",
                    "What points at this link now. Empty: nothing.",
                    [
                        Column("alertname", "Alert"),
                        Column("component", "Component"),
                        Column("training_job", "Job", link=to_board("fabric-job", training_job="Job")),
                        Column("Value", "Since", "dateTimeFromNow"),
                    ],
                    Query(f"min by (alertname, component, training_job) ({since(_ALERTS)})"),
                    width=8,
                    height=4,
                    sort="Since",
                    descending=False,
                ),
                trend(
                    "Loss that the link explains",
                    "By job, probe type and traffic class (DSCP 0 is the default class).",
                    "percentunit",
                    Query(
                        f"max by (training_job, probe, dscp) (job_link:fabric_link_loss:ratio_rate{_LINK})",
                        "{{training_job}} {{probe}} DSCP {{dscp}}",
                    ),
                    levels=LOSS,
                    width=8,
                ),
                trend(
                    "Failing paths over it",
                    "Paths that lose, beside all paths over the link (dashed).",
                    "short",
                    Query(
                        f"sum by (training_job) (job_link:fabric_link_votes:count{_LINK})", "{{training_job}} losing"
                    ),
                    Query(f"sum by (training_job) (job_link:fabric_job_paths:count{_LINK})", "{{training_job}} all"),
                    dashed=".* all",
                    width=8,
                ),
                rows(
                    "Paths that lose over it",
                    "The worst fifty. Empty: none.",
                    [
                        Column("path", "Path", link=to_board("fabric-path", path="Path")),
                        Column("training_job", "Job", width=120),
                        Column("probe", "Probe", width=70),
                        Column("Value", "Lost", "percentunit", levels=LOSS, width=90),
                    ],
                    Query(
                        "topk(50, max by (path, training_job, probe)"
                        f" (job_path_link:fabric_path_forward_loss:ratio_rate{_LINK}))"
                    ),
                    width=8,
                    sort="Lost",
                ),
            ],
        ),
        Row(
            "Its ends",
            [
                states(
                    "Up and down",
                    "State of the switch ports at its ends.",
                    Query(
                        ports.of(f"max by (cluster, switch, switch_port) (fabric_switch_port_up{_ENDS})", _PORTS),
                        ports.NAME,
                    ),
                    {"0": ("down", RED), "1": ("up", GREEN)},
                    width=8,
                    height=6,
                ),
                trend(
                    "Damaged frames",
                    "Received with errors: FCS, symbols and the like.",
                    "pps",
                    Query(
                        ports.of(ports.rate("fabric_switch_port_receive_errors_total", _ENDS), _PORTS),
                        ports.NAME,
                    ),
                    width=8,
                    height=6,
                ),
                trend(
                    "Discards",
                    "Packets sent to the link that found no room.",
                    "pps",
                    Query(
                        ports.of(ports.rate("fabric_switch_port_transmit_discards_total", _ENDS), _PORTS),
                        ports.NAME,
                    ),
                    width=8,
                    height=6,
                ),
                trend(
                    "Paused",
                    "Share of the time for which the other end pauses the port, by priority.",
                    "percentunit",
                    Query(
                        ports.of(f"port_priority:fabric_switch_port_pfc_receive_pause:ratio{_ENDS}", _PORTS),
                        ports.NAME + " priority {{priority}}",
                    ),
                    levels=((None, GREY), (0.1, ORANGE), (0.5, RED)),
                    width=8,
                    height=6,
                ),
                trend(
                    "Used",
                    "Share of its speed that the port sends, and that it receives.",
                    "percentunit",
                    Query(
                        ports.of(f"port:fabric_switch_port_transmit_utilization:ratio{_ENDS}", _PORTS),
                        ports.NAME + " sends",
                    ),
                    Query(
                        ports.of(f"port:fabric_switch_port_receive_utilization:ratio{_ENDS}", _PORTS),
                        ports.NAME + " receives",
                    ),
                    width=8,
                    height=6,
                ),
                trend(
                    "MTU",
                    "Bytes, of the ports at its ends: two that differ are one that is wrong.",
                    "none",
                    Query(
                        ports.of(
                            f"max by (cluster, switch, switch_port) (fabric_switch_port_mtu_bytes{_ENDS})",
                            _PORTS,
                        ),
                        ports.NAME,
                    ),
                    least=None,
                    width=8,
                    height=6,
                ),
                trend(
                    "RNIC: damaged frames",
                    "Received by the RNIC at its end; no lines where both ends are switches.",
                    "pps",
                    Query(_of_rnic("rnic:fabric_rnic_port_rcv_errors:rate"), "{{host}}:{{rnic}} errors"),
                    Query(_of_rnic("rnic:fabric_rnic_port_symbol_error:rate"), "{{host}}:{{rnic}} symbols"),
                    width=8,
                    height=6,
                ),
                trend(
                    "RNIC: out of sequence",
                    "Packets that arrived after a gap, at the RNIC at its end.",
                    "pps",
                    Query(_of_rnic("rnic:fabric_rnic_hw_out_of_sequence:rate"), "{{host}}:{{rnic}}"),
                    width=8,
                    height=6,
                ),
                states(
                    "RNIC: up and down",
                    "State of the RNIC at its end.",
                    Query(
                        _of_rnic("rnic:fabric_rnic_active:state"),
                        "{{host}}:{{rnic}}",
                    ),
                    {"0": ("down", RED), "1": ("active", GREEN)},
                    width=8,
                    height=6,
                ),
            ],
        ),
        Row(
            "History",
            [
                states(
                    "Alerts over time",
                    "When which alert pointed at this link.",
                    Query(f"max by (alertname, component) ({_ALERTS})", "{{alertname}} {{component}}"),
                    {"1": ("firing", RED)},
                    width=24,
                    height=6,
                )
            ],
        ),
    ],
    [
        one("link", "Link", 'label_values(fabric_link_info{cluster=~"$cluster"}, link)'),
        found("switches", "switch", f"fabric_link_info{_LINK}"),
        found("ports", "switch_port", f"fabric_link_info{_LINK}"),
        found("hosts", "host", f"fabric_rnic_attachment_info{_LINK}"),
    ],
    alerts=_ALERTS,
    runbook="FabricLinkLoss.md",
)
