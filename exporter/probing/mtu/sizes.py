"""Which packet size to try next when a path's MTU is searched, and how often before silence proves it too large.

Sizes are of whole IP packets. Pure arithmetic: exporter.probing.mtu.search sends.
"""

from __future__ import annotations

import math

from exporter.contracts.plan import UDP_HEADERS
from exporter.contracts.sizes import VXLAN_OVERHEAD, roce_packet_bytes
from exporter.probing.packet import PACKET_BYTES

SMALLEST = PACKET_BYTES + UDP_HEADERS
LIKELY = tuple(
    sorted(
        {
            576,  # what every host must take (RFC 791)
            1280,  # IPv6's least (RFC 8200), common in tunnels
            1500 - VXLAN_OVERHEAD,
            1500,  # Ethernet's default
            1500 + VXLAN_OVERHEAD,
            4096,
            roce_packet_bytes(4096),
            4200,  # set on interfaces for RoCE at path MTU 4096
            roce_packet_bytes(4096) + VXLAN_OVERHEAD,
            9000 - VXLAN_OVERHEAD,
            9000,  # hosts with jumbo frames
            9100,  # SONiC's default
            9216,  # what most switches offer
        }
    )
)
"""MTUs that interfaces are set to, as the plateaus of RFC 1191, section 7.1, were in their time."""

CALIBRATION = 10
"""Small packets that show how lossy the path is."""
MISJUDGED = 1e-5
"""With what probability, at most, a size that passes is taken for too large."""


def next_size(passes: int, fails: int, hints: tuple[int, ...]) -> int | None:
    """Which size to try when ``passes`` was answered and ``fails``, which is larger, was not; None once they touch.

    A hint or likely size that passes is followed by the size one byte above it, which settles most searches.
    """
    if fails - passes <= 1:
        return None
    for hint in hints:
        if passes == hint:
            return passes + 1
        if passes < hint < fails:
            return hint
    if passes in LIKELY:
        return passes + 1
    likely = [size for size in LIKELY if passes < size < fails]
    return likely[len(likely) // 2] if likely else (passes + fails) // 2


def packets_needed(lost: int, sent: int = CALIBRATION) -> int | None:
    """How many unanswered packets of a size prove it too large, where ``lost`` of ``sent`` small ones were lost.

    By Laplace's rule of succession the next one is lost with probability (lost + 1) / (sent + 2). None when more than
    half are lost: that path is lossy or dead, whatever the size.
    """
    if 2 * lost > sent:
        return None
    return math.ceil(math.log(MISJUDGED) / math.log((lost + 1) / (sent + 2)))
