"""Rules that name each path: two alerts a path with its own thresholds, against which rules with joins are measured."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.rule_fabric import RuleFabric

_ALERT = """      - alert: FabricPath{what}
        expr: {expression}
        for: {held}
        labels: {{severity: warning, component_kind: path, path: "{path}", training_job: "{job}"}}
        annotations: {{summary: "A path of a training job {does}.", description: "Path {path}: {{{{ $value }}}}."}}
"""


def literal_rules(of: RuleFabric, interval: str, window: str, held: str) -> Mapping[str, str]:
    """Return {file name: content}: loss and round trip of each path, in one group of each job."""
    texts: dict[str, list[str]] = {}
    for path in of.paths:
        lines = texts.setdefault(
            path.job, [f"groups:\n  - name: {path.job}-paths\n    interval: {interval}\n    rules:\n"]
        )
        is_path = f'{{path="{path.path}"}}'
        lost, sent = (f"rate(fabric_path_probes_{what}_total{is_path}[{window}])" for what in ("lost", "sent"))
        loss = f"max by (cluster, path) ({lost}) / max by (cluster, path) ({sent}) > 0.05"
        slow = f"max by (cluster, path) (fabric_path_rtt_seconds{is_path}) > 6e-05"
        for what, expression, does in (("Loss", loss, "loses probes"), ("Latency", slow, "is slow")):
            quoted = f"'{expression}'"
            lines.append(
                _ALERT.format(what=what, expression=quoted, held=held, path=path.path, job=path.job, does=does)
            )
    return {f"fabric-job-{job}.rules.yaml": "".join(lines) for job, lines in texts.items()}
