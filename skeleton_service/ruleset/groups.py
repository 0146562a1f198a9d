"""Rule files as text in pieces: header, groups, rules, each with its comments.

Cut, not parsed and written anew: what people read in a file of Prometheus they read in every other format too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from exporter.contracts.codec import ContractError
from skeleton_service.ruleset.rendering import quote

_GROUP = re.compile(r"^  - name: (.*)$")
_RULES = "    rules:"
_PLAIN = re.compile(r"^(?!(?i:true|false|null|yes|no|on|off|[yn])$)[A-Za-z][\w.-]*$", re.ASCII)
_RULE = re.compile(r"^      - (?:record|alert):")


def scalar(text: str) -> str:
    """A YAML string, in quotes where it needs them."""
    return text if _PLAIN.match(text) else quote(text)


@dataclass(frozen=True, slots=True)
class Group:
    """One group of rules. Texts end in a line feed and are indented as below ``groups:`` at the left margin."""

    name: str
    comment: str
    settings: str
    """The lines between its name and ``rules:``, as ``interval``."""
    rules: tuple[str, ...]
    """Each with the comments and empty lines before it."""

    def text(self) -> str:
        first = "".join(self.rules).lstrip("\n")
        return f"{self.comment}  - name: {scalar(self.name)}\n{self.settings}{_RULES}\n{first}"

    def part(self, number: int, rules: Sequence[str]) -> Group:
        """Part of it under a name of its own; its comment stays with the first."""
        return Group(f"{self.name}-{number}", self.comment if number == 1 else "", self.settings, tuple(rules))


@dataclass(frozen=True, slots=True)
class RuleFile:
    header: str
    """The comment at its top."""
    groups: tuple[Group, ...]


def parse(text: str, name: str) -> RuleFile:
    """Take a rule file of ours to pieces; raise ContractError where ``name`` is not written as ours are."""
    head, found, body = text.partition("\ngroups:\n")
    header, lines = (f"{head}\n" if found else ""), (body if found else text.removeprefix("groups:\n")).splitlines()
    groups: list[Group] = []
    comment: list[str] = []
    settings: list[str] = []
    rules: list[list[str]] = []
    title: str | None = None

    def close() -> None:
        if title is not None:
            told = "".join(f"{line}\n" for line in above)
            texts = ("".join(f"{line}\n" for line in rule) for rule in rules)
            groups.append(Group(yaml.safe_load(title), told, "".join(f"{line}\n" for line in settings), tuple(texts)))

    above: list[str] = []
    is_inside = False
    for line in lines:
        if match := _GROUP.match(line):
            close()
            above, comment, settings, rules, title, is_inside = _trimmed(comment), [], [], [], match[1], False
        elif line == _RULES:
            is_inside = True
        elif title is not None and not is_inside:
            settings.append(line)
        elif is_inside and _RULE.match(line):
            rules.append([*comment, line])
            comment = []
        elif not line.strip() or line.startswith(("      #", "  #")):
            comment.append(line)
        elif rules:
            rules[-1] += [*comment, line]
            comment = []
        else:
            raise ContractError(name, f"line {line!r} belongs to no rule", "generate the file anew")
    close()
    return RuleFile(header, tuple(groups))


def _trimmed(lines: Sequence[str]) -> list[str]:
    return "\n".join(lines).strip("\n").split("\n") if any(line.strip() for line in lines) else []
