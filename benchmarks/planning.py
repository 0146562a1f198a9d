"""What a preload list costs at 512, 2,048 and 32,768 RNICs: ``python -m benchmarks.planning``.

Processor seconds and peak memory of choosing the pairs and of making each host's part, without the disk. Fails when a
path costs three times as much at the largest size as at the middle one, or a host is asked for more than it can do.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import NamedTuple

from benchmarks.simulated_fleet import topology
from exporter.contracts.codec import encode
from skeleton_service.planning.plan import Settings, draft
from skeleton_service.planning.preload import unobserved

HOSTS = (64, 256, 4096)
LARGEST_GROWTH = 3.0


class Cost(NamedTuple):
    rnics: int
    paths: int
    probed: int
    pairs: int
    choosing: float
    making: float
    most: int
    megabytes: float
    """Peak of the process so far."""

    @property
    def microseconds(self) -> float:
        return (self.choosing + self.making) / self.paths * 1e6


def measure(hosts: int) -> Cost:
    fabric = topology(hosts)
    skeleton = unobserved("job", fabric)
    start = time.process_time()
    made = draft(skeleton, fabric, phase="preload", generation=1, expires=9e9)
    chosen = time.process_time()
    most = 0
    for _, part in made.by_host():
        encode(part)
        most = max(most, len(part.targets))
    end = time.process_time()
    coverage = made.head.coverage
    if coverage is None:
        raise AssertionError("a draft states its coverage")
    return Cost(
        rnics=len(skeleton.endpoints),
        paths=made.paths,
        probed=coverage.pairs_probed,
        pairs=coverage.pairs_total,
        choosing=chosen - start,
        making=end - chosen,
        most=most,
        megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def main() -> int:
    print("  RNICs       paths      pairs of all        choosing s   parts s   us a path   most a host     MB")
    costs = []
    for hosts in HOSTS:
        cost = measure(hosts)
        costs.append(cost)
        print(
            f"{cost.rnics:7,} {cost.paths:11,} {cost.probed:9,} {cost.pairs:11,} {cost.choosing:12.1f} "
            f"{cost.making:9.1f} {cost.microseconds:11.1f} {cost.most:13,} {cost.megabytes:6.0f}",
            flush=True,
        )
    growth = costs[-1].microseconds / costs[-2].microseconds
    good = growth <= LARGEST_GROWTH and all(cost.most <= Settings().max_paths for cost in costs)
    verdict = "good" if good else "MISSED"
    print(f"{verdict}: a path costs {growth:.2f} times as much at the largest size as at the middle one")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
