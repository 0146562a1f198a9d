"""One training job: which of its paths hurt, where they cross, and what its traffic's skeleton looks like."""

from __future__ import annotations

from collections.abc import Callable

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
    counted,
    density,
    graph,
    number,
    ranking,
    rows,
    states,
    to_board,
    trend,
)
from grafana.variables import one, several
from skeleton_service.jobalerts import of_job

_JOB = '{training_job="$training_job"}'
_PATHS = f"job_dscp:fabric_job_paths:count{_JOB}"
_PROBED = f"fabric_job_path_info{_JOB}"
_LOST = f"job_path:fabric_path_forward_loss:ratio_rate{_JOB}"
_SLOW = f"job_path:fabric_path_rtt_slow:seconds{_JOB}"
_THRESHOLDS = f"fabric_path_rtt_threshold_seconds{_JOB}"
_ALERTS = of_job("$training_job")
_WARN = ((None, GREEN), (1e-9, ORANGE))
_MOST_EDGES = 500


def _edges(source: str, destination: str, ends: Callable[[str], str], matchers: str = "") -> str:
    """Pairs with a colour each, those that hurt first; ``ends`` gives a path's series these labels."""
    by = f"cluster, {source}, {destination}"

    def of(expression: str) -> str:
        return ends(expression.replace(_JOB, f"{_JOB[:-1]}{matchers}}}"))

    coloured = f" or on ({by}) ".join(
        f'label_replace({weight} * group by ({by}) ({expression}), "color", "{colour}", "", "")'
        for weight, expression, colour in (
            (3, of(f"{_LOST} > 0.05"), RED),
            (2, of(_SLOW), ORANGE),
            (1, of(_PROBED), GREEN),
        )
    )
    limited = f"topk({_MOST_EDGES}, {coloured})"
    named = f'label_join({limited}, "id", " > ", "{source}", "{destination}")'
    began = f'label_replace({named}, "source", "$1", "{source}", "(.+)")'
    return f'label_replace({began}, "target", "$1", "{destination}", "(.+)")'


def _rnics(expression: str) -> str:
    """With labels ``src`` and ``dst``: host:rnic."""
    joined = f'label_join({expression}, "src", ":", "src_host", "src_rnic")'
    return f'label_join({joined}, "dst", ":", "dst_host", "dst_rnic")'


def _nodes(ends: str) -> str:
    """Of series with a label ``id``. Each edge needs both of its ends: one that is no node is an error to Grafana."""
    return f'label_replace({ends}, "title", "$1", "id", "(.+)")'


_HOSTS = _edges("src_host", "dst_host", str)
_HOST_NODES = _nodes(f'label_replace(group by (host) (fabric_job_rnic_paths{_JOB}), "id", "$1", "host", "(.+)")')
"""As exporters count the ends of the job's paths: to read all paths twice more, for either end, takes much longer."""
_RNICS = _edges("src", "dst", _rnics, ', src_host=~"$host"')
_RNIC_NODES = _nodes(
    "("
    + " or ".join(
        f'group by (id) (label_replace({_RNICS}, "id", "$1", "{end}", "(.+)"))' for end in ("source", "target")
    )
    + ")"
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
                    "Suspects",
                    "What alerts point at now that the job's paths cross, or that name the job.",
                    "short",
                    Query(counted(f"count by (cluster, suspect) ({_ALERTS})", _PATHS)),
                    levels=BAD_ABOVE_ZERO,
                    nothing="not probed",
                    width=3,
                ),
                number(
                    "Paths",
                    "Paths of the job that exporters probe.",
                    "short",
                    Query(f"sum({_PATHS})"),
                    levels=((None, GREY),),
                    nothing="none",
                    width=3,
                ),
                number(
                    "Losing",
                    "Paths of the job that lose at least one probe in 20 on the way there.",
                    "short",
                    Query(counted(f"{_LOST} > 0.05", _PATHS)),
                    levels=BAD_ABOVE_ZERO,
                    nothing="not probed",
                    width=3,
                ),
                number(
                    "Slow",
                    "Paths of the job whose median round trip is above what they learnt to be usual.",
                    "short",
                    Query(counted(_SLOW, _THRESHOLDS)),
                    levels=_WARN,
                    nothing="still learning",
                    width=3,
                ),
                number(
                    "Settings differ",
                    "Settings that not all RNICs of the job have alike: MTU, PFC, ECN, trust, bonds, firmware.",
                    "short",
                    Query(
                        counted(
                            f"count by (cluster, setting) (job_rnic:fabric_rnic_setting:drift{_JOB})",
                            # One setting stands for all twenty: each RNIC has an MTU.
                            f'job_rnic:fabric_rnic_setting:value{_JOB[:-1]}, setting="mtu"}}',
                        )
                    ),
                    levels=_WARN,
                    width=3,
                ),
                number(
                    "Iteration",
                    "The job's period, as its traffic shows it. From the skeleton that its rules were made of.",
                    "s",
                    Query(f"max(job:fabric_skeleton_period:seconds{_JOB})"),
                    levels=((None, GREY),),
                    nothing="no skeleton",
                    width=3,
                ),
                number(
                    "Confidence",
                    "In the skeleton that its rules were made of; under a half, the basic list is probed.",
                    "percentunit",
                    Query(f"max(job:fabric_skeleton_confidence:ratio{_JOB})"),
                    levels=((None, ORANGE), (0.5, GREEN)),
                    nothing="no skeleton",
                    width=3,
                ),
                number(
                    "Hosts starved",
                    "Hosts of the job whose prober is short of CPU: their round trips are left out.",
                    "short",
                    Query(counted(f"job_host:fabric_prober_starved:info{_JOB}", _PATHS)),
                    levels=_WARN,
                    nothing="not probed",
                    width=3,
                ),
                rows(
                    "What points at what",
                    "Alerts that name this job, or something that its paths cross; the oldest first. Empty: none.",
                    [
                        Column("component", "Component", width=300),
                        Column("alertname", "Alert", width=210),
                        Column("severity", "Severity", width=80),
                        Column("suspect", "Suspect"),
                        Column("Value", "Since", "dateTimeFromNow", width=140),
                    ],
                    Query(f"topk(50, min by (cluster, component, alertname, severity, suspect) ({since(_ALERTS)}))"),
                    sort="Since",
                    descending=False,
                    width=14,
                ),
                ranking(
                    "Links that explain it",
                    "What a link must lose to explain its paths, times the share of the job's loss that it explains.",
                    "percentunit",
                    Query(f"topk(10, max by (link) (job_link:fabric_link_suspicion:ratio{_JOB} > 0))", "{{link}}"),
                    levels=LOSS,
                    width=10,
                    link=to_board("fabric-link", link="label.link"),
                    nothing="no link is suspected",
                ),
            ],
        ),
        Row(
            "Skeleton",
            [
                rows(
                    "Stages and groups",
                    "Pipeline stages, and in each the groups of RNICs that talk to one another: data-parallel (dp), "
                    "one a rail as a rule; or whole rails (basic) where no structure was found.",
                    [
                        Column("stage", "Stage", width=70),
                        Column("role", "Role", width=90),
                        Column("groups", "Groups", width=80),
                        Column("Value", "RNICs", "short", decimals=0, width=80),
                        Column("containers", "Containers"),
                    ],
                    Query(
                        "max by (cluster, stage, role, groups, containers)"
                        f" (job_stage:fabric_skeleton_rnics:count{_JOB})"
                    ),
                    sort="Stage",
                    descending=False,
                    width=24,
                    height=6,
                ),
                graph(
                    "Who talks to whom",
                    "The job's hosts, and the pairs that its traffic takes. Red ones lose, orange ones are slow.",
                    _HOST_NODES,
                    _HOSTS,
                    width=14,
                ),
                rows(
                    "Worst paths",
                    "Paths that lose most on the way there, with the component that explains them. Empty: none loses.",
                    [
                        Column("path", "Path", link=to_board("fabric-path", path="Path"), width=260),
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
                ),
                rows(
                    "Slowest paths",
                    "Paths above what they learnt to be usual, those most above first. Empty: none is slow.",
                    [
                        Column("path", "Path", link=to_board("fabric-path", path="Path"), width=260),
                        Column("Value #slow", "Takes", "s", width=90),
                        Column("Value #usual", "At most usual", "s", width=110),
                    ],
                    Query(f"topk(50, max by (path) ({_SLOW}))", ref="slow"),
                    Query(
                        f"max by (path) ({_THRESHOLDS}) and on (path) topk(50, max by (path) ({_SLOW}))", ref="usual"
                    ),
                    width=10,
                    height=8,
                    sort="Takes",
                ),
            ],
        ),
        Row(
            "Skeleton by RNIC",
            [
                graph(
                    "RNICs of the chosen hosts",
                    "Pairs of RNICs whose source is on one of the hosts that are chosen on top.",
                    _RNIC_NODES,
                    _RNICS,
                )
            ],
            collapsed=True,
        ),
        Row(
            "Over time",
            [
                density(
                    "Round trips of its hosts",
                    "Probes within the fabric that leave RNICs of the job's hosts, by how many took how long.",
                    "s",
                    Query(
                        f"sum by (le) (job:fabric_rtt_seconds_bucket:rate{_JOB})",
                        "{{le}}",
                    ),
                ),
                trend(
                    "Paths that hurt",
                    "How many paths of the job lose, and how many are slow.",
                    "short",
                    Query(counted(f"{_LOST} > 0.05", _PATHS), "losing"),
                    Query(counted(_SLOW, _PATHS), "slow"),
                ),
                trend(
                    "Loss of links",
                    "What a link must lose to explain the job's paths over it: the ten worst.",
                    "percentunit",
                    Query(f"topk(10, max by (link) (job_link:fabric_link_loss:ratio_rate{_JOB} > 0))", "{{link}}"),
                    levels=LOSS,
                ),
                states(
                    "Alerts over time",
                    "When which alert fired that names the job, or something that its paths cross.",
                    Query(f"max by (alertname, suspect) ({_ALERTS})", "{{alertname}} {{suspect}}"),
                    {"1": ("firing", RED)},
                ),
            ],
        ),
        Row(
            "Settings and rules",
            [
                rows(
                    "Settings that differ",
                    "RNICs that are not set as half of the job's are. Empty: all are set alike.",
                    [
                        Column("setting", "Setting", width=120),
                        Column("host", "Host", link=to_board("fabric-host", host="Host")),
                        Column("rnic", "RNIC"),
                        Column("Value", "Is set to", "none"),
                    ],
                    Query(f"topk(100, max by (setting, host, rnic) (job_rnic:fabric_rnic_setting:drift{_JOB}))"),
                    width=12,
                ),
                trend(
                    "Evaluating its rules",
                    "What evaluating each of the job's rule groups once takes. No lines: this Prometheus has none.",
                    "s",
                    Query(
                        "max by (rule_group) (prometheus_rule_group_last_duration_seconds"
                        '{rule_group=~".*fabric-job-$training_job-(paths|votes|thresholds|alerts|literal)"})',
                        "{{rule_group}}",
                    ),
                ),
            ],
        ),
    ],
    [
        one("training_job", "Job (training)", 'label_values(fabric_job_path_info{cluster=~"$cluster"}, training_job)'),
        several("host", "Host", 'label_values(job_rnic:fabric_job_paths:count{training_job="$training_job"}, host)'),
    ],
    alerts=_ALERTS,
)
