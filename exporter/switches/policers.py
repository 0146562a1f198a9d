"""The control plane's policers: CISCO-CLASS-BASED-QOS-MIB, whose policies hang together by indexes of their own.

The policy of the control plane is the one whose cbQosIfType is controlPlane; its classes are those of its objects that
are class maps; each class map's configuration has its name.
"""

from __future__ import annotations

import numpy as np

from exporter.contracts.switch_counters import CONTROL_PLANE_DROPPED, CONTROL_PLANE_SEEN, SWITCH_CONTROL_PLANE
from exporter.switches.decoding import Labels, Names, clean
from exporter.switches.profile import TableProfile
from exporter.switches.snmp import Oid, Session
from exporter.switches.table import ColumnValues, TableReading

_MIB: Oid = "1.3.6.1.4.1.9.9.166.1"
_INTERFACE_TYPE: Oid = f"{_MIB}.1.1.1.2"
_CONFIGURATION: Oid = f"{_MIB}.5.1.1.2"
_OBJECT_TYPE: Oid = f"{_MIB}.5.1.1.3"
_CLASS_NAME: Oid = f"{_MIB}.7.1.1.1"
_SEEN: Oid = f"{_MIB}.15.1.1.3"
_DROPPED: Oid = f"{_MIB}.15.1.1.14"
_CONTROL_PLANE, _CLASS_MAP = 5, 2
_MOST_CLASSES = 64
_REDISCOVERED = 40


class PolicerReader:
    """Reads the packets of each class of the control plane's policy, and those that it dropped."""

    def __init__(self, profile: TableProfile) -> None:
        self.profile = profile
        self._classes: dict[str, str] = {}
        """{policy.object: name of the class}."""
        self._labels: list[Labels] = []
        self._left = 0

    def forget(self) -> None:
        self._left = 0

    async def read(self, session: Session, names: Names, boot: float) -> TableReading:  # noqa: ARG002
        """Raise SnmpError."""
        reading = TableReading()
        if self._left <= 0:
            reading.rows += await self._learn(session)
        self._left -= 1
        for metric, column in ((CONTROL_PLANE_SEEN, _SEEN), (CONTROL_PLANE_DROPPED, _DROPPED)):
            oids = [f"{column}.{index}" for index in self._classes]
            if not oids:
                break
            told = await session.get(oids)
            reading.rows += len(told)
            values = [told.get(oid) for oid in oids]
            reading.refused += sum(value is not None and not isinstance(value, int) for value in values)
            floats = np.array([value if isinstance(value, int) and value >= 0 else np.nan for value in values])
            reading.columns.append(ColumnValues(SWITCH_CONTROL_PLANE, metric, self._labels, floats))
        return reading

    async def _learn(self, session: Session) -> int:
        interfaces = await session.walk(_INTERFACE_TYPE)
        policies = {oid.rsplit(".", 1)[1] for oid, kind in interfaces if kind == _CONTROL_PLANE}
        rows = len(interfaces)
        classes: dict[str, str] = {}
        for policy in sorted(policies, key=int):
            kinds = await session.walk(f"{_OBJECT_TYPE}.{policy}")
            rows += len(kinds)
            own = [oid.removeprefix(f"{_OBJECT_TYPE}.") for oid, kind in kinds if kind == _CLASS_MAP][:_MOST_CLASSES]
            configured = await session.get([f"{_CONFIGURATION}.{index}" for index in own])
            numbers = {oid.removeprefix(f"{_CONFIGURATION}."): str(number) for oid, number in configured.items()}
            called = await session.get([f"{_CLASS_NAME}.{number}" for number in sorted(set(numbers.values()))])
            rows += len(configured) + len(called)
            for index in own:
                name = called.get(f"{_CLASS_NAME}.{numbers.get(index, '')}")
                text = clean(name.decode("utf-8", "replace")) if isinstance(name, bytes) else ""
                if text and text not in classes.values():
                    classes[index] = text
        self._classes = classes
        self._labels = [(name,) for name in classes.values()]
        self._left = _REDISCOVERED
        return rows
