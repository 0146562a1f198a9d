"""Exporters on loopback that are followed, and what they see of a link that breaks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from exporter.contracts.fabric import Fabric
from skeleton_service.following.follow import Following, Given
from tests.unit.fabrics import leaf_spine
from tests.unit.test_skeleton_contract import skeleton

TOPOLOGY = leaf_spine(pods=3, rails=1, spines=2, hosts_per_pod=2)
FABRIC = Fabric(TOPOLOGY)
HOSTS = [host.name for host in TOPOLOGY.hosts]
PATHS = [(a, b, spine) for a in HOSTS for b in HOSTS for spine in range(2) if a[:7] != b[:7]]
BROKEN = "leaf-p0-r0:Ethernet0 -- spine-0:Ethernet0"
BEGIN = 1_760_000_000


@dataclass
class World:
    """What exporters see: BROKEN loses half of its probes from ``broken`` to ``repaired``. Times in seconds."""

    now: float = BEGIN
    broken: float = BEGIN + 60
    repaired: float = BEGIN + 90
    resolver_dead: float = float("inf")
    down: set[str] = field(default_factory=set)
    """Hosts whose exporter answers 503."""
    strange: set[str] = field(default_factory=set)
    """Hosts whose records name a host that the topology does not have."""
    ahead: float = 0.0
    """By how much the hosts' clocks are ahead of the diagnosing one's."""
    hasty: dict[str, float] = field(default_factory=dict)
    """By how much more some are."""

    def served(self, host: str, since: float) -> Iterator[dict[str, Any]]:
        """By the clock of the host and under its name."""
        ahead = self.ahead + self.hasty.get(host, 0.0)
        for row in self.rows(host, since - ahead):
            name = f"x-{host}" if host in self.strange else host
            yield row | {"ping_time": row["ping_time"] + int(ahead * 1e9), "src_node_sn": name}

    def rows(self, host: str, since: float) -> Iterator[dict[str, Any]]:
        """As an exporter serves them: probes up to now, then the traces of now; DNS queries when they time out."""
        for second in range(max(int(since), BEGIN), int(self.now)):
            for source, destination, spine in PATHS:
                if source == host:
                    crosses = source.startswith("host-p0") and spine == 0
                    lost = crosses and self.broken <= second < self.repaired and (second + len(destination)) % 2 == 0
                    yield self._row(source, destination, spine, second, lost)
            dead = second >= self.resolver_dead
            if second <= self.now - 10 * dead:
                yield {
                    "task_type": "DNS",
                    "ping_time": int(second * 1e9),
                    "src_node_id": host,
                    "src_node_sn": host,
                    "dst_node_id": "resolver-1",
                    "dial": "fail" if dead else "success",
                    "latency": None if dead else 800.0,
                    "loss_rate": float(dead),
                }
        for source, destination, spine in PATHS:
            if source == host:
                hops = [f"leaf-{source[5:7]}-r0", f"spine-{spine}", f"leaf-{destination[5:7]}-r0"]
                traced = {"task_type": "TRACEROUTE", "route": json.dumps(hops), "latency": None, "loss_rate": None}
                yield self._row(source, destination, spine, self.now, lost=False) | traced

    def _row(self, source: str, destination: str, spine: int, second: float, lost: bool) -> dict[str, Any]:
        return {
            "task_type": "UDP_PING",
            "ping_time": int(second * 1e9),
            "src_node_id": f"c-{source}",
            "dst_node_id": f"c-{destination}",
            "src_node_sn": source,
            "dst_node_sn": destination,
            "src_rnic": "mlx5_0",
            "dst_rnic": "mlx5_0",
            "src_port": 49152 + spine,
            "dst_port": 65300,
            "dial": "fail" if lost else "success",
            "latency": None if lost else 15.0,
            "loss_rate": float(lost),
        }


COLUMNS = ["task_type", "ping_time", "src_node_id", "dst_node_id", "src_node_sn", "dst_node_sn", "src_rnic", "dst_rnic",
           "src_port", "dst_port", "dial", "latency", "loss_rate", "route"]  # fmt: skip


def as_csv(rows: Iterator[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@contextmanager
def serving(world: World) -> Iterator[str]:
    """One server for all exporters: ``URL/HOST``, and whatever is below it."""

    class Exporter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            host = parts.path.split("/")[1]
            body = as_csv(world.served(host, float(parse_qs(parts.query)["since"][0])))
            self.send_response(503 if host in world.down else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Whoever asked has left: no event."""

    with Quiet(("127.0.0.1", 0), Exporter) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def following_of(world: World, url: str, directory: Path, *more: str, **changes: Any) -> Following:
    """Follows the exporters of a world by its clock, and ``more`` sources."""
    given = {
        "fabric": FABRIC,
        "skeleton": skeleton(),
        "probes": [f"{url}/{host}" for host in HOSTS] + list(more),
        "counters": (),
        "overlay": None,
        "output": directory / "diagnosis.json",
        "interval": 2.0,
        "spraying": False,
    }
    return Following(Given(**{**given, **changes}), Event(), lambda: world.now)


def play(following: Following, world: World, seconds: int, step: int = 5) -> None:
    for _ in range(0, seconds, step):
        world.now += step
        following.round()
