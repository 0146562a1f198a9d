"""The rules of one job."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

from exporter.contracts.skeleton import Group, Skeleton, Window
from skeleton_service.ruleset.rendering import Links, render
from skeleton_service.ruleset.thresholds import Thresholds

_NAME_LENGTH = 180
"""File systems take 255 bytes a name."""
_MOST_CONTAINERS = 32
"""Named in a label of a stage's record."""
_MOST_PARTS = 100

ANY_SKELETON = Skeleton(
    version=1,
    job="any",
    window=Window(start=0.0, end=0.0, step_seconds=1.0),
    period_seconds=1.0,
    confidence=1.0,
    fallback=None,
    parallelism=None,
    groups=(Group(role="dp", stage=0, members=("container/rnic",)),),
    edges=(),
)
"""Of which rules record all that they do of any: for those that check what is recorded."""


def rule_file_name(job: str) -> str:
    """A file name made of the job's: what file systems dislike becomes a dash, and a digest keeps jobs apart."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", job).strip(".-") or "job"
    if plain != job or len(plain) > _NAME_LENGTH:
        plain = f"{plain[:_NAME_LENGTH]}-{sha256(job.encode()).hexdigest()[:8]}"
    return f"fabric-job-{plain}.rules.yaml"


@dataclass(frozen=True, slots=True)
class _Part:
    """The groups of a role in one pipeline stage."""

    role: str
    stage: str
    groups: int
    rnics: int
    containers: str


def job_rules(
    job: str, thresholds: Thresholds, links: Links | None = None, skeleton: Skeleton | None = None
) -> Mapping[str, str]:
    """Return {file name: content} of the Prometheus rule files for one job. Same input, same bytes.

    The number of rules does not grow with the job: the paths are joined in by series. With the job's ``skeleton`` they
    record its period, its confidence and its stages, for dashboards.
    """
    parts = list(_parts(skeleton))[:_MOST_PARTS] if skeleton is not None else []
    text = render("job.rules.yaml.j2", thresholds, links or Links(), job=job, skeleton=skeleton, parts=parts)
    return {rule_file_name(job): text}


def _parts(skeleton: Skeleton) -> Iterator[_Part]:
    found: dict[tuple[str, int], list[Group]] = defaultdict(list)
    for group in skeleton.groups:
        found[group.role, -1 if group.stage is None else group.stage].append(group)
    for (role, stage), groups in sorted(found.items()):
        members = {member for group in groups for member in group.members}
        containers = sorted({member.rpartition("/")[0] for member in members})
        containers.sort(key=len)  # 2 before 10
        shown = ", ".join(containers[:_MOST_CONTAINERS])
        rest = len(containers) - _MOST_CONTAINERS
        told = f"{shown} and {rest} more" if rest > 0 else shown
        yield _Part(role, "" if stage < 0 else str(stage), len(groups), len(members), told)
