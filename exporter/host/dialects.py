"""What each driver calls what: files of ``hw_counters`` and lines of ``ethtool -S`` as the metrics of one dialect.

The dialect is mlx5's. A name that no table has is not exported. Names are looked up in all tables, whatever the driver:
none means different things to two of them, and drivers built out of tree call themselves what they like. Where several
names of a device mean the same (IPv4 and IPv6), their sum counts.

Sources: drivers/infiniband/hw/{mlx5/counters.c,bnxt_re/hw_counters.c,irdma/verbs.c,efa/efa_verbs.c,mana/counters.c} and
sw/rxe/rxe_hw_counters.c; Documentation/networking/device_drivers/ethernet/mellanox/mlx5/counters.rst;
drivers/net/ethernet/{broadcom/bnxt/bnxt_ethtool.c,intel/ice/ice_ethtool.c}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from exporter.contracts.metric import Metric
from exporter.contracts.rnic_counters import (
    HW,
    LINES,
    PFC_PAUSED,
    PFC_PAUSING,
    PFC_RECEIVED,
    PFC_SENT,
    PORT,
    PRIORITY_DISCARDS,
    PRIORITY_MARKED,
    PRIORITY_RECEIVE,
    PRIORITY_TRANSMIT,
    RDMA_RECEIVE,
    RDMA_RECEIVE_PACKETS,
    RDMA_TRANSMIT,
    RDMA_TRANSMIT_PACKETS,
    STALLED_READ_RATIO,
    STALLED_WRITE_RATIO,
)

WORD_BYTES = 4
"""``port_*_data`` count words of four bytes, whatever the number of lanes."""


class Term(NamedTuple):
    """A metric, and what one unit of the driver's number is of the metric's."""

    metric: Metric
    factor: float = 1


_BYTES_AND_PACKETS = {
    "rx_bytes": RDMA_RECEIVE, "tx_bytes": RDMA_TRANSMIT,
    "rx_pkts": RDMA_RECEIVE_PACKETS, "tx_pkts": RDMA_TRANSMIT_PACKETS,
}  # fmt: skip

HW_COUNTERS: Mapping[str, Mapping[str, Metric]] = {
    "mlx5": HW,
    "bnxt_re": {
        "tx_cnp_pkts": HW["np_cnp_sent"], "np_cnp_pkts": HW["np_cnp_sent"], "cnp_tx_pkts": HW["np_cnp_sent"],
        "rx_cnp_pkts": HW["rp_cnp_handled"], "cnp_rx_pkts": HW["rp_cnp_handled"],
        "rx_ecn_marked_pkts": HW["np_ecn_marked_roce_packets"],
        "to_retransmits": HW["local_ack_timeout_err"], "seq_err_naks_rcvd": HW["packet_seq_err"],
        "max_retry_exceeded": HW["req_transport_retries_exceeded"], "rnr_naks_rcvd": HW["rnr_nak_retry_err"],
        "missing_resp": HW["implied_nak_seq_err"], "oos_drop_count": HW["out_of_sequence"],
        "rx_out_of_buffer": HW["out_of_buffer"], "res_oob_drop_count": HW["out_of_buffer"],
        "dup_req": HW["duplicate_request"], "rx_roce_discards": HW["rx_drops"],
        **_BYTES_AND_PACKETS,
    },
    "irdma": {
        "cnpSent": HW["np_cnp_sent"], "cnpHandled": HW["rp_cnp_handled"], "cnpIgnored": HW["rp_cnp_ignored"],
        "RxECNMrkd": HW["np_ecn_marked_roce_packets"],
        "RetransSegs": HW["retransmitted_packets"], "tcpRetransSegs": HW["retransmitted_packets"],
        "RTO": HW["local_ack_timeout_err"], "RxOOO": HW["out_of_sequence"], "NakSeqErr": HW["packet_seq_err"],
        "ICRC": HW["rx_icrc_encapsulated"],
        "InRdmaWrites": HW["rx_write_requests"], "iwInRdmaWrites": HW["rx_write_requests"],
        "InRdmaReads": HW["rx_read_requests"], "iwInRdmaReads": HW["rx_read_requests"],
        "ip4InDiscards": HW["rx_drops"], "ip6InDiscards": HW["rx_drops"],
        "ip4InOcts": RDMA_RECEIVE, "ip6InOcts": RDMA_RECEIVE, "ip4OutOcts": RDMA_TRANSMIT, "ip6OutOcts": RDMA_TRANSMIT,
        "ip4InPkts": RDMA_RECEIVE_PACKETS, "ip6InPkts": RDMA_RECEIVE_PACKETS,
        "ip4OutPkts": RDMA_TRANSMIT_PACKETS, "ip6OutPkts": RDMA_TRANSMIT_PACKETS,
    },
    "efa": {
        "retrans_pkts": HW["retransmitted_packets"], "retrans_timeout_events": HW["local_ack_timeout_err"],
        "rx_drops": HW["rx_drops"], "unresponsive_remote_events": HW["unresponsive_remote_events"],
        "impaired_remote_conn_events": HW["impaired_remote_conn_events"],
        **_BYTES_AND_PACKETS,
    },
    "ionic": {
        "tx_rdma_cnp_pkts": HW["np_cnp_sent"], "rx_rdma_cnp_pkts": HW["rp_cnp_handled"],
        "rx_rdma_ecn_pkts": HW["np_ecn_marked_roce_packets"], "tx_rdma_retx_pkts": HW["retransmitted_packets"],
        "rx_rdma_ucast_bytes": RDMA_RECEIVE, "tx_rdma_ucast_bytes": RDMA_TRANSMIT,
        "rx_rdma_ucast_pkts": RDMA_RECEIVE_PACKETS, "tx_rdma_ucast_pkts": RDMA_TRANSMIT_PACKETS,
    },
    "mana": {
        "requester_timeout": HW["local_ack_timeout_err"], "requester_oos_nak": HW["packet_seq_err"],
        "requester_rnr_nak": HW["rnr_nak_retry_err"], "requester_implicit_nak": HW["implied_nak_seq_err"],
        "responder_oos": HW["out_of_sequence"], "responder_dup_request": HW["duplicate_request"],
    },
    "rxe": {
        "duplicate_request": HW["duplicate_request"], "out_of_seq_request": HW["out_of_sequence"],
        "rcvd_seq_err": HW["packet_seq_err"], "rcvd_rnr_err": HW["rnr_nak_retry_err"],
        "retry_exceeded_err": HW["req_transport_retries_exceeded"],
        "retry_rnr_exceeded_err": HW["req_rnr_retries_exceeded"], "link_downed": PORT["link_downed"],
        "sent_pkts": RDMA_TRANSMIT_PACKETS, "rcvd_pkts": RDMA_RECEIVE_PACKETS,
    },
}  # fmt: skip
"""{driver: {file of ``hw_counters``: metric}}."""

_PORT_COUNTERS = {
    "port_rcv_data": Term(RDMA_RECEIVE, WORD_BYTES), "port_xmit_data": Term(RDMA_TRANSMIT, WORD_BYTES),
    "port_rcv_packets": Term(RDMA_RECEIVE_PACKETS), "port_xmit_packets": Term(RDMA_TRANSMIT_PACKETS),
}  # fmt: skip

_LINES: Mapping[str, Term] = {
    **{name: Term(metric) for name, metric in LINES.items()},
    "outbound_pci_stalled_rd": Term(STALLED_READ_RATIO, 0.01),
    "outbound_pci_stalled_wr": Term(STALLED_WRITE_RATIO, 0.01),
    # bnxt_en
    "rx_fcs_err_frames": Term(LINES["rx_crc_errors_phy"]), "rx_ovrsz_frames": Term(LINES["rx_oversize_pkts_phy"]),
    "rx_corrected_bits": Term(LINES["rx_corrected_bits_phy"]),
    "rx_pcs_symbol_err": Term(LINES["rx_pcs_symbol_err_phy"]), "link_down_events": Term(LINES["link_down_events_phy"]),
    "rx_buffer_passed_threshold": Term(LINES["rx_buffer_passed_thres_phy"]),
    # ice
    "rx_crc_errors.nic": Term(LINES["rx_crc_errors_phy"]), "rx_oversize.nic": Term(LINES["rx_oversize_pkts_phy"]),
    "rx_dropped.nic": Term(LINES["rx_discards_phy"]), "tx_dropped_link_down.nic": Term(LINES["tx_discards_phy"]),
}  # fmt: skip
_MICROSECONDS = 1e-6
_PRIORITY_LINES: tuple[tuple[re.Pattern[str], Term], ...] = tuple(
    (re.compile(pattern), term)
    for pattern, term in (
        (r"rx_prio([0-7])_pause", Term(PFC_RECEIVED)),
        (r"tx_prio([0-7])_pause", Term(PFC_SENT)),
        (r"rx_prio([0-7])_pause_duration", Term(PFC_PAUSED, _MICROSECONDS)),
        (r"tx_prio([0-7])_pause_duration", Term(PFC_PAUSING, _MICROSECONDS)),
        (r"rx_prio([0-7])_discards", Term(PRIORITY_DISCARDS)),
        (r"rx_prio([0-7])_marked", Term(PRIORITY_MARKED)),
        (r"rx_prio([0-7])_bytes", Term(PRIORITY_RECEIVE)),
        (r"tx_prio([0-7])_bytes", Term(PRIORITY_TRANSMIT)),
        # bnxt_en
        (r"rx_pfc_ena_frames_pri([0-7])", Term(PFC_RECEIVED)),
        (r"tx_pfc_ena_frames_pri([0-7])", Term(PFC_SENT)),
        (r"pfc_pri([0-7])_rx_duration_us", Term(PFC_PAUSED, _MICROSECONDS)),
        (r"pfc_pri([0-7])_tx_duration_us", Term(PFC_PAUSING, _MICROSECONDS)),
        (r"rx_bytes_pri([0-7])", Term(PRIORITY_RECEIVE)),
        (r"tx_bytes_pri([0-7])", Term(PRIORITY_TRANSMIT)),
        # ice
        (r"rx_priority_([0-7])_xo(?:n|ff)\.nic", Term(PFC_RECEIVED)),
        (r"tx_priority_([0-7])_xo(?:n|ff)\.nic", Term(PFC_SENT)),
    )
)

_REPRESENTOR = "vport_"


def of_hw_counter(name: str) -> Term | None:
    """What a file of ``hw_counters`` counts. On mlx5's representors all have a prefix."""
    own = name.removeprefix(_REPRESENTOR)
    metric = next((table[own] for table in HW_COUNTERS.values() if own in table), None)
    return None if metric is None else Term(metric)


def of_port_counter(name: str) -> Term | None:
    """What a file of ``counters`` counts."""
    if name in _PORT_COUNTERS:
        return _PORT_COUNTERS[name]
    metric = PORT.get(name.removeprefix("port_"))
    return None if metric is None else Term(metric)


def of_line(name: str) -> tuple[Term, int | None] | None:
    """What a line of ``ethtool -S`` counts, and of which priority."""
    if name in _LINES:
        return _LINES[name], None
    for pattern, term in _PRIORITY_LINES:
        if match := pattern.fullmatch(name):
            return term, int(match[1])
    return None
