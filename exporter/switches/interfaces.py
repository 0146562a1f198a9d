"""IF-MIB (RFC 2863): ifTable and ifXTable as port metrics."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.contracts.metric import Metric
from exporter.contracts.switch_counters import (
    PORT_ENABLED,
    PORT_MTU,
    PORT_RECEIVE,
    PORT_RECEIVE_DISCARDS,
    PORT_RECEIVE_ERRORS,
    PORT_SPEED,
    PORT_TRANSMIT,
    PORT_TRANSMIT_DISCARDS,
    PORT_TRANSMIT_ERRORS,
    PORT_UP,
)
from exporter.switches.snmp import Oid, Session, Value, walk

_IF_ENTRY: Oid = (1, 3, 6, 1, 2, 1, 2, 2, 1)
_IF_X_ENTRY: Oid = (1, 3, 6, 1, 2, 1, 31, 1, 1, 1)

_NAME = (*_IF_X_ENTRY, 1)
_TYPE = (*_IF_ENTRY, 3)
_ETHERNET_CSMACD = 6

_UP = 1
_LONGEST_NAME = 64  # bytes; a DisplayString may have 255 (RFC 2863), no port's name has
_MEGABIT_IN_BYTES = 125_000

_COUNTERS: dict[Oid, Metric] = {
    (*_IF_ENTRY, 13): PORT_RECEIVE_DISCARDS,
    (*_IF_ENTRY, 14): PORT_RECEIVE_ERRORS,
    (*_IF_ENTRY, 19): PORT_TRANSMIT_DISCARDS,
    (*_IF_ENTRY, 20): PORT_TRANSMIT_ERRORS,
    (*_IF_X_ENTRY, 6): PORT_RECEIVE,
    (*_IF_X_ENTRY, 10): PORT_TRANSMIT,
    (*_IF_ENTRY, 4): PORT_MTU,
}
_STATES: dict[Oid, Metric] = {(*_IF_ENTRY, 8): PORT_UP, (*_IF_ENTRY, 7): PORT_ENABLED}
_SPEED = (*_IF_X_ENTRY, 15)

PortValues = dict[Metric, float]


async def read_interfaces(session: Session, aliases: Mapping[str, str]) -> tuple[dict[str, PortValues], int]:
    """Return ({port name: values}, number of values read). A value the device does not serve is absent.

    ``aliases`` maps what the device calls a port to its canonical name: SONiC answers with aliases.
    Only Ethernet ports are returned (ifType ethernetCsmacd).
    """
    columns = await walk(session, (_NAME, _TYPE, _SPEED, *_COUNTERS, *_STATES))
    ports: dict[str, PortValues] = {}
    for index, name in columns[_NAME].items():
        if not isinstance(name, bytes) or columns[_TYPE].get(index) != _ETHERNET_CSMACD:
            continue
        if len(name) > _LONGEST_NAME:
            continue
        text = name.decode("utf-8", "replace")
        values: PortValues = {}
        for column, metric in _COUNTERS.items():
            _put(values, metric, columns[column].get(index))
        for column, metric in _STATES.items():
            state = columns[column].get(index)
            if isinstance(state, int):
                values[metric] = float(state == _UP)
        speed = columns[_SPEED].get(index)
        if isinstance(speed, int) and speed > 0:  # 0 is "unknown" (RFC 2863, ifHighSpeed)
            values[PORT_SPEED] = float(speed * _MEGABIT_IN_BYTES)
        ports[aliases.get(text, text)] = values
    return ports, sum(len(rows) for rows in columns.values())


def _put(values: PortValues, metric: Metric, value: Value) -> None:
    if isinstance(value, int):
        values[metric] = float(value)
