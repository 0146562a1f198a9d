"""``python -m lab run SCENARIO``: makes the sandbox in which a scenario is played, and keeps its files."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from lab import sandbox
from lab.errors import LabError
from lab.scenarios.catalogue import find


def run(arguments: argparse.Namespace) -> int:
    """Return 0 when the scenario had the effect it is meant to have, 1 when not."""
    find(arguments.scenario)
    sandbox.require()
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    output: Path = arguments.output or Path(f"{arguments.scenario}-{seed}")
    if output.exists() and any(output.iterdir()):
        raise LabError(f"{output} is there already", "another --output, or remove it")
    # What runs needs short paths without spaces, and private ones; what is recorded goes where it is wanted.
    with tempfile.TemporaryDirectory(prefix="fabric-run-", ignore_cleanup_errors=True) as work:
        words = [sys.executable, "-m", "lab.scenarios.runner", arguments.scenario]
        code = sandbox.run([*words, f"--seed={seed}", f"--output={work}"], show=[Path(work)])
        if code == 0:
            shutil.rmtree(Path(work) / "run", ignore_errors=True)
        output.mkdir(parents=True, exist_ok=True)
        shutil.copytree(work, output, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock", "agentx"))
    print(f"recorded in {output}" if code == 0 else f"logs and files of this run: {output}")
    return code
