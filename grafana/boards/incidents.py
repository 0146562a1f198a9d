"""The five incidents that this was founded on, a row each: the panels that its runbook names, side by side."""

from __future__ import annotations

from grafana import ports
from grafana.board import Board, Row
from grafana.panels import GREEN, GREY, LOSS, ORANGE, RED, Column, Query, rows, states, to_board, trend
from skeleton_service.jobalerts import firing

_RATE = "[$__rate_interval]"
_DISCARDED = ports.rate("fabric_switch_port_vlan_receive_discards_total", labels="vlan", by="vlan")
_PAUSED = ((None, GREEN), (0.1, ORANGE), (0.5, RED))
_SENDING = (
    "port:fabric_switch_port_transmit_utilization:ratio"
    " unless on (cluster, switch, switch_port) fabric_rnic_attachment_info"
)
_SESSIONS = (
    "max by (cluster, switch, peer) (fabric_switch_bgp_session_established) and on (cluster, switch, peer)"
    " (increase(fabric_switch_bgp_transitions_total[$__range] @ end()) > 0"
    " or fabric_switch_bgp_session_established @ end() == 0)"
)
_PORT = "{{switch}}:{{switch_port}}"
_ALERTS = {
    "pfc": "Fabric(Pfc|Cnp|Ecn|LosslessDrops|SlowReceiver).*",
    "mtu": "Fabric.*(Mtu).*",
    "transit": "FabricTransit.+",
    "dns": "Fabric.*(Dns|Resol).*",
    "bgp": "Fabric(Bgp|ControlPlane).*",
}


def _alerts(of: str) -> Query:
    alerts = firing(f'alertname=~"{_ALERTS[of]}"')
    return Query(f"max by (alertname, suspect) ({alerts})", "{{alertname}} {{suspect}}")


_PFC = Row(
    "PFC storm or deadlock (runbooks: FabricPfcStorm, FabricPfcDeadlock)",
    [
        states(
            "Alerts of PFC",
            "What fired of pauses and congestion, and of which suspect.",
            _alerts("pfc"),
            {"1": ("firing", RED)},
            width=6,
        ),
        trend(
            "Who is paused",
            "Share of the time: what is paused and pauses nobody is a victim.",
            "percentunit",
            Query(
                "topk(8, port_priority:fabric_switch_port_pfc_receive_pause:ratio > 0)",
                _PORT + " {{priority}}",
            ),
            levels=_PAUSED,
            width=6,
        ),
        trend(
            "Who pauses",
            "Share of the time: what pauses and is not paused is where it begins.",
            "percentunit",
            Query(
                "topk(8, port_priority:fabric_switch_port_pfc_transmit_pause:ratio > 0)",
                _PORT + " {{priority}}",
            ),
            levels=_PAUSED,
            width=6,
        ),
        trend(
            "Dropped by VLAN",
            "Frames discarded on the way in, by VLAN: a deadlock's are on one.",
            "pps",
            Query(f"topk(8, {_DISCARDED} > 0)", "VLAN {{vlan}}"),
            width=6,
        ),
        trend(
            "CNPs",
            "Of all RNICs: the surge before, and the fall when it is over.",
            "pps",
            Query("sum(rnic:fabric_rnic_hw_np_cnp_sent:rate)", "sent"),
            Query("sum(rnic:fabric_rnic_hw_rp_cnp_handled:rate)", "obeyed"),
            width=8,
        ),
        trend(
            "Packets missed",
            "Out-of-sequence packets of all RNICs: they fall when the deadlock is over.",
            "pps",
            Query("sum(cluster:fabric_rnic_hw_out_of_sequence:rate)", "missed"),
            width=8,
        ),
        trend(
            "Drops of lossless priorities",
            "What must never be dropped, the eight worst ports.",
            "pps",
            Query(
                "topk(8, port_priority:fabric_switch_port_lossless_drops:rate > 0)",
                _PORT + " {{priority}}",
            ),
            width=8,
        ),
    ],
)

_MTU = Row(
    "A small MTU on the way (runbooks: FabricLinkMtuMismatch, FabricLinecardMtu)",
    [
        states(
            "Alerts of MTU",
            "What fired of MTU, and of which suspect.",
            _alerts("mtu"),
            {"1": ("firing", RED)},
            width=8,
        ),
        trend(
            "Full-size probes beside small ones",
            "Share lost: full-size ones die while small ones live.",
            "percentunit",
            Query('max(probe:fabric_path_probes_lost:ratio_rate{probe="mtu"})', "full size"),
            Query('max(probe:fabric_path_probes_lost:ratio_rate{probe!="mtu"})', "small"),
            levels=LOSS,
            width=8,
        ),
        rows(
            "Ports below the usual",
            "Switch ports with a smaller MTU than most of their switch, and what was swapped with them.",
            [
                Column("switch", "Switch", link=to_board("fabric-switch", switch="Switch")),
                Column("switch_port", "Port"),
                Column("linecard", "Line card"),
                Column("breakout_group", "Breakout"),
                Column("Value", "MTU", "none"),
            ],
            Query(
                "max by (switch, switch_port, linecard, breakout_group) (port:fabric_switch_port_mtu_low:bytes"
                " * on (cluster, switch, switch_port) group_left (linecard, breakout_group)"
                " max by (cluster, switch, switch_port, linecard, breakout_group) (fabric_switch_port_info))"
            ),
            width=8,
        ),
        rows(
            "Paths below their promise",
            "What passes, and who says so: nobody says anything of a black hole.",
            [
                Column("path", "Path", link=to_board("fabric-path", path="Path")),
                Column("training_job", "Job"),
                Column("kind", "How"),
                Column("hop", "Says"),
                Column("Value", "Bytes that pass", "none"),
            ],
            Query("topk(50, max by (path, training_job, kind, hop) (job_path:fabric_path_mtu_below_promise:bytes))"),
            height=6,
        ),
    ],
)

_TRANSIT = Row(
    "A route moved to another carrier (runbook: FabricTransitPathDegraded)",
    [
        states(
            "Alerts of transit",
            "What fired of paths out of the fabric.",
            _alerts("transit"),
            {"1": ("firing", RED)},
            width=6,
        ),
        trend(
            "Loss out of the fabric",
            "The eight worst paths.",
            "percentunit",
            Query("topk(8, path:fabric_path_transit_loss:ratio_rate)", "{{path}}"),
            levels=LOSS,
            width=6,
        ),
        trend(
            "Round trips out of the fabric",
            "A step is another way.",
            "s",
            Query("topk(8, path:fabric_path_transit_rtt:seconds)", "{{path}}"),
            width=6,
        ),
        trend(
            "BGP updates",
            "In the same minute as the step: the route moved.",
            "cps",
            Query(
                f"topk(8, max by (cluster, switch, peer) (rate(fabric_switch_bgp_receive_updates_total{_RATE})) > 0)",
                "{{switch}} from {{peer}}",
            ),
            width=6,
        ),
        rows(
            "Routes before and after",
            "Within the hour.",
            [
                Column("path", "Path", link=to_board("fabric-path", path="Path"), width=200),
                Column("before", "Before"),
                Column("after", "After"),
                Column("Value", "When", "dateTimeFromNow", width=120),
            ],
            Query(
                "topk(20, max by (path, before, after) (1000 * (fabric_path_route_change_timestamp_seconds"
                " and on (cluster, path) path:fabric_path_transit:info)))"
            ),
            height=6,
        ),
    ],
)

_DNS = Row(
    "A resolver overwhelmed (runbooks: FabricResolverFailing, FabricClusterDnsOverloaded)",
    [
        states(
            "Alerts of DNS",
            "What fired of resolvers.",
            _alerts("dns"),
            {"1": ("firing", RED)},
            width=6,
        ),
        trend(
            "Questions that fail",
            "Share, by resolver.",
            "percentunit",
            Query("max by (resolver) (resolver_name:fabric_dns_failures:ratio_rate)", "{{resolver}}"),
            levels=((None, GREY), (0.01, ORANGE), (0.1, RED)),
            width=6,
        ),
        trend(
            "Answers take",
            "What 99 in 100 stay under, by resolver.",
            "s",
            Query(
                "histogram_quantile(0.99, sum by (resolver, le)"
                f" (rate(fabric_dns_query_duration_seconds_bucket{_RATE})))",
                "{{resolver}}",
            ),
            width=6,
        ),
        trend(
            "Pods made in a minute",
            "What registers and resolves at once; of Kubernetes.",
            "short",
            Query("max(cluster:kube_pod_created:count1m)", "pods"),
            width=6,
        ),
    ],
)

_BGP = Row(
    "Sessions starved by incast (runbook: FabricBgpStarved)",
    [
        states(
            "Alerts of BGP",
            "What fired of sessions and the control plane.",
            _alerts("bgp"),
            {"1": ("firing", RED)},
            width=6,
        ),
        states(
            "Sessions that changed",
            "Established or not, of sessions that went through it in the time shown.",
            Query(_SESSIONS, "{{switch}} {{peer}}"),
            {"0": ("not", RED), "1": ("established", GREEN)},
            width=6,
        ),
        trend(
            "Links full",
            "Share of their speed that the eight busiest ports between switches send: incast fills them.",
            "percentunit",
            Query(f"topk(8, {_SENDING})", _PORT),
            width=6,
        ),
        trend(
            "Dropped on the way to the CPU",
            "By the policer of the control plane.",
            "pps",
            Query(
                "topk(8, max by (cluster, switch, class)"
                f" (rate(fabric_switch_control_plane_dropped_packets_total{_RATE})) > 0)",
                "{{switch}} {{class}}",
            ),
            width=6,
        ),
    ],
)

BOARD = Board(
    "fabric-incidents",
    "Incidents",
    "The five incidents that this was founded on, a row each: the panels that its runbook names, side by side.",
    [_PFC, _MTU, _TRANSIT, _DNS, _BGP],
    span="now-30m",
)
