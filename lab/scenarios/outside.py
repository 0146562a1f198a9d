"""``python -m lab run`` and ``replay``: a scenario in a sandbox of its own, and its files judged afterwards."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from exporter.contracts.codec import ContractError, read
from exporter.contracts.diagnosis import Diagnosis
from lab import sandbox
from lab.errors import LabError
from lab.narrator import Narrator
from lab.scenarios.catalogue import find, scenarios
from skeleton_service.cli import main as skeleton_service

ALL = "all"


def run(arguments: argparse.Namespace) -> int:
    """Play one scenario, or all; return 0 when each had the effect it is meant to have, 1 when one had not."""
    names = [each.name for each in scenarios()] if arguments.scenario == ALL else [find(arguments.scenario).name]
    sandbox.require()
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    base: Path = arguments.output or Path(f"{arguments.scenario}-{seed}")
    outputs = {name: base / name if arguments.scenario == ALL else base for name in names}
    for output in outputs.values():
        _make(output)  # now, not after half an hour
    results: list[tuple[str, int, float]] = []
    for name, output in outputs.items():
        began = time.monotonic()
        code = _play(name, seed, output)
        results.append((name, code, time.monotonic() - began))
        if code >= 128:  # stopped by a signal: nobody wants the rest
            break
    if arguments.scenario == ALL:
        _summary(results, outputs)
    return 0 if all(code == 0 for _, code, _ in results) else 1


def watch(arguments: argparse.Namespace) -> int:
    """Play one scenario under Prometheus and Alertmanager; return 0 when its own alert alone was told, and rightly."""
    name = find(arguments.scenario).name
    sandbox.require()
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    output: Path = arguments.output or Path(f"watch-{name}-{seed}")
    _make(output)
    given = {option: getattr(arguments, option) for option in ("quiet", "during", "resolved")}
    more = [f"--{option}={value}" for option, value in given.items() if value is not None]
    more += ["--moved"] if arguments.moved else []
    return _play(name, seed, output, "lab.scenarios.watch", more, keep=arguments.keep)


def _make(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        if any(output.iterdir()):
            raise LabError(f"{output} is there already", "another --output, or remove it")
    except OSError as error:
        raise LabError(f"{output} cannot be written: {error.strerror}", "another --output") from error


def _play(
    name: str,
    seed: int,
    output: Path,
    module: str = "lab.scenarios.runner",
    more: Sequence[str] = (),
    *,
    keep: bool = False,
) -> int:
    # What runs needs short paths without spaces, and private ones; what is recorded goes where it is wanted.
    with tempfile.TemporaryDirectory(prefix="fabric-run-", ignore_cleanup_errors=True) as work:
        words = [sys.executable, "-m", module, name, f"--seed={seed}", f"--output={work}", *more]
        code = sandbox.run(words, show=[Path(work)])
        if code == 0 and not keep:
            shutil.rmtree(Path(work) / "run", ignore_errors=True)
        for file in Path(work).rglob("*"):
            if file.is_file():
                target = output / file.relative_to(work)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
    print(f"recorded in {output}" if code == 0 else f"logs and files of this run: {output}", flush=True)
    return code


def _summary(results: list[tuple[str, int, float]], outputs: dict[str, Path]) -> None:
    table = Table(title="scenarios", title_justify="left", title_style="bold")
    for column in ("scenario", "tool", "before", "during", "after", "component", "s", ""):
        table.add_column(column, overflow="fold")
    for name, code, seconds in results:
        try:
            document = json.loads((outputs[name] / "scenario.json").read_text())
            readings = [document["measured"][when] for when in ("before", "during", "after")]
            truth = read(outputs[name] / "truth.json", Diagnosis).failures[0].component
            cells = [readings[0]["tool"], *(f"{each['value']:.3g} {each['unit']}" for each in readings)]
            cells.append(f"{truth.kind} {truth.name}")
        except (OSError, ContractError):
            cells = [""] * 5
        table.add_row(name, *cells, f"{seconds:.0f}", "[green]✔[/]" if code == 0 else "[red]✘[/]")
    Narrator().console.print(table)


def replay(arguments: argparse.Namespace) -> int:
    """Diagnose what a run recorded, and say whether the truth was named; return 0 when it was, 1 when not."""
    directory: Path = arguments.directory
    try:
        truth = read(directory / "truth.json", Diagnosis).failures[0]
    except ContractError as error:
        raise LabError(str(error), "is this a directory that `lab run` recorded?") from error
    right = {(truth.component.kind, truth.component.name)} | {(a.kind, a.name) for a in truth.alternatives}
    print(f"truth      {truth.symptom} on {truth.component.kind} {truth.component.name}: {truth.evidence[0]}")
    named = False
    for layer in ("underlay", "overlay"):
        with tempfile.TemporaryDirectory() as work:
            output = Path(work) / "diagnosis.json"
            words = ["diagnose", "--probes", str(directory / f"probes-{layer}.csv.gz"), "--output", str(output)]
            for name in ("topology", "skeleton"):
                words += [f"--{name}", str(directory / f"{name}.json")]
            for name, file in (("counters", "counters.csv.gz"), ("overlay", "overlay.json")):
                if (directory / file).exists():
                    words += [f"--{name}", str(directory / file)]
            print(f"{layer} probes:", flush=True)
            if skeleton_service(words):
                raise LabError(f"the recording in {directory} cannot be diagnosed")
            found = read(output, Diagnosis).failures
        named |= any((failure.component.kind, failure.component.name) in right for failure in found)
    print("named" if named else "not named")
    return 0 if named else 1
