"""What is broken now, whom it hurts, and whether anybody is still looking: the page to open first."""

from __future__ import annotations

from grafana.board import Board, Row
from grafana.expressions import FIRING, since
from grafana.panels import (
    BAD_ABOVE_ZERO,
    BLUE,
    GREEN,
    GREY,
    LOSS,
    ORANGE,
    RED,
    Column,
    Query,
    number,
    ranking,
    rows,
    states,
    to_board,
    trend,
)

_SUSPECTS = "cluster, suspect"
_OF_JOBS = FIRING.replace("}", ', training_job!=""}')
_ROUND_TRIPS = 'rate(fabric_rtt_seconds_bucket{role!~"storage|external"}[$__rate_interval])'
_MARKED = "rate(fabric_switch_port_queue_ecn_marked_packets_total[$__rate_interval])"


def _suspects() -> Row:
    return Row(
        "Suspects now",
        [
            number(
                "Suspects",
                "Links, boxes and services that alerts point at now. What follows from one of them counts with it.",
                "short",
                Query(f"count(count by ({_SUSPECTS}) ({FIRING}))"),
                levels=BAD_ABOVE_ZERO,
            ),
            number(
                "Jobs hurt",
                "Training jobs that an alert names.",
                "short",
                Query(f"count(count by (cluster, training_job) ({_OF_JOBS}))"),
                levels=BAD_ABOVE_ZERO,
            ),
            number(
                "Paths losing",
                "Probed paths of all jobs that lose at least one probe in 20 on the way there.",
                "short",
                Query("count(job_path:fabric_path_forward_loss:ratio_rate > 0.05)"),
                levels=BAD_ABOVE_ZERO,
            ),
            number(
                "Paths slow",
                "Probed paths whose median round trip is above what each of them learnt to be usual.",
                "short",
                Query("count(job_path:fabric_path_rtt_slow:seconds)"),
                levels=((None, GREEN), (1e-9, ORANGE)),
            ),
            number(
                "Hosts silent",
                "Hosts of the topology of which no exporter tells anything: nothing is known of their paths.",
                "short",
                Query("sum(host:fabric_host_silent:info)"),
                levels=((None, GREEN), (1e-9, ORANGE)),
            ),
            number(
                "Switches silent",
                "Switches of the topology that do not answer the poller: their counters are old, and no evidence.",
                "short",
                Query("count(switch:fabric_switch_silent:info)"),
                levels=((None, GREEN), (1e-9, ORANGE)),
            ),
            rows(
                "Suspects",
                "One row for each component that alerts point at, the longest-suffering first. Alerts counts all that "
                "stand under it, of its paths too. Click the component for all that is known of it.",
                [
                    Column("component_kind", "Kind", width=110),
                    Column("component", "Component", width=340),
                    Column("symptom", "Symptom", width=110),
                    Column("alertname", "Alert", width=240),
                    Column("training_job", "Job", width=160, link=to_board("fabric-job", training_job="@Job")),
                    Column("severity", "Severity", width=90),
                    Column("Value", "Since", "dateTimeFromNow", width=140),
                ],
                Query(
                    "min by (cluster, component_kind, component, symptom, alertname, training_job, severity) ("
                    + since('component_kind!="path"')
                    + ")"
                ),
                sort="Since",
                descending=False,
                height=9,
                nothing="no alert fires",
            ),
        ],
    )


def _timeline() -> Row:
    return Row(
        "What fired",
        [
            states(
                "Suspects over time",
                "When alerts pointed at which component. Many paths of a component are one bar.",
                Query(f"max by ({_SUSPECTS}) ({FIRING})", "{{suspect}}"),
                {"1": ("suspected", RED)},
                width=14,
            ),
            rows(
                "Jobs",
                "Training jobs with probed paths: how many paths lose or are slow, and how many alerts name the job.",
                [
                    Column("training_job", "Job", link=to_board("fabric-job", training_job="@Job")),
                    Column("Value #paths", "Paths", "short", decimals=0),
                    Column("Value #losing", "Losing", "short", decimals=0, levels=BAD_ABOVE_ZERO),
                    Column("Value #slow", "Slow", "short", decimals=0, levels=((None, GREEN), (1e-9, ORANGE))),
                    Column("Value #alerts", "Alerts", "short", decimals=0, levels=BAD_ABOVE_ZERO),
                ],
                Query(
                    "sum by (training_job) (job_dscp:fabric_job_paths:count)",
                    ref="paths",
                ),
                Query(
                    "count by (training_job) (job_path:fabric_path_forward_loss:ratio_rate > 0.05)",
                    ref="losing",
                ),
                Query(
                    "count by (training_job) (job_path:fabric_path_rtt_slow:seconds)",
                    ref="slow",
                ),
                Query(f"count by (training_job) ({_OF_JOBS})", ref="alerts"),
                width=10,
                sort="Alerts",
                nothing="no job is probed",
            ),
        ],
    )


def _fleet() -> Row:
    quantiles = ((0.5, "half"), (0.99, "99 in 100"))
    return Row(
        "Fleet",
        [
            trend(
                "Round trips",
                "Of probes within the fabric, without responders' delay: what half of them, and 99 in 100, stay under.",
                "s",
                *(
                    Query(
                        f"histogram_quantile({quantile}, sum by (le, probe) ({_ROUND_TRIPS}))",
                        f"{told}, {{{{probe}}}}",
                    )
                    for quantile, told in quantiles
                ),
                width=8,
            ),
            trend(
                "Probes lost",
                "Share of all probes that had no answer, by type: mtu are full-size packets.",
                "percentunit",
                Query(
                    "sum by (probe) (rate(fabric_path_probes_lost_total[$__rate_interval]))"
                    " / sum by (probe) (rate(fabric_path_probes_sent_total[$__rate_interval]) > 0)",
                    "{{probe}}",
                ),
                levels=LOSS,
                width=8,
            ),
            ranking(
                "Links that lose",
                "What each suspected link, and those nearly suspected, must lose to explain the paths over it.",
                "percentunit",
                Query(
                    "topk(10, max by (cluster, link) (job_link:fabric_link_suspicion:ratio) > 0)",
                    "{{link}}",
                ),
                levels=LOSS,
                link=to_board("fabric-link", link="${__field.labels.link}"),
                nothing="no link is suspected",
            ),
        ],
    )


def _congestion() -> Row:
    return Row(
        "Congestion",
        [
            trend(
                "Pauses",
                "The ten switches that are paused most on one of their ports: share of the time.",
                "percentunit",
                Query(
                    "topk(10, max by (cluster, switch) (switch_priority:fabric_switch_pfc_receive_pause:max))",
                    "{{switch}}",
                ),
                levels=((None, GREEN), (0.1, ORANGE), (0.5, RED)),
                width=8,
            ),
            trend(
                "CNPs sent",
                "Congestion notification packets of the ten RNICs that sent most: they tell senders to slow down.",
                "pps",
                Query(
                    "topk(10, max by (cluster, host, rnic) (rnic:fabric_rnic_hw_np_cnp_sent:rate))",
                    "{{host}}:{{rnic}}",
                ),
                width=8,
            ),
            trend(
                "Marked by switches",
                "Packets that switches marked with congestion experienced (ECN), the ten that marked most.",
                "pps",
                Query(
                    f"topk(10, sum by (cluster, switch) ({_MARKED}))",
                    "{{switch}}",
                ),
                width=8,
            ),
        ],
    )


def _collectors() -> Row:
    return Row(
        "Is anybody looking?",
        [
            number(
                "Exporters",
                "Exporters that Prometheus reads.",
                "short",
                Query("count(count by (instance) (rate(fabric_exporter_process_restarts_total[$__rate_interval])))"),
                levels=((None, BLUE),),
                width=4,
                nothing="none",
            ),
            number(
                "Paths probed",
                "Paths that exporters probe now, for all jobs.",
                "short",
                Query("sum(fabric_exporter_paths)"),
                levels=((None, GREY),),
                width=4,
                nothing="none",
            ),
            trend(
                "Probes late",
                "Slots a second that a prober woke up late for, of exporters with any: such round trips measure a "
                "lack of CPU, and are in no metric.",
                "cps",
                Query("topk(10, rate(fabric_exporter_prober_late_slots_total[$__rate_interval]) > 0)", "{{instance}}"),
                width=8,
                height=6,
            ),
            trend(
                "Switches answering",
                "Share of the polled switches that answer.",
                "percentunit",
                Query("avg(max by (cluster, switch) (fabric_switch_reachable))", "answering"),
                width=8,
                height=6,
            ),
        ],
    )


BOARD = Board(
    "fabric-overview",
    "Overview",
    "What is broken now, whom it hurts, and whether anybody is still looking.",
    [_suspects(), _timeline(), _fleet(), _congestion(), _collectors()],
    span="now-30m",
)
