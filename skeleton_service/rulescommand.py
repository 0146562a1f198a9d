"""``skeleton-service rules``: renders rule files into a directory, or says which of those there are stale."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter.contracts.codec import ContractError, write
from exporter.contracts.fabric import Fabric
from exporter.contracts.skeleton import read_skeleton
from exporter.contracts.topology import read_topology
from skeleton_service.alertlinks import DOCS, GRAFANA, RUNBOOKS
from skeleton_service.planning.endpoints import check_fits
from skeleton_service.printing import say
from skeleton_service.ruleset.formats import check_labels

_NAMESPACE = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")


def add_parser(commands: Any) -> None:
    rules = commands.add_parser(
        "rules",
        help="Prometheus rule files: of jobs' skeletons, or those of no job",
        description="Renders Prometheus rule files into a directory: the rules of jobs, by their skeletons, the static "
        "pack that needs no job, or both.",
        epilog="Exit codes: 0: written, or with --check up to date; 1: with --check: files are stale; 2: bad input, "
        f"with one line that says what to do. More: {DOCS}/rules.md",
    )
    rules.add_argument("--static", action="store_true", help="the rules of no job: exporters, switches, RNICs")
    rules.add_argument("--skeleton", metavar="FILE", action="append", default=[], help="of a job; may be repeated")
    rules.add_argument("--topology", metavar="FILE", help="of the fabric; needed with --skeleton")
    rules.add_argument("--thresholds", metavar="FILE", help="a copy of rules/thresholds.yaml; default: its values")
    rules.add_argument(
        "--runbooks", metavar="URL", default=RUNBOOKS,
        help="folder of the runbook pages that alerts link to; default: %(default)s",
    )  # fmt: skip
    rules.add_argument(
        "--grafana", metavar="URL", default=GRAFANA,
        help="the Grafana whose dashboards alerts link to; default: %(default)s",
    )  # fmt: skip
    rules.add_argument(
        "--format", choices=("prometheus", "operator", "mimir"), default="prometheus",
        help="plain files, PrometheusRule objects, or mimirtool's namespaces; default: %(default)s",
    )  # fmt: skip
    rules.add_argument("--namespace", metavar="NAME", help="of PrometheusRule objects; default: none")
    rules.add_argument(
        "--label", metavar="KEY=VALUE", action="append", default=[],
        help="of PrometheusRule objects, such as release=NAME, by which the operator selects; may be repeated",
    )  # fmt: skip
    rules.add_argument("--max-groups", type=int, metavar="N", help="of Mimir's ruler for a tenant; default: 70")
    literal = rules.add_argument_group("rules that name each path, for small jobs")
    literal.add_argument("--literal", action="store_true", help="instead of rules that join the paths in")
    literal.add_argument(
        "--probes", metavar="FILE", nargs="+", help="records of healthy probes that thresholds come from"
    )
    literal.add_argument("--max-paths", type=int, metavar="N", help="more are refused; default: 500")
    rules.add_argument("--check", action="store_true", help="write nothing; exit 1 with a diff when files are stale")
    rules.add_argument(
        "--prune",
        action="store_true",
        help="remove generated files of jobs that are not given, and with --static static files that left the pack",
    )
    rules.add_argument("--output", required=True, metavar="DIR", help="where the files go; made where it is not there")
    rules.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    _refuse_contradictions(options)
    from skeleton_service.ruleset.directory import differences, ended, remarks  # noqa: PLC0415

    rules = _formatted(_rendered(options), options)
    directory = Path(options.output)
    found = ended(
        directory, rules, prune=options.prune, static=options.static, jobs=bool(options.skeleton) or not options.static
    )
    if options.check:
        lines = [*differences(directory, rules), *remarks(found, prune=options.prune)]
        say(lines)
        return int(bool(lines))
    directory.mkdir(parents=True, exist_ok=True)
    # All is written before anything is said: whoever reads the names may stop.
    for name, text in rules.items():
        write(directory / name, text.encode())
    removed = found if options.prune else {}
    for path in removed:
        path.unlink()
    say([*(str(directory / name) for name in rules), *(f"{path} (removed: {why})" for path, why in removed.items())])
    return 0


def _refuse_contradictions(options: argparse.Namespace) -> None:
    if not options.output:
        raise ContractError("--output", "is empty", "name a directory; . is this one")
    if options.skeleton and options.topology is None:
        raise ContractError("rules", "--skeleton needs --topology", "give both")
    if not options.skeleton and not options.static and not options.prune:
        raise ContractError(
            "rules", "needs --skeleton and --topology", "give both, or --static for the rules of no job"
        )
    if options.format != "operator" and (options.namespace or options.label):
        raise ContractError("rules", "--namespace and --label are of PrometheusRule objects", "add --format operator")
    if options.format != "mimir" and options.max_groups is not None:
        raise ContractError("rules", "--max-groups is a limit of Mimir's ruler", "add --format mimir")
    if options.literal and not (options.probes and options.skeleton):
        raise ContractError("rules", "--literal needs --skeleton and --probes", "give both")
    if not options.literal and (options.probes or options.max_paths is not None):
        raise ContractError("rules", "--probes and --max-paths are of literal rules", "add --literal")
    if options.namespace is not None and not _NAMESPACE.match(options.namespace):
        raise ContractError("rules", f"--namespace {options.namespace!r} is no name of Kubernetes", "a DNS label")


def _labels(given: Sequence[str]) -> Mapping[str, str]:
    labels: dict[str, str] = {}
    for each in given:
        key, sign, value = each.partition("=")
        if not sign:
            problem = f"--label {each!r} is no label of Kubernetes"
            raise ContractError("rules", problem, "KEY=VALUE, as release=prometheus")
        labels[key] = value
    check_labels(labels, "rules", "--label")
    return labels


def _rendered(options: argparse.Namespace) -> Mapping[str, str]:
    """Plain Prometheus files by name, in order of the names."""
    from skeleton_service.ruleset import (  # noqa: PLC0415 - Jinja loads when it is needed
        Links,
        Thresholds,
        job_rules,
        read_thresholds,
        static_rules,
    )

    thresholds = read_thresholds(options.thresholds) if options.thresholds else Thresholds()
    links = Links(options.runbooks or RUNBOOKS, options.grafana or GRAFANA)
    made = dict(static_rules(thresholds, links)) if options.static else {}
    fabric = Fabric(read_topology(options.topology)) if options.topology is not None else None
    jobs: dict[str, str] = {}
    for source in options.skeleton:
        skeleton = read_skeleton(source)
        job = skeleton.job
        if fabric is not None:
            check_fits(skeleton, fabric)
        if job in jobs:
            raise ContractError(source, f"is of job {job!r}, as {jobs[job]} is", "give one skeleton a job")
        jobs[job] = source
        if not options.literal:
            made |= job_rules(job, thresholds, links, skeleton)
    if options.literal:
        made |= _literal(options, list(jobs), thresholds, links)
    return dict(sorted(made.items()))


def _literal(options: argparse.Namespace, jobs: Sequence[str], thresholds: Any, links: Any) -> Mapping[str, str]:
    from skeleton_service.reading.records import read_records  # noqa: PLC0415 - Arrow loads when it is needed
    from skeleton_service.ruleset.histories import path_histories  # noqa: PLC0415
    from skeleton_service.ruleset.literal import MAX_PATHS, literal_rules  # noqa: PLC0415
    from skeleton_service.ruleset.thresholds import timing  # noqa: PLC0415

    records = read_records(options.probes)
    most = MAX_PATHS if options.max_paths is None else options.max_paths
    least = timing(thresholds).rtt_history_least
    made: dict[str, str] = {}
    for job in jobs:
        paths = path_histories(records, job, thresholds, options.probes[0])
        made |= literal_rules(job, paths, thresholds, links, max_paths=most)
        if young := sum(len(path.minutes) < least for path in paths):
            print(
                f"{young} of {len(paths)} paths of job {job!r} get no alert on round trips: the records hold fewer "
                f"than {least} healthy minutes of each",
                file=sys.stderr,
            )
    return made


def _formatted(files: Mapping[str, str], options: argparse.Namespace) -> Mapping[str, str]:
    from skeleton_service.ruleset.formats import MAX_GROUPS, mimir_namespaces, operator_objects  # noqa: PLC0415

    if options.format == "operator":
        return operator_objects(files, namespace=options.namespace, labels=_labels(options.label))
    if options.format == "mimir":
        most = MAX_GROUPS if options.max_groups is None else options.max_groups
        return mimir_namespaces(files, max_groups=most)
    return files
