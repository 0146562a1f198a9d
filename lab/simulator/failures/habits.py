"""How a case's records are written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Habits:
    """What exporters and those who run them do differently.

    ``hops``: ``port`` (where the packet came in), ``switch`` or ``address``. ``hosts_known_only``: records of the
    underlay name hosts where others name containers. ``overlay_traced``: the underlay's traces are joined to the
    overlay's flows. ``told``: lost probes say which way they were lost.
    """

    hops: str
    hosts_known_only: bool
    overlay_traced: bool
    told: bool
