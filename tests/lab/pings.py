"""ping(8), the independent tool that most effects are measured with."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lab.running import Running


@dataclass(frozen=True)
class Pings:
    """What ping reported: packets sent and received, and round trips in ms (0 when nothing came back)."""

    sent: int
    received: int
    least: float
    mean: float
    most: float

    @property
    def lost(self) -> int:
        return self.sent - self.received


def ping(
    fabric: Running,
    node: str,
    source: str,
    destination: str,
    *,
    size: int = 56,
    count: int = 20,
    interval: float = 0.01,
    dscp: int = 0,
    patience: float = 1,
) -> Pings:
    """Ping with the don't-fragment bit; a destination that cannot be reached at all counts as lost."""
    words = f"ping -n -q -M do -s {size} -c {count} -i {interval} -W {patience} -Q {dscp << 2}"
    done = fabric.run(node, [*words.split(), "-I", source, destination], check=False)
    if "usage" in done.stderr.lower():  # a mistake of ours must not look like a loss
        raise ValueError(done.stderr)
    answer = done.stdout
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", answer)
    times = re.search(r"= ([\d.]+)/([\d.]+)/([\d.]+)", answer)
    sent, received = (int(counts[1]), int(counts[2])) if counts else (count, 0)
    least, mean, most = (float(word) for word in times.groups()) if times else (0.0, 0.0, 0.0)
    return Pings(sent, received, least, mean, most)
