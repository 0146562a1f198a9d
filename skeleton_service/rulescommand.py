"""``skeleton-service rules``: renders rule files into a directory, or says which of those there are stale."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.contracts.codec import ContractError, read_bytes, write
from exporter.contracts.skeleton import read_skeleton
from exporter.contracts.topology import read_topology


def add_parser(commands: Any) -> None:
    rules = commands.add_parser("rules", help="Prometheus rule files: of a job's skeleton, or those of no job")
    rules.add_argument("--static", action="store_true", help="the rules of no job: exporters, switches, RNICs")
    rules.add_argument("--skeleton", metavar="FILE")
    rules.add_argument("--topology", metavar="FILE")
    rules.add_argument("--thresholds", metavar="FILE", help="a copy of rules/thresholds.yaml")
    rules.add_argument("--runbooks", metavar="URL", help="where the runbook pages are")
    rules.add_argument("--grafana", metavar="URL", help="where the dashboards are")
    rules.add_argument("--format", choices=("prometheus",), default="prometheus")
    rules.add_argument("--check", action="store_true", help="write nothing; exit 1 with a diff when files are stale")
    rules.add_argument("--output", required=True, metavar="DIR")
    rules.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    rules = _rendered(options)
    directory = Path(options.output)
    if options.check:
        return _check(directory, rules)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in rules.items():
        write(directory / name, text.encode())
        print(directory / name)
    return 0


def _rendered(options: argparse.Namespace) -> Mapping[str, str]:
    from skeleton_service.ruleset import (  # noqa: PLC0415 - Jinja loads when it is needed
        GRAFANA,
        RUNBOOKS,
        Links,
        Thresholds,
        job_rules,
        read_thresholds,
        static_rules,
    )

    thresholds = read_thresholds(options.thresholds) if options.thresholds else Thresholds()
    links = Links(options.runbooks or RUNBOOKS, options.grafana or GRAFANA)
    if options.static:
        return static_rules(thresholds, links)
    if options.skeleton is None or options.topology is None:
        raise ContractError(
            "rules", "needs --skeleton and --topology", "give both, or --static for the rules of no job"
        )
    skeleton = read_skeleton(options.skeleton)
    read_topology(options.topology)
    return job_rules(skeleton.job, thresholds, links)


def _check(directory: Path, rules: Mapping[str, str]) -> int:
    """Exit 1 with a diff when a committed file is not what would be generated now."""
    stale = 0
    for name, text in rules.items():
        path = directory / name
        old = read_bytes(path).decode() if path.exists() else ""
        if old != text:
            stale = 1
            lines = difflib.unified_diff(
                old.splitlines(keepends=True), text.splitlines(keepends=True), str(path), f"{path} (generated now)"
            )
            sys.stdout.writelines(lines)
    return stale
