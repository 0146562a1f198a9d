"""What is broken now, whom it hurts, and whether anybody is still looking: the page to open first."""

from __future__ import annotations

from grafana import ports
from grafana.board import Board, Row
from grafana.panels import (
    BAD_ABOVE_ZERO,
    BLUE,
    GREEN,
    LOSS,
    ORANGE,
    RED,
    Column,
    Query,
    counted,
    matrix,
    number,
    ranking,
    rows,
    states,
    to_board,
    trend,
)
from skeleton_service.jobalerts import FIRING, JOBS_HURT, principal

_WARN = ((None, GREEN), (1e-9, ORANGE))
_PATHS = "job_dscp:fabric_job_paths:count"
_LOST = "job_path:fabric_path_forward_loss:ratio_rate"
_SLOW = "job_path:fabric_path_rtt_slow:seconds"
_SUSPICION = 'label_replace(job_link:fabric_link_suspicion:ratio, "suspect", "$1", "link", "(.+)")'
_MARKED = f"sum by (cluster, switch) ({ports.TROUBLE.format('marks')})"


def _leaf(end: str, name: str) -> str:
    """1 for each host, with its first leaf under this name."""
    known = "max by (cluster, host, switch) (fabric_host_info)"
    return f'label_replace(label_replace({known}, "{end}", "$1", "host", "(.+)"), "{name}", "$1", "switch", "(.+)")'


_LEAVES = (
    f"max by (from, to) ({_LOST} * on (cluster, src_host) group_left (from) {_leaf('src_host', 'from')}"
    f" * on (cluster, dst_host) group_left (to) {_leaf('dst_host', 'to')})"
)

_NUMBERS = (
    number(
        "Suspects",
        "Links, boxes and services that alerts point at now. What follows from one of them counts with it.",
        "short",
        Query(counted(f"count by (cluster, suspect) ({FIRING})", "ALERTS")),
        levels=BAD_ABOVE_ZERO,
        nothing="no rules",
    ),
    number(
        "Jobs hurt",
        "Training jobs that an alert names, or whose paths cross what it names.",
        "short",
        Query(counted(JOBS_HURT, _PATHS)),
        levels=BAD_ABOVE_ZERO,
        nothing="no job",
    ),
    number(
        "Paths losing",
        "Probed paths of all jobs that lose at least one probe in 20 on the way there.",
        "short",
        Query(counted(f"{_LOST} > 0.05", _PATHS)),
        levels=BAD_ABOVE_ZERO,
        nothing="no job",
    ),
    number(
        "Paths slow",
        "Probed paths whose median round trip is above what each of them learnt to be usual.",
        "short",
        Query(counted(_SLOW, _PATHS)),
        levels=_WARN,
        nothing="no job",
    ),
    number(
        "Hosts silent",
        "Hosts of the topology of which no exporter tells anything: nothing is known of their paths.",
        "short",
        Query(counted("host:fabric_host_silent:info", "fabric_host_info")),
        levels=_WARN,
        nothing="no topology",
    ),
    number(
        "Switches silent",
        "Switches that do not answer, or that nobody polls any more: their counters are old, and no evidence.",
        "short",
        Query(
            counted(
                "switch:fabric_switch_silent:info or on (cluster, switch)"
                " max by (cluster, switch) (fabric_switch_reachable) == 0",
                "fabric_switch_reachable",
            )
        ),
        levels=_WARN,
        nothing="not polled",
    ),
)

_SUSPECTS = rows(
    "Suspects",
    "One row for each suspect: its gravest alert, and how many stand under it, those of its paths too. "
    "Click its link, switch or host for all that is known of it. Empty: nothing fires.",
    [
        Column("component_kind", "Kind", width=100),
        Column("component", "Component", width=330),
        Column("symptom", "Symptom", width=100),
        Column("alertname", "Gravest alert", width=220),
        Column("severity", "Severity", width=80),
        Column("Value #alerts", "Alerts", "short", decimals=0, width=70),
        Column("Value #suspicion", "Suspicion", "percentunit", levels=LOSS, width=90),
        Column("Value #since", "Since", "dateTimeFromNow", width=140),
        Column("training_job", "Job", link=to_board("fabric-job", training_job="Job"), width=120),
        Column("link", "Link", link=to_board("fabric-link", link="Link")),
        Column("switch", "Switch", link=to_board("fabric-switch", switch="Switch"), width=110),
        Column("host", "Host", link=to_board("fabric-host", host="Host"), width=110),
    ],
    Query(principal(), ref="rank"),
    Query(f"count by (cluster, suspect) ({FIRING})", ref="alerts"),
    Query(f"max by (cluster, suspect) ({_SUSPICION} and on (cluster, suspect) {FIRING})", ref="suspicion"),
    Query(f"min by (cluster, suspect) (1000 * (ALERTS_FOR_STATE and ignoring (alertstate) {FIRING}))", ref="since"),
    sort="Since",
    descending=False,
    height=9,
)

_TIMELINE = Row(
    "What fired",
    [
        states(
            "Suspects over time",
            "When alerts pointed at which suspect; what was silenced as a consequence is among them.",
            Query(f"max by (cluster, suspect) ({FIRING})", "{{suspect}}"),
            {"1": ("suspected", RED)},
            width=12,
        ),
        rows(
            "Jobs",
            "Training jobs with probed paths: how many of these lose or are slow.",
            [
                Column("training_job", "Job", link=to_board("fabric-job", training_job="Job")),
                Column("Value #paths", "Paths", "short", decimals=0),
                Column("Value #losing", "Losing", "short", decimals=0, levels=BAD_ABOVE_ZERO),
                Column("Value #slow", "Slow", "short", decimals=0, levels=_WARN),
                Column("Value #hurt", "Hurt", "short", decimals=0, levels=BAD_ABOVE_ZERO),
            ],
            Query(f"sum by (cluster, training_job) ({_PATHS})", ref="paths"),
            Query(f"count by (cluster, training_job) ({_LOST} > 0.05)", ref="losing"),
            Query(f"count by (cluster, training_job) ({_SLOW})", ref="slow"),
            Query(JOBS_HURT, ref="hurt"),
            width=6,
            sort="Losing",
        ),
        matrix(
            "Leaf to leaf",
            "The worst loss of paths from hosts of one leaf (rows) to hosts of another (columns). Empty: none loses.",
            "percentunit",
            Query(_LEAVES),
            rows="from",
            columns="to",
            levels=LOSS,
            width=6,
        ),
    ],
)

_FLEET = Row(
    "Fleet",
    [
        trend(
            "Round trips",
            "Of probes within the fabric, without responders' delay: what half of them, and 99 in 100, stay under.",
            "s",
            Query('max by (probe) (probe:fabric_rtt_seconds:quantile{quantile="0.5"})', "half, {{probe}}"),
            Query('max by (probe) (probe:fabric_rtt_seconds:quantile{quantile="0.99"})', "99 in 100, {{probe}}"),
            width=8,
        ),
        trend(
            "Probes lost",
            "Share of all probes that had no answer, by type: mtu are full-size packets.",
            "percentunit",
            Query("max by (probe) (probe:fabric_path_probes_lost:ratio_rate)", "{{probe}}"),
            levels=LOSS,
            width=8,
        ),
        ranking(
            "Links that lose",
            "What each suspected link, and those nearly suspected, must lose to explain the paths over it.",
            "percentunit",
            Query("topk(10, max by (cluster, link) (job_link:fabric_link_suspicion:ratio > 0))", "{{link}}"),
            levels=LOSS,
            link=to_board("fabric-link", link="label.link"),
            nothing="no link is suspected",
        ),
    ],
)

_CONGESTION = Row(
    "Congestion",
    [
        trend(
            "Pauses",
            "The ten switches that are paused most on one of their ports: share of the time.",
            "percentunit",
            Query(
                "topk(10, max by (cluster, switch) (switch_priority:fabric_switch_pfc_receive_pause:max))", "{{switch}}"
            ),
            levels=((None, GREEN), (0.1, ORANGE), (0.5, RED)),
            width=6,
        ),
        trend(
            "CNPs",
            "Congestion notification packets of all RNICs: sent by receivers of marked packets, obeyed by senders.",
            "pps",
            Query("sum(rnic:fabric_rnic_hw_np_cnp_sent:rate)", "sent"),
            Query("sum(rnic:fabric_rnic_hw_rp_cnp_handled:rate)", "obeyed"),
            width=6,
        ),
        trend(
            "Marked by switches",
            "Packets marked with congestion experienced (ECN), the ten switches that marked most.",
            "pps",
            Query(f"topk(10, {_MARKED})", "{{switch}}"),
            width=6,
        ),
        trend(
            "Packets missed",
            "Out-of-sequence packets of all RNICs: go-back-N sends what follows again.",
            "pps",
            Query("sum(cluster:fabric_rnic_hw_out_of_sequence:rate)", "missed"),
            width=6,
        ),
    ],
)

_COLLECTORS = Row(
    "Is anybody looking?",
    [
        number(
            "Exporters",
            "Exporters that Prometheus reads.",
            "short",
            Query("count(count by (instance) (rate(fabric_exporter_process_restarts_total[$__rate_interval])))"),
            levels=((None, BLUE),),
            nothing="none",
        ),
        number(
            "Paths probed",
            "Paths that exporters probe now, for all jobs.",
            "short",
            Query("sum(fabric_exporter_paths)"),
            levels=((None, BLUE),),
            nothing="none",
        ),
        trend(
            "Probes late",
            "Slots a second that probers woke up late for, the ten worst: such a host lacks CPU.",
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
    [Row("Suspects now", [*_NUMBERS, _SUSPECTS]), _TIMELINE, _FLEET, _CONGESTION, _COLLECTORS],
    span="now-30m",
)
