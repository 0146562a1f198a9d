"""Rule files in the formats of others: PrometheusRule objects of the Prometheus operator, and mimirtool's namespaces.

Pure, from {file name: content} to {file name: content}. What Prometheus evaluates is the same in each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

from exporter.contracts.codec import ContractError
from skeleton_service.ruleset.groups import Group, RuleFile, parse, scalar

OBJECT_BYTES = 512 << 10
"""The operator refuses larger ones: they have to fit into a ConfigMap together with others."""
GROUP_RULES = 20
MAX_GROUPS = 70
"""Mimir's ruler takes no more rules a group, and no more groups a tenant, unless its limits are raised."""
_NAME_LENGTH = 253
_SUFFIXES = (".rules.yaml", ".yaml")
_KEY = re.compile(r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?$", re.ASCII)
_VALUE = re.compile(r"^([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?$", re.ASCII)


def check_labels(labels: Mapping[str, str], source: str, what: str) -> None:
    """Raise ContractError for what Kubernetes takes for no labels: ``what`` gave them."""
    for key, value in labels.items():
        if not _KEY.match(key) or not _VALUE.match(value):
            problem = f"{what} '{key}={value}' is no label of Kubernetes"
            raise ContractError(source, problem, "KEY=VALUE, as release=prometheus")


def operator_objects(
    files: Mapping[str, str],
    *,
    namespace: str | None = None,
    labels: Mapping[str, str] | None = None,
    object_bytes: int = OBJECT_BYTES,
) -> Mapping[str, str]:
    """Return {file name: one PrometheusRule object}, each of ``object_bytes`` at most; more than one where needed."""
    made: dict[str, str] = {}
    for name, text in files.items():
        file = parse(text, name)
        stem = _stem(name)
        # Room for the longest number that a name may be given.
        room = object_bytes - len(_object(file.header, f"{stem}-0000", namespace, labels, []).encode())
        objects = list(_packed(file.groups, room, name))
        for number, groups in enumerate(objects, 1):
            part = stem if len(objects) == 1 else f"{stem}-{number}"
            made[f"{part}.prometheusrule.yaml"] = _object(file.header, part, namespace, labels, groups)
    return made


def _object(
    header: str, name: str, namespace: str | None, labels: Mapping[str, str] | None, groups: Sequence[Group]
) -> str:
    lines = ["apiVersion: monitoring.coreos.com/v1", "kind: PrometheusRule", "metadata:"]
    lines.append(f"  name: {_object_name(name)}")
    if namespace:
        lines.append(f"  namespace: {scalar(namespace)}")
    if labels:
        lines += ["  labels:", *(f"    {scalar(key)}: {scalar(labels[key])}" for key in sorted(labels))]
    lines += ["spec:", "  groups:"]
    return header + "\n".join(lines) + "\n" + "\n".join(_indented(group.text()) for group in groups)


def _indented(text: str) -> str:
    return "".join(f"  {line}" if line.strip() else line for line in text.splitlines(keepends=True))


def _object_name(name: str) -> str:
    """A DNS subdomain (RFC 1123) of a file's name; a digest keeps apart what that makes alike."""
    plain = ".".join(
        label for part in re.sub(r"[^a-z0-9.-]+", "-", name.lower()).split(".") if (label := part.strip("-"))
    )
    if plain == name and len(name) <= _NAME_LENGTH:
        return plain
    digest = sha256(name.encode()).hexdigest()[:8]
    return f"{plain[: _NAME_LENGTH - 9].rstrip('.-')}-{digest}"


def _packed(groups: Sequence[Group], room: int, name: str) -> Iterator[list[Group]]:
    """Groups in order, as many together as fit; one that does not fit alone is cut."""
    packed: list[Group] = []
    used = 0
    for group in groups:
        for part in _cut_to_size(group, room, name):
            size = len(_indented(part.text()).encode()) + 1
            if packed and used + size > room:
                yield packed
                packed, used = [], 0
            packed.append(part)
            used += size
    if packed:
        yield packed


def _cut_to_size(group: Group, room: int, name: str) -> list[Group]:
    if len(_indented(group.text()).encode()) + 1 <= room:
        return [group]
    frame = len(_indented(group.part(10**6, []).text()).encode()) + len(group.comment.encode()) + 64
    parts: list[list[str]] = []
    used = room
    for rule in group.rules:
        size = len(_indented(rule).encode()) + 1
        if frame + size > room:
            raise ContractError(name, f"a rule of {size} bytes fits into no object of {room}", "a shorter job name")
        if used + size > room:
            parts.append([])
            used = frame
        parts[-1].append(rule)
        used += size
    return [group.part(number, rules) for number, rules in enumerate(parts, 1)]


def mimir_namespaces(files: Mapping[str, str], *, max_groups: int = MAX_GROUPS) -> Mapping[str, str]:
    """Return {file name: one namespace as mimirtool loads it}, with groups of ``GROUP_RULES`` rules at most.

    Raise ContractError where all files together have more than ``max_groups`` groups.
    """
    made: dict[str, str] = {}
    count = 0
    for name, text in files.items():
        file = parse(text, name)
        groups = [part for group in file.groups for part in _cut_to_count(group)]
        count += len(groups)
        made[f"{_stem(name)}.mimir.yaml"] = _namespace(file, _stem(name), groups)
    if count > max_groups:
        raise ContractError(
            "rules",
            f"{count} groups are more than the {max_groups} that Mimir's ruler takes of a tenant by default",
            f"raise its limit ruler_max_rule_groups_per_tenant, then give --max-groups {count}",
        )
    return made


def _namespace(file: RuleFile, name: str, groups: Sequence[Group]) -> str:
    return f"{file.header}namespace: {scalar(name)}\ngroups:\n" + "\n".join(group.text() for group in groups)


def _cut_to_count(group: Group) -> list[Group]:
    if len(group.rules) <= GROUP_RULES:
        return [group]
    starts = range(0, len(group.rules), GROUP_RULES)
    return [group.part(number, group.rules[at : at + GROUP_RULES]) for number, at in enumerate(starts, 1)]


def _stem(name: str) -> str:
    return next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)


def stem_and_format(name: str) -> tuple[str, str]:
    """What a file is of, and the format that its name says; of a part of a split object what the whole is of."""
    for suffix, format_ in ((".prometheusrule.yaml", "operator"), (".mimir.yaml", "mimir")):
        if name.endswith(suffix):
            return re.sub(r"-\d+$", "", name.removesuffix(suffix)), format_
    return _stem(name), "prometheus"
