"""Profiles: where a switch of one kind keeps what it knows, as data (exporter/switches/profiles/*.yaml).

A profile is matched by sysObjectID and sysDescr (RFC 3418) and names tables; a table is one conceptual row of one MIB:
its index, and columns that each become a metric of the catalogue. What several vendors serve alike stands in
``standard.yaml``, whose tables others include by name. An operator's own profiles come before ours
(docs/switch-profiles.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from exporter.contracts.codec import ContractError, Version, decode, read_bytes
from exporter.contracts.metric import Metric, Table
from exporter.contracts.strict import convert_strictly
from exporter.contracts.switch_counters import SIGNALS, SWITCH_TABLES

LIBRARY = "standard"
GENERIC = "generic"

DottedOid = Annotated[str, Meta(pattern=r"^[012](\.(0|[1-9][0-9]{0,9}))+$")]
PartName = Literal[
    "port", "priority", "queue", "vlan", "bridge_port", "cpu", "peer_ipv4", "peer_inet", "peer_afi", "peer_vrf",
    "case", "constant", "any",
]  # fmt: skip
"""What one piece of an index says; how many sub-identifiers each takes, exporter/switches/decoding.py knows."""
Reader = Literal["columns", "optics", "cisco_optics", "control_plane"]
_LABEL = {
    "port": "switch_port",
    "bridge_port": "switch_port",
    "priority": "priority",
    "queue": "queue",
    "vlan": "vlan",
    "cpu": "cpu",
    "peer_ipv4": "peer",
    "peer_inet": "peer",
    "peer_afi": "peer",
    "peer_vrf": "peer",
}
METRICS = {metric.name: (table, metric) for table in SWITCH_TABLES for metric in table.metrics}


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what a profile is made of: a misspelt key is an error."""


class Part(_Data, frozen=True, kw_only=True):
    """A piece of an index that needs more than its name."""

    part: PartName
    minus: int = 0
    """Subtracted from what the index holds: 1 where queues are counted from 1."""
    equals: tuple[int, ...] = ()
    """Rows with another number are another table's (``constant``), or are not wanted."""


class Column(_Data, frozen=True, kw_only=True):
    oid: DottedOid
    metric: str | None = None
    """Name of a catalogue metric; none for a column that only says which rows to believe (``believe``)."""
    priority: Annotated[int, Meta(ge=0, le=7)] | None = None
    """Of a MIB that has one column a priority."""
    case: int | None = None
    """Rows of this number at the index' ``case``."""
    width: Literal[32, 64] = 64
    """Bits of a counter: one of 32 goes on past its wrap."""
    scale: Annotated[float, Meta(gt=0, le=1e12)] = 1.0
    times: DottedOid | None = None
    """Scalar of the device that values are multiplied by as well, such as the bytes of a buffer cell."""
    fallback: bool = False
    """Read only where no column before it gave its metric any value."""
    map: dict[int, float] | None = None
    """{value of the device: ours}; what is not named is ``otherwise``."""
    otherwise: float | None = None
    """None is absent."""
    absent: tuple[int, ...] = ()
    """Values by which the device says that it does not know."""
    byte: Annotated[int, Meta(ge=0, le=255)] | None = None
    """Which octet of an OCTET STRING holds the value."""
    since_boot: bool = False
    """TimeTicks of sysUpTime at which something happened: becomes Unix time."""
    believe: int | None = None
    """Rows are believed only where this column has this value; where none has, the table is ``disabled``."""


class TableProfile(_Data, frozen=True, kw_only=True):
    name: str
    signals: tuple[str, ...]
    reader: Reader = "columns"
    every: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Periods from one reading to the next: what changes slowly, or costs the agent much, is read more rarely."""
    adds: bool = False
    """Whether rows of the same labels are added up: of an index that says more than our labels do."""
    default: bool = True
    """Whether it is read without being asked for in the configuration (``switches.tables``)."""
    index: tuple[PartName | Part, ...] = ("port",)
    columns: tuple[Column, ...] = ()
    turn_on: str = ""
    """What an operator does at the switch to have it told, for the coverage command."""

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(part if isinstance(part, Part) else Part(part=part) for part in self.index)


class Match(_Data, frozen=True, kw_only=True):
    """Both must hold where both are given."""

    object_id: DottedOid | None = None
    """sysObjectID is this, or below it."""
    description: str | None = None
    """Regular expression, found anywhere in sysDescr."""


class Profile(_Data, frozen=True, kw_only=True):
    version: Version
    name: str
    vendor: str
    tested: Literal["hardware", "recording", "agent", "mib"]
    """On what it was tried: a device here, a recorded walk, the agent's published source, or its MIBs alone."""
    match: tuple[Match, ...] = ()
    include: tuple[str, ...] = ()
    """Tables of ``standard.yaml``."""
    tables: tuple[TableProfile, ...] = ()
    port_types: tuple[int, ...] = (6,)
    """IANAifType of what is a port: ethernetCsmacd."""
    port_pattern: str = ".+"
    """What a port's name looks like, whole: of platforms on which ifType does not tell."""
    max_repetitions: Annotated[int, Meta(ge=1, le=200)] | None = None
    cnp_queue: Annotated[int, Meta(ge=0, le=63)] | None = None
    """The egress queue that congestion notifications are classed into as the vendor ships it; none where an operator
    has to choose."""
    blind: dict[str, str] = {}
    """{signal that no table has: where else it is told}, for the coverage command."""


@dataclass(frozen=True, slots=True)
class BoundColumn:
    """A column with its place in the catalogue."""

    column: Column
    table: Table
    metric: Metric


def _library() -> dict[str, TableProfile]:
    return {table.name: table for table in _own(LIBRARY).tables}


@cache
def _own(name: str) -> Profile:
    source = resources.files("exporter.switches") / "profiles" / f"{name}.yaml"
    return _parse(source.read_bytes(), f"profile {name!r}")


def _parse(data: bytes, source: str) -> Profile:
    profile = convert_strictly(decode(data, dict, source), Profile, source)
    check(profile, source)
    return profile


def check(profile: Profile, source: str) -> None:
    """Hold a profile to the catalogue; raise ContractError naming the table and column that is wrong."""
    patterns = {f"match[{place}].description": match.description or "" for place, match in enumerate(profile.match)}
    for field, pattern in {**patterns, "port_pattern": profile.port_pattern}.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ContractError(source, f"field '{field}': {error}", "write a regular expression") from None
    names = [table.name for table in profile.tables]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ContractError(source, f"table {twice!r} appears twice", "give each its own name")
    of_signals = [("field 'blind'", tuple(profile.blind))]
    of_signals += [(f"table {table.name!r}", table.signals) for table in profile.tables]
    for where, signals in of_signals:
        if unknown := next((signal for signal in signals if signal not in SIGNALS), None):
            raise ContractError(source, f"{where}: unknown signal {unknown!r}", f"one of {', '.join(SIGNALS)}")
    for table in profile.tables:
        bind(table, source)
    if profile.name != LIBRARY:
        known = _library()
        for name in profile.include:
            if name not in known:
                raise ContractError(source, f"field 'include': no table {name!r}", f"one of {', '.join(known)}")


def bind(table: TableProfile, source: str = "profile") -> tuple[BoundColumn, ...]:
    """The table's columns with their metrics; raise ContractError where index and metric do not fit."""
    labels = [_LABEL[part.part] for part in table.parts if part.part in _LABEL]
    bound = []
    for column in table.columns:
        if column.metric is None:
            continue
        where = f"table {table.name!r}, column {column.oid}"
        if column.metric not in METRICS:
            raise ContractError(
                source, f"{where}: no metric {column.metric!r} of switches", "take one of docs/metrics.md"
            )
        store_table, metric = METRICS[column.metric]
        have = {"switch", *labels, *(["priority"] if column.priority is not None else [])}
        if have != set(metric.labels):
            raise ContractError(
                source,
                f"{where}: {metric.name} has the labels {', '.join(metric.labels[1:])}, the index gives "
                f"{', '.join(sorted(have - {'switch'})) or 'none'}",
                "correct the index or the metric",
            )
        bound.append(BoundColumn(column, store_table, metric))
    return tuple(bound)


def tables_of(profile: Profile) -> tuple[TableProfile, ...]:
    """A profile's tables, its own first, whose values count; one of its own replaces an included one of its name."""
    library, own = _library(), {table.name for table in profile.tables}
    return (*profile.tables, *(library[name] for name in profile.include if name not in own))


def read_profiles(directory: Path | str | None = None) -> tuple[Profile, ...]:
    """All profiles, an operator's first; raise ContractError."""
    theirs = _theirs(Path(directory)) if directory is not None else []
    names = {profile.name for profile in theirs}
    folder = resources.files("exporter.switches") / "profiles"
    ours = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return (*theirs, *(_own(name) for name in ours if name not in names | {LIBRARY}))


def _theirs(directory: Path) -> list[Profile]:
    """An operator's own; raise ContractError also for a directory without any, and for two of one name."""
    paths = sorted(path for path in directory.glob("*") if path.suffix in (".yaml", ".yml"))
    if not paths:
        raise ContractError(str(directory), "holds no profile", "name files *.yaml, or leave out 'profiles'")
    found: dict[str, Path] = {}
    profiles = []
    for path in paths:
        profile = _parse(read_bytes(path), str(path))
        if profile.name in found:
            problem = f"profile {profile.name!r} is in {found[profile.name].name} too"
            raise ContractError(str(path), problem, "give each its own name")
        found[profile.name] = path
        profiles.append(profile)
    return profiles


def choose(profiles: Sequence[Profile], object_id: str, description: str) -> Profile:
    """The profile that says most exactly that it is for this device; the generic one where none does."""
    best: tuple[tuple[int, int], Profile] | None = None
    for profile in profiles:
        for match in profile.match:
            score = _score(match, object_id, description)
            if score is not None and (best is None or score > best[0]):
                best = score, profile
    return best[1] if best is not None else named(profiles, GENERIC)


def named(profiles: Iterable[Profile], name: str) -> Profile:
    """Raise KeyError for one that nobody has."""
    return next(profile for profile in profiles if profile.name == name)


def _score(match: Match, object_id: str, description: str) -> tuple[int, int] | None:
    """(whether the description had to fit, length of the OID that did): larger is more exact; None does not fit."""
    if match.object_id is not None and not f"{object_id}.".startswith(f"{match.object_id}."):
        return None
    if match.description is not None and not re.search(match.description, description):
        return None
    return int(match.description is not None), len(match.object_id or "")
