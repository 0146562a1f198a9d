"""Paths that leave the fabric: storage and wide-area destinations, their routes and carriers."""

from __future__ import annotations

from grafana.board import Board, Row
from grafana.panels import BAD_ABOVE_ZERO, GREEN, LOSS, ORANGE, Column, Query, counted, number, rows, to_board, trend
from grafana.variables import several
from skeleton_service.jobalerts import firing

_CHANGES = 'fabric_path_route_change_timestamp_seconds{hop=~"$hop"}'
_CHANGED = f"1000 * ({_CHANGES} and on (cluster, path) path:fabric_path_transit:info)"

BOARD = Board(
    "fabric-transit",
    "Transit",
    "Paths that leave the fabric: storage and wide-area destinations, their routes and carriers.",
    [
        Row(
            "Out of the fabric",
            [
                number(
                    "Paths",
                    "That leave the fabric.",
                    "short",
                    Query("count(path:fabric_path_transit:info)"),
                    levels=((None, GREEN),),
                    width=8,
                    nothing="none",
                ),
                number(
                    "Moved within the hour",
                    "Paths whose route now has a hop that it had not.",
                    "short",
                    Query(
                        counted(
                            "group by (cluster, path) (path:fabric_path_transit_moved:info)",
                            "path:fabric_path_transit:info",
                        )
                    ),
                    levels=((None, GREEN), (1e-9, ORANGE)),
                    width=8,
                ),
                number(
                    "Lossy",
                    "Paths that lose more than one probe in a hundred.",
                    "short",
                    Query(counted("path:fabric_path_transit_loss:ratio_rate > 0.01", "path:fabric_path_transit:info")),
                    levels=BAD_ABOVE_ZERO,
                    width=8,
                ),
                rows(
                    "Routes that changed",
                    "Within the hour: the hops before and after, and the first that is new. Empty: none changed.",
                    [
                        Column("path", "Path", link=to_board("fabric-path", path="Path"), width=200),
                        Column("before", "Before"),
                        Column("after", "After"),
                        Column("hop", "New hop", width=140),
                        Column("Value", "When", "dateTimeFromNow", width=120),
                    ],
                    Query(f"topk(50, max by (path, before, after, hop) ({_CHANGED}))"),
                    sort="When",
                ),
                trend(
                    "Loss",
                    "The twelve worst paths.",
                    "percentunit",
                    Query("topk(12, path:fabric_path_transit_loss:ratio_rate)", "{{path}}"),
                    levels=LOSS,
                    width=8,
                ),
                trend(
                    "Round trips",
                    "The twelve longest: a step is another way.",
                    "s",
                    Query("topk(12, path:fabric_path_transit_rtt:seconds)", "{{path}}"),
                    width=8,
                ),
                trend(
                    "BGP updates",
                    "Received by the switches that receive most: a route that moved is told in the same minute.",
                    "cps",
                    Query(
                        "topk(12, max by (cluster, switch, peer)"
                        " (rate(fabric_switch_bgp_receive_updates_total[$__rate_interval])) > 0)",
                        "{{switch}} from {{peer}}",
                    ),
                    width=8,
                ),
            ],
        )
    ],
    [
        several("hop", "New hop", "label_values(fabric_path_route_change_timestamp_seconds, hop)", everything=".*"),
    ],
    alerts=firing('alertname=~"FabricTransit.+"'),
    runbook="FabricTransitPathDegraded.md",
)
