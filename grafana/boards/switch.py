"""One switch: what it says of itself, and what each of its ports, priorities and sessions does."""

from __future__ import annotations

from grafana import ports
from grafana.board import Board, Row
from grafana.expressions import named, since
from grafana.panels import (
    BAD_ABOVE_ZERO,
    GREEN,
    GREY,
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

_SWITCH = '{switch="$switch"}'
_PORTS = '{switch="$switch", switch_port=~"$switch_port"}'
_PRIORITIES = '{switch="$switch", switch_port=~"$switch_port", priority=~"$priority"}'
_SESSIONS = '{switch="$switch", peer=~"$peer"}'
_TROUBLE = (
    f"port:fabric_switch_port_trouble:rate{_PORTS}"
    " * on (cluster, switch, switch_port) group_left (suspect) port:fabric_switch_port_suspect:info"
)
_ALERTS = firing('switch="$switch"', 'component="$switch"', f"suspect=~{named('switch')}")
_UP = f"max by (cluster, switch_port) (fabric_switch_port_up{_PORTS})"
_CHANGED = (
    f"max by (cluster, switch_port) (increase(fabric_switch_port_status_changes_total{_PORTS}[$__range] @ end()) > 0)"
)


_UPDATES = (
    f"topk(12, max by (cluster, peer) (rate(fabric_switch_bgp_receive_updates_total{_SESSIONS}[$__rate_interval])) > 0)"
)
_DROPPED = (
    "topk(12, max by (cluster, class)"
    f" (rate(fabric_switch_control_plane_dropped_packets_total{_SWITCH}[$__rate_interval])) > 0)"
)


def _worst(metric: str, matchers: str = _PORTS, labels: str = "", by: str = "cluster, switch_port") -> str:
    return f"topk(12, {ports.rate(metric, matchers, labels, by)} > 0)"


BOARD = Board(
    "fabric-switch",
    "Switch",
    "One switch: what it says of itself, and what each of its ports, priorities and sessions does.",
    [
        Row(
            "The switch",
            [
                number(
                    "Answers",
                    "Whether the poller reaches it; what is below is old where it does not.",
                    "short",
                    Query(f"min(fabric_switch_reachable{_SWITCH})"),
                    levels=((None, RED), (1, GREEN)),
                    nothing="not polled",
                ),
                number(
                    "Up for",
                    "Since its software was started.",
                    "s",
                    Query(f"max(fabric_switch_uptime_seconds{_SWITCH})"),
                    levels=((None, GREY),),
                    nothing="unknown",
                ),
                number(
                    "Busiest CPU",
                    "Share used of its busiest processor: keepalives wait behind it.",
                    "percentunit",
                    Query(f"max(fabric_switch_cpu_used_ratio{_SWITCH})"),
                    levels=((None, GREEN), (0.8, ORANGE), (0.95, RED)),
                    nothing="not told",
                ),
                number(
                    "Ports down",
                    "Enabled ports without carrier, which were up within a day.",
                    "short",
                    Query(counted(f"port:fabric_switch_port_fell:info{_SWITCH}", f"fabric_switch_port_up{_SWITCH}")),
                    levels=BAD_ABOVE_ZERO,
                ),
                rows(
                    "Alerts",
                    "What points at this switch, its ports and its links now. Empty: nothing.",
                    [
                        Column("alertname", "Alert"),
                        Column("component", "Component"),
                        Column("Value", "Since", "dateTimeFromNow"),
                    ],
                    Query(f"min by (alertname, component) ({since(_ALERTS)})"),
                    width=8,
                    height=4,
                    sort="Since",
                    descending=False,
                ),
                rows(
                    "Ports in trouble",
                    "Ports that count errors, discards, pauses or marks now, the worst of each kind. Empty: none.",
                    [
                        Column("switch_port", "Port", width=140),
                        Column("counter", "Counts", width=110),
                        Column("Value", "A second, or share of the time", "short"),
                        Column("suspect", "Cable", link=to_board("fabric-link", link="Cable")),
                    ],
                    Query(f"topk by (counter) (20, max by (switch_port, counter, suspect) ({_TROUBLE}))"),
                    width=12,
                ),
                states(
                    "Ports",
                    "Up and down, of ports that changed within the time shown.",
                    Query(
                        f"{_UP} and on (cluster, switch_port) {_CHANGED}",
                        "{{switch_port}}",
                    ),
                    {"0": ("down", RED), "1": ("up", GREEN)},
                ),
            ],
        ),
        Row(
            "Loss and congestion",
            [
                trend(
                    "Damaged frames",
                    "Received with errors, the twelve worst ports.",
                    "pps",
                    Query(_worst("fabric_switch_port_receive_errors_total"), "{{switch_port}}"),
                    width=8,
                ),
                trend(
                    "Discards",
                    "Packets that found no room on their way out, the twelve worst ports.",
                    "pps",
                    Query(_worst("fabric_switch_port_transmit_discards_total"), "{{switch_port}}"),
                    width=8,
                ),
                trend(
                    "Drops of lossless priorities",
                    "What must never be dropped.",
                    "pps",
                    Query(
                        "topk(12, max by (switch_port, priority)"
                        f" (port_priority:fabric_switch_port_lossless_drops:rate{_PRIORITIES}) > 0)",
                        "{{switch_port}} priority {{priority}}",
                    ),
                    width=8,
                ),
                trend(
                    "Paused by neighbours",
                    "Share of the time, the twelve most paused.",
                    "percentunit",
                    Query(
                        "topk(12, max by (switch_port, priority)"
                        f" (port_priority:fabric_switch_port_pfc_receive_pause:ratio{_PRIORITIES}) > 0)",
                        "{{switch_port}} priority {{priority}}",
                    ),
                    levels=((None, GREY), (0.1, ORANGE), (0.5, RED)),
                    width=8,
                ),
                trend(
                    "Pausing neighbours",
                    "Share of the time for which a port tells its neighbour to wait. What pauses and is not paused is "
                    "where it begins.",
                    "percentunit",
                    Query(
                        "topk(12, max by (switch_port, priority)"
                        f" (port_priority:fabric_switch_port_pfc_transmit_pause:ratio{_PRIORITIES}) > 0)",
                        "{{switch_port}} priority {{priority}}",
                    ),
                    levels=((None, GREY), (0.1, ORANGE), (0.5, RED)),
                    width=8,
                ),
                trend(
                    "Marked (ECN)",
                    "Packets that queues marked, the twelve ports that marked most.",
                    "pps",
                    Query(
                        _worst("fabric_switch_port_queue_ecn_marked_packets_total", labels="queue"), "{{switch_port}}"
                    ),
                    width=8,
                ),
            ],
        ),
        Row(
            "Control plane",
            [
                states(
                    "BGP sessions",
                    "Established, or in which state instead.",
                    Query(
                        f"max by (peer) (fabric_switch_bgp_session_state{_SESSIONS})",
                        "{{peer}}",
                    ),
                    {
                        "1": ("idle", RED),
                        "2": ("connect", ORANGE),
                        "3": ("active", ORANGE),
                        "4": ("open sent", ORANGE),
                        "5": ("open confirm", ORANGE),
                        "6": ("established", GREEN),
                    },
                    width=8,
                ),
                trend(
                    "BGP updates received",
                    "Routes told by each peer: a burst is a route that moved.",
                    "cps",
                    Query(_UPDATES, "{{peer}}"),
                    width=8,
                ),
                trend(
                    "Dropped on the way to its own CPU",
                    "By the policer of the control plane, by class: keepalives may be among them.",
                    "pps",
                    Query(
                        _DROPPED,
                        "{{class}}",
                    ),
                    width=8,
                ),
            ],
        ),
        Row(
            "Whom it carries",
            [
                rows(
                    "Jobs",
                    "Jobs whose probed paths cross its ports: crossings, two for a path that passes through.",
                    [
                        Column("training_job", "Job", link=to_board("fabric-job", training_job="Job")),
                        Column("Value", "Crossings", "short", decimals=0),
                    ],
                    Query(f"sum by (training_job) (job_switch_port:fabric_job_paths:count{_SWITCH})"),
                    width=8,
                    sort="Crossings",
                ),
                states(
                    "Alerts over time",
                    "When which alert pointed at this switch, its ports or its links.",
                    Query(f"max by (alertname, component) ({_ALERTS})", "{{alertname}} {{component}}"),
                    {"1": ("firing", RED)},
                    width=16,
                ),
            ],
        ),
        Row(
            "Settings",
            [
                rows(
                    "MTU of ports",
                    "How many ports have which MTU: an odd one out is suspect.",
                    [Column("mtu", "MTU (bytes)"), Column("Value", "Ports", "short")],
                    Query(f'count_values("mtu", max by (switch_port) (fabric_switch_port_mtu_bytes{_PORTS}))'),
                    width=8,
                ),
                rows(
                    "ECN thresholds",
                    "Bytes queued from which packets are marked, by queue: how many ports have which.",
                    [
                        Column("queue", "Queue"),
                        Column("bytes", "Marks from (bytes)"),
                        Column("Value", "Ports", "short"),
                    ],
                    Query(
                        'count_values by (queue) ("bytes", max by (switch_port, queue)'
                        f" (fabric_switch_port_queue_ecn_low_threshold_bytes{_PORTS}))"
                    ),
                    width=8,
                ),
                rows(
                    "Neighbours",
                    "What each port is cabled to, as LLDP tells.",
                    [
                        Column("switch_port", "Port"),
                        Column("neighbor", "Neighbour"),
                        Column("neighbor_port", "Its port"),
                    ],
                    Query(
                        f"max by (switch_port, neighbor, neighbor_port) (fabric_switch_neighbor_info{_PORTS})",
                    ),
                    width=8,
                ),
            ],
            collapsed=True,
        ),
    ],
    [
        one("switch", "Switch", 'label_values(fabric_switch_reachable{cluster=~"$cluster"}, switch)'),
        several("switch_port", "Port", 'label_values(fabric_switch_port_up{switch="$switch"}, switch_port)'),
        several(
            "priority",
            "Priority",
            'label_values(port_priority:fabric_switch_port_pfc_receive_pause:ratio{switch="$switch"}, priority)',
        ),
        several("peer", "BGP peer", 'label_values(fabric_switch_bgp_session_state{switch="$switch"}, peer)'),
    ],
    alerts=_ALERTS,
    runbook="FabricSwitchPortErrors.md",
)
