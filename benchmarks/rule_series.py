"""The /metrics pages of a fabric: every series that the path metrics have, and of the rest those that rules name.

Values advance with time. Rows whose values are alike at any time share their text, so a page is joined rather than
formatted: a million series take a tenth of a second.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from benchmarks.rule_fabric import PROMISED, ProbedPath, RuleFabric
from exporter.contracts.catalogue import CATALOGUE, JOB_LINK_PATHS, JOB_RNIC_PATHS, PATH_LINK_SHARE
from exporter.contracts.metric import Metric
from exporter.exposition import header, label_text, number
from exporter.joins import ROUTE_JOINT

Row = Mapping[str, str]
Pace = Callable[[float, float], float]
"""The value of a series: of the Unix time, and of the seconds since the feed began."""

# Values of labels that no component of the fabric has itself.
DIMENSIONS: dict[str, tuple[str, ...]] = {
    "priority": tuple(map(str, range(8))),
    "queue": tuple(map(str, range(8))),
    "dscp": ("0", "26", "48"),
    "vlan": ("100", "200"),
    "lane": ("1", "2", "3", "4"),
    "peer": tuple(f"10.255.0.{number}" for number in range(8)),
    "cpu": ("0",),
    "class": ("bgp", "arp", "default"),
    "signal": ("ports", "mac_errors", "pfc", "pfc_watchdog", "ecn", "queues", "buffers", "bgp", "cpu", "optics"),
    "state": ("supported", "disabled", "absent", "stale"),
    "table": ("port", "priority", "queue"),
    "operation": ("write_small", "write", "read"),
    "reason": ("retry_exceeded", "no_responder", "rnr_retry_exceeded", "remote_access", "flushed", "other"),
    "rcode": ("noerror", "nxdomain", "servfail", "refused", "other"),
    "process": ("prober", "switches"),
    "timestamps": ("hardware",),
    "kind": ("missing", "other-next"),
}
LOSSLESS = ("3", "4")
BYTES_PER_SECOND, PACKETS_PER_SECOND = 1.25e9, 3e5
_FEW = 500
"""Of so many paths one has changed its route."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Samples that have the same value at any time: each ``name{labels} ``."""

    prefixes: tuple[str, ...]
    pace: Pace

    def text(self, now: float, elapsed: float) -> str:
        value = f"{number(self.pace(now, elapsed))}\n"
        return value.join((*self.prefixes, ""))


@dataclass(frozen=True, slots=True)
class PageOf:
    """Of one target."""

    families: tuple[tuple[str, tuple[Lines, ...]], ...]
    """(HELP and TYPE, samples) of each."""

    def render(self, now: float, elapsed: float) -> bytes:
        pieces = []
        for head, all_lines in self.families:
            pieces.append(head)
            pieces += [lines.text(now, elapsed) for lines in all_lines]
        return "".join(pieces).encode()

    @property
    def series(self) -> int:
        return sum(len(lines.prefixes) for _, all_lines in self.families for lines in all_lines)


def names_in(rules: Iterable[str]) -> set[str]:
    """Metrics of the catalogue that texts name."""
    words = {word for text in rules for word in re.findall(r"\bfabric_\w+", text)}
    parts = ("", "_bucket", "_sum", "_count")
    return {metric.name for metric in CATALOGUE if any(metric.name + part in words for part in parts)}


def pages(of: RuleFabric, named: Collection[str], targets: int) -> tuple[list[PageOf], list[str]]:
    """(a page for each target, names that the fabric has no series of)."""
    components = _Components(of)
    made: list[list[tuple[str, tuple[Lines, ...]]]] = [[] for _ in range(targets)]
    missing = []
    for metric in CATALOGUE:
        of_paths = "path" in metric.labels and not metric.series.startswith("tcp ")
        if not of_paths and metric.name not in named:
            continue
        rows = components.rows(metric)
        if rows is None:
            missing.append(metric.name)
            continue
        for number_of, families in enumerate(made):
            # What an exporter says of itself it says on every page; all else stands on one of them.
            begin, end = (number_of * len(rows) // targets, (number_of + 1) * len(rows) // targets)
            own = rows[begin:end] if metric.labels and metric.labels != ("process",) else rows
            if own:
                families.append((header(metric), tuple(_lines(metric, own))))
    return [PageOf(tuple(families)) for families in made], missing


def _lines(metric: Metric, rows: Sequence[tuple[Row, Pace]]) -> Iterator[Lines]:
    alike: dict[Pace, list[str]] = {}
    for row, pace in rows:
        names = (*metric.labels, "instance") if "instance" in row else metric.labels
        labels = label_text(names, [row.get(label, "") for label in names])
        if metric.kind != "histogram":
            alike.setdefault(pace, []).append(f"{metric.name}{{{labels}}} " if labels else f"{metric.name} ")
            continue
        middle = len(metric.buckets) // 3
        for place, bound in enumerate([*map(repr, metric.buckets), "+Inf"]):
            joint = "," if labels else ""
            alike.setdefault(pace if place >= middle else still(0), []).append(
                f'{metric.name}_bucket{{{labels}{joint}le="{bound}"}} '
            )
        alike.setdefault(pace, []).append(f"{metric.name}_count{{{labels}}} ")
        alike.setdefault(scaled(pace, metric.buckets[middle]), []).append(f"{metric.name}_sum{{{labels}}} ")
    return (Lines(tuple(prefixes), pace) for pace, prefixes in alike.items())


# ---- values; each function gives the same object for the same values, by which rows are found alike

_PACES: dict[object, Pace] = {}


def _kept(key: object, pace: Pace) -> Pace:
    return _PACES.setdefault(key, pace)


def still(value: float) -> Pace:
    return _kept(("still", value), lambda _now, _elapsed: value)


def growing(per_second: float) -> Pace:
    return _kept(("growing", per_second), lambda _now, elapsed: float(int(elapsed * per_second)))


def scaled(pace: Pace, factor: float) -> Pace:
    return _kept(("scaled", pace, factor), lambda now, elapsed: pace(now, elapsed) * factor)


def trembling(value: float, share: float, one_of_16: int) -> Pace:
    """Another value each second, by up to that share above."""
    return _kept(
        ("trembling", value, share, one_of_16),
        lambda now, _elapsed: round(value * (1 + share * ((int(now) * 2654435761 + one_of_16 * 97) % 1000 / 1000)), 9),
    )


def clock(ahead: float) -> Pace:
    return _kept(("clock", ahead), lambda now, _elapsed: round(now + ahead, 3))


_GAUGES: dict[str, Pace] = {
    "fabric_exporter_plan_expires_timestamp_seconds": clock(3600),
    "fabric_path_mtu_promised_bytes": still(PROMISED),
    "fabric_path_route_change_timestamp_seconds": clock(-1800),
    "fabric_switch_port_mtu_bytes": still(9216),
    "fabric_rnic_mtu_bytes": still(9000),
    "fabric_rdma_mtu_bytes": still(4096),
    "fabric_rdma_reliable_path_mtu_bytes": still(4096),
    "fabric_rnic_links_possible": still(64),
    "fabric_rnic_links_covered": still(60),
    "fabric_switch_port_speed_bits_per_second": still(4e11),
    "fabric_switch_bgp_session_state": still(6),
    "fabric_switch_bgp_hold_time_seconds": still(9),
    "fabric_switch_bgp_keepalive_time_seconds": still(3),
    "fabric_switch_poll_duration_seconds": still(0.4),
    "fabric_dns_rtt_seconds": still(0.001),
    "fabric_switch_port_queue_ecn_low_threshold_bytes": still(150_000),
    "fabric_switch_port_queue_ecn_high_threshold_bytes": still(1_500_000),
    "fabric_rnic_hardware_ecn_threshold_bytes": still(0),
}
_TRUE = re.compile(r"_(info|up|enabled|established|connected|reachable|lossless|admin_up)$")
_BUSY = re.compile(r"_(queries|resolutions|operations|answered|reads|polls|traces|pushes|messages)_total$")
_TROUBLE = re.compile(
    r"err|out_of|drop|discard|fail|lost|pause|pfc|cnp|ecn|marked|timeout|retr|nak|reset|late|starved|wait"
)


def common_pace(metric: Metric) -> Pace:
    """Of a healthy component: it works, and nothing goes wrong."""
    name = metric.name
    if metric.kind == "histogram":
        return growing(1.0)
    if metric.kind == "counter":
        if _TROUBLE.search(name):
            return still(0)
        if metric.unit == "By":
            return growing(BYTES_PER_SECOND)
        if metric.unit in ("{packet}", "{frame}") and name.startswith(("fabric_switch", "fabric_rnic")):
            return growing(PACKETS_PER_SECOND)
        return growing(0.5) if _BUSY.search(name) else still(0)
    if name in _GAUGES:
        return _GAUGES[name]
    if _TRUE.search(name):
        return still(1)
    return clock(-1.0) if name.endswith("timestamp_seconds") else still(0)


def path_pace(metric: Metric, path: ProbedPath, index: int) -> Pace:
    match metric.name:
        case "fabric_path_probes_sent_total":
            return growing(1.0)
        case "fabric_path_probes_lost_total":
            return growing(path.loss) if path.loss else still(0)
        case "fabric_path_probes_lost_return_total":
            return growing(path.loss / 10) if path.loss else still(0)
        case "fabric_path_rtt_seconds":
            return trembling(1.5e-5, 0.3, index % 16)
        case "fabric_path_last_reply_timestamp_seconds":
            return clock(-(index % 16) / 16)
        case "fabric_path_mtu_bytes":
            return still(1500 if path.fault == "mtu" else PROMISED)
        case "fabric_path_route_hash":
            return still(float(hash_of(path)))
        case _:
            return common_pace(metric)


def hash_of(path: ProbedPath) -> int:
    return sum(ord(char) * place for place, char in enumerate(path.links[1], 1))


# ---- series


class _Components:
    """The fabric's components as rows of every label that a metric may ask of them."""

    def __init__(self, of: RuleFabric) -> None:
        self.of = of
        ports = [
            {
                "switch": port.switch, "switch_port": port.port, "link": port.link, "linecard": "lc1",
                "breakout_group": "", "lag": "", "address": f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}",
                "neighbor": port.far_node, "neighbor_port": port.far_port,
            }
            for index, port in enumerate(of.ports)
        ]  # fmt: skip
        rnics = [
            {
                "host": host, "rnic": rnic, "rail": rnic[-1], "netdev": f"eth{rnic[-1]}", "switch": port.switch,
                "switch_port": port.port, "link": port.link, "src_host": host, "src_rnic": rnic, "driver": "mlx5_core",
                "firmware": "28.39.1002", "board": "MT_0000000838", "pci": f"0000:{rnic[-1]}7:00.0", "numa": "0",
                "function": "pf", "bond": "", "index": "3", "address": "", "type": "RoCE v2", "vlan": "",
            }
            for (host, rnic), port in of.rnics.items()
        ]  # fmt: skip
        leaves = {host: port.switch for (host, _), port in of.rnics.items()}
        self.kinds: list[list[dict[str, str]]] = [
            [{}],
            [
                {"switch": switch, "profile": "sonic", "vendor": "x", "software": "1", "source": "snmp"}
                for switch in of.switches
            ],
            [
                {"host": host, "switch": leaf, "location": f"rack r{index // 4}", "resolver": "10.96.0.10",
                 "name": "kubernetes.default"}
                for index, (host, leaf) in enumerate(leaves.items())
            ],
            ports,
            rnics,
        ]  # fmt: skip
        self.kinds.append([row | {"role": "dp", "probe": probe} for row in rnics for probe in ("udp", "rdma")])
        pairs = {(path.source, path.destination) for path in of.paths}
        self.kinds.append(
            [
                {"src_host": source[0], "src_rnic": source[1], "dst_host": far[0], "dst_rnic": far[1],
                 "destination": "::ffff:10.0.0.1", "dscp": "26"}
                for source, far in sorted(pairs)
            ]
        )  # fmt: skip

    def rows(self, metric: Metric) -> list[tuple[Row, Pace]] | None:
        """Each series' labels and values; None where the fabric has no component with such labels."""
        if "path" in metric.labels:
            return list(self._of_paths(metric))
        if "training_job" in metric.labels:
            return self._of_jobs(metric)
        if "notification" in metric.labels:
            return []  # no switch has anything to say
        pace = common_pace(metric)
        for kind in self.kinds:
            added = [label for label in metric.labels if label not in kind[0]]
            if all(label in DIMENSIONS for label in added):
                # Of switches only lossless priorities are read, and their queues, as by default.
                few = {"priority": LOSSLESS, "queue": LOSSLESS} if "switch" in metric.labels else {}
                values = [
                    dict(zip(added, each, strict=True))
                    for each in product(*((DIMENSIONS | few)[name] for name in added))
                ]
                return [(row | each, self._pace(metric, row | each, pace)) for row in kind for each in values]
        return None

    def _pace(self, metric: Metric, row: Row, common: Pace) -> Pace:
        if "state" in metric.labels:
            return still(float(row["state"] == "supported"))
        if "priority" in metric.labels and metric.name.endswith(("lossless", "pfc_enabled")):
            return still(float(row["priority"] == "3"))
        if row.get("link") == self.of.broken_link and "errors_total" in metric.name:
            return growing(5.0)
        if row.get("link") == self.of.small_link and metric.name == "fabric_switch_port_mtu_bytes":
            return still(1500 if row["switch"].startswith("leaf") else 9216)
        return common

    def _of_jobs(self, metric: Metric) -> list[tuple[Row, Pace]]:
        """Counts of a job's paths, by the host that they start from: each is an exporter of its own."""
        count = Counter[tuple[str, ...]]()
        for path in self.of.paths:
            who, dscp = (path.source[0], path.job), str(path.dscp)
            if metric is JOB_LINK_PATHS:
                count.update((*who, path.probe, dscp, link) for link in path.links)
            elif metric is JOB_RNIC_PATHS:
                count.update(
                    (*who, *end, dscp) for end in (("source", *path.source), ("destination", *path.destination))
                )
        names = ("instance", *metric.labels)
        return [(dict(zip(names, labels, strict=True)), still(float(paths))) for labels, paths in count.items()]

    def _of_paths(self, metric: Metric) -> Iterator[tuple[Row, Pace]]:
        only, _, _ = metric.series.partition(" paths")
        for index, path in enumerate(self.of.paths):
            if only in ("mtu", "rdma", "tcp") and path.probe != only:
                continue
            pace = path_pace(metric, path, index)
            row = {
                "path": path.path, "src_host": path.source[0], "src_rnic": path.source[1],
                "dst_host": path.destination[0], "dst_rnic": path.destination[1], "probe": path.probe,
                "training_job": path.job, "role": "dp", "dscp": str(path.dscp), "source_port": str(path.source_port),
                "kind": "black_hole", "hop": path.links[1].partition(":")[0], "outcome": "reached",
                "links": ROUTE_JOINT.join(path.links),
                "before": "leaf-0 > spine-1 > leaf-2", "after": "leaf-0 > spine-2 > leaf-2",
            }  # fmt: skip
            if metric is PATH_LINK_SHARE:
                return  # nothing is sprayed
            if "link" in metric.labels:
                yield from ((row | {"link": link}, pace) for link in path.links)
            elif (
                ("kind" in metric.labels and path.fault != "mtu")
                or ("outcome" in metric.labels and not path.loss)
                or ("before" in metric.labels and index % _FEW)
                or metric.name == "fabric_path_mtu_reported_bytes"  # no router here says so
            ):
                continue
            else:
                yield row, pace
