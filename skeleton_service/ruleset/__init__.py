"""Renders Prometheus rules from the templates in ``rules/templates``: the static pack, and the rules of one job.

Pure: the same input gives the same bytes. What reads and writes files is ``skeleton_service.rulescommand``.
"""

from __future__ import annotations

from skeleton_service.alertlinks import GRAFANA, RUNBOOKS
from skeleton_service.ruleset.job import ANY_SKELETON, job_rules, rule_file_name
from skeleton_service.ruleset.rendering import Links, resource
from skeleton_service.ruleset.static import static_rules
from skeleton_service.ruleset.thresholds import Thresholds, read_thresholds, timing

__all__ = [
    "ANY_SKELETON",
    "GRAFANA",
    "RUNBOOKS",
    "Links",
    "Thresholds",
    "job_rules",
    "read_thresholds",
    "resource",
    "rule_file_name",
    "static_rules",
    "timing",
]
