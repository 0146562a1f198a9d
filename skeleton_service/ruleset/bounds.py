"""What the values of rules/thresholds.yaml may be: one that nothing or everything is above makes alerts that never or
always fire, and Prometheus takes them without a word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from exporter.contracts.codec import ContractError


@dataclass(frozen=True, slots=True)
class Bound:
    holds: Callable[[float], bool]
    what: str
    whole: bool = False


_UNDER_ONE = Bound(lambda value: 0 < value < 1, "over 0 and under 1")
"""Of what is compared by ``>``: nothing loses more than all."""
_AT_MOST_ONE = Bound(lambda value: 0 < value <= 1, "over 0 and at most 1")
_COUNT = Bound(lambda value: value >= 1, "at least 1", whole=True)
_POSITIVE = Bound(lambda value: value > 0, "over 0")
_NO_LESS_THAN_NOTHING = Bound(lambda value: value >= 0, "0 or more")

BOUNDS: Mapping[str, Bound] = {
    "link_loss_ratio": _UNDER_ONE,
    "path_loss_ratio": _UNDER_ONE,
    "path_losses": _COUNT,
    "link_votes": _COUNT,
    "mtu_loss_ratio": _UNDER_ONE,
    "rtt_factor": _POSITIVE,
    "rtt_floor_seconds": _NO_LESS_THAN_NOTHING,
    "starved_slots_per_second": _NO_LESS_THAN_NOTHING,
    "link_slow_ratio": _AT_MOST_ONE,
    "link_slow_contrast": _POSITIVE,
    "congestion_pause_ratio": _AT_MOST_ONE,
    "congestion_discards_per_second": _POSITIVE,
    "congestion_marks_per_second": _POSITIVE,
    "roce_packet_bytes": _COUNT,
}
"""By key. The other keys are durations."""


def check_numbers(document: Mapping[str, Any], defaults: Mapping[str, Any], source: str) -> None:
    """Raise ContractError for the first value of a known key that is of another type, or out of its bounds.

    ``defaults`` by key. An empty value is left to whoever converts the document, and so is an unknown key.
    """
    for key, default in defaults.items():
        value = document.get(key)
        if value is None:
            continue
        bound = BOUNDS.get(key)
        if bound is None:
            if not isinstance(value, str):
                remedy = f"write {value:g}s" if _is_number(value) else "write 15s, 1m or 500ms"
                raise ContractError(source, f"field '{key}': {_shown(value)} is not a duration", remedy)
            continue
        if not _is_number(value) or (bound.whole and isinstance(value, float)):
            kind = "a whole number" if bound.whole else "a number"
            raise ContractError(source, f"field '{key}': {_shown(value)} is not {kind}", f"write {default}")
        if not isfinite(value) or not bound.holds(value):
            raise ContractError(source, f"field '{key}': {value} is not {bound.what}", f"the default is {default}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"a {type(value).__name__}"
