"""What is to be said about a run: destinations that never answered, with the remedy, and thresholds exceeded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from exporter.contracts.plan import ROCE_PORT
from exporter.probe.request import Request
from exporter.probe.statistics import PathSummary, label
from exporter.probe.units import percent, seconds

PATIENCE = 3
"""So many probes of a path must have ended in vain before a run that goes on says so."""


def problems(request: Request, paths: Sequence[PathSummary]) -> list[str]:
    """One line for each thing that makes the exit code 1; empty when all is within the thresholds."""
    return [*silence(request, paths), *_beyond_thresholds(request, paths)]


def silence(request: Request, paths: Sequence[PathSummary], *, patience: int = 0) -> list[str]:
    """A line with the remedy for each reason why paths have never answered; paths of one reason share it."""
    found: dict[str, list[PathSummary]] = defaultdict(list)
    for path in paths:
        if not path.answered and path.lost + path.refused + path.unsent >= patience:
            found[_why(request, path)].append(path)
    return [f"{label(silent, paths)}: {why}" for why, silent in found.items()]


def _why(request: Request, path: PathSummary) -> str:
    port = path.destination_port
    if path.introduced and path.lost:
        return (
            f"introduced over UDP port {port}, but no RDMA probe was answered (something drops RoCEv2, UDP port "
            f"{ROCE_PORT}: a firewall, a GID that went, an offload. Is --type udp with this --traffic-class answered?)"
        )
    if path.refused and request.type == "rdma":
        return (
            f"refused: the host is there, but no exporter answers RDMA probes (UDP port {port}; start fabric-exporter "
            "run there with a section rdma and this address, or name its --port)"
        )
    if path.refused:
        return (
            f"refused: the network is fine, but no responder listens on UDP port {port} "
            "(start fabric-exporter run there, or name its --port)"
        )
    if not path.lost:
        return "no probe was sent" + (" (this host could not: is a firewall in the way?)" if path.unsent else "")
    if path.path_mtu is not None and path.path_mtu.kind is not None:
        return str(path.path_mtu)
    if path.mtu_reported_bytes is not None:
        return f"too large: the path reports an MTU of {path.mtu_reported_bytes} bytes (try a smaller --size)"
    if request.type == "tcp":
        return f"no answer from TCP port {port} (is the host up, and does no firewall drop the handshakes?)"
    remedy = "is fabric-exporter running there, under the key of --key-file, and does no firewall drop the port?"
    if request.type == "mtu":
        remedy = "if --type udp is answered, the path drops packets of this size; else: " + remedy
    return f"no answer from UDP port {port} ({remedy})"


def _beyond_thresholds(request: Request, paths: Sequence[PathSummary]) -> list[str]:
    lines = []
    for path in paths:
        if path.answered and path.path_mtu is not None and path.path_mtu.kind is not None:
            lines.append(f"{path.name}: {path.path_mtu}")
        limit, lost = request.max_lost_ratio, path.lost_ratio
        if path.answered and limit is not None and lost is not None and lost > limit:
            lines.append(f"{path.name}: lost {percent(lost)}, more than the {percent(limit)} allowed")
        rtt = path.rtt_seconds
        if rtt is not None and request.max_rtt is not None and rtt.p99 > request.max_rtt:
            lines.append(f"{path.name}: p99 {seconds(rtt.p99)}, more than the {seconds(request.max_rtt)} allowed")
    return lines
