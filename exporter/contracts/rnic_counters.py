"""What an RNIC's own registers count, whoever made it: metrics by the names that mlx5 gives, the best known.

Files of other drivers are translated into these (exporter/host/dialects.py). What a driver does not tell is absent,
never 0, and ``fabric_rnic_coverage`` says so.
"""

from __future__ import annotations

from exporter.contracts.metric import Kind, Metric, table

RNIC_LABELS = ("host", "rnic")
PRIORITY_LABELS = (*RNIC_LABELS, "priority")
SIGNALS = ("bytes", "ecn", "cnp", "loss", "timeout", "pfc", "pause_time", "discards", "bit_errors", "pcie")
"""Kinds of facts that an RNIC may tell, for its coverage."""
FUNCTIONS = ("pf", "vf", "sf", "software")

_HW = (
    ("rx_write_requests", "{request}", "RDMA writes received."),
    ("rx_read_requests", "{request}", "RDMA reads received."),
    ("rx_atomic_requests", "{request}", "RDMA atomics received."),
    ("rx_dct_connect", "{request}", "Dynamically connected transports: connections received."),
    ("out_of_buffer", "{packet}", "Packets dropped because no receive request was posted."),
    ("out_of_sequence", "{packet}", "Packets that arrived out of order: some before them were lost, or overtaken."),
    ("duplicate_request", "{request}", "Requests received again: their answer was lost, or late."),
    ("rnr_nak_retry_err", "{event}", "Receiver-not-ready answers: the application posts no buffers."),
    ("packet_seq_err", "{event}", "Negative acknowledgements received: packets that were sent got lost."),
    ("implied_nak_seq_err", "{event}", "Answers that tell by their number that one before them was lost."),
    ("local_ack_timeout_err", "{event}", "Requests that nothing answered in time: lost at the end, or a black hole."),
    ("retransmitted_packets", "{packet}", "Packets sent again; of drivers that count them."),
    ("req_transport_retries_exceeded", "{event}", "Requests given up after all retries: their queue pair is dead."),
    ("req_rnr_retries_exceeded", "{event}", "Requests given up since the receiver was never ready."),
    ("resp_local_length_error", "{event}", "Requests received that are longer than their buffer."),
    ("resp_cqe_error", "{event}", "Completions with an error as responder."),
    ("req_cqe_error", "{event}", "Completions with an error as requester."),
    ("req_remote_invalid_request", "{event}", "Requests that the far end called invalid."),
    ("req_remote_access_errors", "{event}", "Requests that the far end's memory did not admit."),
    ("resp_remote_access_errors", "{event}", "Requests received for memory that does not admit them."),
    ("resp_cqe_flush_error", "{event}", "Receive requests flushed as their queue pair went down."),
    ("req_cqe_flush_error", "{event}", "Send requests flushed as their queue pair went down."),
    ("roce_adp_retrans", "{event}", "Adaptive retransmissions."),
    ("roce_adp_retrans_to", "{event}", "Timeouts of adaptive retransmission."),
    ("roce_slow_restart", "{event}", "Slow restarts of a queue pair after idling."),
    ("roce_slow_restart_cnps", "{packet}", "Congestion notifications that slow restart made."),
    ("roce_slow_restart_trans", "{event}", "Changes of a queue pair to slow restart."),
    ("np_ecn_marked_roce_packets", "{packet}", "RoCE packets received with Congestion Experienced."),
    ("np_cnp_sent", "{packet}", "Congestion notifications sent to those who sent marked packets."),
    ("rp_cnp_handled", "{packet}", "Congestion notifications received and obeyed."),
    ("rp_cnp_ignored", "{packet}", "Congestion notifications received and not obeyed: rate control is off."),
    ("rx_icrc_encapsulated", "{packet}", "RoCE packets received with a wrong invariant checksum (ICRC)."),
    ("rx_drops", "{packet}", "RDMA packets received and dropped; of drivers that count them."),
    ("unresponsive_remote_events", "{event}", "Times a remote end stopped answering (EFA)."),
    ("impaired_remote_conn_events", "{event}", "Times a connection was found impaired (EFA)."),
)
_PORT = (
    ("xmit_wait", "{tick}", "Ticks in which the port had data and could not send it."),
    ("xmit_discards", "{packet}", "Packets dropped unsent by the port."),
    ("rcv_errors", "{packet}", "Packets with errors received by the port."),
    ("rcv_remote_physical_errors", "{packet}", "Packets received that a node before had marked as bad."),
    ("symbol_error", "{error}", "Symbol errors received: bits that the link got wrong."),
    ("link_downed", "{event}", "Times the link's training failed and it went down."),
    ("link_error_recovery", "{event}", "Times the link recovered from errors."),
    ("local_link_integrity_errors", "{event}", "Times local physical errors went over their threshold."),
    ("excessive_buffer_overrun_errors", "{event}", "Times buffers overran."),
)
_ETHTOOL = (
    ("rx_crc_errors_phy", "{frame}", "Frames received with a wrong checksum."),
    ("rx_symbol_err_phy", "{error}", "Symbol errors received."),
    ("rx_pcs_symbol_err_phy", "{error}", "Symbol errors that forward error correction did not mend."),
    ("rx_discards_phy", "{packet}", "Packets received and dropped for want of buffers at the port."),
    ("tx_discards_phy", "{packet}", "Packets dropped unsent at the port."),
    ("rx_oversize_pkts_phy", "{frame}", "Frames received that are longer than the port takes: an MTU differs."),
    ("rx_out_of_range_len_phy", "{frame}", "Frames received whose length field is larger than allowed."),
    ("rx_oversize_pkts_sw_drop", "{frame}", "Frames dropped that are longer than the receive buffers."),
    ("rx_oversize_pkts_buffer", "{frame}", "Frames received that are longer than the receive queue's MTU."),
    ("rx_buffer_passed_thres_phy", "{event}", "Times the port's buffer was more than 85 % full."),
    ("link_down_events_phy", "{event}", "Times the link went down."),
    ("tx_pause_storm_warning_events", "{event}", "Times the RNIC paused the network beyond its warning mark."),
    ("tx_pause_storm_error_events", "{event}", "Times the RNIC paused the network until its watchdog stopped it."),
    ("outbound_pci_stalled_rd_events", "s", "Seconds with PCIe reads stalled for more than 30 % of the time."),
    ("outbound_pci_stalled_wr_events", "s", "Seconds with PCIe writes stalled for more than 30 % of the time."),
)


def _rnic(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.rnic.{name}", kind, unit, RNIC_LABELS, text, "rnics")


def _counts(prefix: str, unit: str, name: str, text: str) -> Metric:
    # Names are the driver's: a unit of time is told by the help, not by a suffix.
    return _rnic(f"{prefix}{name}", "counter", "{second}" if unit == "s" else unit, text)


HW: dict[str, Metric] = {name: _counts("hw.", unit, name, text) for name, unit, text in _HW}
"""{file of ``hw_counters``: its metric}."""
PORT: dict[str, Metric] = {name: _counts("port.", unit, name, text) for name, unit, text in _PORT}
"""{file of ``counters`` without ``port_``: its metric}."""
LINES: dict[str, Metric] = {name: _counts("", unit, name, text) for name, unit, text in _ETHTOOL}
# Bits are no unit in Prometheus: of this line the name says otherwise what it counts.
LINES["rx_corrected_bits_phy"] = _counts(
    "", "{correction}", "rx_fec_corrections_phy", "Bits mended by forward error correction."
)
"""{line of ``ethtool -S``: its metric}."""

RDMA_RECEIVE = _rnic("rdma.receive", "counter", "By", "Bytes received by RDMA, where the driver tells.")
RDMA_TRANSMIT = _rnic("rdma.transmit", "counter", "By", "Bytes sent by RDMA, where the driver tells.")
COMBINED_RECEIVE = _rnic(
    "combined.receive", "counter", "By", "Bytes received by RDMA and by the network device, which does not count those."
)
COMBINED_TRANSMIT = _rnic(
    "combined.transmit", "counter", "By", "Bytes sent by RDMA and by the network device, which does not count those."
)
RDMA_RECEIVE_PACKETS = _rnic(
    "rdma.receive.packets", "counter", "{packet}", "Packets received by RDMA, where the driver tells."
)
RDMA_TRANSMIT_PACKETS = _rnic(
    "rdma.transmit.packets", "counter", "{packet}", "Packets sent by RDMA, where the driver tells."
)
BYTES_TIME = _rnic("combined.timestamp", "gauge", "s", "Unix time at which the combined bytes were read.")
STALLED_READ_RATIO = _rnic(
    "pci.stalled_read.ratio", "gauge", "", "Share of the time in which PCIe reads of the RNIC were stalled, 0 to 1."
)
STALLED_WRITE_RATIO = _rnic(
    "pci.stalled_write.ratio", "gauge", "", "Share of the time in which PCIe writes of the RNIC were stalled, 0 to 1."
)
ACTIVE_MTU = _rnic("active_mtu", "gauge", "By", "Active RDMA MTU: the largest payload of a RoCE packet.")
ACTIVE = _rnic("active", "gauge", "", "1 when the RDMA port is active, 0 when not.")
BOND_MEMBERS = _rnic(
    "bond.members", "gauge", "{device}", "Network devices in the bond that the RNIC's belongs to; absent without one."
)
TRUSTS_DSCP = _rnic(
    "trusts_dscp", "gauge", "", "1 where priorities are taken from DSCP, 0 where from the VLAN tag alone, as DCB tells."
)
BOND_MEMBERS_UP = _rnic("bond.members.up", "gauge", "{device}", "Of these, those whose link the bond holds to be up.")
GID_CHANGES = _rnic("gid.changes", "counter", "{change}", "Changes of the GID table seen since the exporter started.")
MTU_CHANGES = _rnic("mtu.changes", "counter", "{change}", "Changes of the network device's or the RDMA MTU seen.")
PORT_CHANGES = _rnic("port.changes", "counter", "{change}", "Changes of the RDMA port between active and not seen.")

RNIC_HARDWARE = table(
    "rnic_hardware",
    RNIC_LABELS,
    *HW.values(),
    *PORT.values(),
    *LINES.values(),
    RDMA_RECEIVE,
    RDMA_TRANSMIT,
    RDMA_RECEIVE_PACKETS,
    RDMA_TRANSMIT_PACKETS,
    COMBINED_RECEIVE,
    COMBINED_TRANSMIT,
    BYTES_TIME,
    STALLED_READ_RATIO,
    STALLED_WRITE_RATIO,
    ACTIVE_MTU,
    ACTIVE,
    BOND_MEMBERS,
    BOND_MEMBERS_UP,
    TRUSTS_DSCP,
    counts_from_zero=False,
)


def _priority(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.rnic.{name}", kind, unit, PRIORITY_LABELS, text, "rnics x priorities")


PFC_RECEIVED = _priority(
    "pfc.receive.frames", "counter", "{frame}", "PFC frames received: the network pauses the RNIC."
)
PFC_SENT = _priority("pfc.transmit.frames", "counter", "{frame}", "PFC frames sent: the RNIC pauses the network.")
PFC_PAUSED = _priority("pfc.receive.pause", "counter", "s", "Time for which the network paused the RNIC.")
PFC_PAUSING = _priority("pfc.transmit.pause", "counter", "s", "Time for which the RNIC paused the network.")
PRIORITY_DISCARDS = _priority(
    "priority.receive.discards", "counter", "{packet}", "Its packets received and dropped for want of buffers."
)
PRIORITY_MARKED = _priority(
    "priority.receive.marked", "counter", "{packet}", "Packets that the RNIC marked itself, its buffer being full."
)
PRIORITY_RECEIVE = _priority("priority.receive", "counter", "By", "Bytes received of the priority.")
PRIORITY_TRANSMIT = _priority("priority.transmit", "counter", "By", "Bytes sent of the priority.")
PFC_ENABLED = _priority(
    "pfc.enabled", "gauge", "", "1 where PFC is enabled for the priority, 0 where not (IEEE 802.1Qbb)."
)
ECN_NP_ENABLED = _priority(
    "ecn.np_enabled", "gauge", "", "1 where marked packets of the priority are answered with CNPs (notification point)."
)
ECN_RP_ENABLED = _priority(
    "ecn.rp_enabled", "gauge", "", "1 where CNPs slow down what is sent of the priority (reaction point)."
)
RNIC_PRIORITY = table(
    "rnic_priority",
    PRIORITY_LABELS,
    PFC_RECEIVED,
    PFC_SENT,
    PFC_PAUSED,
    PFC_PAUSING,
    PRIORITY_DISCARDS,
    PRIORITY_MARKED,
    PRIORITY_RECEIVE,
    PRIORITY_TRANSMIT,
    PFC_ENABLED,
    ECN_NP_ENABLED,
    ECN_RP_ENABLED,
    counts_from_zero=False,
)

DSCP_PRIORITY = Metric(
    "fabric.rnic.dscp.priority",
    "gauge",
    "",
    (*RNIC_LABELS, "dscp"),
    "Priority that the RNIC gives to packets with this DSCP; absent where DSCP is not mapped.",
    "rnics x dscps",
)
RNIC_DSCP_TABLE = table("rnic_dscp", DSCP_PRIORITY.labels, DSCP_PRIORITY)

READS = _rnic("counters.reads", "counter", "{read}", "Readings of the RNIC's counters begun.")
READ_FAILURES = _rnic(
    "counters.read.failures", "counter", "{read}", "Readings that failed, or had no end within the deadline."
)
READ_DURATION = _rnic("counters.read.duration", "gauge", "s", "Length of the last reading that came to an end.")
READ_TIME = _rnic("counters.read.timestamp", "gauge", "s", "Unix time of the last reading that succeeded.")
RNIC_READING = table(
    "rnic_reading",
    RNIC_LABELS,
    READS,
    READ_FAILURES,
    READ_DURATION,
    READ_TIME,
    GID_CHANGES,
    MTU_CHANGES,
    PORT_CHANGES,
)

RNIC_DEVICE_INFO = Metric(
    "fabric.rnic.device.info",
    "gauge",
    "",
    (*RNIC_LABELS, "driver", "firmware", "board", "pci", "numa", "function", "netdev", "bond"),
    "1: what the RNIC is; function is pf, vf, sf or software.",
    "rnics",
)
RNIC_DEVICE_TABLE = table("rnic_device", RNIC_DEVICE_INFO.labels, RNIC_DEVICE_INFO)
RNIC_GID_INFO = Metric(
    "fabric.rnic.gid.info",
    "gauge",
    "",
    (*RNIC_LABELS, "index", "address", "type", "netdev", "vlan"),
    "1 for each entry of the GID table; vlan is empty where its network device has none.",
    "rnics x gids",
)
RNIC_GID_TABLE = table("rnic_gid", RNIC_GID_INFO.labels, RNIC_GID_INFO)
RNIC_VLAN_INFO = Metric(
    "fabric.rnic.vlan.priority.info",
    "gauge",
    "",
    (*RNIC_LABELS, "vlan", "priority"),
    "1 for each priority (PCP) that packets on a VLAN of the RNIC may be sent with, by its egress map.",
    "rnics x vlans",
)
RNIC_VLAN_TABLE = table("rnic_vlan", RNIC_VLAN_INFO.labels, RNIC_VLAN_INFO)
RNIC_COVERAGE = Metric(
    "fabric.rnic.coverage",
    "gauge",
    "",
    (*RNIC_LABELS, "signal", "state"),
    "1: whether the RNIC tells a signal (supported, disabled, absent or stale). What is not supported is blind, "
    "not healthy.",
    "rnics x signals",
)
RNIC_COVERAGE_TABLE = table("rnic_coverage", RNIC_COVERAGE.labels, RNIC_COVERAGE)
