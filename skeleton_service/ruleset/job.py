"""The rules of one job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256

from skeleton_service.ruleset.rendering import Links, render
from skeleton_service.ruleset.thresholds import Thresholds

_NAME_LENGTH = 180
"""File systems take 255 bytes a name."""


def rule_file_name(job: str) -> str:
    """A file name made of the job's: what file systems dislike becomes a dash, and a digest keeps jobs apart."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", job).strip(".-") or "job"
    if plain != job or len(plain) > _NAME_LENGTH:
        plain = f"{plain[:_NAME_LENGTH]}-{sha256(job.encode()).hexdigest()[:8]}"
    return f"fabric-job-{plain}.rules.yaml"


def job_rules(job: str, thresholds: Thresholds, links: Links | None = None) -> Mapping[str, str]:
    """Return {file name: content} of the Prometheus rule files for one job. Same input, same bytes.

    The number of rules does not grow with the job: the paths are joined in by series.
    """
    return {rule_file_name(job): render("job.rules.yaml.j2", thresholds, links or Links(), job=job)}
