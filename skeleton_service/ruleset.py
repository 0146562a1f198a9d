"""Renders the alert rules of one job from the templates in ``rules/templates``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import msgspec
from jinja2 import Environment, FunctionLoader, StrictUndefined

from exporter.contracts.codec import ContractError, decode, read_bytes
from exporter.contracts.strict import convert_strictly

RUNBOOKS = "https://github.com/fabric-skeleton/fabric-skeleton/blob/main/docs/runbooks"
_DURATION = re.compile(r"^(\d+)(ms|s|m|h)$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Thresholds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The knobs of rules/thresholds.yaml, which says why each has its value. Empty ones follow from others."""

    scrape_interval: str = "15s"
    window: str = ""
    for_: str = msgspec.field(default="", name="for")
    keep_firing_for: str = ""
    link_loss_ratio: float = 0.05
    path_loss_ratio: float = 0.05
    path_losses: int = 2
    link_votes: int = 2
    mtu_loss_ratio: float = 0.4
    roce_packet_bytes: int = 4160


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in Prometheus' notation, all set."""

    interval: str
    window: str
    for_: str
    for_paths: str
    keep_firing_for: str


def seconds(duration: str, field: str, source: str) -> float:
    match = _DURATION.match(duration)
    if match is None:
        raise ContractError(source, f"field '{field}': {duration!r} is not a duration", "write 15s, 1m or 500ms")
    return int(match[1]) * _SECONDS[match[2]]


def _notation(value: float) -> str:
    return f"{value:.0f}s" if value == int(value) else f"{value * 1000:.0f}ms"


def timing(thresholds: Thresholds, source: str = "thresholds") -> Timing:
    """Fill in what follows from the scrape interval; refuse windows too short to hold a rate."""
    scrape = seconds(thresholds.scrape_interval, "scrape_interval", source)
    window = seconds(thresholds.window, "window", source) if thresholds.window else max(15.0, 5 * scrape)
    if window < 4 * scrape:
        raise ContractError(
            source, f"field 'window': {thresholds.window} is under four scrapes", f"at least {_notation(4 * scrape)}"
        )
    held = seconds(thresholds.for_, "for", source) if thresholds.for_ else max(3.0, 2 * scrape)
    keep = thresholds.keep_firing_for
    if keep:
        seconds(keep, "keep_firing_for", source)
    return Timing(
        interval=thresholds.scrape_interval,
        window=_notation(window),
        for_=_notation(held),
        # A path is spoken of after its component had time to be: inhibition needs the source to fire first. A path's
        # loss is seen at once, a link's MTU mismatch when the window is filled up to its ratio with lost probes.
        for_paths=_notation(math.ceil(held + max(2.0, scrape) + thresholds.mtu_loss_ratio * window)),
        keep_firing_for=keep or _notation(2 * window),
    )


def read_thresholds(path: Path | str) -> Thresholds:
    thresholds = convert_strictly(decode(read_bytes(path), dict, str(path)), Thresholds, str(path))
    timing(thresholds, str(path))
    return thresholds


def resource(*names: str) -> Traversable:
    """A file of the rule pack, from the package data."""
    place = files("skeleton_service") / "rules"
    for name in names:
        place = place / name
    return place


def quote(text: str) -> str:
    """A double-quoted string that YAML and PromQL read alike: both know \\u and \\U, neither surrogate pairs."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(
        char if char.isprintable() else f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
        for char in quoted
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(lambda name: resource("templates", name).read_text()),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - YAML, not HTML: the filters below quote what needs it
    )
    environment.filters["promql_string"] = quote
    environment.filters["yaml_string"] = quote
    environment.filters["yaml_comment"] = quote
    return environment


def rule_file_name(job: str) -> str:
    """A file name made of the job's: what file systems dislike becomes a dash, and a digest keeps jobs apart."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", job).strip(".-") or "job"
    if plain != job:
        plain = f"{plain}-{sha256(job.encode()).hexdigest()[:8]}"
    return f"fabric-job-{plain}.rules.yaml"


def job_rules(job: str, thresholds: Thresholds, runbooks: str = RUNBOOKS) -> Mapping[str, str]:
    """Return {file name: content} of the Prometheus rule files for one job. Same input, same bytes.

    The number of rules does not grow with the job: the paths are joined in by series.
    """
    times = timing(thresholds)
    text = (
        _environment()
        .get_template("job.rules.yaml.j2")
        .render(
            job=job,
            interval=times.interval,
            window=times.window,
            window_seconds=seconds(times.window, "window", "thresholds"),
            for_paths=times.for_paths,
            keep_firing_for=times.keep_firing_for,
            runbooks=runbooks,
            link_loss_ratio=thresholds.link_loss_ratio,
            path_loss_ratio=thresholds.path_loss_ratio,
            path_losses=thresholds.path_losses,
            link_votes=thresholds.link_votes,
            mtu_loss_ratio=thresholds.mtu_loss_ratio,
            roce_packet_bytes=thresholds.roce_packet_bytes,
            for_link=times.for_,
        )
    )
    return {rule_file_name(job): text}
