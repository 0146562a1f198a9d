"""Every metric the project emits, declared once: name, kind, unit, labels, help, number of series.

The instruments, the reference page (docs/metrics.md) and the checks of rules and dashboards are made
from this module. A metric has its OpenTelemetry name and unit; its Prometheus name follows from them
by the mapping that Prometheus' own OTLP receiver applies (dots to underscores, unit as suffix,
``_total`` on counters), so that /metrics and OTLP agree.
"""

from __future__ import annotations

from exporter.contracts.metric import Kind, Metric, Table
from exporter.contracts.metric import table as _table
from exporter.contracts.overlay_counters import OVERLAY, OVERLAY_DUMPS, OVERLAY_INCONSISTENT
from exporter.contracts.rnic_counters import (
    DSCP_PRIORITY,
    RNIC_COVERAGE,
    RNIC_DEVICE_INFO,
    RNIC_GID_INFO,
    RNIC_HARDWARE,
    RNIC_LABELS,
    RNIC_PRIORITY,
    RNIC_READING,
    RNIC_VLAN_INFO,
)
from exporter.contracts.service_metrics import SERVICE
from exporter.contracts.switch_counters import SWITCH_TABLES

PATH_LABELS = ("path", "src_host", "src_rnic", "dst_host", "dst_rnic", "probe")
RTT_LABELS = ("src_host", "src_rnic", "role", "probe")
DNS_LABELS = ("host", "resolver", "name")
DNS_RCODES = ("noerror", "nxdomain", "servfail", "refused", "other")
RELIABLE_LABELS = ("src_host", "src_rnic", "dst_host", "dst_rnic", "destination", "dscp")
RELIABLE_OPERATIONS = ("write_small", "write", "read")
"""In the order in which a round of them takes place."""
RELIABLE_REASONS = ("retry_exceeded", "no_responder", "rnr_retry_exceeded", "remote_access", "flushed", "other")
MOST_CONNECTIONS = 256
"""Reliable connections from an RNIC, and as many to it."""
MOST_ROUTE_CHANGES = 4096
"""Paths whose last change of route an exporter tells."""

SERIES_TERMS = {
    "paths": "planned paths that start on the host: pairs x source ports x probe types, at most `probing.max_paths`",
    "traced paths": "those of `paths` whose flow has a complete route, or is sprayed; with `underlay` also those of "
    "its containers",
    "changed paths": "those of `paths` whose route has changed within the last hour, of more than "
    f"{MOST_ROUTE_CHANGES:,} those that changed last; with `underlay` also those of its containers",
    "mtu paths": "those of `paths` that are probed at full size",
    "tcp paths": "those of `paths` that are TCP",
    "rdma paths": "those of `paths` that are RDMA",
    "connections": "addresses x traffic classes that the RDMA paths of an RNIC lead to, at most "
    f"{MOST_CONNECTIONS} an RNIC; 0 without `rdma.reliable`",
    "links a path": "links that a path crosses, 4 between leaves of a leaf-spine fabric; sprayed, all it may cross",
    "rnics": "RNICs of the host",
    "priorities": "priorities of an RNIC whose pauses its driver tells: 8, or those with PFC",
    "dscps": "values of DSCP that the RNIC's network device maps to a priority, at most 64",
    "signals": "kinds of counters that an RNIC may tell, 10",
    "gids": "RoCE GIDs of an RNIC, at most 32",
    "vlans": "VLANs of an RNIC's network device x priorities of each, at most 32 x 8",
    "roles": "roles of the planned paths, at most 6 (`dp`, `pp`, `ep`, `basic`, `storage`, `external`)",
    "probe types": "probe types of the planned paths, at most 4 (`rdma`, `udp`, `mtu`, `tcp`)",
    "resolvers": "DNS resolvers that the exporter asks, at most 8",
    "names": "names that it asks them for, at most 16",
    "overlay tables": "the kernel's, and with `overlay.openvswitch` its own: 2",
    "inconsistencies": "kinds of entries that cannot be right, 3",
    "processes": "processes that the exporter starts, at most 8",
    "switches": "switches that the exporter polls, or takes notifications of",
    "switch ports": "ports of these switches",
    "priorities of a switch": "priorities that are read of each port: the lossless ones, or at most 8",
    "queues of a switch": "egress queues that are read of each port: those of the priorities, or at most 16",
    "vlans of a switch": "VLANs of a port that a switch counts by, at most 64",
    "lanes of a port": "lanes of a transceiver, at most 8, and what is told of all of them together",
    "bgp sessions of a switch": "BGP sessions of the switches that the exporter polls",
    "cpus of a switch": "processors of these switches, or what they tell of them all",
    "control plane classes of a switch": "classes of these switches' control plane policers, at most 64 each",
    "tables of a switch": "tables that a switch's profile reads, at most 24",
    "notifications of a switch": "kinds of traps x ports, priorities and peers that they name, at most 4,096 a switch",
    "switch ends of links": "ports of these switches at an end of a link of the topology",
    "attached rnics": "RNICs that the topology has plugged into these switches",
    "attached hosts": "hosts with such an RNIC",
    "listed ports": "ports of these switches that the topology lists",
    "listed addresses": "addresses that the topology has of these switches and their ports",
}
"""What the formulas for numbers of series count. None of them is a container or a job: churn moves none."""

RTT_BUCKETS = (5e-6, 1e-5, 1.5e-5, 2e-5, 3e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 2e-2, 1e-1, 5e-1)
"""Bounds in seconds: dense around RoCE's healthy 10-20 us, where +10 us already costs training speed."""


DNS_BUCKETS = (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1, 1.0, 2.0, 5.0)
"""Bounds in seconds: from an answer out of a cache nearby to the 5 s that a stub resolver waits (resolv.conf(5))."""


def _path(name: str, kind: Kind, unit: str, text: str, series: str = "paths") -> Metric:
    return Metric(f"fabric.path.{name}", kind, unit, PATH_LABELS, text, series)


PROBES_SENT = _path("probes.sent", "counter", "{probe}", "Probes sent on the path.")
PROBES_LOST = _path(
    "probes.lost", "counter", "{probe}", "Probes without a reply within the timeout, whichever way was lost."
)
PROBES_LOST_RETURN = _path(
    "probes.lost_return",
    "counter",
    "{probe}",
    "Lost probes that the responder did count, so that the reply was lost (reflector sequence, RFC 5357).",
)
PROBES_REFUSED = _path(
    "probes.refused", "counter", "{probe}", "Probes refused by the far host (ICMP port unreachable, RST): no responder."
)
PROBES_UNSENT = _path(
    "probes.unsent", "counter", "{probe}", "Probes the prober could not send in time or at all; never booked as loss."
)
RTT_LAST = _path(
    "rtt",
    "gauge",
    "s",
    "Network round trip of the last answered probe that was not starved, responder delay excluded.",
)
LAST_REPLY = _path("last_reply.timestamp", "gauge", "s", "Unix time of the last reply on the path.")
RESPONDER_RESTARTS = _path("responder.restarts", "counter", "{restart}", "Boot epoch changes seen in replies.")
PATH_MTU = _path(
    "mtu.reported", "gauge", "By", "Next-hop MTU that a router reported for this path (frag needed, RFC 1191)."
)
ROUTE_HASH = _path(
    "route.hash",
    "gauge",
    "",
    "Hash of the hops of the last complete trace, 52 bits: the same number is the same route. Frozen while it fails.",
)
PATH_MTU_FOUND = _path(
    "mtu",
    "gauge",
    "By",
    "Largest IP packet shown to pass on the way there: the promise while it does, else what a search found; "
    "absent before, and where small packets fail as well.",
    "mtu paths",
)
PATH_MTU_PROMISED = _path(
    "mtu.promised", "gauge", "By", "IP packet size that the plan says the path passes.", "mtu paths"
)
ROUTE_CHANGES = _path(
    "route.changes", "counter", "{change}", "Changes of the path's route, without those of a sprayed flow."
)


def _tcp_path(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.path.tcp.{name}", kind, unit, PATH_LABELS, text, "tcp paths")


TCP_SYN_RETRANSMITS = _tcp_path(
    "syn.retransmits",
    "counter",
    "{segment}",
    "SYNs sent again, a second after one that was not answered (tcpi_total_retrans); loss is what this did not mend.",
)
TCP_RETRANSMITS = _tcp_path(
    "retransmits", "counter", "{segment}", "Echo requests sent again on a connection that stands (tcpi_total_retrans)."
)
TCP_RESETS = _tcp_path("resets", "counter", "{connection}", "Connections reset after their handshake.")
TCP_ECHO_RTT = _tcp_path(
    "echo.rtt",
    "gauge",
    "s",
    "Network round trip of the last echo, responder delay excluded; absent while the last connection had none.",
)
ECN_MARKED = _path(
    "ecn.marked",
    "counter",
    "{probe}",
    "Answered probes that a congested queue marked on the way there or back (CE, RFC 3168).",
    "rdma paths",
)

PATH = _table(
    "path",
    PATH_LABELS,
    PROBES_SENT,
    PROBES_LOST,
    PROBES_LOST_RETURN,
    PROBES_REFUSED,
    PROBES_UNSENT,
    RTT_LAST,
    LAST_REPLY,
    RESPONDER_RESTARTS,
    PATH_MTU,
    PATH_MTU_FOUND,
    PATH_MTU_PROMISED,
    ROUTE_CHANGES,
    ROUTE_HASH,
    TCP_SYN_RETRANSMITS,
    TCP_RETRANSMITS,
    TCP_RESETS,
    TCP_ECHO_RTT,
    ECN_MARKED,
    # what ties a row to its flow, for joining routes and writing probe records
    hidden=("source_address", "source_port", "destination_address", "destination_port", "traffic_class"),
)

RTT = Metric(
    "fabric.rtt",
    "histogram",
    "s",
    RTT_LABELS,
    "Network round trips, by source RNIC, role and probe type; without those of starved probes.",
    "rnics x roles x probe types x 18",
    RTT_BUCKETS,
)
RTT_TABLE = Table("rtt", RTT_LABELS, (RTT,))

PATH_LINK_INFO = Metric(
    "fabric.path.link.info",
    "gauge",
    "",
    ("path", "link"),
    "1 for each link the path crosses: its last complete trace before the first loss, frozen while it fails. "
    "Where the fabric sprays the flow: for each link that it may cross, the share of its packets that do.",
    "traced paths x links a path",
)
PATH_ROUTE_INFO = Metric(
    "fabric.path.route.info",
    "gauge",
    "",
    ("path", "links"),
    "1 for each path whose packets all take one route, of at most 8 links: those of fabric_path_link_info in one "
    "label, in the order that packets cross them, with ` | ` between them. One series a path is less to read for who "
    "looks for a few paths among many.",
    "traced paths",
)
PATH_LINK_SHARE = Metric(
    "fabric.path.link.share",
    "gauge",
    "",
    ("path", "link"),
    "The same as fabric_path_link_info, of the paths without a fabric_path_route_info alone: sprayed flows, and routes "
    "of more links.",
    "traced paths x links a path",
)
TRACE_LAST_HOP_INFO = Metric(
    "fabric.path.trace.last_hop.info",
    "gauge",
    "",
    ("path", "hop", "outcome"),
    "1 for a path that loses probes: the last hop that answered a trace of its flow meanwhile, or `none`. "
    "`reached`: the destination itself, of RDMA paths the last switch before it; `unreachable`: it knows no way on; "
    "`silent`: nothing behind it answered.",
    "paths",
)
ROUTE_CHANGE_TIME = Metric(
    "fabric.path.route.change.timestamp",
    "gauge",
    "s",
    ("path", "before", "after", "hop"),
    "Unix time at which a trace showed another route than the one before, for an hour: the hops before and after, by "
    "switch, else address, and the first hop of the new route that the old one had not. At once, also while the path "
    "loses probes and its links are frozen (fabric_path_route_changes_total counts once they are not); not for a "
    "sprayed flow, nor while a route goes back and forth.",
    "changed paths",
)
PATH_INFO = Metric(
    "fabric.path.info",
    "gauge",
    "",
    ("path", "dscp", "source_port"),
    "1 for each path that is probed, with the DSCP of its traffic class (0 is the default class) and its source port.",
    "paths",
)
PATH_MTU_LIMIT_INFO = Metric(
    "fabric.path.mtu.limit.info",
    "gauge",
    "",
    ("path", "kind", "hop"),
    "1 for each path whose found MTU is below its promise: black_hole (larger packets vanish without a word), "
    "frag_needed (the router hop said so) or local (hop is the RNIC that probes, whose own interface is smaller).",
    "mtu paths",
)
JOB_PATH_INFO = Metric(
    "fabric.job.path.info",
    "gauge",
    "",
    ("training_job", *PATH_LABELS, "role", "dscp"),
    "1 for each path that is probed for a job, with its traffic class; joins path series, which outlive jobs, to it.",
    "paths",
)
JOB_LINK_PATHS = Metric(
    "fabric.job.link.paths",
    "gauge",
    "{path}",
    ("training_job", "probe", "dscp", "link"),
    "Paths of the job that the exporter probes over the link, by their last complete routes; of a sprayed path the "
    "share of its packets. Those of all exporters are what crosses the link.",
    "traced paths x links a path",
)
JOB_LINK_PATHS_VARIANCE = Metric(
    "fabric.job.link.paths.variance",
    "gauge",
    "",
    ("training_job", "probe", "dscp", "link"),
    "Variance of that number, were each path one packet: the sum of x - x^2 over sprayed paths of share x. Absent "
    "where no path over the link is sprayed.",
    "traced paths x links a path",
)
JOB_RNIC_PATHS = Metric(
    "fabric.job.rnic.paths",
    "gauge",
    "{path}",
    ("training_job", "end", "host", "rnic", "dscp"),
    "Paths of the job that the exporter probes and that start (source) or end (destination) at the RNIC.",
    "paths x 2",
)
LINK_INFO = Metric(
    "fabric.link.info",
    "gauge",
    "",
    ("link", "switch", "switch_port"),
    "1 for each switch port at an end of a link, from the topology; emitted by the exporter that polls switches.",
    "switch ends of links",
)
RNIC_ATTACHMENT_INFO = Metric(
    "fabric.rnic.attachment.info",
    "gauge",
    "",
    (*RNIC_LABELS, "switch", "switch_port", "link"),
    "1 for each RNIC that the topology has plugged into a switch: its cable; emitted by the exporter that polls the "
    "switch.",
    "attached rnics",
)
HOST_INFO = Metric(
    "fabric.host.info",
    "gauge",
    "",
    ("host", "switch", "location"),
    "1 for each host: the leaf of its first RNIC (lowest rail) and where it stands (rack, pod, zone), from the "
    "topology; emitted by the exporters that poll a leaf of the host.",
    "attached hosts",
)
HOST_DRAINED = Metric(
    "fabric.host.drained",
    "gauge",
    "",
    ("host",),
    "1 where the topology has the host drained, else 0; emitted by the exporters that poll a leaf of the host.",
    "attached hosts",
)
SWITCH_DRAINED = Metric(
    "fabric.switch.drained",
    "gauge",
    "",
    ("switch",),
    "1 where the topology has the switch drained, else 0; emitted by the exporter that polls it.",
    "switches",
)
SWITCH_PORT_INFO = Metric(
    "fabric.switch.port.info",
    "gauge",
    "",
    ("switch", "switch_port", "linecard", "breakout_group", "lag"),
    "1 for each port that the topology lists: what it belongs to (empty: nothing); emitted by the exporter that polls "
    "the switch.",
    "listed ports",
)
SWITCH_ADDRESS_INFO = Metric(
    "fabric.switch.address.info",
    "gauge",
    "",
    ("switch", "switch_port", "address"),
    "1 for each address that the topology has of a port, or of the switch itself (no switch_port); names the far end "
    "of a BGP session. Emitted by the exporter that polls the switch.",
    "listed addresses",
)
RNIC_INFO = Metric(
    "fabric.rnic.info",
    "gauge",
    "",
    ("host", "rnic", "rail", "netdev"),
    "1 for each RNIC the exporter serves.",
    "rnics",
)


def _rnic(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.rnic.{name}", kind, unit, RNIC_LABELS, text, "rnics")


LINKS_POSSIBLE = _rnic(
    "links.possible", "gauge", "{link}", "Links on some equal-cost shortest path of the pairs that the RNIC probes."
)
LINKS_COVERED = _rnic(
    "links.covered", "gauge", "{link}", "Of the possible links, those on the route of a path that the RNIC probes."
)
RNIC_RECEIVE = _rnic("receive", "counter", "By", "Bytes received by the RNIC's network device.")
RNIC_TRANSMIT = _rnic("transmit", "counter", "By", "Bytes sent by the RNIC's network device.")
RNIC_MTU = _rnic("mtu", "gauge", "By", "MTU of the RNIC's network device.")
RNIC_UP = _rnic("up", "gauge", "", "1 when the RNIC's network device has carrier, 0 when not.")
RNIC = _table("rnic", RNIC_LABELS, RNIC_RECEIVE, RNIC_TRANSMIT, RNIC_MTU, RNIC_UP, counts_from_zero=False)


def _self(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.exporter.{name}", kind, unit, (), text, "1")


PROBER_LATE = _self("prober.late_slots", "counter", "{slot}", "10 ms slots the prober woke up for over 5 ms late.")
PROBER_SLOT_DELAY = _self("prober.slot_delay.max", "gauge", "s", "Worst delay of a slot in the last 10 s.")
PROBER_STARVED = _self(
    "prober.starved_probes",
    "counter",
    "{probe}",
    "Probes sent or judged over 5 ms late; their records say so, and no metric of round trips has them.",
)
PROBER_UNJUDGED = _self(
    "prober.unjudged_probes",
    "counter",
    "{probe}",
    "Unanswered probes whose timeout passed while the prober did not run for as long; never booked as loss.",
)
PROBER_DROPPED = _self(
    "prober.dropped",
    "counter",
    "{packet}",
    "Packets that came in and were dropped by the kernel since the prober had not read its socket in time.",
)
PROBER_OVER_CEILING = _self(
    "prober.over_ceiling_probes",
    "counter",
    "{probe}",
    "Planned probes not sent because a ceiling of the configuration is lower (probing.ceilings).",
)
PROBER_REJECTED = _self("responder.rejected", "counter", "{packet}", "Packets refused: wrong size, key or version.")
PROBER_ANSWERED = _self("responder.answered", "counter", "{packet}", "Probes answered by the responder.")
PROBER_REPLAYED = _self(
    "responder.replayed", "counter", "{packet}", "Keyed requests not answered: their path had sent them before."
)
PROBER_LIMITED = _self(
    "responder.limited",
    "counter",
    "{packet}",
    "Keyed packets not answered: their source sent more than probing.responder_packets_per_second.",
)
PROBER_TRACES = _self("traces", "counter", "{trace}", "Traces that came to an end, complete or not.")
PROBER_TRACES_INCOMPLETE = _self("traces.incomplete", "counter", "{trace}", "Traces with a silent hop or no end.")
PROBER_TRACES_DELAYED = _self(
    "traces.delayed",
    "counter",
    "{packet}",
    "Packets of traces put off for a switch's sake (probing.ceilings.trace_packets_per_second_per_switch).",
)
PROBER_SPRAYED = _self(
    "sprayed_flows",
    "gauge",
    "{flow}",
    "Flows that the fabric sprays over their equal-cost paths, by probing.spraying or by traces that keep changing.",
)
PROBER_PATHS = _self("paths", "gauge", "{path}", "Paths being probed.")
PROBER_UNSUPPORTED = _self(
    "unsupported_targets", "gauge", "{target}", "Planned targets this exporter cannot probe (type or source address)."
)
PROBER_WAITING = _self(
    "waiting_targets", "gauge", "{target}", "Planned targets not probed yet: their destination has not registered."
)
PROBER = _table(
    "prober",
    (),
    PROBER_LATE,
    PROBER_SLOT_DELAY,
    PROBER_STARVED,
    PROBER_UNJUDGED,
    PROBER_DROPPED,
    PROBER_OVER_CEILING,
    PROBER_REJECTED,
    PROBER_ANSWERED,
    PROBER_REPLAYED,
    PROBER_LIMITED,
    PROBER_TRACES,
    PROBER_TRACES_INCOMPLETE,
    PROBER_TRACES_DELAYED,
    PROBER_SPRAYED,
    PROBER_PATHS,
    PROBER_UNSUPPORTED,
    PROBER_WAITING,
)

ROUTE = Table(
    "route",
    ("source_address", "source_port", "destination_address", "destination_port", "protocol", "hops"),
    (),
)
"""Last complete route per flow; not rendered itself, but joined with the topology into PATH_LINK_INFO.

``hops`` is JSON: a list of addresses, or null where the fabric sprays the flow, so that it has no one route.
"""

FAILING_TRACE = Table("failing_trace", ("path_row", "hops", "last_hop", "outcome"), ())
"""Last trace of each path that loses probes, by the identity of its row in PATH; becomes TRACE_LAST_HOP_INFO."""
ROUTE_CHANGE = Table("route_change", ("path_row", "time", "before", "after"), (), label_bytes=3072)
"""Last change of a path's route, by the identity of its row in PATH; becomes ROUTE_CHANGE_TIME.

``time`` is Unix seconds, the others are addresses with spaces in between.
"""
PATH_MTU_LIMIT = Table("path_mtu_limit", ("path", "kind", "hop"), ())
"""What limits each path that fails its promise, ``hop`` as an address; joined with the topology into
PATH_MTU_LIMIT_INFO."""


UNDERLAY_FLOWS = _self(
    "underlay.flows",
    "gauge",
    "{flow}",
    "Planned overlay flows of the host's containers whose outer tuple is looked for.",
)
UNDERLAY_LEARNT = _self("underlay.learnt_flows", "gauge", "{flow}", "Of these flows, those whose outer tuple is known.")
UNDERLAY_LOOKING = _self(
    "underlay.looking", "counter", "s", "Time for which the host looked at what leaves its devices."
)
UNDERLAY_SEEN = _self("underlay.seen", "counter", "{packet}", "Encapsulated probes seen, of the flows looked for.")
UNDERLAY_REJECTED = _self(
    "underlay.rejected",
    "counter",
    "{packet}",
    "Packets that looked like encapsulated probes: of no flow, or without key.",
)
UNDERLAY_TRACES = _self("underlay.traces", "counter", "{trace}", "Traces of outer tuples that came to an end.")
UNDERLAY_TRACES_INCOMPLETE = _self(
    "underlay.traces.incomplete", "counter", "{trace}", "Those with a silent hop, or without the last switch."
)
UNDERLAY_PORTS_IN_USE = _self(
    "underlay.ports_in_use",
    "counter",
    "{trace}",
    "Traces left out: another socket of the host has the outer source port.",
)
UNDERLAY = _table(
    "underlay",
    (),
    UNDERLAY_FLOWS,
    UNDERLAY_LEARNT,
    UNDERLAY_LOOKING,
    UNDERLAY_SEEN,
    UNDERLAY_REJECTED,
    UNDERLAY_TRACES,
    UNDERLAY_TRACES_INCOMPLETE,
    UNDERLAY_PORTS_IN_USE,
)
UNDERLAY_ROUTE = Table(
    "underlay_route",
    (
        "plan",
        "source_address",
        "source_port",
        "destination_address",
        "destination_port",
        "source_vtep",
        "destination_vtep",
        "hops",
    ),
    (),
)
"""Route of the outer tuple per overlay flow; joined with the containers' plans and the topology into PATH_LINK_INFO."""
UNDERLAY_ROUTE_CHANGE = Table(
    "underlay_route_change", (*UNDERLAY_ROUTE.labels[:5], *ROUTE_CHANGE.labels[1:]), (), label_bytes=3072
)
"""As ROUTE_CHANGE, of the outer tuple."""


def _dns(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.dns.{name}", kind, unit, DNS_LABELS, text, "resolvers x names")


DNS_QUERIES = _dns("queries", "counter", "{query}", "Queries (type A, over UDP) sent to the resolver for the name.")
DNS_TIMEOUTS = _dns("timeouts", "counter", "{query}", "Queries without an acceptable answer within the timeout.")
DNS_UNREACHABLE = _dns(
    "unreachable", "counter", "{query}", "Queries with no route, or refused by the resolver's host: no resolver there."
)
DNS_UNSENT = _dns(
    "unsent", "counter", "{query}", "Queries the prober could not send in time or at all; never booked as a timeout."
)
DNS_TRUNCATED = _dns("truncated", "counter", "{answer}", "Truncated answers, each asked for again over TCP.")
DNS_REJECTED = _dns(
    "rejected", "counter", "{packet}", "Datagrams dropped: forged, malformed, or answers to other queries."
)
DNS_RESOLUTIONS = _dns(
    "resolutions", "counter", "{resolution}", "Resolutions ended: the search list tried as a stub resolver would."
)
DNS_RESOLUTION_FAILURES = _dns(
    "resolution.failures", "counter", "{resolution}", "Resolutions that ended without an address."
)
DNS_RESOLUTION_QUERIES = _dns("resolution.queries", "gauge", "{query}", "Queries that the last resolution took.")
DNS_RTT = _dns("rtt", "gauge", "s", "Time from the last answered query to its answer.")
DNS_TCP_QUERIES = _dns("tcp.queries", "counter", "{query}", "Queries asked again over TCP after a truncated answer.")
DNS_TCP_FAILURES = _dns(
    "tcp.failures",
    "counter",
    "{query}",
    "Queries over TCP without an acceptable answer: refused, reset, closed, unsound or not within the timeout.",
)
DNS_TCP_RTT = _dns(
    "tcp.rtt",
    "gauge",
    "s",
    "Time from the last answered query over TCP to its answer, opening the connection included.",
)
DNS = _table(
    "dns",
    DNS_LABELS,
    DNS_QUERIES,
    DNS_TIMEOUTS,
    DNS_UNREACHABLE,
    DNS_UNSENT,
    DNS_TRUNCATED,
    DNS_REJECTED,
    DNS_RESOLUTIONS,
    DNS_RESOLUTION_FAILURES,
    DNS_RESOLUTION_QUERIES,
    DNS_RTT,
    DNS_TCP_QUERIES,
    DNS_TCP_FAILURES,
    DNS_TCP_RTT,
    hidden=("address", "port"),  # for probe records
)
DNS_ANSWERS = Metric(
    "fabric.dns.answers",
    "counter",
    "{answer}",
    (*DNS_LABELS, "rcode"),
    "Answers of the resolver by response code (RFC 1035, 4.1.1).",
    f"resolvers x names x {len(DNS_RCODES)}",
)
DNS_ANSWER_TABLE = _table("dns_answer", DNS_ANSWERS.labels, DNS_ANSWERS)
DNS_DURATION = Metric(
    "fabric.dns.query.duration",
    "histogram",
    "s",
    ("host", "resolver"),
    "Time from a query to its answer, whatever it said.",
    f"resolvers x {len(DNS_BUCKETS) + 3}",
    DNS_BUCKETS,
)
DNS_DURATION_TABLE = _table("dns_duration", DNS_DURATION.labels, DNS_DURATION)


def _rdma(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.rdma.{name}", kind, unit, RNIC_LABELS, text, "rnics")


RDMA_UP = _rdma("up", "gauge", "", "1 while RDMA probes leave and are answered by this RNIC: device open, port active.")
RDMA_MTU = _rdma("mtu", "gauge", "By", "Active MTU of the port: the largest RDMA payload of a packet.")
RDMA_GID_CHANGES = _rdma("gid.changes", "counter", "{change}", "Changes of the RoCEv2 GID's place in the GID table.")
RDMA_MTU_CHANGES = _rdma("mtu.changes", "counter", "{change}", "Changes of the port's active MTU.")
RDMA_PORT_CHANGES = _rdma("port.changes", "counter", "{change}", "Changes of the port between active and not.")
RDMA_DEVICE_LOSSES = _rdma("device.losses", "counter", "{loss}", "Times the device, or its GID, vanished.")
RDMA_FAILURES = _rdma(
    "failures", "counter", "{message}", "Messages the device completed with an error (ibv_wc_status)."
)
RDMA_STARVED = _rdma(
    "starved_probes",
    "counter",
    "{probe}",
    "Answered probes whose round trip a busy prober or responder has spoilt; no metric of round trips has it.",
)
RDMA_ANSWERED = _rdma("responder.answered", "counter", "{probe}", "RDMA probes answered by the responder.")
RDMA_REJECTED = _rdma(
    "responder.rejected", "counter", "{message}", "Messages refused: wrong size, key or version, or not introduced."
)
RDMA_REPLAYED = _rdma("responder.replayed", "counter", "{probe}", "Requests seen before, or older than those seen.")
RDMA_LIMITED = _rdma("responder.limited", "counter", "{probe}", "Requests beyond what one source may ask a second.")
RDMA_WAITING = _rdma(
    "waiting_targets",
    "gauge",
    "{target}",
    "Planned RDMA targets not probed yet: their destination has not answered an introduction.",
)
RDMA = _table(
    "rdma",
    RNIC_LABELS,
    RDMA_UP,
    RDMA_MTU,
    RDMA_GID_CHANGES,
    RDMA_MTU_CHANGES,
    RDMA_PORT_CHANGES,
    RDMA_DEVICE_LOSSES,
    RDMA_FAILURES,
    RDMA_STARVED,
    RDMA_ANSWERED,
    RDMA_REJECTED,
    RDMA_REPLAYED,
    RDMA_LIMITED,
    RDMA_WAITING,
)
RDMA_INFO = Metric(
    "fabric.rdma.info",
    "gauge",
    "",
    (*RNIC_LABELS, "timestamps"),
    "1: round trips of RDMA probes rest on times of the device itself (hardware) or of the process (software).",
    "rnics",
)
RDMA_INFO_TABLE = _table("rdma_info", RDMA_INFO.labels, RDMA_INFO)

RDMA_TRACES = _self("rdma.traces", "counter", "{trace}", "Traces of RoCE flows that came to an end, complete or not.")
RDMA_TRACES_INCOMPLETE = _self(
    "rdma.traces.incomplete",
    "counter",
    "{trace}",
    "Traces of RoCE flows with a silent hop, or that did not meet the last switch before their destination.",
)
RDMA_TRACES_DELAYED = _self(
    "rdma.traces.delayed", "counter", "{packet}", "Packets of traces of RoCE flows put off for a switch's sake."
)
RDMA_SPRAYED = _self(
    "rdma.sprayed_flows", "gauge", "{flow}", "RoCE flows that the fabric sprays over their equal-cost paths."
)
RDMA_TRACING = _table("rdma_tracing", (), RDMA_TRACES, RDMA_TRACES_INCOMPLETE, RDMA_TRACES_DELAYED, RDMA_SPRAYED)
"""Has its one row only where RoCE flows are traced."""


def _reliable(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.rdma.reliable.{name}", kind, unit, RELIABLE_LABELS, text, "connections")


def _operation(name: str, kind: Kind, unit: str, text: str) -> Metric:
    labels = (*RELIABLE_LABELS, "operation")
    series = f"connections x {len(RELIABLE_OPERATIONS)}"
    return Metric(f"fabric.rdma.reliable.{name}", kind, unit, labels, text, series)


def _serving(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.rdma.reliable.{name}", kind, unit, RNIC_LABELS, text, "rnics")


RELIABLE_CONNECTED = _reliable("connected", "gauge", "", "1 while the reliable connection (RC) stands, 0 while not.")
RELIABLE_CONNECTIONS = _reliable(
    "connections", "counter", "{connection}", "Connections made: the first, and one after each that failed."
)
RELIABLE_MTU = _reliable(
    "path.mtu", "gauge", "By", "Path MTU of the last connection: the smaller of both ports' active MTU."
)
RELIABLE_MISMATCHES = _reliable(
    "mismatches", "counter", "{operation}", "Reads that gave other data than had been written, which nothing noticed."
)
RELIABLE = _table(
    "reliable", RELIABLE_LABELS, RELIABLE_CONNECTED, RELIABLE_CONNECTIONS, RELIABLE_MTU, RELIABLE_MISMATCHES
)
RELIABLE_STARTED = _operation("operations", "counter", "{operation}", "Operations begun: RDMA WRITE and RDMA READ.")
RELIABLE_RETRANSMITTED = _operation(
    "retransmitted_operations",
    "counter",
    "{operation}",
    "Operations that succeeded after more than the ACK timeout: sent again at least once. "
    "What a NAK had sent again sooner is not among them.",
)
RELIABLE_DURATION = _operation(
    "operation.duration",
    "gauge",
    "s",
    "Time from the last successful operation, posted, to its completion; of those that a busy process did not spoil.",
)
RELIABLE_OPERATION = _table(
    "reliable_operation",
    RELIABLE_STARTED.labels,
    RELIABLE_STARTED,
    RELIABLE_RETRANSMITTED,
    RELIABLE_DURATION,
)
RELIABLE_FAILURES = Metric(
    "fabric.rdma.reliable.failures",
    "counter",
    "{operation}",
    (*RELIABLE_STARTED.labels, "reason"),
    "Operations that failed, and their connection with them, by reason (ibv_wc_status; no_responder: the retries were "
    "exhausted because the far exporter had restarted or ended).",
    f"connections x {len(RELIABLE_OPERATIONS)} x {len(RELIABLE_REASONS)}",
)
RELIABLE_FAILURE = _table("reliable_failure", RELIABLE_FAILURES.labels, RELIABLE_FAILURES)
RELIABLE_SERVED = _serving(
    "served", "gauge", "{connection}", "Reliable connections of others that this RNIC serves, with memory to write to."
)
RELIABLE_REFUSED = _serving(
    "refused",
    "counter",
    "{connection}",
    "Connections refused: as many as can be are in use, or the device has no room.",
)
RELIABLE_SERVING = _table("reliable_serving", RNIC_LABELS, RELIABLE_SERVED, RELIABLE_REFUSED)

PLAN_GENERATION = _self("plan.generation", "gauge", "", "Generation of the plan being obeyed.")
PLAN_EXPIRES = _self("plan.expires.timestamp", "gauge", "s", "Unix time at which the plan lapses.")
PLAN_OVER_LIMIT = _self(
    "plan.paths_over_limit", "gauge", "{path}", "Planned paths left out because probing.max_paths is smaller."
)
PLAN_ELSEWHERE = _self(
    "plan.targets_elsewhere",
    "gauge",
    "{target}",
    "Planned targets left out because their address is neither the topology's nor of probing.destinations.",
)
PLAN_REFUSED = _self("plan.refused", "gauge", "", "1 while the plan file is one that was refused, 0 when not.")
PLAN_REJECTED = _self("plan.rejected", "counter", "{plan}", "Plan files refused; the plan before stays in force.")
CHILD_RESTARTS = Metric(
    "fabric.exporter.process.restarts",
    "counter",
    "{restart}",
    ("process",),
    "Times a process of the exporter had to be started again.",
    "processes",
)
CONTROL = _table(
    "control", (), PLAN_GENERATION, PLAN_EXPIRES, PLAN_REJECTED, PLAN_OVER_LIMIT, PLAN_REFUSED, PLAN_ELSEWHERE
)
CHILDREN = _table("children", ("process",), CHILD_RESTARTS)

OTLP_PUSHES = _self("otlp.pushes", "counter", "{push}", "OTLP pushes begun.")
OTLP_PUSH_FAILURES = _self(
    "otlp.push.failures", "counter", "{push}", "OTLP pushes of which the receiver did not take every request."
)
OTLP_POINTS_REJECTED = _self(
    "otlp.points.rejected", "counter", "{point}", "Data points that the OTLP receiver took a request without."
)
OTLP_PUSH_DURATION = _self("otlp.push.duration", "gauge", "s", "Length of the last OTLP push, waiting included.")
OTLP_PUSH_TIME = _self("otlp.push.timestamp", "gauge", "s", "Unix time of the last OTLP push taken as a whole.")
OTLP = _table("otlp", (), OTLP_PUSHES, OTLP_PUSH_FAILURES, OTLP_POINTS_REJECTED, OTLP_PUSH_DURATION, OTLP_PUSH_TIME)
"""Has its one row only where the exporter pushes."""

CATALOGUE: tuple[Metric, ...] = (
    *PATH.metrics,
    RTT,
    PATH_LINK_INFO,
    PATH_ROUTE_INFO,
    PATH_LINK_SHARE,
    TRACE_LAST_HOP_INFO,
    ROUTE_CHANGE_TIME,
    PATH_INFO,
    PATH_MTU_LIMIT_INFO,
    JOB_PATH_INFO,
    JOB_LINK_PATHS,
    JOB_LINK_PATHS_VARIANCE,
    JOB_RNIC_PATHS,
    LINK_INFO,
    RNIC_ATTACHMENT_INFO,
    HOST_INFO,
    HOST_DRAINED,
    SWITCH_DRAINED,
    SWITCH_PORT_INFO,
    SWITCH_ADDRESS_INFO,
    RNIC_INFO,
    LINKS_POSSIBLE,
    LINKS_COVERED,
    *RNIC.metrics,
    *RNIC_HARDWARE.metrics,
    *RNIC_PRIORITY.metrics,
    *RNIC_READING.metrics,
    DSCP_PRIORITY,
    RNIC_DEVICE_INFO,
    RNIC_GID_INFO,
    RNIC_VLAN_INFO,
    RNIC_COVERAGE,
    *SERVICE.metrics,
    *OVERLAY.metrics,
    OVERLAY_INCONSISTENT,
    OVERLAY_DUMPS,
    *(metric for table in SWITCH_TABLES for metric in table.metrics),
    *DNS.metrics,
    DNS_ANSWERS,
    DNS_DURATION,
    *PROBER.metrics,
    *RDMA.metrics,
    *RDMA_TRACING.metrics,
    RDMA_INFO,
    *RELIABLE.metrics,
    *RELIABLE_OPERATION.metrics,
    RELIABLE_FAILURES,
    *RELIABLE_SERVING.metrics,
    *UNDERLAY.metrics,
    *CONTROL.metrics,
    *CHILDREN.metrics,
    *OTLP.metrics,
)

RECORDED: tuple[Metric, ...] = (
    Metric(
        "fabric.path.rtt.threshold",
        "gauge",
        "s",
        ("training_job", "path"),
        "Round trip from which the path is slow, as the rules of its job have learnt from its healthy history.",
        "paths",
    ),
)
"""What the rules of a job record under a name such as an exporter's, since it is a path's own and no aggregate."""
