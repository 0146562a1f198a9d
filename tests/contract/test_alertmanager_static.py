"""The inhibition rules, read against the labels that the rules of the pack set: none can hide what it must not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import pytest
import yaml

from tests.contract.alertmanager import ROOT, alerts_of_the_pack, configuration, fixed_labels

RANK = {"critical": 3, "warning": 2, "info": 1, "none": 0}
MAY_BE_EMPTY = {"hop"}
"""Labels of ``equal`` that mean something when they are empty on both sides: a black hole has no hop."""
HELPERS = {"FabricSwitchDownCable": "FabricSwitchDown"}
"""Alerts that nobody is told of, with the one that is told whenever they fire, and on whose behalf they silence."""


@dataclass(frozen=True)
class Matcher:
    label: str
    operator: str
    value: str

    def may_match(self, fixed: dict[str, str]) -> bool:
        """Whether some alert with these labels matches. What its rule does not fix, the series it fires for does."""
        if self.label not in fixed:
            return True
        pattern = self.value if "~" in self.operator else re.escape(self.value)
        is_negated = self.operator.startswith("!")
        return bool(re.fullmatch(pattern, fixed[self.label])) != is_negated


@dataclass(frozen=True)
class Inhibition:
    source: tuple[Matcher, ...]
    target: tuple[Matcher, ...]
    equal: tuple[str, ...]

    def __str__(self) -> str:
        words = [f"{m.label}{m.operator}{m.value}" for m in (*self.source, *self.target)]
        return " ".join(words)[:80]


def read(matchers: list[str]) -> tuple[Matcher, ...]:
    found = [re.fullmatch(r'(\w+)(=~|!~|!=|=)"(.*)"', matcher) for matcher in matchers]
    return tuple(Matcher(*each.groups()) for each in found if each)


INHIBITIONS = [
    Inhibition(read(rule["source_matchers"]), read(rule["target_matchers"]), tuple(rule["equal"]))
    for rule in configuration()["inhibit_rules"]
]
NAMES = {*alerts_of_the_pack()}


def matched(matchers: tuple[Matcher, ...]) -> set[str]:
    return {name for name in NAMES if all(matcher.may_match(fixed_labels(name)) for matcher in matchers)}


def edges() -> set[tuple[str, str]]:
    """(cause, consequence) of every pair of names of which some alerts may meet a rule."""
    return {
        (cause, silenced) for each in INHIBITIONS for cause in matched(each.source) for silenced in matched(each.target)
    }


def named(inhibition: Inhibition) -> set[str]:
    return {
        name
        for matcher in (*inhibition.source, *inhibition.target)
        if matcher.label == "alertname"
        for name in matcher.value.split("|")
    }


def test_every_matcher_is_read() -> None:
    for rule, read_rule in zip(configuration()["inhibit_rules"], INHIBITIONS, strict=True):
        assert len(rule["source_matchers"]) == len(read_rule.source)
        assert len(rule["target_matchers"]) == len(read_rule.target)


def test_every_alert_that_is_named_exists() -> None:
    assert {name for each in INHIBITIONS for name in named(each)} | {"FabricWatchdog"} <= NAMES


def test_no_two_alerts_silence_each_other_at_any_remove() -> None:
    """Two that do are both lost; so are three in a ring. A cause that is silenced itself still silences."""
    graph: dict[str, set[str]] = {}
    for cause, silenced in edges():
        assert cause != silenced, f"{cause} may silence another of its name, and that one it"
        graph.setdefault(silenced, set()).add(cause)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" > ".join(error.args[1]))


def test_no_alert_silences_a_more_severe_one() -> None:
    """The page would be lost: the cause goes to the chat."""
    wrong = [
        (cause, silenced)
        for cause, silenced in sorted(edges())
        if RANK[fixed_labels(HELPERS.get(cause, cause))["severity"]] < RANK[fixed_labels(silenced)["severity"]]
    ]
    assert wrong == []


def test_a_helper_is_told_to_nobody_and_its_alert_is_silenced_by_none() -> None:
    """Else all that the helper silences would be lost."""
    for helper, told in HELPERS.items():
        assert fixed_labels(helper)["severity"] == "none"
        assert [cause for cause, silenced in edges() if silenced == told] == []


@pytest.mark.parametrize("inhibition", INHIBITIONS, ids=str)
def test_labels_that_are_missing_on_both_sides_are_not_taken_to_be_equal(inhibition: Inhibition) -> None:
    assert inhibition.equal[0] == "cluster"
    guarded = {each.label for each in inhibition.source if (each.operator, each.value) == ("!=", "")}
    assert {*inhibition.equal[1:]} - MAY_BE_EMPTY <= guarded


@pytest.mark.parametrize("inhibition", INHIBITIONS, ids=str)
def test_every_rule_may_apply(inhibition: Inhibition) -> None:
    """Each name that it gives is matched by it: no severity or kind asked for besides rules it out."""
    assert named(inhibition) <= matched(inhibition.source) | matched(inhibition.target)
    assert matched(inhibition.source)
    assert matched(inhibition.target)


def expected_labels() -> dict[str, list[set[str]]]:
    """{alert: the label names of each that promtool's tests of the pack expect to fire}."""
    found: dict[str, list[set[str]]] = {}
    for path in sorted((ROOT / "rules/tests").glob("*.yaml")):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for each in test.get("alert_rule_test", []):
                for fires in each["exp_alerts"]:
                    found.setdefault(each["alertname"], []).append({*fires["exp_labels"]})
    return found


@pytest.mark.parametrize("inhibition", INHIBITIONS, ids=str)
def test_what_is_to_be_equal_is_on_both_sides(inhibition: Inhibition) -> None:
    """By what fires in the tests of the pack: a label that one side never has matches nothing."""
    fires = expected_labels()
    wanted = {*inhibition.equal[1:]} - MAY_BE_EMPTY
    for name in named(inhibition) & {*fires}:
        assert any(wanted <= labels for labels in fires[name]), f"{name} never has {wanted}"


def in_words(matchers: tuple[Matcher, ...]) -> str:
    """Matchers as the page has them, without those that only keep empty labels out."""
    said = []
    for each in matchers:
        values = ", ".join(f"`{value}`" for value in each.value.split("|"))
        if each.label == "alertname":
            said.insert(0, values)
        elif (each.operator, each.value) == ("=", ""):
            said.append(f"without `{each.label}`")
        elif each.value:
            said.append(f"`{each.label}` {'other than ' if each.operator == '!=' else ''}{values}")
    return "; ".join(said)


def test_the_page_has_the_table_of_the_configuration() -> None:
    rows = [
        f"| {in_words(each.source)} | {in_words(each.target)} | {', '.join(f'`{label}`' for label in each.equal)} |"
        for each in INHIBITIONS
    ]
    table = "\n".join(["| cause | silences | where these are equal |", "|---|---|---|", *rows])
    assert table in (ROOT / "docs/alertmanager.md").read_text(), f"docs/alertmanager.md should have:\n{table}"
