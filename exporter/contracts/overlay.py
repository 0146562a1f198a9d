"""The overlay state: what the virtual switch wants, and what the RNIC holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from exporter.contracts.addresses import canonical
from exporter.contracts.codec import Contract, ContractError, Version, read

LOCAL = "local:"
"""Before the name of a container that ``next`` delivers to."""

MAX_ENTRIES = 1_000_000
"""In one file: ten times what a thousand hosts hold (SkeletonHunter, section 3: 41 flow-table items a host)."""

TableName = Literal["vswitch", "rnic"]
HostName = Annotated[str, Meta(min_length=1, max_length=300)]
Vni = Annotated[int, Meta(ge=0, le=2**24 - 1)]


class Snapshot(Contract, frozen=True, kw_only=True):
    """One reading of a host's table: tells that the table was read, even when it was empty.

    Of one that is not ``complete`` a destination without an entry is unknown, not missing: a cache of flows.
    """

    host: HostName
    table: TableName
    time: float
    complete: bool = True


class Entry(Contract, frozen=True, kw_only=True):
    """One forwarding entry. ``next`` is a remote VTEP, an RNIC address, ``local:<container>``, or null for a drop.

    ``time`` is that of the snapshot it is of, or, where the host's table is in ``snapshots``, when it last changed.
    """

    host: HostName
    table: TableName
    vni: Vni
    dst: str
    dst_mac: str | None = None
    next: str | None
    in_port: str | None = None
    offloaded: bool | None = None
    time: float

    @property
    def container(self) -> str | None:
        """The container it delivers to; None where it sends elsewhere or drops."""
        return self.next.removeprefix(LOCAL) if self.next is not None and self.next.startswith(LOCAL) else None


class OverlayState(Contract, frozen=True, kw_only=True):
    """Entries of one host and table share one snapshot time; a table read in mid-churn is no inconsistency."""

    version: Version
    snapshots: tuple[Snapshot, ...] = ()
    entries: tuple[Entry, ...]


def read_overlay(path: Path | str) -> OverlayState:
    """Read and check an overlay state; its addresses are in one spelling from here on.

    Raise ContractError naming the file, the field and the remedy. A wrong entry is what a diagnosis is to find, so an
    address that no host has, or that no host can have, is not refused.
    """
    return with_canonical_addresses(read(path, OverlayState), str(path))


def with_canonical_addresses(state: OverlayState, source: str) -> OverlayState:
    """The state with every address in one spelling; raise ContractError for what is none, and for too many entries."""
    if len(state.entries) > MAX_ENTRIES:
        raise ContractError(
            source, f"holds {len(state.entries)} entries, more than {MAX_ENTRIES}", "leave out other jobs' hosts"
        )
    for number, snapshot in enumerate(state.snapshots):
        if not math.isfinite(snapshot.time):
            raise ContractError(source, f"field 'snapshots[{number}].time': {snapshot.time} is no time", "give seconds")
    spelt: dict[str, str] = {}  # many entries share an address

    def one_spelling(text: str) -> str:
        if text not in spelt:
            spelt[text] = canonical(text)
        return spelt[text]

    entries: list[Entry] = []
    for number, entry in enumerate(state.entries):
        if not math.isfinite(entry.time):
            raise ContractError(source, f"field 'entries[{number}].time': {entry.time} is no time", "give seconds")
        field = "dst"
        try:
            destination, following = one_spelling(entry.dst), entry.next
            field = "next"
            if following is not None and not following.startswith(LOCAL):
                following = one_spelling(following)
        except ValueError as error:
            remedy = "an IP address" if field == "dst" else f"an IP address, {LOCAL}<container> or null"
            raise ContractError(source, f"field 'entries[{number}].{field}': {error}", f"give {remedy}") from error
        if following == LOCAL:
            raise ContractError(source, f"field 'entries[{number}].next': names no container", "name it, or give null")
        if destination != entry.dst or following != entry.next:
            entry = msgspec.structs.replace(entry, dst=destination, next=following)  # noqa: PLW2901
        entries.append(entry)
    return msgspec.structs.replace(state, entries=tuple(entries))
