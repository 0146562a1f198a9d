"""A healthy lab under watch, from inside: ``python -m benchmarks.alerts.healthy --minutes N --seed N --output DIR``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.narrator import Narrator
from lab.scenarios import verdict
from lab.scenarios.watched import WatchedScene

TRANSIT = {"transit": True}
"""The largest stage: with the second site, its carriers and the resolver."""
SAMPLE_SECONDS = 10.0
STARVED = "sum(rate(fabric_exporter_prober_late_slots_total[1m]))"


def watch(stage: WatchedScene, seconds: float) -> dict[str, Any]:
    """Watch a stage that nothing happens on for so long; what fired, what waited to fire, what was told."""
    stage.begin()
    began = time.time()
    loads: list[float] = []
    late: list[float] = []
    with stage.narrator.step("healthy") as step:
        while (left := began + seconds - time.time()) > 0:
            stage.check_daemons()
            loads.append(os.getloadavg()[0])
            late.append(stage.scalar(STARVED))
            stage.narrator.progress(f"{left / 60:.0f} minutes to go, {len(stage.firing())} alerts fire")
            time.sleep(min(SAMPLE_SECONDS, left))
        # A range query gives 11,000 points at most.
        step_seconds = max(1.0, seconds / 10_000)
        alerts = verdict.alerts(stage.monitoring.series("ALERTS", began, time.time(), step_seconds))
        step.detail = f"{seconds / 60:g} minutes, {len(alerts)} alerts pending or firing at any time"
    evaluation, missed = stage.monitoring.evaluations()
    return {
        "seed": stage.scene.seed,
        "evaluation": evaluation,
        "missed": missed,
        "seconds": seconds,
        "exporters": int(stage.scalar("count(up)")),
        "series": int(stage.scalar('count({__name__=~"fabric_.+"})')),
        "rules": len(stage.monitoring.loaded_rules()),
        "load": sorted(loads),
        "late": sorted(late),
        "alerts": [{**asdict(each), "first": each.first - began, "last": each.last - began} for each in alerts],
        "notified": [asdict(group) for group in verdict.groups(stage.receiver.notifications)],
    }


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alerts.healthy", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(words)
    stage = WatchedScene(TRANSIT, arguments.seed, arguments.output / "run", Narrator())
    try:
        told = watch(stage, 60 * arguments.minutes)
        (arguments.output / "report.json").write_text(json.dumps(told, indent=2) + "\n")
    finally:
        stage.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
