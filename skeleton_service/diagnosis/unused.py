"""What a diagnosis cannot use, so that silence is not taken for health: what is of other fabrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporter.contracts.codec import ContractError
from exporter.contracts.fabric import Fabric
from exporter.contracts.overlay import OverlayState
from skeleton_service.diagnosis.observations import groups_of, interface_of

_NAMED = 3
_ENDS = ("src_node_sn", "src_rnic", "src_real_ip", "dst_node_sn", "dst_rnic", "dst_real_ip")


def unused_records(records: pa.Table, fabric: Fabric, sources: Sequence[str]) -> list[str]:
    """A line for each reason why records are left out; raise ContractError where none is of a known RNIC."""
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
    lines = []
    if foreign:
        what = f"of RNICs that the topology does not have: {_examples(unknown)}"
        if foreign == len(probes):
            remedy = "give the topology of the hosts in columns src_node_sn and dst_node_sn"
            raise ContractError(_source(sources), f"all {foreign} probe records are {what}", remedy)
        lines.append(f"left out: {foreign} of {len(probes)} probe records are {what}")
    if drained:
        lines.append(f"left out: {drained} of {len(probes)} probe records are of hosts that the topology has drained")
    return lines


def unused_counters(samples: pa.Table, fabric: Fabric, sources: Sequence[str]) -> list[str]:
    """The same of counter samples, by device."""
    counted = samples["node"].value_counts().to_pylist()
    unknown = Counter(
        {
            each["values"]: each["counts"]
            for each in counted
            if each["values"] not in fabric.switches and each["values"] not in fabric.hosts
        }
    )
    return _judged(_source(sources), "counter samples", "node", unknown, len(samples))


def unused_overlay(state: OverlayState, fabric: Fabric, source: str) -> list[str]:
    """The same of an overlay state, by host."""
    every = Counter([each.host for each in state.entries] + [each.host for each in state.snapshots])
    unknown = Counter({host: count for host, count in every.items() if host not in fabric.hosts})
    return _judged(source, "entries and snapshots", "host", unknown, every.total())


def _judged(source: str, what: str, field: str, unknown: Counter[str], total: int) -> list[str]:
    count = unknown.total()
    if not count:
        return []
    reason = f"of devices that the topology does not have: {_examples(unknown)}"
    if count == total:
        remedy = f"'{field}' is a name of the topology"
        raise ContractError(source, f"field '{field}': all {total} {what} are {reason}", remedy)
    return [f"left out: {count} of {total} {what} are {reason}"]


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
