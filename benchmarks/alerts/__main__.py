"""The rule pack in a real Prometheus and Alertmanager beside the lab: ``python -m benchmarks.alerts``.

By the rules of docs/alerts-benchmark.md. Prints Markdown. Sections:

healthy      an hour with a job running: nothing may fire
incidents    the five incidents, injected: each fires its own alert, which names the right component, alone
latency      from the first lost probe to the notification, at the fast profile and at stock intervals

Fails when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.alerts import report
from lab import sandbox
from lab.errors import LabError
from lab.scenarios.catalogue import scenarios

SECTIONS = ("healthy", "incidents", "latency")
MINUTES, QUICK_MINUTES = 60.0, 5.0
FAULTS, QUICK_FAULTS = {"fast": 40, "stock": 20}, {"fast": 5, "stock": 2}


def _inside(name: str, module: str, *words: str) -> dict[str, Any]:
    """Run a module in a sandbox of its own and return the report that it leaves; raise LabError when it leaves none."""
    with tempfile.TemporaryDirectory(prefix="fabric-alerts-", ignore_cleanup_errors=True) as work:
        argv = [sys.executable, "-m", module, *words, f"--output={work}"]
        code = sandbox.run(argv, show=[Path(work)])
        if code >= 128:
            raise KeyboardInterrupt
        try:
            report: dict[str, Any] = json.loads((Path(work) / "report.json").read_text())
        except FileNotFoundError as error:
            raise LabError(f"{name}: no report, exit code {code}") from error
    return report


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.alerts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", default=",".join(SECTIONS), help="some of " + ", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="minutes in place of hours: for a look")
    parser.add_argument("--minutes", type=float, help=f"of `healthy` (default: {MINUTES:g}, quick {QUICK_MINUTES:g})")
    parser.add_argument("--faults", type=int, help="of `latency`, each profile (default: 40 and 20)")
    parser.add_argument("--profiles", default="fast,stock", help="of `latency`")
    parser.add_argument("--seed", type=int, help="draw the same again (default: a new one)")
    arguments = parser.parse_args(words)
    sections = arguments.sections.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}: there are {', '.join(SECTIONS)}")
    sandbox.require()
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    verdicts: list[tuple[bool, str]] = []
    if "healthy" in sections:
        minutes = arguments.minutes or (QUICK_MINUTES if arguments.quick else MINUTES)
        told = _inside("healthy", "benchmarks.alerts.healthy", f"--minutes={minutes:g}", f"--seed={seed}")
        verdicts += report.healthy(told)
    if "incidents" in sections:
        names = [each.name for each in scenarios() if each.row is None]
        plays = [_inside(name, "lab.scenarios.watch", name, f"--seed={seed}") for name in names]
        verdicts += report.incidents(plays)
    if "latency" in sections:
        for profile in arguments.profiles.split(","):
            faults = arguments.faults or (QUICK_FAULTS if arguments.quick else FAULTS)[profile]
            words = [f"--profile={profile}", f"--faults={faults}", f"--seed={seed}"]
            verdicts += report.latency(_inside(profile, "benchmarks.alerts.latency", *words))
    return report.end(verdicts)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"benchmarks.alerts: {error}")
