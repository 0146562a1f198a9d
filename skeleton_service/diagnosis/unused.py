"""What a diagnosis cannot use, so that silence is not taken for health: what is of other fabrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporter.contracts.codec import ContractError
from exporter.contracts.fabric import Fabric
from exporter.contracts.overlay import OverlayState
from skeleton_service.diagnosis.observations import groups_of, interface_of

_NAMED = 3
_ENDS = ("src_node_sn", "src_rnic", "src_real_ip", "dst_node_sn", "dst_rnic", "dst_real_ip")
FOREIGN, DRAINED = "of RNICs that the topology does not have", "of hosts that the topology has drained"
STRANGE = "of devices that the topology does not have"


@dataclass(frozen=True, slots=True)
class Unused:
    """How many are left out for a reason, and what they name."""

    reason: str
    what: str
    count: int
    total: int
    names: Counter[str]
    remedy: str
    """Where all are left out; empty where that may be."""
    field: str = ""

    @property
    def line(self) -> str:
        return f"left out: {self.count} of {self.total} {self.what} are {self.reason}{self._named}"

    @property
    def refusal(self) -> str:
        where = f"field '{self.field}': " if self.field else ""
        return f"{where}all {self.total} {self.what} are {self.reason}{self._named}"

    @property
    def _named(self) -> str:
        return f": {_examples(self.names)}" if self.names else ""


def unused_records(records: pa.Table, fabric: Fabric, sources: Sequence[str]) -> list[str]:
    """A line for each reason why records are left out; raise ContractError where none is of a known RNIC."""
    return _lines(unusable_records(records, fabric), sources)


def unusable_records(records: pa.Table, fabric: Fabric) -> list[Unused]:
    """What of probe records is left out, one for each reason."""
    probes = records.filter(pc.not_equal(records["task_type"], "DNS"))
    if not len(probes):
        return []
    groups, representatives = groups_of(probes.select(_ENDS), _ENDS)
    sizes = np.bincount(groups, minlength=len(representatives)).tolist()
    unknown: Counter[str] = Counter()
    foreign = drained = 0
    for row, size in zip(representatives, sizes, strict=True):
        ends = {side: interface_of(row, side, fabric) for side in ("src", "dst")}
        strange = [_written(row, side) for side, end in ends.items() if end is None]
        unknown.update(dict.fromkeys(strange, size))
        foreign += size if strange else 0
        states = [fabric.interfaces[end].host.state for end in ends.values() if end is not None]
        drained += size if not strange and "drained" in states else 0
    remedy = "give the topology of the hosts in columns src_node_sn and dst_node_sn"
    found = (
        Unused(FOREIGN, "probe records", foreign, len(probes), unknown, remedy),
        Unused(DRAINED, "probe records", drained, len(probes), Counter(), ""),
    )
    return [each for each in found if each.count]


def unused_counters(samples: pa.Table, fabric: Fabric, sources: Sequence[str]) -> list[str]:
    """The same of counter samples, by device."""
    return _lines(unusable_counters(samples, fabric), sources)


def unusable_counters(samples: pa.Table, fabric: Fabric) -> list[Unused]:
    """What of counter samples is left out."""
    counted = samples["node"].value_counts().to_pylist()
    unknown = Counter(
        {
            each["values"]: each["counts"]
            for each in counted
            if each["values"] not in fabric.switches and each["values"] not in fabric.hosts
        }
    )
    return _strange("counter samples", "node", unknown, len(samples))


def unused_overlay(state: OverlayState, fabric: Fabric, source: str) -> list[str]:
    """The same of an overlay state, by host."""
    every = Counter([each.host for each in state.entries] + [each.host for each in state.snapshots])
    unknown = Counter({host: count for host, count in every.items() if host not in fabric.hosts})
    return _lines(_strange("entries and snapshots", "host", unknown, every.total()), [source])


def refuse_all(found: Sequence[Unused], sources: Sequence[str]) -> None:
    """Raise ContractError where nothing is of use, and should be."""
    for each in found:
        if each.count == each.total and each.remedy:
            raise ContractError(_source(sources), each.refusal, each.remedy)


def _strange(what: str, field: str, unknown: Counter[str], total: int) -> list[Unused]:
    count = unknown.total()
    return (
        [Unused(STRANGE, what, count, total, unknown, f"'{field}' is a name of the topology", field)] if count else []
    )


def _lines(found: Sequence[Unused], sources: Sequence[str]) -> list[str]:
    refuse_all(found, sources)
    return [each.line for each in found]


def _source(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} sources"


def _written(row: Mapping[str, object], side: str) -> str:
    """How the record names the RNIC: all that there is of host, RNIC and address."""
    host, rnic, address = (row[f"{side}_{column}"] for column in ("node_sn", "rnic", "real_ip"))
    named = ":".join(str(each) for each in (host, rnic) if each)
    return f"{named} ({address})" if named and address else named or str(address or "(not said)")


def _examples(names: Counter[str]) -> str:
    shown = [name for name, _ in sorted(names.items(), key=lambda item: (-item[1], item[0]))[:_NAMED]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
