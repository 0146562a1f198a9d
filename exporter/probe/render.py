"""A run as text: the table of a terminal, a line a probe elsewhere, the summary, JSON. Values in, text out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from exporter.probe.request import Request
from exporter.probe.statistics import Hop, PathSummary, RoundTrips, Sample, label
from exporter.probe.units import percent, seconds

Style = Literal["", "header", "bad", "note"]

_BARS = "▁▂▃▄▅▆▇█"
_LOST, _REFUSED, _STARVED, _SENT_AGAIN = "x", "r", "!", "s"
_TIMES = ("last", "min", "median", "p90", "p99", "max")
_FEWER_TIMES = ("last", "min", "median", "p99")
_WIDE = 96  # characters that all columns and the least sparkline need
_NUMBERS = 9  # characters of a column
_LEAST_SPARKS = 10
_MOST_SPARKS = 60


class Line(NamedTuple):
    style: Style
    text: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``--json``."""

    version: int = 1
    type: str
    packet_bytes: int | None
    traffic_class: int
    interval_seconds: float
    elapsed_seconds: float
    within_thresholds: bool
    problems: list[str]
    paths: list[PathSummary]


def report(request: Request, paths: Sequence[PathSummary], problems: list[str], elapsed: float) -> Report:
    return Report(
        type=request.type,
        packet_bytes=request.packet_bytes or None,
        traffic_class=request.targets[0].traffic_class,
        interval_seconds=request.interval,
        elapsed_seconds=round(elapsed, 3),
        within_thresholds=not problems,
        problems=problems,
        paths=list(paths),
    )


def headline(request: Request) -> str:
    """What is probed and how, in a line."""
    target = request.targets[0]
    if request.type == "rdma":
        return (
            f"rdma, introduced at UDP port {target.destination_port}, {target.payload_bytes}-byte messages, "
            f"traffic class {target.traffic_class}, every {request.interval:g} s"
        )
    size = f"{request.packet_bytes}-byte packets, " if request.packet_bytes else ""
    return (
        f"{request.type} to port {target.destination_port}, {size}traffic class {target.traffic_class}, "
        f"every {request.interval:g} s"
    )


def table(paths: Sequence[PathSummary], recent: Sequence[Sequence[Sample]], width: int) -> list[Line]:
    """A line a path, with its last samples (``recent``, oldest first) as far as ``width`` characters go."""
    times = _TIMES if width >= _WIDE else _FEWER_TIMES
    names = max(len("destination"), *(len(path.destination) for path in paths))
    head = (
        f"{'destination':<{names}}   from   sent" + "".join(f"{name:>{_NUMBERS}}" for name in ("lost", *times)) + "  "
    )
    sparks = min(max(width - 1 - len(head), _LEAST_SPARKS), _MOST_SPARKS)
    lines = [Line("header", head + "last probes")]
    for path, samples in zip(paths, recent, strict=True):
        text = f"{path.destination:<{names}}  {path.source_port:>5}  {path.sent:>5}{_numbers(path, times)}  "
        troubled = bool(path.lost or (path.refused and not path.answered))
        lines.append(Line("bad" if troubled else "", text + sparkline(samples[-sparks:], path.rtt_seconds)))
        lines.extend(Line("", text) for text in _hops(path.hops or ()))
    lines.extend(Line("note", note) for note in notes(paths))
    return lines


def _numbers(path: PathSummary, times: Sequence[str]) -> str:
    trips = path.rtt_seconds
    lost = "-" if path.lost_ratio is None else percent(path.lost_ratio)
    texts = [lost, *("-" if trips is None else seconds(getattr(trips, name)) for name in times)]
    return "".join(f"{text:>{_NUMBERS}}" for text in texts)


def sparkline(samples: Sequence[Sample], trips: RoundTrips | None) -> str:
    """A character a sample: 'x' lost, 'r' refused, '!' starved, 's' answered when the SYN was sent again, else a bar.

    Each bar is 1.4 times the one below it, the lowest the path's least round trip.
    So a bar keeps its height while the line moves on, and jitter of a few per cent looks like none.
    """
    return "".join(_spark(sample, trips) for sample in samples)


def _spark(sample: Sample, trips: RoundTrips | None) -> str:
    if sample.outcome == "answered" and sample.rtt_seconds is None:
        return _SENT_AGAIN
    if sample.rtt_seconds is None or trips is None:
        return _REFUSED if sample.outcome == "refused" else _LOST
    if sample.starved:
        return _STARVED
    if not trips.min or sample.rtt_seconds <= trips.min:
        return _BARS[0]
    return _BARS[min(int(2 * math.log2(sample.rtt_seconds / trips.min)), len(_BARS) - 1)]


def _hops(hops: Sequence[Hop]) -> list[str]:
    lines = []
    for number, hop in enumerate(hops, 1):
        answers = ", ".join(f"{address} ({count} of {hop.traces})" for address, count in hop.addresses.items())
        text = f"  {number:>2}  {answers or f'silent (0 of {hop.traces})'}"
        if (trips := hop.rtt_seconds) is not None:
            text += f"  {trips.text()}"
        lines.append(text)
    return lines


def notes(paths: Sequence[PathSummary]) -> list[str]:
    """What the numbers do not say by themselves; empty for a run without events."""
    lines = [
        f"{path.name}: {path.lost_return} of {path.lost} lost were lost on the way back"
        for path in paths
        if path.lost_return
    ]
    lines += [
        f"{path.name}: {path.refused} refused: no responder listened then"
        for path in paths
        if path.refused and path.answered and path.lost_return is not None
    ]
    # No responder counts for tcp, whose refusals are answers.
    if closed := [path for path in paths if path.refused and path.lost_return is None]:
        lines.append(f"{label(closed, paths)}: the port is closed; this process timed its resets, some 0.1 ms high")
    for found in sorted({str(path.path_mtu) for path in paths if path.path_mtu is not None and not path.path_mtu.kind}):
        lines.append(f"{label([path for path in paths if str(path.path_mtu) == found], paths)}: {found}")
    lines += [
        f"{path.name}: echo on {path.echoes} of {path.answered} connections, min/median/p90/p99/max = {_spread(trips)}"
        for path in paths
        if (trips := path.echo_rtt_seconds) is not None
    ]
    if mute := [path for path in paths if path.echoes == 0 and path.answered > path.refused]:
        lines.append(f"{label(mute, paths)}: no echo; is fabric-exporter running there, under the key of --key-file?")
    for path in paths:
        happened = (
            (path.syn_retransmits, "SYNs sent again after a second"),
            (path.retransmits, "echo requests sent again"),
            (path.resets, "connections reset"),
        )
        lines += [f"{path.name}: {count} {what}" for count, what in happened if count]
    for mtu in sorted({path.mtu_reported_bytes for path in paths if path.mtu_reported_bytes is not None}):
        told = [path for path in paths if path.mtu_reported_bytes == mtu]
        lines.append(f"{label(told, paths)}: an MTU of {mtu} bytes was reported")
    lines += [
        f"{path.name}: {path.ecn_marked} of {path.answered} answered were marked by a congested queue (ECN)"
        for path in paths
        if path.ecn_marked
    ]
    for device, timestamps in sorted({(path.device, path.timestamps) for path in paths if path.device is not None}):
        lines.append(f"{device}: round trips by {timestamps} timestamps")
    if unsent := sum(path.unsent for path in paths):
        lines.append(f"{unsent} could not be sent by this host: not counted as lost")
    if unjudged := sum(path.unjudged for path in paths):
        lines.append(f"{unjudged} outlived by a stall of this host: not counted as lost")
    if starved := sum(path.starved for path in paths):
        why = "sent or judged over 5 ms late because this host was busy"
        if any(path.device for path in paths):
            why = "timed with over 0.2 ms of doubt because this host, or the other, was busy"
        lines.append(f"{starved} starved ({_STARVED}): {why}")
    return lines


def result(path: PathSummary, sample: Sample) -> str:
    """One probe as fping -l shows it."""
    if sample.outcome == "lost":
        what = "lost"
    else:
        what = "refused" if sample.outcome == "refused" else ""
        if sample.outcome == "answered" and sample.rtt_seconds is None:
            what = "answered when the SYN was sent again"
        elif sample.rtt_seconds is not None:
            what = f"{seconds(sample.rtt_seconds)}{' (closed port)' if what else ''}"
    starved = ", starved" if sample.starved else ""
    return f"{path.name} : [{sample.number}] {what}{starved}"


def summary(paths: Sequence[PathSummary]) -> list[str]:
    """A line a path as fping -c ends with, and its hops."""
    names = max(len(path.name) for path in paths)
    lines = []
    for path in paths:
        lost = "-" if path.lost_ratio is None else percent(path.lost_ratio)
        text = f"{path.name:<{names}} : sent/answered/lost = {path.sent}/{path.answered}/{lost}"
        trips = path.rtt_seconds
        if trips is not None:
            text += f", min/median/p90/p99/max = {_spread(trips)}"
        lines.append(text)
        lines.extend(_hops(path.hops or ()))
    return [*lines, *notes(paths)]


def _spread(trips: RoundTrips) -> str:
    return "/".join(seconds(value) for value in (trips.min, trips.median, trips.p90, trips.p99, trips.max))


def totals(paths: Sequence[PathSummary], elapsed: float) -> str:
    sent, answered = sum(path.sent for path in paths), sum(path.answered for path in paths)
    noun = "path" if len(paths) == 1 else "paths"
    return f"{len(paths)} {noun}, {sent} probes sent, {answered} answered in {elapsed:.1f} s"
