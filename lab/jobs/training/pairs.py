"""Who really sends to whom: packets counted by the kernel in each container, whatever the job says of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lab.errors import LabError
from lab.sandbox.netns import inside

TABLE = "training_pairs"
_COUNT = f"""
    add table inet {TABLE}
    delete table inet {TABLE}
    table inet {TABLE} {{
        set sent {{ type ipv4_addr . ipv4_addr; flags dynamic; counter; size 65535; }}
        chain leaving {{
            type filter hook output priority 0; policy accept;
            update @sent {{ ip saddr . ip daddr }}
        }}
    }}
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """What one address sent to another: IPv4 packets and their bytes, headers and retransmissions included."""

    packets: int
    size: int


def count(containers: Iterable[str]) -> None:
    """Begin to count in these containers, from zero."""
    for container in containers:
        _nft(container, "-f", "-", script=_COUNT)


def read(containers: Iterable[str]) -> dict[tuple[str, str], Sent]:
    """{(source, destination) address: what was sent since ``count``}, loopback included."""
    found: dict[tuple[str, str], Sent] = {}
    for container in containers:
        for item in json.loads(_nft(container, "-j", "list", "set", "inet", TABLE, "sent"))["nftables"]:
            for element in item.get("set", {}).get("elem", []):
                value = element["elem"]
                source, destination = value["val"]["concat"]
                found[source, destination] = Sent(value["counter"]["packets"], value["counter"]["bytes"])
    return found


def exchanged(sent: Mapping[tuple[str, str], Sent], endpoints: Mapping[str, str]) -> dict[frozenset[str], int]:
    """{pair of endpoint ids: bytes in both directions}, of the pairs between two of ``endpoints``' addresses."""
    found: dict[frozenset[str], int] = {}
    for (source, destination), amount in sent.items():
        if source in endpoints and destination in endpoints:
            pair = frozenset((endpoints[source], endpoints[destination]))
            found[pair] = found.get(pair, 0) + amount.size
    return found


def _nft(container: str, *words: str, script: str | None = None) -> str:
    with inside(container):
        done = subprocess.run(["nft", *words], input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"nft in {container}: {' '.join(done.stderr.split())}", "is the training job running?")
    return done.stdout


def main(containers: list[str]) -> int:
    """Print one line of JSON per pair of addresses that these containers have sent between."""
    for (source, destination), amount in sorted(read(containers).items()):
        print(
            json.dumps({"source": source, "destination": destination, "packets": amount.packets, "bytes": amount.size})
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
