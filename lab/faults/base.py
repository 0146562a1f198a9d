"""What a kind of fault is, and what it may use to break and to mend."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from lab.errors import LabError
from lab.network.design import Design, End
from lab.sandbox import environment, processes
from lab.sandbox.netns import inside
from lab.sandbox.processes import Process

Value = float | str
TargetKind = Literal["link", "port", "breakout group", "line card", "switch", "host", "rnic", "container", "lab"]


class Fault(msgspec.Struct, frozen=True):
    """One thing broken. ``target`` is its contract name, ``values`` the parameters of its kind."""

    kind: str
    target: str
    values: dict[str, Value] = {}

    @property
    def name(self) -> str:
        return f"{self.kind} {self.target}"

    def __str__(self) -> str:
        units = {parameter.name: parameter.unit for parameter in kind(self.kind).parameters}
        shown = [f"{name} {number(value)} {units.get(name, '')}".rstrip() for name, value in self.values.items()]
        return " ".join([self.name, *shown])

    def number(self, name: str) -> float:
        return float(self.values[name])

    def text(self, name: str) -> str:
        return str(self.values[name])


def number(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float | int) else value


@dataclass(frozen=True)
class Parameter:
    """One value of a fault. Without ``default`` it must be given; ``choices`` makes it a word."""

    name: str
    help: str
    unit: str = ""
    default: Value | None = None
    lowest: float = 0.0
    highest: float = float("inf")
    choices: tuple[str, ...] = ()
    is_text: bool = False
    is_whole: bool = False

    def read(self, word: Value) -> Value:
        """Check one given word; raise LabError naming the parameter and what it may be."""
        if self.choices:
            if word not in self.choices:
                raise LabError(f"{self.name} cannot be {word!r}", "one of " + ", ".join(self.choices))
            return word
        if self.is_text:
            return str(word)
        try:
            value = float(word)
        except ValueError as error:
            raise LabError(f"{self.name}: {word!r} is not a number") from error
        if not self.lowest <= value <= self.highest:
            unit = f" {self.unit}" if self.unit else ""
            raise LabError(f"{self.name} cannot be {value:g}{unit}", f"{self.lowest:g} to {self.highest:g}")
        if self.is_whole and not value.is_integer():
            raise LabError(f"{self.name} cannot be {value:g}", "a whole number")
        return value


class Site:
    """The lab that is being broken: its design, its directory, commands on its nodes, lasting processes."""

    def __init__(self, design: Design, directory: Path) -> None:
        self.design = design
        self.directory = directory

    def run(self, node: str, argv: Sequence[str], text: str | None = None) -> str:
        """Run a command on a node; return its output, raise LabError with its complaint."""
        with inside(node):
            done = subprocess.run(argv, input=text, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"{' '.join(argv)} on {node}: {' '.join(done.stderr.split())}")
        return done.stdout

    def link(self, end: End, *words: str) -> None:
        """``ip link set`` on one interface."""
        self.run(end.node, ["ip", "link", "set", "dev", end.netdev, *words])

    def nft(self, node: str, script: str) -> None:
        """Load an nftables script on a node, in one transaction."""
        self.run(node, ["nft", "-f", "-"], script)

    def drop_table(self, node: str, family: str, table: str) -> None:
        """Remove an nftables table, if it is there."""
        self.nft(node, f"add table {family} {table}\ndelete table {family} {table}\n")

    def counted(self, node: str, table: str) -> int:
        """Packets in all counters of an nftables table; 0 where there is none."""
        answer = json.loads(self.run(node, ["nft", "-j", "list", "counters"]))
        counters = (entry["counter"] for entry in answer["nftables"] if "counter" in entry)
        return sum(int(counter["packets"]) for counter in counters if counter["table"] == table)

    def vtysh(self, switch: str, *commands: str) -> str:
        """Give the routing daemons of a switch commands, in order."""
        words = [word for command in commands for word in ("-c", command)]
        return self.run(switch, ["vtysh", "-N", switch, *words])

    # ---- processes that go on breaking until the fault is mended

    def spawn(self, fault: Fault, argv: Sequence[str], node: str | None = None, role: str = "fault") -> None:
        """Start a process that belongs to a fault; it outlives us and ends with ``stop`` or with the lab."""
        log_file = self.directory / "logs" / f"{role}-{fault.kind}.log"
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with open(log_file, "ab") as log:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            options |= {"env": environment(), "start_new_session": True}
            if node is None:
                process = subprocess.Popen(argv, **options)
            else:
                with inside(node):
                    process = subprocess.Popen(argv, **options)
        records = self._records(fault)
        records.append(Process.of(process.pid))
        self._file(fault).write_bytes(msgspec.json.encode(records))

    def spawn_module(self, fault: Fault, module: str, *words: str, node: str | None = None) -> None:
        """``spawn`` for a module of this package."""
        self.spawn(fault, [sys.executable, "-m", module, *words], node, module.rsplit(".", 1)[-1])

    def until(self, condition: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
        """Return when ``condition`` holds; raise LabError saying ``what`` was waited for."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise LabError(f"not within {timeout:g} s: {what}", f"logs in {self.directory / 'logs'}")
            time.sleep(0.01)

    def stop(self, fault: Fault) -> None:
        """End the processes of a fault, politely first, and wait until they are gone."""
        processes.end(self._records(fault))
        self._file(fault).unlink(missing_ok=True)

    def has_ended(self, fault: Fault) -> bool:
        """Whether a process of a fault that is not mended has ended: then the fault does not do what it says."""
        return any(not process.runs() for process in self._records(fault))

    def _file(self, fault: Fault) -> Path:
        directory = self.directory / "fault-processes"
        directory.mkdir(exist_ok=True)
        return directory / "".join(c if c.isalnum() else "-" for c in fault.name)

    def _records(self, fault: Fault) -> list[Process]:
        try:
            return msgspec.json.decode(self._file(fault).read_bytes(), type=list[Process])
        except FileNotFoundError:
            return []

    def notes(self, fault: Fault) -> dict[str, Any]:
        """What a fault wrote down for its own mending (``note``)."""
        try:
            return dict(msgspec.json.decode(self._file(fault).with_suffix(".notes").read_bytes()))
        except FileNotFoundError:
            return {}

    def note(self, fault: Fault, notes: Mapping[str, Any]) -> None:
        self._file(fault).with_suffix(".notes").write_bytes(msgspec.json.encode(notes))

    def forget(self, fault: Fault) -> None:
        self._file(fault).with_suffix(".notes").unlink(missing_ok=True)


class Kind(ABC):
    """One kind of fault: how it is done and undone. Stateless; a fault's state is in the lab's directory."""

    name: ClassVar[str]
    help: ClassVar[str]
    target: ClassVar[TargetKind]
    parameters: ClassVar[tuple[Parameter, ...]] = ()

    def resolve(self, design: Design, target: str) -> str:
        """Return the target's canonical name; raise LabError with the nearest right ones."""
        match self.target:
            case "link":
                return design.link(target).id
            case "port":
                return design.end(target).id
            case "rnic":
                return design.rnic_end(target).id
            case "switch":
                return design.switch(target).name
            case "host":
                return design.host(target).name
            case "container":
                return design.container(target).name
            case "lab" | "breakout group" | "line card":  # whose kinds know better, where there is more to know
                return target

    def check(self, design: Design, fault: Fault) -> None:  # noqa: B027 - most kinds have nothing to add
        """Raise LabError for values that make no sense with this target; nothing has been done yet."""

    def changes(self, design: Design, fault: Fault) -> frozenset[str]:  # noqa: ARG002
        """What this fault sets that another kind sets too, in words; one fault at a time may change each."""
        return frozenset()

    @abstractmethod
    def inflict(self, site: Site, fault: Fault) -> None:
        """Break. Called again, perhaps with other values, it replaces what it did before."""

    @abstractmethod
    def mend(self, site: Site, fault: Fault) -> None:
        """Undo, also what was only half done."""

    def dropped(self, site: Site, fault: Fault) -> int | None:  # noqa: ARG002
        """Packets this fault has dropped since it began; None for a kind that does not drop or cannot count."""
        return None


_KINDS: dict[str, Kind] = {}


def register(cls: type[Kind]) -> type[Kind]:
    """Class decorator: make a kind known by its name."""
    if cls.name in _KINDS:
        raise ValueError(f"two kinds of fault are called {cls.name!r}")
    _KINDS[cls.name] = cls()
    return cls


def kind(name: str) -> Kind:
    """Return a kind by name; raise LabError with the names there are."""
    if name not in _KINDS:
        raise LabError(f"there is no kind of fault {name!r}", "one of " + ", ".join(_KINDS))
    return _KINDS[name]


def kinds() -> Iterator[Kind]:
    """All kinds, in the order of their registration."""
    return iter(_KINDS.values())
