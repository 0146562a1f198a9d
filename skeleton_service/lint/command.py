"""`skeleton-service lint`: files in, problems on standard output."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.contracts.codec import ContractError
from skeleton_service.alertlinks import DOCS
from skeleton_service.lint.nearest import did_you_mean
from skeleton_service.lint.problem import CHECKS, SEVERITIES
from skeleton_service.lint.tokens import seconds
from skeleton_service.printing import say

if TYPE_CHECKING:
    from skeleton_service.lint.linting import Linted
    from skeleton_service.lint.rulefile import RuleFile


def add(commands: Any) -> None:  # argparse names no type for subparsers
    """Register the command."""
    lint = commands.add_parser(
        "lint",
        help="faults in Prometheus rule files; exit 1 where there are any",
        description="Holds Prometheus rule files against the metrics and labels that there are. Give all files that "
        "are loaded together: what one records the others may read.",
        epilog="Exit codes: 0: no problem from --fail-on on; 1: there are some; 2: a file cannot be read, or is no "
        f"rule file. A comment 'fabric-lint disable CHECK' in a rule disables a check there. More: {DOCS}/lint.md",
        intermixed=True,
    )
    lint.add_argument("files", nargs="+", metavar="FILE", help="rule files, or PrometheusRules of Kubernetes")
    lint.add_argument(
        "--fail-on", choices=SEVERITIES, default="warning", help="exit 1 for problems from here on (default: warning)"
    )
    lint.add_argument(
        "--format", choices=("text", "json", "github"), default="text",
        help="text with a caret, one JSON document, or GitHub's workflow commands (default: text)",
    )  # fmt: skip
    lint.add_argument(
        "--disable", type=_checks, action="extend", default=[], metavar="CHECK,...",
        help="leave these checks out; may be given several times",
    )  # fmt: skip
    lint.add_argument(
        "--min-severity", choices=SEVERITIES, default="info",
        help="what is less severe is neither told nor counted (default: info)",
    )  # fmt: skip
    lint.add_argument(
        "--scrape-interval", type=_seconds, default=15.0, metavar="DURATION", help="of your Prometheus (default: 15s)"
    )
    lint.add_argument(
        "--target-label",
        action="append",
        default=[],
        metavar="NAME",
        help="a label that your scrape configuration adds; may be given several times",
    )
    lint.add_argument("--runbooks", type=Path, metavar="DIR", help="where the pages of runbooks are, to look for them")
    lint.add_argument("--mimir", action="store_true", help="limits of Mimir's ruler, too")
    lint.add_argument("--strict", action="store_true", help="a metric that nobody knows is an error, whosever it is")
    lint.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Lint the files; exit 2 where one cannot be read, after what there is to say of the others."""
    from skeleton_service.lint import report  # noqa: PLC0415
    from skeleton_service.lint.document import read_source  # noqa: PLC0415
    from skeleton_service.lint.findings import Settings  # noqa: PLC0415
    from skeleton_service.lint.linting import at_least, lint_files, refusal  # noqa: PLC0415
    from skeleton_service.lint.rulefile import read_rules  # noqa: PLC0415

    settings = Settings(
        scrape_interval=options.scrape_interval,
        strict=options.strict,
        mimir=options.mimir,
        runbooks=options.runbooks,
        target_labels=options.target_label,
    )
    if options.runbooks is not None and not options.runbooks.is_dir():
        raise ContractError("--runbooks", f"{options.runbooks} is no directory", "name the one with the pages")
    files: list[RuleFile] = []
    refused: list[ContractError] = []
    broken: list[Linted] = []
    for path in dict.fromkeys(options.files):
        data = b""
        try:
            data = _read(path)
            files.append(read_rules(read_source(path, data)))
        except ContractError as error:
            refused.append(error)
            broken.append(refusal(path, data, error))
    linted = at_least(lint_files(files, settings, options.disable, _pack(files)), options.min_severity)
    if options.format == "json":
        say([report.as_json([*broken, *linted])])
    elif options.format == "github":
        say([*report.github([*broken, *linted]), report.closing([*broken, *linted])])
    elif linted:
        say(report.text(linted, colour=_colour()))
    for each in refused:
        print(f"skeleton-service: {each}", file=sys.stderr)
    failing = SEVERITIES[: SEVERITIES.index(options.fail_on) + 1]
    found = any(problem.severity in failing for each in linted for problem in each.problems)
    return 2 if refused else int(found)


def _read(path: str) -> bytes:
    """No more of a file than may be one of rules, and one byte, which shows that it is more."""
    from skeleton_service.lint.document import MAX_BYTES  # noqa: PLC0415

    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ContractError(path, error.strerror or str(error)) from error
    except ValueError as error:  # a NUL in the name
        raise ContractError(repr(path), str(error)) from error


def _pack(files: Sequence[RuleFile]) -> list[RuleFile]:
    """The project's own rules, whose records others may read: those of the static pack and of a job."""
    from skeleton_service.lint.document import Source  # noqa: PLC0415
    from skeleton_service.lint.linting import unresolved  # noqa: PLC0415
    from skeleton_service.lint.rulefile import read_rules  # noqa: PLC0415

    if not unresolved(files):
        return []
    from skeleton_service.ruleset import ANY_SKELETON, Thresholds, job_rules, resource  # noqa: PLC0415

    texts = {each.name: each.read_text(encoding="utf-8") for each in resource("static").iterdir()}
    texts |= job_rules("any", Thresholds(), skeleton=ANY_SKELETON)
    return [read_rules(Source(name, text)) for name, text in sorted(texts.items()) if name.endswith((".yaml", ".yml"))]


def _colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _checks(text: str) -> list[str]:
    checks = [each.strip() for each in text.split(",") if each.strip()]
    for each in checks:
        if each not in CHECKS:
            near = did_you_mean(each, CHECKS, f"there are {', '.join(CHECKS)}")
            raise argparse.ArgumentTypeError(f"there is no check {each!r}: {near}")
    return checks


def _seconds(text: str) -> float:
    if re.fullmatch(r"(?:\d+(?:ms|[smhdwy]))+", text) is None or not seconds(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: write 15s or 1m")
    return seconds(text)
