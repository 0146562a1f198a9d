"""Breaking the lab on purpose, and knowing afterwards exactly what was broken and how much was lost.

Runs inside the sandbox. What is broken is recorded in ``faults.json`` in the lab's directory, so that
every process that enters the lab sees it. Breaking twice, or mending what is whole, changes nothing.
Each kind of fault is one class (``lab.faults.base.Kind``) in a module named after what it breaks.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from exporter.contracts.topology import Topology
from lab.errors import LabError
from lab.faults import (
    flows,
    hosts,
    links,
    overlay,
    ports,
    queues,
    resolver,
    sessions,
    switches,
    transit,
)  # each registers its kinds
from lab.faults.base import Fault, Kind, Site, Value, kind, kinds, number
from lab.network.design import Design

__all__ = [
    "Fault",
    "Faults",
    "Kind",
    "Site",
    "flows",
    "hosts",
    "kind",
    "kinds",
    "links",
    "number",
    "overlay",
    "ports",
    "queues",
    "resolver",
    "sessions",
    "switches",
    "transit",
]


class Faults:
    """The faults of one running lab. Links, ports and nodes are named as in the contracts."""

    def __init__(self, design: Design, directory: Path) -> None:
        self.design = design
        self.site = Site(design, directory)
        self._file = directory / "faults.json"

    def inflict(self, name: str, target: str, *words: Value, **named: Value) -> Fault:
        """Break ``target``; values in the order of the kind's parameters, or by name. Raise LabError for nonsense."""
        what = kind(name)
        known = [parameter.name for parameter in what.parameters]
        if len(words) > len(known) or set(named) - set(known):
            raise LabError(f"{name} takes {', '.join(known) or 'no values'}")
        given = dict(zip(known, words, strict=False)) | named
        values: dict[str, Value] = {}
        for parameter in what.parameters:
            value = given.get(parameter.name, parameter.default)
            if value is None:
                raise LabError(f"{name} needs {parameter.name}: {parameter.help}")
            values[parameter.name] = parameter.read(value)
        fault = Fault(name, what.resolve(self.design, target), values)
        what.check(self.design, fault)
        with self._recorded() as faults:
            before = faults.get(fault.name)
            if before != fault:
                self._refuse_shared(fault, faults.values())
                if before is not None:  # with other values: on other hosts, perhaps, which nothing would mend later
                    self._mend(before, faults)
                faults[fault.name] = fault  # first: a fault half made can then be mended
                try:
                    what.inflict(self.site, fault)
                except LabError:
                    self._mend(fault, faults)  # what was refused is not recorded as broken
                    raise
        return fault

    def heal(self, name: str | None = None) -> tuple[Fault, ...]:
        """Mend one fault (by name), all faults of one target, or all (None); return what was mended."""
        with self._recorded() as faults:
            if name is None:
                chosen = list(faults.values())
            else:
                name = self._canonical(name)
                chosen = [fault for fault in faults.values() if name in (fault.name, fault.target, str(fault))]
                if not chosen and name not in self._known():
                    raise LabError(f"no fault is called {name!r}", "active: " + (", ".join(faults) or "none"))
            failures = []
            for fault in reversed(chosen):  # what was done last is undone first
                try:
                    self._mend(fault, faults)
                except LabError as error:  # it stays recorded; the others are mended all the same
                    failures.append(f"{fault.name}: {error}")
            if failures:
                raise LabError("not healed: " + "; ".join(failures))
        return tuple(chosen)

    def _mend(self, fault: Fault, faults: dict[str, Fault]) -> None:
        kind(fault.kind).mend(self.site, fault)
        self.site.forget(fault)
        del faults[fault.name]

    def _refuse_shared(self, fault: Fault, others: Iterable[Fault]) -> None:
        """Raise LabError when another fault has changed the same thing: mending either would mend both."""
        wanted = kind(fault.kind).changes(self.design, fault)
        for other in others:
            shared = wanted & kind(other.kind).changes(self.design, other)
            if shared and other.name != fault.name:
                raise LabError(f"{other.name!r} has changed {min(shared)} already", "heal that first")

    def _canonical(self, name: str) -> str:
        """A target, or a fault with its kind, its link's ends in the order of the design."""
        first, _, rest = name.partition(" ")
        named, target = (f"{first} ", rest) if first in {each.name for each in kinds()} else ("", name)
        with suppress(LabError):
            return named + self.design.link(target).id
        return name

    def active(self) -> tuple[Fault, ...]:
        try:
            return tuple(msgspec.json.decode(self._file.read_bytes(), type=list[Fault]))
        except FileNotFoundError:
            return ()

    def topology(self) -> Topology:
        """The lab's topology file as an operator keeps it: switches that are being drained are marked."""
        topology = self.design.topology()
        drained = {fault.target for fault in self.active() if fault.kind == switches.Drain.name}
        now = (
            msgspec.structs.replace(switch, state="drained") if switch.name in drained else switch
            for switch in topology.switches
        )
        return msgspec.structs.replace(topology, switches=tuple(now))

    def dropped(self) -> dict[str, int]:
        """Packets that each active fault has dropped since it began, by the fault's name."""
        counts = {fault.name: kind(fault.kind).dropped(self.site, fault) for fault in self.active()}
        return {name: count for name, count in counts.items() if count is not None}

    def _known(self) -> set[str]:
        """Every target there is: nothing to mend there is no mistake."""
        names = {name for link in self.design.links for name in (link.id, link.a.id, link.b.id)}
        ends = [end for switch in self.design.switches for end in switch.ports]
        names |= {f"{end.node}:{group}" for end in ends for group in (end.breakout_group, end.linecard) if group}
        return names | {node.name for node in self.design.nodes} | {c.name for c in self.design.containers}

    @contextmanager
    def _recorded(self) -> Iterator[dict[str, Fault]]:
        """The active faults by name, locked against other processes, written back even after an error."""
        with open(self._file.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            faults = {fault.name: fault for fault in self.active()}
            try:
                yield faults
            finally:
                new = self._file.with_suffix(".new")
                new.write_bytes(msgspec.json.encode(list(faults.values())))
                new.replace(self._file)
