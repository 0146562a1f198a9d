"""A rule file as groups and rules, with the place of everything; faults of form are problems (yaml/parse)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from exporter.contracts.codec import ContractError
from skeleton_service.lint.document import Scalar, Source, YamlNode, compose
from skeleton_service.lint.nearest import did_you_mean
from skeleton_service.lint.parsing import TooDeepError, parse
from skeleton_service.lint.problem import Problem
from skeleton_service.lint.syntax import Node
from skeleton_service.lint.tokens import PromqlError, in_range, seconds

_DURATION = re.compile(r"0|([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m(?!s))?([0-9]+s)?([0-9]+ms)?")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_METRIC = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_FILE_FIELDS = ("groups", "namespace")
_GROUP_FIELDS = (
    "name",
    "interval",
    "query_offset",
    "limit",
    "rules",
    "labels",
    "partial_response_strategy",
    "source_tenants",
)
_RULE_FIELDS = ("record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations")
Span = tuple[int, int]
_ALIASED = 1 << 17
_LONGEST_EXPRESSION = 1 << 18


@dataclass(slots=True)
class Duration:
    seconds: float
    text: str
    span: Span


@dataclass(slots=True, eq=False)
class Rule:
    alert: bool
    name: Scalar
    lines: tuple[int, int]
    expr: Scalar | None = None
    tree: Node | None = None
    """None where the expression is missing or not PromQL, of which a problem tells."""
    for_: Duration | None = None
    labels: Mapping[str, tuple[Span, Scalar]] = field(default_factory=dict)
    """By name: the place of the name, and the value."""
    annotations: Mapping[str, tuple[Span, Scalar]] = field(default_factory=dict)
    group: str = ""

    def at(self, span: Span) -> Span:
        """Where in the file a place of the expression is."""
        assert self.expr is not None  # noqa: S101 - who has a place in it has it
        return self.expr.span(*span)


@dataclass(slots=True, eq=False)
class Group:
    name: Scalar
    lines: tuple[int, int]
    interval: Duration | None = None
    rules: list[Rule] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class RuleFile:
    source: Source
    groups: list[Group] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def rules(self) -> list[Rule]:
        return [rule for group in self.groups for rule in group.rules]


def read_rules(source: Source) -> RuleFile:
    """Return the rules of a file; raise ContractError where it is no YAML, or no file of rules."""
    documents = compose(source)
    remedy = "a rule file begins with groups:"
    if not documents:
        raise ContractError(source.path, "is empty", remedy)
    if documents[0].kind != "mapping":
        raise ContractError(source.path, "is no rule file", remedy)
    objects = [spec for document in documents if (spec := _spec(document)) is not None]
    roots = [root for root in objects or documents[:1] if any(key.text == "groups" for key, _ in root.pairs())]
    if not roots:
        raise ContractError(source.path, "is no rule file: it has no groups", remedy)
    reader = _Reader(source)
    for document in [] if objects else documents[1:]:
        reader.problem((document.start, document.start + 1), "a second document, which Prometheus does not read")
    for root in roots:
        reader.groups(root)
    return reader.file


def _spec(document: YamlNode) -> YamlNode | None:
    """What an object of Kubernetes says, such as a PrometheusRule; None for what is none."""
    fields = {key.text: value for key, value in document.pairs()} if document.kind == "mapping" else {}
    return fields["spec"] if "kind" in fields and "spec" in fields and fields["spec"].kind == "mapping" else None


class _Reader:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.file = RuleFile(source)
        self._left = len(source.text) + _ALIASED
        self._read: set[int] = set()
        self._names: set[str] = set()

    def _spend(self, node: YamlNode) -> None:
        """Aliases may have a text read over and over: together no more than this."""
        self._left -= len(node.text) + len(node.items) + 1
        if self._left < 0:
            raise ContractError(self.source.path, "its aliases repeat too much", "no rule file is like that")

    def _again(self, node: YamlNode) -> bool:
        """Whether this group or rule was read before: an alias says nothing new."""
        again = id(node) in self._read
        self._read.add(id(node))
        return again

    def problem(self, span: Span, message: str, remedy: str = "", check: str = "yaml/parse") -> None:
        self.file.problems.append(Problem(check, "error", *span, message, remedy))

    def _span(self, node: YamlNode) -> Span:
        if node.kind == "scalar":
            return Scalar(self.source, node).whole()
        return node.start, node.start + 1

    def fields(self, node: YamlNode, known: tuple[str, ...], of: str) -> dict[str, tuple[YamlNode, YamlNode]]:
        """The fields of a mapping; a problem for one that is unknown or comes twice."""
        self._spend(node)
        if node.kind != "mapping":
            self.problem(self._span(node), f"{of} is a mapping", "write it as fields, name: value")
            return {}
        found: dict[str, tuple[YamlNode, YamlNode]] = {}
        for key, value in node.pairs():
            if key.kind != "scalar":
                self.problem(self._span(key), "the name of a field is a word")
            elif key.text == "<<":
                for each in [value] if value.kind == "mapping" else value.items:
                    self._spend(each)
                    found = {name.text: (name, content) for name, content in each.pairs()} | found
            elif known and key.text not in known:
                remedy = did_you_mean(key.text, known, f"it has {', '.join(known)}", cutoff=0.6)
                self.problem(self._span(key), f"{of} has no field {key.text}", remedy)
            elif key.text in found:
                self.problem(self._span(key), f"field {key.text} twice", "take one away")
            else:
                found[key.text] = (key, value)
        return found

    def sequence(self, node: YamlNode, of: str) -> list[YamlNode]:
        if node.kind == "sequence":
            return node.items
        if node.tag != "null":
            self.problem(self._span(node), f"{of} is a list", "begin each item with -")
        return []

    def _scalar(self, node: YamlNode, of: str) -> Scalar | None:
        if node.kind != "scalar":
            self.problem(self._span(node), f"{of} is a text")
            return None
        self._spend(node)
        return Scalar(self.source, node)

    def _lines(self, node: YamlNode) -> tuple[int, int]:
        """First and last line, without what follows a block."""
        last, waiting, seen = node.start, [node], set()
        while waiting:
            each = waiting.pop()
            if id(each) not in seen and each.start >= node.start:  # an alias points elsewhere, or is there twice
                seen.add(id(each))
                waiting += each.items
                last = max(last, self._last(each))
        return self.source.place(node.start)[0], self.source.place(last)[0]

    def _last(self, node: YamlNode) -> int:
        """The last character that is not blank."""
        last = node.end if node.kind == "scalar" else node.start + 1
        while last > node.start + 1 and self.source.text[last - 1] in " \t\r\n":
            last -= 1
        return last - 1

    def groups(self, root: YamlNode) -> None:
        self._names.clear()
        found = self.fields(root, _FILE_FIELDS, "a rule file")
        for node in self.sequence(found["groups"][1], "groups"):
            self._group(node)

    def _group(self, node: YamlNode) -> None:
        if self._again(node):
            return
        found = self.fields(node, _GROUP_FIELDS, "a group")
        if not found:
            return
        name = self._scalar(found["name"][1], "the name of a group") if "name" in found else None
        if name is None or not name.text:
            self.problem((node.start, node.start + 1), "a group without a name", "add name:")
            name = Scalar(self.source, YamlNode("scalar", node.start, node.start))
        elif name.text in self._names:
            self.problem(name.whole(), f"a second group {name.text} in this file", "give it another name")
        self._names.add(name.text)
        group = Group(name, self._lines(node), self._duration(found, "interval"))
        self.file.groups.append(group)
        for each in self.sequence(found["rules"][1], "rules") if "rules" in found else []:
            rule = None if self._again(each) else self._rule(each)
            if rule is not None:
                rule.group = name.text
                group.rules.append(rule)

    def _rule(self, node: YamlNode) -> Rule | None:
        found = self.fields(node, _RULE_FIELDS, "a rule")
        if not found:
            return None
        start = (node.start, node.start + 1)
        kinds = [kind for kind in ("record", "alert") if kind in found]
        if len(kinds) != 1:
            what = "is either a record or an alert" if kinds else "is neither a record nor an alert"
            self.problem(self._span(found["alert"][0]) if kinds else start, f"a rule {what}")
            return None
        alert = kinds == ["alert"]
        name = self._scalar(found[kinds[0]][1], kinds[0])
        if name is None:
            return None
        if not name.text or (not alert and _METRIC.fullmatch(name.text) is None):
            self.problem(name.whole(), f"{name.text or 'nothing'} is no name of a {'rule' if alert else 'metric'}")
        rule = Rule(alert, name, self._lines(node))
        for field_ in ("for", "keep_firing_for", "annotations"):
            if not alert and field_ in found:
                self.problem(self._span(found[field_][0]), f"a recording rule has no {field_}", "take it away")
        rule.for_ = self._duration(found, "for")
        self._duration(found, "keep_firing_for")
        rule.labels = self._texts(found, "labels")
        rule.annotations = self._texts(found, "annotations")
        rule.expr = self._scalar(found["expr"][1], "expr") if "expr" in found else None
        if rule.expr is None or not rule.expr.text.strip():
            if "expr" not in found or rule.expr is not None:
                self.problem(name.whole(), f"rule {name.text} has no expression", "add expr:")
            rule.expr = None
            return rule
        self._parse(rule, rule.expr)
        return rule

    def _parse(self, rule: Rule, expr: Scalar) -> None:
        try:
            if len(expr.text) > _LONGEST_EXPRESSION:
                raise TooDeepError(0, 1)
            rule.tree = parse(expr.text)
        except TooDeepError as error:
            span = expr.span(error.start, error.end)
            said = f"{error}: not checked any further"
            self.file.problems.append(Problem("promql/syntax", "warning", *span, said, error.remedy))
        except PromqlError as error:
            self.problem(expr.span(error.start, error.end), str(error), error.remedy, "promql/syntax")

    def _duration(self, found: Mapping[str, tuple[YamlNode, YamlNode]], name: str) -> Duration | None:
        if name not in found or found[name][1].tag == "null":
            return None
        scalar = self._scalar(found[name][1], name)
        if scalar is None:
            return None
        if not scalar.text or _DURATION.fullmatch(scalar.text) is None or not in_range(scalar.text):
            self.problem(scalar.whole(), f"{name}: {scalar.text} is not a duration", "write 30s, 5m or 1h")
            return None
        return Duration(seconds(scalar.text), scalar.text, scalar.whole())

    def _texts(self, found: Mapping[str, tuple[YamlNode, YamlNode]], of: str) -> dict[str, tuple[Span, Scalar]]:
        if of not in found or found[of][1].tag == "null":
            return {}
        texts = {}
        for name, (key, value) in self.fields(found[of][1], (), of).items():
            span = self._span(key)
            if _LABEL.fullmatch(name) is None or name == "__name__":
                self.problem(span, f"{name} is no name of {'a label' if of == 'labels' else 'an annotation'}")
            scalar = self._scalar(value, f"{of[:-1]} {name}")
            if scalar is not None:
                texts[name] = (span, scalar)
        return texts
