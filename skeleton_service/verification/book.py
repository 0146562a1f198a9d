"""The book of a verification: what was compared, what differs, and what was not told."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from exporter.contracts.diagnosis import Component
from exporter.contracts.metric import Metric
from exporter.contracts.verification import Finding, Group, NotTold
from skeleton_service.verification.groups import Place, Subject, Symptom, group
from skeleton_service.verification.readings import Reading, Readings
from skeleton_service.verification.readings import Subject as Key


class Book:
    """Readings are looked up through it, so that each one that should be there and is not is booked."""

    def __init__(self, readings: Readings) -> None:
        self.deaf: dict[str, str] = {}
        """{node whose readings are not to be trusted: why}."""
        self.findings: list[Finding] = []
        self.counts: Counter[str] = Counter()
        """{item: values compared}."""
        self._readings = readings
        self._symptoms: list[Symptom] = []
        self._compared: dict[Subject, dict[str, list[Place]]] = defaultdict(lambda: defaultdict(list))
        self._asked: Counter[tuple[Subject, str]] = Counter()
        self._missing: dict[tuple[Subject, str], list[str]] = defaultdict(list)

    def reading(self, metric: Metric, node: str, port: str | None, key: Key = None) -> Reading | None:
        return None if node in self.deaf else self._readings.get(metric, node, port, key)

    def note(self, subject: Subject, node: str, port: str, reading: Reading | None) -> None:
        """Book that something should be told, and whether it is."""
        self._asked[subject, node] += 1
        if reading is None:
            self._missing[subject, node].append(port)

    def told(self, subject: Subject, metric: Metric, place: Place, key: Key = None) -> Reading | None:
        """The reading, which is about to be compared; where there is none, that is booked."""
        reading = self.reading(metric, place.node, place.port, key)
        self.note(subject, place.node, place.port, reading)
        if reading is not None:
            self.compared(subject, place)
        return reading

    def flag(
        self,
        subject: Subject,
        place: Place,
        reading: Reading,
        meant: bool,
        words: str,
        states: tuple[str, str],
        *,
        counted: bool = False,
    ) -> None:
        """Compare what is either of two ``states``, by their names when it is 0 and when it is not."""
        if not counted:
            self.compared(subject, place)
        if (reading.value != 0) is not meant:
            self.differ(subject, place, reading, f"{words} {states[reading.value != 0]}", states[meant])

    def differ(self, subject: Subject, place: Place, reading: Reading, found: str, meant: str) -> None:
        self.add(subject, Component(kind="config", name=place.id), reading, found, meant, place)

    def add(
        self, subject: Subject, component: Component, reading: Reading, found: str, meant: str, place: Place | None
    ) -> None:
        if place is not None and component.kind == "config":
            self.show(place, subject, found, meant)
        self.findings.append(
            Finding(
                component=component,
                item=subject[0],
                found=found,
                meant=meant,
                metric=reading.metric,
                value=reading.value,
                time=reading.time,
                link=place.link if place else None,
                linecard=place.linecard if place else None,
                breakout_group=place.breakout_group if place else None,
                lag=place.lag if place else None,
            )
        )

    def show(self, place: Place, subject: Subject, found: str, meant: str) -> None:
        """Book how the next finding looks from one of its ports, for the groups."""
        self._symptoms.append(Symptom(len(self.findings), place, subject, found, meant))

    def compared(self, subject: Subject, *places: Place) -> None:
        """Book one value as compared, which is of all these ports."""
        self.counts[subject[0]] += 1
        for place in places:
            self._compared[subject][place.node].append(place)

    def groups(self) -> tuple[Group, ...]:
        return tuple(group(self._symptoms, self._compared))

    def not_told(self) -> Iterator[NotTold]:
        for (subject, node), ports in sorted(self._missing.items()):
            of = self._asked[subject, node]
            yield NotTold(
                item=subject[0],
                subject=subject[1],
                node=node,
                ports=() if len(ports) == of else tuple(ports),
                of=None if ports == [""] else of,
                reason=self.deaf.get(node),
            )
