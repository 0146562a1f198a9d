"""Transceivers' sensors: ENTITY-SENSOR-MIB (RFC 3433) or Cisco's, joined with ports by what ENTITY-MIB calls them.

No MIB ties a sensor to an interface on every platform: entAliasMappingTable is mostly empty for sensors. But each
vendor writes the port's name into the sensor's description or into that of what contains it ("DOM RX Power Sensor for
Ethernet5" within "Lane 0 for Xcvr for Ethernet5"), so the longest name of a port found there as a whole word is it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from exporter.contracts.metric import Metric
from exporter.contracts.switch_counters import (
    OPTICS_BIAS,
    OPTICS_RECEIVED,
    OPTICS_SENT,
    OPTICS_TEMPERATURE,
    OPTICS_VOLTAGE,
    SWITCH_OPTICS,
)
from exporter.switches.decoding import Labels, Names
from exporter.switches.profile import TableProfile
from exporter.switches.snmp import Oid, Session, Value
from exporter.switches.table import ColumnValues, TableReading

_STANDARD: Oid = "1.3.6.1.2.1.99.1.1.1"
_CISCO: Oid = "1.3.6.1.4.1.9.9.91.1.1.1.1"
_DESCRIPTION: Oid = "1.3.6.1.2.1.47.1.1.1.1.2"
_CONTAINED_IN: Oid = "1.3.6.1.2.1.47.1.1.1.1.4"
_NAME: Oid = "1.3.6.1.2.1.47.1.1.1.1.7"
_UNITS = 9  # of EntitySensorDataScale; each step is a factor of 1,000
_VOLTS, _AMPERES, _WATTS, _CELSIUS, _DBM = 4, 5, 6, 8, 14  # of SensorDataType; dBm is Cisco's
_PLAIN = {_VOLTS: OPTICS_VOLTAGE, _AMPERES: OPTICS_BIAS, _CELSIUS: OPTICS_TEMPERATURE}
_OK = 1
_DEPTH = 4  # from a sensor over its lane and transceiver to its port
_REDISCOVERED = 40
_RECEIVED = re.compile(r"(?i)\brx\b|receive|\brxpower")
_SENT = re.compile(r"(?i)\btx\b|transmit|\btxpower")
_LANE = re.compile(r"(?i)\b(?:lane|channel)\s*(\d{1,2})\b")
_SLASH_LANE = re.compile(r"/(\d{1,2})\s*$")


@dataclass(frozen=True, slots=True)
class _Sensor:
    metric: Metric
    labels: Labels
    """Port and lane; a lane of "" is the whole transceiver."""
    decibels: bool


class SensorReader:
    """Reads all sensors of a device's transceivers. What entity each is, is learnt anew now and then."""

    def __init__(self, profile: TableProfile) -> None:
        self.profile = profile
        self._entry = _CISCO if profile.reader == "cisco_optics" else _STANDARD
        self._sensors: dict[int, _Sensor] = {}
        self._version = -1
        self._left = 0
        self._rows = 0
        self._known: list[Oid] = []
        self._labels: dict[Metric, list[Labels]] = {}

    def forget(self) -> None:
        self._version, self._left = -1, 0

    async def read(self, session: Session, names: Names, boot: float) -> TableReading:  # noqa: ARG002
        """Raise SnmpError."""
        self._rows = 0
        if self._left <= 0 or self._version != names.version:
            await self._learn(session, names)
        self._left -= 1
        reading = TableReading()
        if self._sensors:
            oids = [f"{self._entry}.{column}.{entity}" for entity in self._sensors for column in (2, 3, 4, 5)]
            told = await session.get(oids)
            self._rows += len(told)
            self._put(reading, told)
        reading.rows = self._rows
        return reading

    def _put(self, reading: TableReading, told: Mapping[Oid, Value]) -> None:
        values: dict[Metric, list[float]] = {}
        for entity, sensor in self._sensors.items():
            scale, precision, value, status = (told.get(f"{self._entry}.{column}.{entity}") for column in (2, 3, 4, 5))
            number = math.nan
            if isinstance(scale, int) and isinstance(precision, int) and isinstance(value, int):
                if 1 <= scale <= 17 and -8 <= precision <= 9:
                    # Without a status, 0 dBm to the last digit is a module that does not measure.
                    if status == _OK or (status is None and not (sensor.decibels and value == 0)):
                        number = real(value, scale, precision, sensor.decibels)
                else:
                    reading.refused += 1
            elif value is not None:
                reading.refused += 1
            values.setdefault(sensor.metric, []).append(number)
        for metric, own in values.items():
            reading.columns.append(ColumnValues(SWITCH_OPTICS, metric, self._labels[metric], np.array(own)))

    async def _learn(self, session: Session, names: Names) -> None:
        kinds = await self._column(session, f"{self._entry}.1")
        self._sensors = {}
        if kinds:
            described = await self._column(session, _DESCRIPTION)
            named = await self._column(session, _NAME)
            within = await self._column(session, _CONTAINED_IN)
            found: set[tuple[Metric, Labels]] = set()
            finder = _PortFinder(names)
            for entity, kind in kinds.items():
                texts = list(_texts(entity, described, named, within))
                sensor = _sensor(kind, texts, finder)
                if sensor is not None and (sensor.metric, sensor.labels) not in found:
                    found.add((sensor.metric, sensor.labels))
                    self._sensors[entity] = sensor
        self._labels = {}
        for sensor in self._sensors.values():
            self._labels.setdefault(sensor.metric, []).append(sensor.labels)
        self._version, self._left = names.version, _REDISCOVERED

    async def _column(self, session: Session, oid: Oid) -> dict[int, Value]:
        rows = await session.walk(oid)
        self._rows += len(rows)
        return {int(row.rsplit(".", 1)[1]): value for row, value in rows if row.count(".") == oid.count(".") + 1}


class _PortFinder:
    """The port that a text names: the longest name in it that is a whole word."""

    def __init__(self, names: Names) -> None:
        self._names = {name.lower(): name for name in names.ports.values()}
        longest_first = sorted(self._names, key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest_first))
        self._pattern = re.compile(rf"(?<![\w/])(?:{pattern})(?!\w)(?!/\d+/)") if pattern else None

    def __call__(self, text: str) -> str | None:
        found = self._pattern.search(text.lower()) if self._pattern is not None else None
        return self._names[found.group()] if found is not None else None


def real(value: int, scale: int, precision: int, decibels: bool) -> float:
    """A reading in its unit: value x 10^(3 (scale - units)) x 10^-precision; decibel-milliwatts become watts."""
    exponent = 3 * (scale - _UNITS) - precision
    number = value / 10**-exponent if exponent < 0 else float(value * 10**exponent)
    if not decibels:
        return number
    return 0.0 if number <= -40 else 10 ** (min(number, 60) / 10) / 1000  # -40 dBm is how modules say "no light"


def _texts(
    entity: int, described: Mapping[int, Value], named: Mapping[int, Value], within: Mapping[int, Value]
) -> Iterator[str]:
    """What an entity, and each that contains it, is called."""
    for _ in range(_DEPTH):
        for table in (described, named):
            value = table.get(entity)
            if isinstance(value, bytes) and value:
                yield value.decode("utf-8", "replace")
        parent = within.get(entity)
        if not isinstance(parent, int) or parent == 0:
            return
        entity = parent


def _sensor(kind: Value, texts: list[str], finder: _PortFinder) -> _Sensor | None:
    port = next((port for text in texts if (port := finder(text)) is not None), None)
    own = texts[0] if texts else ""
    if port is None:
        return None
    metric: Metric | None = _PLAIN.get(kind) if isinstance(kind, int) else None
    if kind in (_WATTS, _DBM):
        metric = OPTICS_RECEIVED if _RECEIVED.search(own) else OPTICS_SENT if _SENT.search(own) else None
    if metric is None:
        return None
    return _Sensor(metric, (port, _lane(metric, texts, port)), kind == _DBM)


def _lane(metric: Metric, texts: list[str], port: str) -> str:
    if metric in (OPTICS_TEMPERATURE, OPTICS_VOLTAGE):
        return ""
    for text in texts[:4]:
        if found := _LANE.search(text):
            return found.group(1)
    rest = texts[0].lower().partition(port.lower())[2]
    found = _SLASH_LANE.search(rest)
    return found.group(1) if found else ""
