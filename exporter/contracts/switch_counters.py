"""What a switch tells of its ports, queues, sessions and control plane, whoever made it.

A profile (exporter/switches/profiles) says where a switch of its kind keeps each of these. What it does not tell is
absent, never 0, and ``fabric_switch_coverage`` says so. Requests of the MIBs are PFC frames sent, indications PFC
frames received (IEEE8021-PFC-MIB).
"""

from __future__ import annotations

from exporter.contracts.metric import Kind, Metric, table

PORT_LABELS = ("switch", "switch_port")
PRIORITY_LABELS = (*PORT_LABELS, "priority")
QUEUE_LABELS = (*PORT_LABELS, "queue")
VLAN_LABELS = (*PORT_LABELS, "vlan")
LANE_LABELS = (*PORT_LABELS, "lane")
BGP_LABELS = ("switch", "peer")
READING_LABELS = ("switch", "table")

SIGNALS = (
    "ports",
    "mac_errors",
    "pfc",
    "pfc_duration",
    "pfc_watchdog",
    "ecn",
    "queues",
    "queue_drops",
    "buffers",
    "cnp",
    "vlans",
    "optics",
    "bgp",
    "cpu",
    "control_plane",
    "neighbors",
    "settings",
)
"""Kinds of facts that a switch may tell, for its coverage."""
STATES = ("supported", "disabled", "absent", "stale")
PROTOCOLS = ("snmp", "gnmi")
"""Over which a switch is read."""
NOTIFICATIONS = (
    "pfc_deadlock",
    "pfc_deadlock_cleared",
    "pfc_storm_control",
    "pfc_threshold",
    "link_down",
    "link_up",
    "bgp_established",
    "bgp_backward",
    "restart",
    "authentication_failure",
    "other",
)
"""What traps and informs say, whoever made the switch."""
REFUSALS = ("unknown_source", "authentication", "malformed", "limit")
"""Why a trap was not counted as a switch's."""


def _port(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.switch.port.{name}", kind, unit, PORT_LABELS, text, "switch ports")


# ---- a port
PORT_RECEIVE = _port("receive", "counter", "By", "Bytes received by the port (ifHCInOctets).")
PORT_TRANSMIT = _port("transmit", "counter", "By", "Bytes sent by the port (ifHCOutOctets).")
PORT_RECEIVE_PACKETS = _port(
    "receive.packets", "counter", "{packet}", "Unicast packets received by the port (ifHCInUcastPkts)."
)
PORT_TRANSMIT_PACKETS = _port(
    "transmit.packets", "counter", "{packet}", "Unicast packets sent by the port (ifHCOutUcastPkts)."
)
PORT_RECEIVE_ERRORS = _port("receive.errors", "counter", "{packet}", "Received packets with errors (ifInErrors).")
PORT_TRANSMIT_ERRORS = _port("transmit.errors", "counter", "{packet}", "Packets not sent for errors (ifOutErrors).")
PORT_RECEIVE_DISCARDS = _port("receive.discards", "counter", "{packet}", "Received packets discarded (ifInDiscards).")
PORT_TRANSMIT_DISCARDS = _port("transmit.discards", "counter", "{packet}", "Packets discarded unsent (ifOutDiscards).")
PORT_MTU = _port("mtu", "gauge", "By", "MTU of the port (ifMtu).")
PORT_UP = _port("up", "gauge", "", "1 when the port is operationally up (ifOperStatus).")
PORT_ENABLED = _port("enabled", "gauge", "", "1 when the port is administratively up (ifAdminStatus).")
PORT_SPEED = _port("speed", "gauge", "By/s", "Capacity of the port (ifHighSpeed).")
PORT_LAST_CHANGE = _port(
    "last_change.timestamp", "gauge", "s", "Unix time at which the port last went up or down (ifLastChange)."
)
PORT_STATUS_CHANGES = _port(
    "status_changes",
    "counter",
    "{change}",
    "Changes of the port between up and down, either way: counted by the switch, or seen from poll to poll.",
)
PORT_FCS_ERRORS = _port(
    "fcs_errors", "counter", "{frame}", "Frames received with a wrong checksum (dot3StatsFCSErrors)."
)
PORT_ALIGNMENT_ERRORS = _port(
    "alignment_errors", "counter", "{frame}", "Frames received that end in the middle of an octet."
)
PORT_SYMBOL_ERRORS = _port("symbol_errors", "counter", "{error}", "Symbol errors received (dot3StatsSymbolErrors).")
PORT_FRAME_TOO_LONGS = _port(
    "frame_too_longs",
    "counter",
    "{frame}",
    "Frames received that exceed what the port takes (dot3StatsFrameTooLongs): an MTU differs along the path.",
)
PORT_MAC_RECEIVE_ERRORS = _port(
    "mac_receive_errors",
    "counter",
    "{frame}",
    "Frames that the MAC failed to receive.",
)
PORT_MAC_TRANSMIT_ERRORS = _port(
    "mac_transmit_errors",
    "counter",
    "{frame}",
    "Frames that the MAC failed to send.",
)
PORT_FEC_UNCORRECTED = _port(
    "fec_uncorrected", "counter", "{frame}", "Frames or codewords that forward error correction could not mend."
)
PORT_PAUSE_RECEIVED = _port(
    "pause.receive.frames", "counter", "{frame}", "Pause frames of 802.3x received: they stop all priorities."
)
PORT_PAUSE_SENT = _port("pause.transmit.frames", "counter", "{frame}", "Pause frames of 802.3x sent.")
PORT_PFC_RECEIVED = _port(
    "pfc.combined.receive.frames",
    "counter",
    "{frame}",
    "PFC frames received, of all priorities together: of switches that do not tell them apart.",
)
PORT_PFC_SENT = _port(
    "pfc.combined.transmit.frames",
    "counter",
    "{frame}",
    "PFC frames sent, of all priorities together: of switches that do not tell them apart.",
)
PORT_PFC_MODE = _port("pfc.enabled", "gauge", "", "1 where PFC is in operation on the port, 0 where not.")
PORT_TRANSMIT_WAIT = _port("transmit.wait", "counter", "s", "Time for which the port had packets and might not send.")
PORT_BUFFER_DISCARDS = _port(
    "buffer_discards", "counter", "{packet}", "Packets discarded since the switch had no buffer left."
)
PORT_QUEUE_DISCARDS = _port(
    "egress_queue_discards", "counter", "{packet}", "Packets discarded since an egress queue of the port was full."
)
PORT_WRED_DISCARDS = _port(
    "wred_discards", "counter", "{packet}", "Packets dropped early (WRED): those that could not be marked instead."
)
PORT_CNP = _port(
    "cnp.derived.packets",
    "counter",
    "{packet}",
    "Packets sent from the queue that congestion notifications are classed into (`cnp_queue`): derived, since no "
    "switch counts CNPs. What else is classed into that queue is counted too.",
)
SWITCH_PORT = table(
    "switch_port",
    PORT_LABELS,
    PORT_RECEIVE,
    PORT_TRANSMIT,
    PORT_RECEIVE_PACKETS,
    PORT_TRANSMIT_PACKETS,
    PORT_RECEIVE_ERRORS,
    PORT_TRANSMIT_ERRORS,
    PORT_RECEIVE_DISCARDS,
    PORT_TRANSMIT_DISCARDS,
    PORT_MTU,
    PORT_UP,
    PORT_ENABLED,
    PORT_SPEED,
    PORT_LAST_CHANGE,
    PORT_STATUS_CHANGES,
    PORT_FCS_ERRORS,
    PORT_ALIGNMENT_ERRORS,
    PORT_SYMBOL_ERRORS,
    PORT_FRAME_TOO_LONGS,
    PORT_MAC_RECEIVE_ERRORS,
    PORT_MAC_TRANSMIT_ERRORS,
    PORT_FEC_UNCORRECTED,
    PORT_PAUSE_RECEIVED,
    PORT_PAUSE_SENT,
    PORT_PFC_RECEIVED,
    PORT_PFC_SENT,
    PORT_PFC_MODE,
    PORT_TRANSMIT_WAIT,
    PORT_BUFFER_DISCARDS,
    PORT_QUEUE_DISCARDS,
    PORT_WRED_DISCARDS,
    PORT_CNP,
    counts_from_zero=False,
    label_bytes=256,
)


# ---- its priorities
def _priority(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(
        f"fabric.switch.port.{name}", kind, unit, PRIORITY_LABELS, text, "switch ports x priorities of a switch"
    )


PFC_RECEIVED = _priority(
    "pfc.receive.frames", "counter", "{frame}", "PFC frames received of the priority: the neighbour pauses the port."
)
PFC_SENT = _priority(
    "pfc.transmit.frames", "counter", "{frame}", "PFC frames sent of the priority: the port pauses its neighbour."
)
PFC_PAUSED = _priority("pfc.receive.pause", "counter", "s", "Time for which the neighbour paused the priority.")
PFC_PAUSING = _priority("pfc.transmit.pause", "counter", "s", "Time for which the port paused its neighbour.")
PFC_RECEIVE_RATE = _priority(
    "pfc.receive.frame_rate", "gauge", "{frame}/s", "PFC frames received a second, of switches that count none."
)
PFC_TRANSMIT_RATE = _priority(
    "pfc.transmit.frame_rate", "gauge", "{frame}/s", "PFC frames sent a second, of switches that count none."
)
PRIORITY_LOSSLESS = _priority(
    "priority.lossless", "gauge", "", "1 where the switch is set not to drop the priority (PFC), 0 where it may."
)
GROUP_DISCARDS = _priority(
    "priority_group.discards", "counter", "{packet}", "Packets of the priority discarded on their way in: no headroom."
)
GROUP_USED = _priority("priority_group.used", "gauge", "By", "Buffer that the priority's packets take on their way in.")
GROUP_PEAK = _priority("priority_group.peak", "gauge", "By", "The most of it since the switch last reset the mark.")
GROUP_HEADROOM_PEAK = _priority(
    "priority_group.headroom.peak", "gauge", "By", "The most of the headroom behind a pause that was used."
)
SWITCH_PRIORITY = table(
    "switch_priority",
    PRIORITY_LABELS,
    PFC_RECEIVED,
    PFC_SENT,
    PFC_PAUSED,
    PFC_PAUSING,
    PFC_RECEIVE_RATE,
    PFC_TRANSMIT_RATE,
    PRIORITY_LOSSLESS,
    GROUP_DISCARDS,
    GROUP_USED,
    GROUP_PEAK,
    GROUP_HEADROOM_PEAK,
    counts_from_zero=False,
    label_bytes=256,
)


# ---- its egress queues
def _queue(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.switch.port.{name}", kind, unit, QUEUE_LABELS, text, "switch ports x queues of a switch")


QUEUE_PACKETS = _queue("queue.transmit.packets", "counter", "{packet}", "Packets sent from the queue.")
QUEUE_BYTES = _queue("queue.transmit", "counter", "By", "Bytes sent from the queue.")
QUEUE_DROPPED = _queue("queue.dropped.packets", "counter", "{packet}", "Packets dropped at the queue.")
QUEUE_DROPPED_BYTES = _queue("queue.dropped", "counter", "By", "Bytes dropped at the queue.")
QUEUE_ECN_MARKED = _queue(
    "queue.ecn_marked.packets", "counter", "{packet}", "Packets that the queue marked Congestion Experienced."
)
QUEUE_WRED_DROPPED = _queue(
    "queue.wred_dropped.packets", "counter", "{packet}", "Packets that the queue dropped early: it could not mark them."
)
QUEUE_ECN_ENABLED = _queue("queue.ecn.enabled", "gauge", "", "1 where the queue is set to mark packets, 0 where not.")
QUEUE_ECN_LOW = _queue("queue.ecn.low_threshold", "gauge", "By", "Depth from which it marks some packets.")
QUEUE_ECN_HIGH = _queue("queue.ecn.high_threshold", "gauge", "By", "Depth from which it marks as many as it ever does.")
QUEUE_DEPTH = _queue("queue.depth", "gauge", "By", "Bytes that wait in the queue.")
QUEUE_PEAK = _queue("queue.depth.peak", "gauge", "By", "The most that waited since the switch last reset the mark.")
WATCHDOG_STUCK = _queue(
    "pfc.watchdog.stuck", "counter", "{event}", "Times the PFC watchdog found the queue stuck and shut it."
)
WATCHDOG_RECOVERED = _queue("pfc.watchdog.recovered", "counter", "{event}", "Times the PFC watchdog restored it.")
WATCHDOG_DROPPED = _queue(
    "pfc.watchdog.dropped.packets", "counter", "{packet}", "Packets dropped while the watchdog had it shut."
)
WATCHDOG_SHUT = _queue("pfc.watchdog.shut", "gauge", "", "1 while the PFC watchdog has the queue shut, 0 while not.")
SWITCH_QUEUE = table(
    "switch_queue",
    QUEUE_LABELS,
    QUEUE_PACKETS,
    QUEUE_BYTES,
    QUEUE_DROPPED,
    QUEUE_DROPPED_BYTES,
    QUEUE_ECN_MARKED,
    QUEUE_WRED_DROPPED,
    QUEUE_ECN_ENABLED,
    QUEUE_ECN_LOW,
    QUEUE_ECN_HIGH,
    QUEUE_DEPTH,
    QUEUE_PEAK,
    WATCHDOG_STUCK,
    WATCHDOG_RECOVERED,
    WATCHDOG_DROPPED,
    WATCHDOG_SHUT,
    counts_from_zero=False,
    label_bytes=256,
)


# ---- its VLANs
def _vlan(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.switch.port.vlan.{name}", kind, unit, VLAN_LABELS, text, "switch ports x vlans of a switch")


VLAN_RECEIVED = _vlan("receive.frames", "counter", "{frame}", "Frames of the VLAN received (dot1qTpVlanPortInFrames).")
VLAN_SENT = _vlan("transmit.frames", "counter", "{frame}", "Frames of the VLAN sent (dot1qTpVlanPortOutFrames).")
VLAN_DISCARDED = _vlan(
    "receive.discards", "counter", "{frame}", "Frames of the VLAN received and discarded (dot1qTpVlanPortInDiscards)."
)
SWITCH_VLAN = table(
    "switch_vlan", VLAN_LABELS, VLAN_RECEIVED, VLAN_SENT, VLAN_DISCARDED, counts_from_zero=False, label_bytes=256
)


# ---- its optics
def _optics(name: str, unit: str, text: str) -> Metric:
    return Metric(
        f"fabric.switch.port.optics.{name}", "gauge", unit, LANE_LABELS, text, "switch ports x lanes of a port"
    )


OPTICS_RECEIVED = _optics("receive_power", "W", "Light received, as the transceiver measures it; 0 is none.")
OPTICS_SENT = _optics("transmit_power", "W", "Light sent, as the transceiver measures it.")
OPTICS_BIAS = _optics("bias", "A", "Current of the laser.")
OPTICS_TEMPERATURE = _optics("temperature", "Cel", "Temperature of the transceiver.")
OPTICS_VOLTAGE = _optics("supply", "V", "Supply voltage of the transceiver.")
SWITCH_OPTICS = table(
    "switch_optics",
    LANE_LABELS,
    OPTICS_RECEIVED,
    OPTICS_SENT,
    OPTICS_BIAS,
    OPTICS_TEMPERATURE,
    OPTICS_VOLTAGE,
    label_bytes=256,
)


# ---- how it classes packets
SWITCH_DSCP_PRIORITY = Metric(
    "fabric.switch.dscp.priority",
    "gauge",
    "",
    ("switch", "dscp"),
    "Priority that the switch gives to packets with this DSCP; absent where it does not tell.",
    "switches x dscps",
)
SWITCH_DSCP_TABLE = table("switch_dscp", SWITCH_DSCP_PRIORITY.labels, SWITCH_DSCP_PRIORITY)


# ---- a switch's BGP sessions
def _bgp(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.switch.bgp.{name}", kind, unit, BGP_LABELS, text, "bgp sessions of a switch")


BGP_ESTABLISHED = _bgp("session.established", "gauge", "", "1 while the session is established, 0 while not.")
BGP_ENABLED = _bgp("session.enabled", "gauge", "", "1 where the session is administratively started, 0 where stopped.")
BGP_STATE = _bgp("session.state", "gauge", "", "State of the session: 1 idle to 6 established (RFC 4271, 8.2.2).")
BGP_TRANSITIONS = _bgp(
    "transitions", "counter", "{transition}", "Times the session became established (bgpPeerFsmEstablishedTransitions)."
)
BGP_SINCE = _bgp("session.duration", "gauge", "s", "Time for which the session is established, or since it last was.")
BGP_ERROR = _bgp(
    "last_error.code",
    "gauge",
    "",
    "Code of the last notification, either way (RFC 4271, 4.5): 4 is hold time, 6 cease.",
)
BGP_SUBCODE = _bgp("last_error.subcode", "gauge", "", "Subcode of the last notification, either way.")
BGP_HOLD = _bgp("hold_time", "gauge", "s", "Hold time agreed with the peer; 0 is none.")
BGP_KEEPALIVE = _bgp("keepalive_time", "gauge", "s", "Keepalive interval agreed with the peer; 0 is none.")
BGP_UPDATES_IN = _bgp("receive.updates", "counter", "{message}", "Updates received.")
BGP_UPDATES_OUT = _bgp("transmit.updates", "counter", "{message}", "Updates sent.")
BGP_MESSAGES_IN = _bgp("receive.messages", "counter", "{message}", "Messages received, keepalives among them.")
BGP_MESSAGES_OUT = _bgp("transmit.messages", "counter", "{message}", "Messages sent, keepalives among them.")
BGP_PREFIXES = _bgp("prefixes", "gauge", "{prefix}", "Prefixes accepted from the peer.")
BGP_AS = _bgp("remote_as", "gauge", "", "The peer's autonomous system; 23456 where the MIB has but 16 bits for it.")
SWITCH_BGP = table(
    "switch_bgp",
    BGP_LABELS,
    BGP_ESTABLISHED,
    BGP_ENABLED,
    BGP_STATE,
    BGP_TRANSITIONS,
    BGP_SINCE,
    BGP_ERROR,
    BGP_SUBCODE,
    BGP_HOLD,
    BGP_KEEPALIVE,
    BGP_UPDATES_IN,
    BGP_UPDATES_OUT,
    BGP_MESSAGES_IN,
    BGP_MESSAGES_OUT,
    BGP_PREFIXES,
    BGP_AS,
    counts_from_zero=False,
)

# ---- its processors and what they are protected by
CPU_USED = Metric(
    "fabric.switch.cpu.used.ratio",
    "gauge",
    "",
    ("switch", "cpu"),
    "Share of the processor's time that was used, 0 to 1, over the last minute or what the switch takes for it.",
    "cpus of a switch",
)
SWITCH_CPU = table("switch_cpu", CPU_USED.labels, CPU_USED)


def _control_plane(name: str, text: str) -> Metric:
    labels = ("switch", "class")
    return Metric(
        f"fabric.switch.control_plane.{name}", "counter", "{packet}", labels, text, "control plane classes of a switch"
    )


CONTROL_PLANE_SEEN = _control_plane("packets", "Packets for the switch itself, by class of its policer (CoPP).")
CONTROL_PLANE_DROPPED = _control_plane("dropped.packets", "Of these, those that the policer dropped.")
SWITCH_CONTROL_PLANE = table(
    "switch_control_plane", CONTROL_PLANE_SEEN.labels, CONTROL_PLANE_SEEN, CONTROL_PLANE_DROPPED, counts_from_zero=False
)


# ---- the switch, and reading it
def _switch(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.switch.{name}", kind, unit, ("switch",), text, "switches")


SWITCH_REACHABLE = _switch("reachable", "gauge", "", "1 when the switch answered its last poll, 0 when not.")
SWITCH_POLLS = _switch("polls", "counter", "{poll}", "Polls of the switch begun.")
SWITCH_POLL_FAILURES = _switch("poll.failures", "counter", "{poll}", "Polls in which some table was not read.")
SWITCH_POLL_DURATION = _switch("poll.duration", "gauge", "s", "Length of the last poll.")
SWITCH_POLL_TIME = _switch("poll.timestamp", "gauge", "s", "Unix time of the last poll in which all was read.")
SWITCH_POLL_ROWS = _switch("poll.rows", "gauge", "{row}", "Values read by the last poll.")
SWITCH_POLL_LATE = _switch(
    "poll.late",
    "counter",
    "{poll}",
    "Polls begun over a second after their time: the poller has too much to do, or the one before took too long.",
)
SWITCH_UPTIME = _switch("uptime", "gauge", "s", "Time since the switch's agent started (sysUpTime).")
SWITCH_RESTARTS = _switch("restarts", "counter", "{restart}", "Restarts of the switch or its agent seen.")
SWITCH = table(
    "switch",
    ("switch",),
    SWITCH_REACHABLE,
    SWITCH_POLLS,
    SWITCH_POLL_FAILURES,
    SWITCH_POLL_DURATION,
    SWITCH_POLL_TIME,
    SWITCH_POLL_ROWS,
    SWITCH_POLL_LATE,
    SWITCH_UPTIME,
    SWITCH_RESTARTS,
)


def _reading(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.switch.table.{name}", kind, unit, READING_LABELS, text, "switches x tables of a switch")


TABLE_DURATION = _reading("duration", "gauge", "s", "Length of the table's last reading.")
TABLE_ROWS = _reading("rows", "gauge", "{row}", "Values that its last reading gave.")
TABLE_TIME = _reading("timestamp", "gauge", "s", "Unix time of its last reading that succeeded: how stale it is.")
TABLE_FAILURES = _reading("failures", "counter", "{read}", "Its readings that failed or had no end in time.")
TABLE_REFUSED = _reading(
    "refused", "counter", "{row}", "Values left out: of a type that the column cannot have, or at an unknown index."
)
SWITCH_READING = table(
    "switch_reading", READING_LABELS, TABLE_DURATION, TABLE_ROWS, TABLE_TIME, TABLE_FAILURES, TABLE_REFUSED
)

SWITCH_INFO = Metric(
    "fabric.switch.info",
    "gauge",
    "",
    ("switch", "profile", "vendor", "software", "source"),
    "1: which profile reads the switch, what its software calls itself (sysDescr), and over which protocol.",
    "switches",
)
SWITCH_INFO_TABLE = table("switch_info", SWITCH_INFO.labels, SWITCH_INFO)
SWITCH_NEIGHBOR_INFO = Metric(
    "fabric.switch.neighbor.info",
    "gauge",
    "",
    (*PORT_LABELS, "neighbor", "neighbor_port"),
    "1: who is at the other end of the port's cable, as LLDP tells.",
    "switch ports",
)
SWITCH_NEIGHBOR_TABLE = table("switch_neighbor", SWITCH_NEIGHBOR_INFO.labels, SWITCH_NEIGHBOR_INFO)
SWITCH_COVERAGE = Metric(
    "fabric.switch.coverage",
    "gauge",
    "",
    ("switch", "signal", "state"),
    "1: whether the switch tells a signal (supported, disabled, absent or stale). What is not supported is blind, "
    "not healthy.",
    f"switches x {len(SIGNALS)}",
)
SWITCH_COVERAGE_TABLE = table("switch_coverage", SWITCH_COVERAGE.labels, SWITCH_COVERAGE)

# ---- traps and informs
_NOTIFIED = ("switch", "notification", "switch_port", "priority", "peer")
SWITCH_NOTIFICATIONS = Metric(
    "fabric.switch.notifications",
    "counter",
    "{notification}",
    _NOTIFIED,
    "Traps and informs received of the switch, by what they say; port, priority and peer where they tell.",
    "switches x notifications of a switch",
)
SWITCH_NOTIFICATION_TIME = Metric(
    "fabric.switch.notification.timestamp",
    "gauge",
    "s",
    _NOTIFIED,
    "Unix time at which the last of these arrived.",
    "switches x notifications of a switch",
)
SWITCH_NOTIFICATION = table("switch_notification", _NOTIFIED, SWITCH_NOTIFICATIONS, SWITCH_NOTIFICATION_TIME)
NOTIFICATIONS_REFUSED = Metric(
    "fabric.exporter.notifications.refused",
    "counter",
    "{notification}",
    ("reason",),
    "Traps and informs refused: from no switch of the list (unknown_source), with a wrong community or key "
    "(authentication), not to be read (malformed), or of more kinds than are kept apart (limit).",
    f"{len(REFUSALS)}",
)
NOTIFICATIONS_REFUSED_TABLE = table("notifications_refused", ("reason",), NOTIFICATIONS_REFUSED)

SWITCH_TABLES = (
    SWITCH_PORT,
    SWITCH_PRIORITY,
    SWITCH_QUEUE,
    SWITCH_VLAN,
    SWITCH_OPTICS,
    SWITCH_DSCP_TABLE,
    SWITCH_BGP,
    SWITCH_CPU,
    SWITCH_CONTROL_PLANE,
    SWITCH,
    SWITCH_READING,
    SWITCH_INFO_TABLE,
    SWITCH_NEIGHBOR_TABLE,
    SWITCH_COVERAGE_TABLE,
    SWITCH_NOTIFICATION,
    NOTIFICATIONS_REFUSED_TABLE,
)
