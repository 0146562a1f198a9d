"""Writing a topology file, in the form that its name asks for."""

from __future__ import annotations

from pathlib import Path

import msgspec

from exporter.contracts.codec import encode
from exporter.contracts.topology import Topology


def topology_file(topology: Topology, path: Path | str) -> bytes:
    """YAML where the name ends in ``.yaml`` or ``.yml``, else JSON; both read back as they are."""
    if Path(path).suffix not in (".yaml", ".yml"):
        return encode(topology)
    import yaml  # noqa: PLC0415 - only this one writes YAML

    text: str = yaml.safe_dump(msgspec.to_builtins(topology), sort_keys=False, width=120, allow_unicode=True)
    return text.encode()
