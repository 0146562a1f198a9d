"""Routes as text for labels: short enough to read, and bounded, for what a trace tells comes from the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from exporter.contracts.fabric import Fabric

MOST_HOPS = 16
MOST_BYTES = 512
_LONGEST_NAME = 128
_JOINT = " > "
_MORE = "..."


def change_text(fabric: Fabric | None, before: Sequence[str], after: Sequence[str]) -> tuple[str, str, str]:
    """(route before, route after, first hop of the new one that the old one has not), of routes that differ.

    Routes are addresses. Switches are named without ports where that tells the routes apart, else with them, and by
    their addresses at last: parallel links, and a switch that answers from another address than before.
    """

    def port(address: str) -> str:
        return (fabric.locate(address) if fabric is not None else None) or address

    def switch(address: str) -> str:
        place = port(address)
        return place if place == address else place.partition(":")[0]

    names: list[Callable[[str], str]] = [switch, port, str]
    for name in names:
        old, new = [_bounded(name(hop)) for hop in before], [_bounded(name(hop)) for hop in after]
        if old != new:
            break
    return route_text(old), route_text(new), next((hop for hop in new if hop not in old), "")


def route_text(hops: Sequence[str]) -> str:
    """``leaf-0 > spine-1 > leaf-2``: at most MOST_HOPS and MOST_BYTES, ``...`` for what is beyond."""
    kept = list(hops[:MOST_HOPS])
    while len((text := _JOINT.join([*kept, _MORE] if len(kept) < len(hops) else kept)).encode()) > MOST_BYTES:
        kept.pop()
    return text


def _bounded(name: str) -> str:
    """Without what no terminal should be sent, and cut."""
    return "".join(each if each.isprintable() else "?" for each in name[:_LONGEST_NAME])
