"""Checks of names, groups and files: rule/name, rule/duplicate, group/size, group/interval."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from exporter.contracts.catalogue import RECORDED
from skeleton_service.lint.checks.values import duration
from skeleton_service.lint.findings import Findings, Settings
from skeleton_service.lint.problem import Problem
from skeleton_service.lint.rulefile import Group, Rule, RuleFile
from skeleton_service.lint.syntax import Node

_ALERT = re.compile(r"[A-Z][A-Za-z0-9]*")
_RECORD = re.compile(r"[^:]+:[^:]+:[^:]+")
_LISTED = frozenset(metric.name for metric in RECORDED)
_MOST_RULES = 20
_LONGEST = 300.0


def name(findings: Findings, _: Node) -> None:
    """Names say what a thing is: level:metric:operations or as the catalogue has it, and CamelCase."""
    rule = findings.rule
    if rule.alert and _ALERT.fullmatch(rule.name.text) is None:
        message = f"{rule.name.text} is not in CamelCase"
        findings.at("rule/name", "info", rule.name.whole(), message, "as FabricLinkLoss")
    elif not rule.alert and _RECORD.fullmatch(rule.name.text) is None and rule.name.text not in _LISTED:
        message = f"{rule.name.text} does not say level:metric:operations"
        findings.at("rule/name", "warning", rule.name.whole(), message, "as job_link:fabric_link_loss:ratio_rate")


def group(each: Group, settings: Settings) -> Iterable[Problem]:
    """Groups that a ruler refuses, or whose series go stale between evaluations."""
    span = each.name.whole()
    if settings.mimir and len(each.rules) > _MOST_RULES:
        message = f"{len(each.rules)} rules in a group: Mimir takes {_MOST_RULES} by default"
        yield Problem(
            "group/size", "warning", *span, message, "split the group, or raise ruler_max_rules_per_rule_group"
        )
    if each.interval is not None and each.interval.seconds > _LONGEST:
        message = f"interval {each.interval.text} is over {duration(_LONGEST)}, after which a series counts as gone"
        yield Problem("group/interval", "warning", *each.interval.span, message, f"{duration(_LONGEST)} at most")


def duplicates(files: Sequence[RuleFile]) -> Mapping[int, list[Problem]]:
    """By the file's number: rules that are there twice. Over files only where they are the same in all."""
    found: dict[int, list[Problem]] = {}
    anywhere: dict[tuple[object, ...], tuple[RuleFile, Rule]] = {}
    for number, file in enumerate(files):
        here: dict[tuple[object, ...], Rule] = {}
        for rule in file.rules:
            stated = sorted((key, value.text) for key, (_, value) in rule.labels.items())
            who = (rule.alert, rule.name.text, tuple(stated))
            whole = (*who, " ".join(rule.expr.text.split()) if rule.expr else "")
            other, first = anywhere.setdefault(whole, (file, rule))
            if other is file:
                first = here.setdefault(who, rule)
            if first is rule:
                continue
            line, _ = other.source.place(first.name.whole()[0])
            what = "a rule of the same name and labels is on" if other is file else "the same rule is in"
            where = f"line {line}" if other is file else f"{other.source.path}:{line}"
            remedy = "take one away, or tell them apart by a label"
            problem = Problem("rule/duplicate", "warning", *rule.name.whole(), f"{what} {where}", remedy)
            found.setdefault(number, []).append(problem)
    return found
