"""What one RNIC shows: its files in sysfs, as the mlx5 driver lays them out, and its lines of ``ethtool -S``.

All traffic of the RNIC's interface is told as the RNIC's: in the lab the training job sends TCP where a real one
would send RDMA. Pure: from the kernel's reading, the timeline and the time to text.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from lab.counters.kernel import Link, Reading
from lab.counters.names import (
    ETHTOOL_COUNTERS,
    ETHTOOL_GAUGES,
    ETHTOOL_PRIORITY,
    HW_COUNTERS_32,
    HW_COUNTERS_64,
    LOSSLESS,
    PORT_COUNTERS,
    PRIORITIES,
)
from lab.counters.switch import PAUSE_PAIR_MICROSECONDS, by_queue, marked, pauses
from lab.counters.timeline import Timeline

FIRMWARE = "28.39.1002"
HCA_TYPE = "MT4129"  # ConnectX-7
RATES = {10_000: "10 Gb/sec (1X QDR)", 100_000: "100 Gb/sec (4X EDR)", 200_000: "200 Gb/sec (4X HDR)"}
RATES |= {400_000: "400 Gb/sec (4X NDR)"}  # by Mb/s, as ib_core words them
MESSAGE_BYTES = 1 << 20  # of an RDMA write, for the number of requests behind so many bytes
LIFESPAN_MILLISECONDS = 10
FCS_BYTES = 4  # *_phy counters hold it
GIDS = 4
_NO_GID = IPv6Address(0)


@dataclass(frozen=True)
class RnicPlace:
    """Which RNIC, and what its interface is."""

    host: str
    name: str
    netdev: str
    address: str
    speed_mbps: int


def _eui64(mac: bytes) -> bytes:
    """The node GUID and the interface identifier that the driver makes of a MAC address (RFC 4291, appendix A)."""
    return bytes((mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:6]))


def _words(data: bytes) -> str:
    return ":".join(data[at : at + 2].hex() for at in range(0, len(data), 2))


def gids(timeline: Timeline, place: RnicPlace, mac: bytes, t: float) -> tuple[str, ...]:
    """The GID table: link-local and IPv4-mapped, each as RoCE v1 (even index) and v2 (odd)."""
    link_local = IPv6Address(bytes((0xFE, 0x80, *bytes(6))) + _eui64(mac))
    mapped = IPv6Address(b"\0" * 10 + b"\xff\xff" + IPv4Address(place.address).packed)
    configured = (link_local, link_local, mapped, mapped)
    table = []
    for index in range(GIDS):
        text = timeline.text(place.host, place.name, "gid", index, t)
        gid = configured[index] if text is None else IPv6Address(text) if text else _NO_GID
        table.append(_words(gid.packed))
    return tuple(table)


def hw_counters(timeline: Timeline, place: RnicPlace, reading: Reading, t: float) -> dict[str, int]:
    """``ports/1/hw_counters``. Q counters are 32 bits wide and wrap."""
    link = reading.links[place.netdev]
    marks = _marks(reading, link)
    real = {
        "rx_write_requests": link.rx_bytes // MESSAGE_BYTES,
        "np_ecn_marked_roce_packets": marks,
        "np_cnp_sent": marks,  # one for each marked packet, as newer RNICs do
        "rp_cnp_handled": marked(link.tx_packets),
    }
    values = {}
    for name in (*HW_COUNTERS_32, *HW_COUNTERS_64):
        value = real.get(name, 0) + timeline.total(place.host, place.name, name, None, t)
        values[name] = value % (1 << 32) if name in _WRAPPING else value
    return values


_WRAPPING = frozenset(HW_COUNTERS_32)


def port_counters(timeline: Timeline, place: RnicPlace, reading: Reading, t: float) -> dict[str, int]:
    """``ports/1/counters``. The ``data`` ones count units of four bytes."""
    link = reading.links[place.netdev]

    def scripted(name: str) -> int:
        return timeline.total(place.host, place.name, name, None, t)

    real = {
        "port_xmit_data": link.tx_bytes // 4,
        "port_rcv_data": link.rx_bytes // 4,
        "port_xmit_packets": link.tx_packets,
        "port_rcv_packets": link.rx_packets,
        "unicast_xmit_packets": link.tx_packets,
        "unicast_rcv_packets": link.rx_packets,
        "link_downed": link.downs + scripted("link_down_events_phy"),
        "symbol_error": scripted("rx_symbol_err_phy"),
        "port_rcv_errors": scripted("port_rcv_errors") + scripted("rx_crc_errors_phy"),
        "port_xmit_discards": scripted("tx_discards_phy"),
        "port_xmit_wait": scripted("port_xmit_wait"),
    }
    return {name: real.get(name, 0) for name in PORT_COUNTERS}


def ethtool(timeline: Timeline, place: RnicPlace, reading: Reading, t: float) -> dict[str, int]:
    """The values of ``ethtool -S``, in its order. Pause rows exist only for priorities with PFC."""
    link = reading.links[place.netdev]

    def scripted(name: str, index: int | None = None) -> int:
        return timeline.total(place.host, place.name, name, index, t)

    received, sent = by_queue(reading.received, link.ifindex), by_queue(reading.originated, link.ifindex)
    values = {
        "rx_packets": link.rx_packets,
        "rx_bytes": link.rx_bytes,
        "tx_packets": link.tx_packets,
        "tx_bytes": link.tx_bytes,
        "rx_vport_rdma_unicast_packets": sum(received[priority][0] for priority in LOSSLESS),
        "rx_vport_rdma_unicast_bytes": sum(received[priority][1] for priority in LOSSLESS),
        "tx_vport_rdma_unicast_packets": sum(sent[priority][0] for priority in LOSSLESS),
        "tx_vport_rdma_unicast_bytes": sum(sent[priority][1] for priority in LOSSLESS),
        "tx_packets_phy": link.tx_packets,
        "rx_packets_phy": link.rx_packets,
        "tx_bytes_phy": link.tx_bytes + FCS_BYTES * link.tx_packets,
        "rx_bytes_phy": link.rx_bytes + FCS_BYTES * link.rx_packets,
    }
    values |= {name: scripted(name) for name in ETHTOOL_COUNTERS}
    values["link_down_events_phy"] += link.downs
    for name in ETHTOOL_GAUGES:
        level = timeline.level(place.host, place.name, name, None, t)
        values[name] = round(min(100.0, max(0.0, level)))
    healthy = pauses(link.tx_packets)
    pause_rows: dict[str, int] = {}
    for priority in LOSSLESS:
        own = healthy if priority == LOSSLESS[0] else 0
        arrived, left = scripted("pfc_received", priority) + own, scripted("pfc_sent", priority)
        arrived_time = scripted("pfc_received_duration", priority) + own // 2 * PAUSE_PAIR_MICROSECONDS
        pause_rows[f"rx_prio{priority}_pause"] = arrived
        pause_rows[f"rx_prio{priority}_pause_duration"] = arrived_time
        pause_rows[f"tx_prio{priority}_pause"] = left
        pause_rows[f"tx_prio{priority}_pause_duration"] = scripted("pfc_sent_duration", priority)
        pause_rows[f"rx_prio{priority}_pause_transition"] = arrived // 2
    values["rx_pause_ctrl_phy"] = sum(pause_rows[f"rx_prio{priority}_pause"] for priority in LOSSLESS)
    values["tx_pause_ctrl_phy"] = sum(pause_rows[f"tx_prio{priority}_pause"] for priority in LOSSLESS)
    for priority in PRIORITIES:
        values[f"rx_prio{priority}_bytes"] = received[priority][1]
        values[f"rx_prio{priority}_packets"] = received[priority][0]
        for name in ETHTOOL_PRIORITY:
            values[f"rx_prio{priority}_{name}"] = scripted(f"rx_prio_{name}", priority)
        values[f"tx_prio{priority}_bytes"] = sent[priority][1]
        values[f"tx_prio{priority}_packets"] = sent[priority][0]
    for priority in LOSSLESS:
        values[f"rx_prio{priority}_marked"] += _marks(reading, link)
    return values | pause_rows


def ethtool_text(values: dict[str, int]) -> str:
    return "NIC statistics:\n" + "".join(f"     {name}: {value}\n" for name, value in values.items())


def files(timeline: Timeline, place: RnicPlace, reading: Reading, t: float) -> dict[str, str]:
    """All files below ``class/infiniband/<device>``, by path, without their final newline."""
    link = reading.links[place.netdev]
    guid = _words(_eui64(link.address))
    port = "ports/1"
    text = {
        "node_type": "1: CA",
        "node_desc": f"{place.host} {place.name}",
        "node_guid": guid,
        "sys_image_guid": guid,
        "fw_ver": FIRMWARE,
        "hca_type": HCA_TYPE,
        f"{port}/link_layer": "Ethernet",
        f"{port}/lid": "0x0",
        f"{port}/state": "4: ACTIVE" if link.up else "1: DOWN",
        f"{port}/phys_state": "5: LinkUp" if link.up else "3: Disabled",
        f"{port}/rate": RATES.get(place.speed_mbps, f"{place.speed_mbps // 1000} Gb/sec"),
        f"{port}/hw_counters/lifespan": str(LIFESPAN_MILLISECONDS),
    }
    for index, gid in enumerate(gids(timeline, place, link.address, t)):
        text[f"{port}/gids/{index}"] = gid
        text[f"{port}/gid_attrs/types/{index}"] = "RoCE v2" if index % 2 else "IB/RoCE v1"
        text[f"{port}/gid_attrs/ndevs/{index}"] = place.netdev
    for name, value in port_counters(timeline, place, reading, t).items():
        text[f"{port}/counters/{name}"] = str(value)
    for name, value in hw_counters(timeline, place, reading, t).items():
        text[f"{port}/hw_counters/{name}"] = str(value)
    return text


def _marks(reading: Reading, link: Link) -> int:
    received = by_queue(reading.received, link.ifindex)
    return marked(sum(received[priority][0] for priority in LOSSLESS))
