"""Which series of the exporters an injection moved, and from what to what: what rules can be written on. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

SELECTOR = '{__name__=~"fabric_.+",__name__!~"fabric_exporter_.+|.+_bucket|.+_duration_seconds|.+_timestamp_seconds"}'
_MOST = 10
_ALWAYS = re.compile(
    r"(_bytes_total|_packets_total|_probes_sent_total|_rtt_seconds(_sum|_count)?|_polls_total|_reads_total|"
    r"_messages_total|_queries_total|_resolutions_total|uptime_seconds|rx_write_requests_total|_poll_rows|_table_rows)$"
)
_QUEUE = re.compile(r"_(dropped|marked|derived)_packets_total$")
Samples = Sequence[tuple[Mapping[str, str], float]]
_Key = tuple[tuple[str, str], ...]


def moved(before: Samples, healthy: Samples, broken: Samples, quiet: float, wrong: float) -> Iterator[str]:
    """Lines, by metric: what changed between ``healthy`` and ``broken`` and not, or slower, since ``before``.

    ``quiet`` and ``wrong`` are the seconds from ``before`` to ``healthy`` and from there to ``broken``.
    """
    first, second, third = (_indexed(samples) for samples in (before, healthy, broken))
    lines: dict[str, list[str]] = {}
    for key in sorted(second.keys() | third.keys()):
        labels = dict(key)
        name = labels.pop("__name__")
        if _ALWAYS.search(name) and not _QUEUE.search(name):
            continue
        text = _line(name, first.get(key), second.get(key), third.get(key), quiet, wrong)
        if text:
            labels.pop("job", None)
            shown = ", ".join(f"{label}={value}" for label, value in sorted(labels.items()))
            lines.setdefault(name, []).append(f"  {text}  {{{shown}}}")
    for name, those in sorted(lines.items()):
        yield f"{name}: {len(those)} series"
        yield from those[:_MOST]
        if len(those) > _MOST:
            yield f"  … {len(those) - _MOST} more"


def _line(
    name: str, before: float | None, healthy: float | None, broken: float | None, quiet: float, wrong: float
) -> str:
    if not name.endswith("_total"):
        same = healthy == broken or (before is not None and before != healthy)
        return "" if same else f"{_shown(healthy)} -> {_shown(broken)}"
    grown = (broken or 0) - (healthy or 0)
    usual = ((healthy or 0) - (before or 0)) / quiet
    if grown <= 0 or grown / wrong < 3 * usual:
        return "" if grown >= 0 else f"reset: {_shown(healthy)} -> {_shown(broken)}"
    return f"+{grown:g} in {wrong:.0f} s ({usual:.3g}/s before)"


def _shown(value: float | None) -> str:
    return "absent" if value is None else f"{value:g}"


def _indexed(samples: Samples) -> dict[_Key, float]:
    return {tuple(sorted(labels.items())): value for labels, value in samples}
