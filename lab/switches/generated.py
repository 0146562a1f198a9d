"""Switches of any size, as SONiC's agent serves them."""

from __future__ import annotations

from lab.switches.ber import Oid, Tag, Value
from lab.switches.walk import UPTIME, Walk

SYSTEM: Oid = (1, 3, 6, 1, 2, 1, 1)
NAME: Oid = (*SYSTEM, 5, 0)
INTERFACE_COUNT: Oid = (1, 3, 6, 1, 2, 1, 2, 1, 0)
INTERFACES: Oid = (1, 3, 6, 1, 2, 1, 2, 2, 1)
INTERFACES_MORE: Oid = (1, 3, 6, 1, 2, 1, 31, 1, 1, 1)
PFC: Oid = (1, 3, 6, 1, 4, 1, 9, 9, 813, 1, 1, 1)
PFC_OF_PRIORITY: Oid = (1, 3, 6, 1, 4, 1, 9, 9, 813, 1, 2, 1)
QUEUES: Oid = (1, 3, 6, 1, 4, 1, 9, 9, 580, 1, 5, 5, 1, 4)
BGP_STATE: Oid = (1, 3, 6, 1, 4, 1, 9, 9, 187, 1, 2, 5, 1, 3)

SENT, RECEIVED = 2, 3
"""Columns of PFC_OF_PRIORITY: "requests" are the frames that a switch sends."""

EGRESS = 2
PACKETS, BYTES, DROPPED_PACKETS, DROPPED_BYTES = 1, 2, 5, 6
"""What QUEUES tells of a queue."""

LOSSLESS = (3, 4)
"""Priorities that PFC pauses; their queues, and the first, carry the traffic."""

REFRESH_SECONDS = 5.0
"""How often SONiC's agent reads its counters anew."""

_BYTES_A_SECOND = 20_000_000_000
_PACKETS_A_SECOND = 5_000_000
_PFC_A_SECOND = 40
_SPEED = 400_000
_LARGEST_SPEED_IN_BITS = (1 << 32) - 1
_START = 1 << 40
"""Counters of busy ports begin here, as on a switch that has been up for some time."""


def index_of(port: int) -> int:
    """ifIndex of a port counted from 0: it is Ethernet0, Ethernet4, …, of four lanes each."""
    return 1 + 4 * port


def peer_of(port: int) -> Oid:
    """The address of the BGP neighbour at a port."""
    return (10, 0, *divmod(2 * port + 1, 256))


def sonic(ports: int = 64, priorities: int = 8, name: str = "leaf-0") -> Walk:
    """A switch with a neighbour on each port, all up and busy; its counters move."""
    walk = Walk()
    walk.refresh_seconds = REFRESH_SECONDS
    rates: dict[Oid, float] = {}

    def counter(oid: Oid, rate: float = 0, tag: Tag = Tag.COUNTER64) -> None:
        if rate:
            rates[oid] = rate
        walk.add(oid, tag, (_START if tag == Tag.COUNTER64 else 1 << 24) if rate else 0)

    description = "SONiC Software Version: SONiC.202505 - HwSku: EXAMPLE-S64 - Distribution: Debian 12 - Kernel: 6.1.0"
    walk.add((*SYSTEM, 1, 0), Tag.OCTET_STRING, description.encode())
    walk.add((*SYSTEM, 2, 0), Tag.OID, (1, 3, 6, 1, 4, 1, 8072, 3, 2, 10))
    walk.add(UPTIME, Tag.TIME_TICKS, 8_640_000)
    walk.add(NAME, Tag.OCTET_STRING, name.encode())
    walk.add(INTERFACE_COUNT, Tag.INTEGER, ports)
    for port in range(ports):
        index = index_of(port)
        share = 1 - port % 7 / 10  # no two neighbours are as busy
        octets, packets = _BYTES_A_SECOND * share, _PACKETS_A_SECOND * share
        for column, tag, value in _interface(port):
            walk.add((*INTERFACES, column, index), tag, value)
        for column, tag, value in _more(port):
            walk.add((*INTERFACES_MORE, column, index), tag, value)
        moving = {10: octets, 11: packets, 16: octets, 17: packets}
        for column in (10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20):
            counter((*INTERFACES, column, index), moving.get(column, 0), Tag.COUNTER32)
        for column in (2, 3, 4, 5):
            counter((*INTERFACES_MORE, column, index), tag=Tag.COUNTER32)
        moving = {6: octets, 7: packets, 10: octets, 11: packets}
        for column in (6, 7, 8, 9, 10, 11, 12, 13):
            counter((*INTERFACES_MORE, column, index), moving.get(column, 0))
        for column in (1, 2):  # SONiC counts priority 3 alone here
            counter((*PFC, column, index), _PFC_A_SECOND * share)
        for priority in range(priorities):
            lossless = priority in LOSSLESS
            for column in (SENT, RECEIVED):
                counter((*PFC_OF_PRIORITY, column, index, priority), _PFC_A_SECOND * share if lossless else 0)
            busy = lossless or priority == 0
            queue = (*QUEUES, index, EGRESS, 1 + priority)  # queues are counted from 1, priorities from 0
            counter((*queue, PACKETS), packets / 3 if busy else 0)
            counter((*queue, BYTES), octets / 3 if busy else 0)
            counter((*queue, DROPPED_PACKETS))
            counter((*queue, DROPPED_BYTES))
        walk.add((*BGP_STATE, 1, 4, *peer_of(port)), Tag.INTEGER, 6)
    walk.move(rates)
    return walk


def _interface(port: int) -> list[tuple[int, Tag, Value]]:
    """Columns of ifTable that are no counters."""
    return [
        (1, Tag.INTEGER, index_of(port) - 1),  # SONiC's agent is off by one in the value, not in the OID
        (2, Tag.OCTET_STRING, _alias(port)),
        (3, Tag.INTEGER, 6),
        (4, Tag.INTEGER, 9100),
        (5, Tag.GAUGE32, _LARGEST_SPEED_IN_BITS),
        (6, Tag.OCTET_STRING, b""),
        (7, Tag.INTEGER, 1),
        (8, Tag.INTEGER, 1),
        (9, Tag.TIME_TICKS, 0),
        (21, Tag.GAUGE32, 0),
        (22, Tag.OID, (0, 0)),
    ]


def _more(port: int) -> list[tuple[int, Tag, Value]]:
    """Columns of ifXTable that are no counters."""
    return [
        (1, Tag.OCTET_STRING, _alias(port)),
        (14, Tag.INTEGER, 2),
        (15, Tag.GAUGE32, _SPEED),
        (16, Tag.INTEGER, 1),
        (17, Tag.INTEGER, 1),
        (18, Tag.OCTET_STRING, b"gpu-node-%d rail%d" % (port // 8, port % 8)),
        (19, Tag.TIME_TICKS, 0),
    ]


def _alias(port: int) -> bytes:
    return b"etp%d" % (port + 1)
