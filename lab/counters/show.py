"""The counters of one node as a person reads them: ``python -m lab counters NODE``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lab.counters import rnic
from lab.counters.control import Counters
from lab.counters.dialects import DEFAULT
from lab.counters.kernel import HOST_SETS, SWITCH_SETS, Kernel
from lab.counters.rnic import RnicPlace
from lab.counters.switch import Port, switch_values
from lab.network.design import SPEED_MBPS, Design, Host, Switch
from lab.sandbox.netns import inside

_SWITCH_COLUMNS = (
    ("pfc rx", "pfc_received"),
    ("pfc tx", "pfc_sent"),
    ("packets", "queue_packets"),
    ("dropped", "queue_dropped_packets"),
    ("ecn marked", "ecn_marked"),
    ("wd stuck", "watchdog_stuck"),
    ("wd recovered", "watchdog_recovered"),
)


def table(design: Design, directory: Path, node: str) -> str:
    """The counters of a host or switch that are not 0, now. Inside the sandbox."""
    place = design.node(node)
    with inside(place.namespace):
        kernel = Kernel(*HOST_SETS if isinstance(place, Host) else SWITCH_SETS)
    if isinstance(place, Host):
        return _aligned(list(_host(design, directory, place, kernel)))
    return _aligned(list(_switch(design, directory, place, kernel)))


def _aligned(rows: list[tuple[str, ...]]) -> str:
    """Names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        cells = (
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join(map(line, rows))


def _switch(design: Design, directory: Path, switch: Switch, kernel: Kernel) -> Iterator[tuple[str, ...]]:
    timeline = Counters(directory, design).timeline()
    between = {end.id for end, _ in design.peers(switch.name)}
    ports = [Port(end.port, end.id not in between) for end in switch.ports]
    values = switch_values(timeline, switch.name, ports, kernel.read(), timeline.now())
    dialect = timeline.dialects.get(switch.name, DEFAULT)
    yield (dialect, "queue", *(title for title, _ in _SWITCH_COLUMNS))
    for port in ports:
        for queue in range(8):
            row = [values.get((port.name, counter, queue), 0) for _, counter in _SWITCH_COLUMNS]
            if any(row):
                yield (port.name, str(queue), *map(str, row))
        for counter in ("fcs_errors", "symbol_errors", "frame_too_longs"):
            if values.get((port.name, counter, None)):
                yield (port.name, counter, str(values[port.name, counter, None]), *[""] * (len(_SWITCH_COLUMNS) - 1))


def _host(design: Design, directory: Path, host: Host, kernel: Kernel) -> Iterator[tuple[str, ...]]:
    timeline = Counters(directory, design).timeline()
    t, reading = timeline.now(), kernel.read()
    yield ("rnic", "counter", "value")
    for each in host.rnics:
        place = RnicPlace(host.name, each.name, each.netdev, each.address, SPEED_MBPS)
        if timeline.absent(host.name, each.name, t):
            yield (each.name, "absent", "")
            continue
        found = rnic.hw_counters(timeline, place, reading, t) | rnic.ethtool(timeline, place, reading, t)
        for name, value in found.items():
            if value:
                yield (each.name, name, str(value))
