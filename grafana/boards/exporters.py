"""What measures: whether exporters probe and poll as they should, and how many series that is."""

from __future__ import annotations

from grafana.board import Board, Row
from grafana.budget import budget
from grafana.panels import BAD_ABOVE_ZERO, GREEN, GREY, ORANGE, RED, Query, counted, number, trend
from grafana.variables import several
from skeleton_service.jobalerts import firing

_OF = '{switch=~"$switch"}'
_RATE = "[$__rate_interval]"


def _worst(expression: str) -> str:
    return f"topk(12, {expression})"


BOARD = Board(
    "fabric-exporters",
    "Exporters",
    "What measures: whether exporters probe and poll as they should, and how many series that is.",
    [
        Row(
            "Probing",
            [
                number(
                    "Paths probed",
                    "By all exporters.",
                    "short",
                    Query("sum(fabric_exporter_paths)"),
                    levels=((None, GREY),),
                    nothing="none",
                ),
                number(
                    "Plans refused",
                    "Exporters that keep the plan before, since the new one is wrong.",
                    "short",
                    Query("sum(fabric_exporter_plan_refused)"),
                    levels=BAD_ABOVE_ZERO,
                ),
                number(
                    "Plans lapsed",
                    "Exporters that probe nothing any more, since their plan has expired.",
                    "short",
                    Query(
                        counted(
                            "fabric_exporter_plan_expires_timestamp_seconds < time()",
                            "fabric_exporter_plan_expires_timestamp_seconds",
                        )
                    ),
                    levels=BAD_ABOVE_ZERO,
                ),
                number(
                    "Paths left out",
                    "Planned, and too many for their exporter.",
                    "short",
                    Query("sum(fabric_exporter_plan_paths_over_limit)"),
                    levels=BAD_ABOVE_ZERO,
                ),
                number(
                    "Waiting",
                    "Targets whose destination has not answered yet.",
                    "short",
                    Query("sum(fabric_exporter_waiting_targets)"),
                    levels=((None, GREEN), (1e-9, ORANGE)),
                ),
                number(
                    "Processes started again",
                    "Within the time shown.",
                    "short",
                    Query("sum(increase(fabric_exporter_process_restarts_total[$__range]))"),
                    levels=((None, GREEN), (0.5, ORANGE)),
                    decimals=0,
                ),
                trend(
                    "Probes sent",
                    "By all exporters, by type.",
                    "cps",
                    Query(
                        "sum by (probe) (instance_probe:fabric_path_probes_sent:rate"
                        '{job=~"$job", instance=~"$instance"})',
                        "{{probe}}",
                    ),
                    width=8,
                ),
                trend(
                    "Late slots",
                    "Slots a second that began over 5 ms late, of the twelve worst: these hosts lack CPU.",
                    "cps",
                    Query(_worst(f"rate(fabric_exporter_prober_late_slots_total{_RATE}) > 0"), "{{instance}}"),
                    levels=((None, GREEN), (10, RED)),
                    width=8,
                ),
                trend(
                    "Traces",
                    "Begun a second, and those that did not reach their end.",
                    "cps",
                    Query(f"sum(rate(fabric_exporter_traces_total{_RATE}))", "begun"),
                    Query(f"sum(rate(fabric_exporter_traces_incomplete_total{_RATE}))", "incomplete"),
                    width=8,
                ),
            ],
        ),
        Row(
            "Polling switches",
            [
                trend(
                    "A poll takes",
                    "All tables of a switch, the twelve slowest.",
                    "s",
                    Query(
                        _worst('max by (cluster, switch) (fabric_switch_poll_duration_seconds{switch=~"$switch"})'),
                        "{{switch}}",
                    ),
                    width=8,
                ),
                trend(
                    "A table takes",
                    "The twelve slowest: where a switch is slow.",
                    "s",
                    Query(
                        _worst(
                            'max by (cluster, switch, table) (fabric_switch_table_duration_seconds{switch=~"$switch"})'
                        ),
                        "{{switch}} {{table}}",
                    ),
                    width=8,
                ),
                trend(
                    "Late and failed polls",
                    "Of all switches.",
                    "cps",
                    Query(f"sum(rate(fabric_switch_poll_late_total{_OF}{_RATE}))", "late"),
                    Query(f"sum(rate(fabric_switch_poll_failures_total{_OF}{_RATE}))", "failed"),
                    width=8,
                ),
            ],
        ),
        Row(
            "Series",
            [
                trend(
                    "Series of exporters",
                    "Samples of one scrape, the twelve largest: docs/metrics.md says what is to be expected.",
                    "short",
                    Query(
                        "topk(12, max by (job, instance) (scrape_samples_post_metric_relabeling"
                        " and on (job, instance) rate(fabric_exporter_process_restarts_total[$__rate_interval])))",
                        "{{instance}}",
                    ),
                    width=8,
                ),
                trend(
                    "Of the budget",
                    "Samples of one scrape, of the most that the formulas of docs/metrics.md give for what the exporter"
                    " probes, reads and polls. The twelve largest; over 100 % something has labels that it should not.",
                    "percentunit",
                    Query(
                        "topk(12, max by (job, instance) (scrape_samples_post_metric_relabeling)"
                        f" / on (job, instance) {budget()})",
                        "{{instance}}",
                    ),
                    levels=((None, GREEN), (1, RED)),
                    width=8,
                ),
                trend(
                    "A scrape takes",
                    "The twelve slowest.",
                    "s",
                    Query(
                        "topk(12, max by (job, instance) (scrape_duration_seconds"
                        " and on (job, instance) rate(fabric_exporter_process_restarts_total[$__rate_interval])))",
                        "{{instance}}",
                    ),
                    width=8,
                ),
                trend(
                    "Rules take",
                    "One evaluation of each rule group of ours, the twelve dearest.",
                    "s",
                    Query(
                        "topk(12, max by (rule_group)"
                        ' (prometheus_rule_group_last_duration_seconds{rule_group=~".*;fabric-.+"}))',
                        "{{rule_group}}",
                    ),
                    width=12,
                ),
                trend(
                    "Pushes (OTLP)",
                    "Failed pushes and refused points a second.",
                    "cps",
                    Query(f"sum(rate(fabric_exporter_otlp_push_failures_total{_RATE}))", "failed pushes"),
                    Query(f"sum(rate(fabric_exporter_otlp_points_rejected_total{_RATE}))", "refused points"),
                    width=12,
                ),
            ],
        ),
    ],
    [several("switch", "Switch", 'label_values(fabric_switch_reachable{cluster=~"$cluster"}, switch)')],
    alerts=firing('component_kind="agent"'),
    of_exporters=True,
    runbook="FabricProbingAbsent.md",
)
