"""The knobs of the rules, rules/thresholds.yaml, and the durations that follow from them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from exporter.contracts.codec import ContractError, decode, read_bytes
from exporter.contracts.strict import convert_strictly
from skeleton_service.ruleset.bounds import check_numbers

_DURATION = re.compile(r"^(\d+)(ms|s|m|h)$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SCRAPES = 5
"""Of a window: Prometheus 3 leaves out the sample at its left end, and a rate over fewer than four is noise."""
_FEWEST_SCRAPES = 4
_SHORTEST_HISTORY = 600.0


class Thresholds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The knobs of rules/thresholds.yaml, which says why each has its value. Empty ones follow from others."""

    scrape_interval: str = "15s"
    poll_interval: str = ""
    window: str = ""
    counter_window: str = ""
    for_: str = msgspec.field(default="", name="for")
    keep_firing_for: str = ""
    link_loss_ratio: float = 0.05
    path_loss_ratio: float = 0.05
    path_losses: int = 2
    link_votes: int = 2
    mtu_loss_ratio: float = 0.4
    rtt_history: str = "1h"
    rtt_factor: float = 1.5
    rtt_floor_seconds: float = 0.00001
    starved_slots_per_second: float = 0.1
    link_slow_ratio: float = 0.3
    link_slow_contrast: float = 1.5
    congestion_pause_ratio: float = 0.05
    congestion_discards_per_second: float = 1.0
    congestion_marks_per_second: float = 100.0
    roce_packet_bytes: int = 4160


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in Prometheus' notation, all set."""

    interval: str
    """Between two evaluations of what probes tell."""
    window: str
    """Of rates of probes."""
    for_: str
    for_paths: str
    """Longer, so that a path's component is named before it."""
    keep_firing_for: str
    poll_interval: str
    """Between two readings of what switches and RNICs count."""
    counter_window: str
    """Of rates of such counters."""
    for_counters: str
    for_counter_effects: str
    """Longer by a poll, so that what explains them is named before them."""
    paths_interval: str
    """Between two evaluations of what is joined over all paths: which there are, and what round trips take. Slowness is
    not death, and may be told some seconds later than loss."""
    rtt_history_least: int
    """Minutes of health, of those that thresholds of round trips are learnt from, that make one."""


def seconds(duration: str, field: str, source: str) -> float:
    match = _DURATION.match(duration)
    if match is None:
        raise ContractError(source, f"field '{field}': {duration!r} is not a duration", "write 15s, 1m or 500ms")
    return int(match[1]) * _SECONDS[match[2]]


def _length(duration: str, field: str, source: str) -> float:
    """Seconds, more than none."""
    found = seconds(duration, field, source)
    if not found:
        raise ContractError(source, f"field '{field}': {duration} is no time at all", "write 15s, 1m or 500ms")
    return found


def notation(value: float) -> str:
    """Seconds in Prometheus' notation: ``15s``, ``500ms``."""
    return f"{value:.0f}s" if value == int(value) else f"{value * 1000:.0f}ms"


def timing(thresholds: Thresholds, source: str = "thresholds") -> Timing:
    """Fill in what follows from the intervals; raise ContractError for intervals and windows that hold no rate."""
    scrape = _length(thresholds.scrape_interval, "scrape_interval", source)
    poll = max(scrape, 15.0)
    if thresholds.poll_interval:
        poll = _length(thresholds.poll_interval, "poll_interval", source)
    if poll < scrape:
        what = (
            f"field 'poll_interval': {thresholds.poll_interval} is under scrape_interval, {thresholds.scrape_interval}"
        )
        remedy = f"at least {notation(scrape)}: what is read more often is not scraped"
        raise ContractError(source, what, remedy)
    history = _length(thresholds.rtt_history, "rtt_history", source)
    if history < _SHORTEST_HISTORY:
        what = f"field 'rtt_history': {thresholds.rtt_history} holds too few minutes for a quantile"
        raise ContractError(source, what, f"at least {notation(_SHORTEST_HISTORY)}")
    window = _window(thresholds.window, "window", scrape, "scrapes", source)
    counter_window = _window(thresholds.counter_window, "counter_window", poll, "polls", source)
    held = _length(thresholds.for_, "for", source) if thresholds.for_ else max(3.0, 2 * scrape)
    keep = thresholds.keep_firing_for
    if keep:
        seconds(keep, "keep_firing_for", source)
    return Timing(
        interval=thresholds.scrape_interval,
        window=notation(window),
        for_=notation(held),
        # A path is spoken of after its component had time to be: inhibition needs the source to fire first. A path's
        # loss is seen at once, a link's MTU mismatch when the window is filled up to its ratio with lost probes.
        for_paths=notation(math.ceil(held + max(2.0, scrape) + thresholds.mtu_loss_ratio * window)),
        keep_firing_for=keep or notation(2 * window),
        poll_interval=notation(poll),
        counter_window=notation(counter_window),
        for_counters=notation(max(3.0, 2 * poll)),
        for_counter_effects=notation(max(3.0, 2 * poll) + poll),
        paths_interval=notation(4 * scrape),
        rtt_history_least=int(history / 60 / 2),
    )


def _window(given: str, field: str, interval: float, intervals: str, source: str) -> float:
    window = _length(given, field, source) if given else max(15.0, _SCRAPES * interval)
    least = _FEWEST_SCRAPES * interval
    if window < least:
        what = f"field '{field}': {given} is under four {intervals}"
        raise ContractError(source, what, f"at least {notation(least)}")
    return window


def read_thresholds(path: Path | str) -> Thresholds:
    document = decode(read_bytes(path), dict, str(path))
    defaults = dict(zip(Thresholds.__struct_encode_fields__, msgspec.structs.astuple(Thresholds()), strict=True))
    check_numbers(document, defaults, str(path))
    thresholds = convert_strictly(document, Thresholds, str(path))
    timing(thresholds, str(path))
    return thresholds
