"""What switch ports count, for pages that show some of them."""

from __future__ import annotations

NAME = "{{switch}}:{{switch_port}}"
_PORT = "cluster, switch, switch_port"
TROUBLE = 'port:fabric_switch_port_trouble:rate{{counter="{}"}}'
"""A second, of ports that count any of: errors, discards, marks; of pauses the share of the time."""


def rate(metric: str, matchers: str = "", labels: str = "", by: str = _PORT) -> str:
    """A second, of each port; ``labels`` are those that a port has several series by, which are summed.

    A port that two pollers read counts once.
    """
    each = f"max by ({_PORT}{', ' + labels if labels else ''}) (rate({metric}{matchers}[$__rate_interval]))"
    return f"sum by ({by}) ({each})" if labels or by != _PORT else each


def of(expression: str, ports: str) -> str:
    """The same of those ports that ``ports`` finds."""
    return f"({expression}) and on ({_PORT}) ({ports})"
