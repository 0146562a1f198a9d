"""Reading neighbours: files, and exporters that tell those of their switches."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from exporter.contracts.codec import ContractError, decode, read_bytes
from exporter.contracts.neighbors import Neighbors, check_neighbors
from skeleton_service.reading.fetching import fetch_each, uncompressed
from skeleton_service.reading.tables import LIVE


def read_neighbors(sources: Sequence[str]) -> Neighbors:
    """All of them as one, in the order given. Raise ContractError for a file that is wrong, and where none answers.

    An exporter that does not answer is left out with a line on standard error: its switches tell nothing then.
    """
    read: dict[str, Neighbors] = {}
    silent: list[ContractError] = []
    for name in sources:
        if not name.startswith(LIVE):
            read[name] = _decoded(read_bytes(name), name)
    for name, answer in fetch_each([name for name in sources if name.startswith(LIVE)]):
        try:
            if isinstance(answer, ContractError):
                raise answer
            read[name] = _decoded(uncompressed(answer, name), name)
        except ContractError as problem:
            silent.append(problem)
    if not read:
        raise silent[0]
    for each in silent:
        print(f"left out: {each}", file=sys.stderr)
    told = (read[name] for name in dict.fromkeys(sources) if name in read)
    return Neighbors(version=1, switches=tuple(switch for each in told for switch in each.switches))


def _decoded(data: bytes, source: str) -> Neighbors:
    neighbors = decode(data, Neighbors, source)
    check_neighbors(neighbors, source)
    return neighbors
