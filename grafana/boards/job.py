"""One training job: which of its paths hurt, where they cross, and what its traffic's skeleton looks like."""

from __future__ import annotations

from grafana.board import Board, Row
from grafana.expressions import FIRING, since
from grafana.panels import (
    BAD_ABOVE_ZERO,
    GREEN,
    GREY,
    LOSS,
    ORANGE,
    RED,
    Column,
    Query,
    density,
    graph,
    number,
    ranking,
    rows,
    states,
    to_board,
    trend,
)
from grafana.variables import one

_JOB = '{training_job="$training_job"}'
_SENT = f"job_path:fabric_path_probes_sent:rate{_JOB}"
_LOST = f"job_path:fabric_path_forward_loss:ratio_rate{_JOB}"
_SLOW = f"job_path:fabric_path_rtt_slow:seconds{_JOB}"
_FIRING = FIRING.replace("}", ', training_job="$training_job"}')
_ENDS = "src_host, src_rnic, dst_host, dst_rnic"


def _nodes() -> str:
    """Hosts where paths of the job start or end: of every edge both ends are among them."""
    hosts = f"sum by (host) (job_rnic:fabric_job_paths:count{_JOB})"
    return f'label_replace(label_replace({hosts}, "id", "$1", "host", "(.+)"), "title", "$1", "host", "(.+)")'


def _edges() -> str:
    ends = "src_host, dst_host"
    coloured = f" or on ({ends}) ".join(
        f'label_replace({expression}, "color", "{colour}", "", "")'
        for expression, colour in (
            (f"max by ({ends}) ({_LOST} > 0.05)", RED),
            (f"max by ({ends}) ({_SLOW})", ORANGE),
            (f"count by ({ends}) ({_SENT})", GREEN),
        )
    )
    named = f'label_join(({coloured}), "id", " > ", "src_host", "dst_host")'
    return (
        f'label_replace(label_replace({named}, "source", "$1", "src_host", "(.+)"), "target", "$1", "dst_host", "(.+)")'
    )


BOARD = Board(
    "fabric-job",
    "Job",
    "One training job: which of its paths hurt, where they cross, and what its traffic's skeleton looks like.",
    [
        Row(
            "Is it the network?",
            [
                number(
                    "Alerts",
                    "Alerts that name this job now.",
                    "short",
                    Query(f"count({_FIRING})"),
                    levels=BAD_ABOVE_ZERO,
                ),
                number(
                    "Paths",
                    "Paths of the job that exporters probe.",
                    "short",
                    Query(f"sum(job_dscp:fabric_job_paths:count{_JOB})"),
                    levels=((None, GREY),),
                ),
                number(
                    "Losing",
                    "Paths of the job that lose at least one probe in 20 on the way there.",
                    "short",
                    Query(f"count({_LOST} > 0.05)"),
                    levels=BAD_ABOVE_ZERO,
                ),
                number(
                    "Slow",
                    "Paths of the job whose median round trip is above what they learnt to be usual.",
                    "short",
                    Query(f"count({_SLOW})"),
                    levels=((None, GREEN), (1e-9, ORANGE)),
                ),
                number(
                    "Settings that differ",
                    "Settings that not all RNICs of the job have alike: MTU, PFC, ECN, trust, bonds, firmware.",
                    "short",
                    Query(f"count(count by (setting) (job_rnic:fabric_rnic_setting:drift{_JOB}))"),
                    levels=((None, GREEN), (1e-9, ORANGE)),
                ),
                number(
                    "Hosts starved",
                    "Hosts of the job whose prober is short of CPU: their round trips are left out.",
                    "short",
                    Query(f"count(job_host:fabric_prober_starved:info{_JOB})"),
                    levels=((None, GREEN), (1e-9, ORANGE)),
                ),
                rows(
                    "What points at what",
                    "Alerts of this job, the oldest first.",
                    [
                        Column("component_kind", "Kind", width=100),
                        Column("component", "Component", width=320),
                        Column("alertname", "Alert", width=220),
                        Column("suspect", "Suspect"),
                        Column("Value", "Since", "dateTimeFromNow", width=130),
                    ],
                    Query(
                        "min by (component_kind, component, alertname, suspect) ("
                        + since('training_job="$training_job", component_kind!="path"')
                        + ")"
                    ),
                    sort="Since",
                    descending=False,
                    width=14,
                    nothing="no alert names this job",
                ),
                ranking(
                    "Links that explain it",
                    "What a link must lose to explain its paths, times the share of the job's loss that it explains.",
                    "percentunit",
                    Query(
                        f"topk(10, max by (link) (job_link:fabric_link_suspicion:ratio{_JOB}) > 0)",
                        "{{link}}",
                    ),
                    levels=LOSS,
                    width=10,
                    link=to_board("fabric-link", link="${__field.labels.link}"),
                    nothing="no link is suspected",
                ),
            ],
        ),
        Row(
            "Skeleton",
            [
                graph(
                    "Who talks to whom",
                    "The job's hosts, and the pairs that its traffic takes. Red ones lose, orange ones are slow.",
                    _nodes(),
                    _edges(),
                    width=14,
                ),
                rows(
                    "Worst paths",
                    "Paths that lose most on the way there, with the component that explains them.",
                    [
                        Column("path", "Path", link=to_board("fabric-path", path="@Path"), width=260),
                        Column("probe", "Probe", width=70),
                        Column("component", "Explained by"),
                        Column("Value", "Lost", "percentunit", levels=LOSS, width=90),
                    ],
                    Query(
                        f"topk(50, max by (path, probe, component) ({_LOST} * on (cluster, path) group_left (component)"
                        f" job_path:fabric_path_suspect:info{_JOB} or on (cluster, path) {_LOST}))"
                    ),
                    width=10,
                    height=8,
                    sort="Lost",
                    nothing="no path loses",
                ),
                rows(
                    "Slowest paths",
                    "Paths above what they learnt to be usual.",
                    [
                        Column("path", "Path", link=to_board("fabric-path", path="@Path"), width=260),
                        Column("Value #slow", "Takes", "s", width=90),
                        Column("Value #usual", "At most usual", "s", width=110),
                    ],
                    Query(f"topk(50, max by (path) ({_SLOW}))", ref="slow"),
                    Query(
                        f"max by (path) (fabric_path_rtt_threshold_seconds{_JOB} and on (cluster, path) {_SLOW})",
                        ref="usual",
                    ),
                    width=10,
                    height=8,
                    sort="Takes",
                    nothing="no path is slow",
                ),
            ],
        ),
        Row(
            "Over time",
            [
                density(
                    "Round trips of its hosts",
                    "Round trips of probes that leave RNICs of the job's hosts, by how many took how long.",
                    "s",
                    Query(
                        "sum by (le) (rate(fabric_rtt_seconds_bucket[$__rate_interval]) and on (cluster, src_host)"
                        f' label_replace(job_rnic:fabric_job_paths:count{_JOB}, "src_host", "$1", "host", "(.+)"))',
                        "{{le}}",
                    ),
                ),
                trend(
                    "Paths that hurt",
                    "How many paths of the job lose, and how many are slow.",
                    "short",
                    Query(f"count({_LOST} > 0.05)", "losing"),
                    Query(f"count({_SLOW})", "slow"),
                ),
                trend(
                    "Loss of links",
                    "What each link must lose to explain the job's paths over it: the ten worst.",
                    "percentunit",
                    Query(f"topk(10, max by (link) (job_link:fabric_link_loss:ratio_rate{_JOB}) > 0)", "{{link}}"),
                    levels=LOSS,
                ),
                states(
                    "Alerts over time",
                    "When which alert of this job fired.",
                    Query(f"max by (alertname, component) ({_FIRING})", "{{alertname}} {{component}}"),
                    {"1": ("firing", RED)},
                ),
            ],
        ),
        Row(
            "Settings and rules",
            [
                rows(
                    "Settings that differ",
                    "RNICs that are not set as half of the job's are.",
                    [
                        Column("setting", "Setting", width=120),
                        Column("host", "Host", link=to_board("fabric-host", host="@Host")),
                        Column("rnic", "RNIC"),
                        Column("Value", "Value", "short"),
                    ],
                    Query(f"topk(100, max by (setting, host, rnic) (job_rnic:fabric_rnic_setting:drift{_JOB}))"),
                    width=12,
                    nothing="all are set alike",
                ),
                trend(
                    "Evaluating its rules",
                    "What one evaluation of each of the job's rule groups takes Prometheus. No lines: none are loaded.",
                    "s",
                    Query(
                        "max by (rule_group) (prometheus_rule_group_last_duration_seconds"
                        '{rule_group=~".*;fabric-job-$training_job-.+"})',
                        "{{rule_group}}",
                    ),
                ),
            ],
        ),
    ],
    [one("training_job", "Job (training)", "label_values(fabric_job_path_info, training_job)")],
    alerts=_FIRING,
)
