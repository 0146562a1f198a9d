"""The closed set of counters that a timeline can move, and the class of service they are told for.

Imported by the SNMP subagent, which starts without site-packages: standard library only, and little of it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Side = Literal["switch", "rnic", "both"]
Slot = Literal["", "priority", "queue", "gid"]
Kind = Literal["counter", "gauge", "state"]


class Counter(NamedTuple):
    side: Side
    kind: Kind
    slot: Slot
    text: str


LOSSLESS = (3,)
"""Priorities with PFC; everywhere in the lab the priority of a packet is its DSCP / 8, and its queue the same."""
CNP_QUEUE = 6  # DSCP 48, where RoCE notification packets are commonly classed
CONTROL_QUEUE = 7  # what a switch itself sends
PRIORITIES = range(8)
QUEUES = range(8)

LARGEST_QUANTUM_BITS = 65535 * 512
"""Bit times that one PFC frame can pause a priority for (IEEE 802.1Q, 65,535 quanta of 512 bit times)."""
WATCHDOG_SECONDS = 0.2  # detection and restoration, the common default of SONiC, Junos and the RDMA literature
ROCE_FRAME_BYTES = 4166  # RoCE MTU 4096 with its headers
CNP_BYTES = 74  # Ethernet 14, IPv4 20, UDP 8, BTH 12, reserved 16, ICRC 4


def full_shut_rate(bits_per_second: float) -> float:
    """PFC frames per second that keep a priority paused all the time: 298 at 10 Gb/s, 11,921 at 400 Gb/s."""
    return bits_per_second / LARGEST_QUANTUM_BITS


COUNTERS: dict[str, Counter] = {
    # ---- PFC, at a switch port or an RNIC: received means that the neighbour pauses this one
    "pfc_received": Counter("both", "counter", "priority", "PFC frames received"),
    "pfc_sent": Counter("both", "counter", "priority", "PFC frames sent"),
    "pfc_received_duration": Counter("both", "counter", "priority", "time this end was paused, us"),
    "pfc_sent_duration": Counter("both", "counter", "priority", "time this end paused its neighbour, us"),
    # ---- a switch port's egress queues
    "queue_packets": Counter("switch", "counter", "queue", "packets sent from the queue, beyond the real ones"),
    "queue_dropped_packets": Counter("switch", "counter", "queue", "packets dropped at the queue"),
    "ecn_marked": Counter("switch", "counter", "queue", "packets marked Congestion Experienced"),
    "watchdog_stuck": Counter("switch", "counter", "queue", "times the PFC watchdog found the queue stuck"),
    "watchdog_recovered": Counter("switch", "counter", "queue", "times the PFC watchdog restored the queue"),
    "watchdog_dropped_packets": Counter("switch", "counter", "queue", "packets dropped while the watchdog acted"),
    "ecn_counting_off": Counter("switch", "gauge", "", "1 while the switch does not count its ECN marks (any port)"),
    # ---- a switch port's MAC
    "fcs_errors": Counter("switch", "counter", "", "frames received with a wrong checksum"),
    "symbol_errors": Counter("switch", "counter", "", "symbol errors received"),
    "frame_too_longs": Counter("switch", "counter", "", "frames received that exceed the port's MTU"),
    # ---- an RNIC itself
    "rnic_absent": Counter("rnic", "gauge", "", "1 while the device is gone from sysfs"),
    "gid": Counter("rnic", "state", "gid", "the GID at an index, in place of the configured one"),
    "reset": Counter("both", "counter", "", "counters of the port start again from 0 (a driver or line card reload)"),
}

HW_COUNTERS_32 = (
    "rx_write_requests",
    "rx_read_requests",
    "rx_atomic_requests",
    "rx_dct_connect",
    "out_of_buffer",
    "out_of_sequence",
    "duplicate_request",
    "rnr_nak_retry_err",
    "packet_seq_err",
    "implied_nak_seq_err",
    "local_ack_timeout_err",
    "resp_local_length_error",
    "resp_cqe_error",
    "req_cqe_error",
    "req_remote_invalid_request",
    "req_remote_access_errors",
    "resp_remote_access_errors",
    "resp_cqe_flush_error",
    "req_cqe_flush_error",
    "req_transport_retries_exceeded",
    "req_rnr_retries_exceeded",
    "roce_adp_retrans",
    "roce_adp_retrans_to",
    "roce_slow_restart",
    "roce_slow_restart_cnps",
    "roce_slow_restart_trans",
)
"""mlx5 Q counters, in the driver's order: 32 bits wide, they wrap."""
HW_COUNTERS_64 = (
    "rp_cnp_ignored",
    "rp_cnp_handled",
    "np_ecn_marked_roce_packets",
    "np_cnp_sent",
    "rx_icrc_encapsulated",
)
PORT_COUNTERS = (
    "VL15_dropped",
    "excessive_buffer_overrun_errors",
    "link_downed",
    "link_error_recovery",
    "local_link_integrity_errors",
    "multicast_rcv_packets",
    "multicast_xmit_packets",
    "port_rcv_constraint_errors",
    "port_rcv_data",
    "port_rcv_errors",
    "port_rcv_packets",
    "port_rcv_remote_physical_errors",
    "port_rcv_switch_relay_errors",
    "port_xmit_constraint_errors",
    "port_xmit_data",
    "port_xmit_discards",
    "port_xmit_packets",
    "port_xmit_wait",
    "symbol_error",
    "unicast_rcv_packets",
    "unicast_xmit_packets",
)
ETHTOOL_COUNTERS = (
    "rx_out_of_buffer",
    "rx_oversize_pkts_sw_drop",
    "rx_oversize_pkts_buffer",
    "rx_crc_errors_phy",
    "rx_out_of_range_len_phy",
    "rx_oversize_pkts_phy",
    "rx_symbol_err_phy",
    "rx_discards_phy",
    "tx_discards_phy",
    "tx_errors_phy",
    "rx_pcs_symbol_err_phy",
    "rx_corrected_bits_phy",
    "link_down_events_phy",
    "rx_buffer_passed_thres_phy",
    "outbound_pci_stalled_rd_events",
    "outbound_pci_stalled_wr_events",
    "outbound_pci_buffer_overflow",
    "tx_pause_storm_warning_events",
    "tx_pause_storm_error_events",
)
ETHTOOL_GAUGES = ("outbound_pci_stalled_rd", "outbound_pci_stalled_wr")  # percent of time
ETHTOOL_PRIORITY = ("discards", "buf_discard", "cong_discard", "marked")  # rx_prio<P>_<name>

COUNTERS.update({name: Counter("rnic", "counter", "", "mlx5 hw_counters") for name in HW_COUNTERS_32 + HW_COUNTERS_64})
COUNTERS.update({name: Counter("rnic", "counter", "", "ethtool -S of mlx5") for name in ETHTOOL_COUNTERS})
COUNTERS.update({name: Counter("rnic", "gauge", "", "ethtool -S of mlx5, percent") for name in ETHTOOL_GAUGES})
COUNTERS.update(
    {f"rx_prio_{name}": Counter("rnic", "counter", "priority", "ethtool -S of mlx5") for name in ETHTOOL_PRIORITY}
)
COUNTERS.update(
    {name: Counter("rnic", "counter", "", "mlx5 port counters") for name in ("port_xmit_wait", "port_rcv_errors")}
)
