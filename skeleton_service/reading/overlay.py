"""Reading the overlay state: files, and exporters that tell their host's own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from exporter.contracts.codec import ContractError, decode
from exporter.contracts.overlay import MAX_ENTRIES, OverlayState, read_overlay, with_canonical_addresses
from skeleton_service.reading.fetching import fetch_each, uncompressed
from skeleton_service.reading.tables import LIVE

_TIMEOUT_SECONDS = 25.0
"""An exporter gives a dump 20 s."""


def read_overlays(sources: Sequence[str]) -> OverlayState:
    """All of them as one. Raise ContractError for a file that is wrong, and where no source answers.

    An exporter that does not answer is left out with a line on standard error: its host's tables are unknown then.
    """
    states = [read_overlay(source) for source in sources if not source.startswith(LIVE)]
    silent: list[ContractError] = []
    live = [source for source in sources if source.startswith(LIVE)]
    for name, answer in fetch_each(live, _TIMEOUT_SECONDS):
        try:
            if isinstance(answer, ContractError):
                raise answer
            states.append(with_canonical_addresses(decode(uncompressed(answer, name), OverlayState, name), name))
        except ContractError as problem:
            silent.append(problem)
    if not states:
        raise silent[0]
    for each in silent:
        print(f"left out: {each}", file=sys.stderr)
    entries = tuple(entry for state in states for entry in state.entries)
    if len(entries) > MAX_ENTRIES:
        raise ContractError(
            ", ".join(sources), f"hold {len(entries)} entries, more than {MAX_ENTRIES}", "leave out other jobs' hosts"
        )
    snapshots = tuple(snapshot for state in states for snapshot in state.snapshots)
    return OverlayState(version=1, snapshots=snapshots, entries=entries)
