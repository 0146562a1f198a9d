"""What of a configuration is legal, and probably not meant: said by ``check-config`` and when the exporter starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from exporter.config import Config
from exporter.contracts.topology import read_topology


def remarks(config: Config) -> Iterator[str]:
    """Lines for a person; raise ContractError for a topology that cannot be read."""
    switches = config.switches
    if config.topology is not None:
        known = [switch.name for switch in read_topology(config.topology).switches]
        targets = [target.name for section in (switches, config.gnmi) if section for target in section.targets]
        for name in targets:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
                yield f"switch {name!r} is not in the topology{hint}: its counters are joined with no link"
    if switches is not None and switches.timeout_seconds * (1 + switches.retries) > switches.period_seconds:
        yield (
            f"section 'switches': a lost request takes {switches.timeout_seconds * (1 + switches.retries):g} s, longer "
            f"than period_seconds: one of them makes a poll late"
        )
