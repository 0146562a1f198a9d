"""Names of the counter samples that the diagnosis reads: what an ASIC and an RNIC's own registers count.

They are the catalogue's (exporter.contracts.switch_counters and rnic_counters), whoever made the device.

A sample's metric is a name of the catalogue or of this module; names that neither has are legal and say nothing. What
ends in ``_total`` is a counter, cumulative as it was read; all else is a gauge. ``node`` of a sample is the switch or
host, ``port`` its port or RNIC.
"""

from __future__ import annotations

from exporter.contracts import switch_counters as switch

# ---- a switch port's priorities (column ``priority``); what each is, its catalogue entry says
PFC_SENT = switch.PFC_SENT.name
PFC_RECEIVED = switch.PFC_RECEIVED.name
PFC_PAUSED = switch.PFC_PAUSED.name
PFC_PAUSING = switch.PFC_PAUSING.name

# ---- its egress queues (column ``queue``)
QUEUE_PACKETS = switch.QUEUE_PACKETS.name
QUEUE_BYTES = switch.QUEUE_BYTES.name
QUEUE_DROPPED = switch.QUEUE_DROPPED.name
QUEUE_DROPPED_BYTES = switch.QUEUE_DROPPED_BYTES.name
ECN_MARKED = switch.QUEUE_ECN_MARKED.name
WATCHDOG_STUCK = switch.WATCHDOG_STUCK.name
WATCHDOG_RECOVERED = switch.WATCHDOG_RECOVERED.name
WATCHDOG_DROPPED = switch.WATCHDOG_DROPPED.name

# ---- its MAC
FCS_ERRORS = switch.PORT_FCS_ERRORS.name
FRAME_TOO_LONGS = switch.PORT_FRAME_TOO_LONGS.name
SYMBOL_ERRORS = switch.PORT_SYMBOL_ERRORS.name
STATUS_CHANGES = switch.PORT_STATUS_CHANGES.name

# ---- a switch's BGP sessions (column ``peer``: address or name of the neighbour; no port)
BGP_ESTABLISHED = switch.BGP_ESTABLISHED.name
BGP_TRANSITIONS = switch.BGP_TRANSITIONS.name

# ---- an RNIC
RNIC_HW = "fabric_rnic_hw_{}_total"
"""counter: a file of ``hw_counters`` (sysfs), by the name that mlx5 gives it."""
RNIC_ETHTOOL = "fabric_rnic_{}_total"
"""counter: a line of ``ethtool -S`` that is not of a priority, by the name that mlx5 gives it."""
RNIC_OUT_OF_SEQUENCE = RNIC_HW.format("out_of_sequence")
"""counter: requests that arrived out of order: packets before them were lost."""
RNIC_SEQUENCE_ERRORS = RNIC_HW.format("packet_seq_err")
"""counter: negative acknowledgements received: packets sent were lost."""
RNIC_ACK_TIMEOUTS = RNIC_HW.format("local_ack_timeout_err")
"""counter: requests that were not acknowledged in time."""
RNIC_RETRIES_EXCEEDED = RNIC_HW.format("req_transport_retries_exceeded")
"""counter: requests given up: their queue pair died."""
RNIC_ECN_MARKED = RNIC_HW.format("np_ecn_marked_roce_packets")
"""counter: marked packets that the RNIC received."""
RNIC_CNP_SENT = RNIC_HW.format("np_cnp_sent")
"""counter: congestion notifications sent to those who sent marked packets."""
RNIC_CNP_HANDLED = RNIC_HW.format("rp_cnp_handled")
"""counter: congestion notifications received and obeyed."""
RNIC_CNP_IGNORED = RNIC_HW.format("rp_cnp_ignored")
"""counter: congestion notifications received and not obeyed."""
RNIC_CRC_ERRORS = RNIC_ETHTOOL.format("rx_crc_errors_phy")
"""counter: frames received with a wrong checksum."""
RNIC_SYMBOL_ERRORS = RNIC_ETHTOOL.format("rx_symbol_err_phy")
"""counter: frames received with symbol errors."""
RNIC_OVERSIZE = RNIC_ETHTOOL.format("rx_oversize_pkts_phy")
"""counter: frames received that are longer than the port takes."""
RNIC_OUT_OF_RANGE = RNIC_ETHTOOL.format("rx_out_of_range_len_phy")
"""counter: frames received whose length field is larger than allowed."""
RNIC_RECEIVE_DISCARDS = RNIC_ETHTOOL.format("rx_discards_phy")
"""counter: packets received and dropped for want of buffers at the port."""
RNIC_TRANSMIT_DISCARDS = RNIC_ETHTOOL.format("tx_discards_phy")
"""counter: packets dropped unsent."""
RNIC_LINK_DOWNS = RNIC_ETHTOOL.format("link_down_events_phy")
"""counter: times the RNIC's link went down."""
RNIC_STORM_WARNINGS = RNIC_ETHTOOL.format("tx_pause_storm_warning_events")
"""counter: times the RNIC paused the network for longer than its warning watermark."""
RNIC_STORM_ERRORS = RNIC_ETHTOOL.format("tx_pause_storm_error_events")
"""counter: times the RNIC paused the network for so long that its watchdog stopped it."""
RNIC_STALLED_READS = RNIC_ETHTOOL.format("outbound_pci_stalled_rd_events")
"""counter: seconds with PCIe reads stalled for more than 30 % of the time."""
RNIC_STALLED_WRITES = RNIC_ETHTOOL.format("outbound_pci_stalled_wr_events")
"""counter: seconds with PCIe writes stalled for more than 30 % of the time."""
RNIC_STALLED_READ_RATIO = "fabric_rnic_pci_stalled_read_ratio"
"""gauge, 0-1: share of the time in which PCIe reads of the RNIC were stalled."""
RNIC_STALLED_WRITE_RATIO = "fabric_rnic_pci_stalled_write_ratio"
"""gauge, 0-1: share of the time in which PCIe writes of the RNIC were stalled."""

# ---- an RNIC's priorities (column ``priority``)
RNIC_PFC_RECEIVED = "fabric_rnic_pfc_receive_frames_total"
"""counter: PFC frames received: the network pauses the RNIC."""
RNIC_PFC_SENT = "fabric_rnic_pfc_transmit_frames_total"
"""counter: PFC frames sent: the RNIC pauses the network."""
RNIC_PFC_PAUSED = "fabric_rnic_pfc_receive_pause_seconds_total"
"""counter, seconds: time for which the network paused the RNIC."""
RNIC_PFC_PAUSING = "fabric_rnic_pfc_transmit_pause_seconds_total"
"""counter, seconds: time for which the RNIC paused the network."""
RNIC_PRIORITY_DISCARDS = "fabric_rnic_priority_receive_discards_total"
"""counter: packets of the priority received and dropped for want of buffers."""


def is_counter(metric: str) -> bool:
    """Whether a metric's samples are cumulative; else each is a reading of its own."""
    return metric.endswith("_total")
