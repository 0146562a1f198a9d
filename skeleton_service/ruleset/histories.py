"""What probe records tell of the paths of a job: the healthy minutes that thresholds are learnt from."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporter.contracts.codec import ContractError
from exporter.contracts.names import path_id
from skeleton_service.ruleset.literal import LiteralPath
from skeleton_service.ruleset.thresholds import Thresholds

_PROBES = {"UDP_PING": "udp", "TCP_PING": "tcp", "RDMA_PING": "rdma", "MTU": "mtu"}
_ENDS = ("src_node_sn", "src_rnic", "dst_node_sn", "dst_rnic", "task_type", "dscp", "src_port")
_MINUTE_NS = 60_000_000_000
_ECT0 = 2


def path_histories(records: pa.Table, job: str, thresholds: Thresholds, source: str) -> list[LiteralPath]:
    """Return the paths that records of ``job`` (or of no job) name, by name.

    ``records`` as ``skeleton_service.reading.records.read_records`` returns them. Of each minute the median of its
    answered probes counts, unless the prober was starved or too many were lost. Raise ContractError where no path can
    be named.
    """
    is_named = pc.is_in(records["task_type"], pa.array(list(_PROBES)))
    for column in _ENDS:
        is_named = pc.and_(is_named, pc.is_valid(records[column]))
    named = records.filter(pc.and_(is_named, pc.equal(pc.coalesce(records["job"], pa.scalar(job)), job)))
    if not named.num_rows:
        raise ContractError(
            source,
            f"no record of job {job!r} has {', '.join(_ENDS)}",
            "give records that fabric-exporter wrote, which name paths as the plan does",
        )
    columns = [named[column].combine_chunks().dictionary_encode() for column in _ENDS]
    codes = np.stack([np.asarray(column.indices) for column in columns], axis=1)
    ways, of_way = np.unique(codes, axis=0, return_inverse=True)
    of_way = of_way.reshape(-1)
    minutes = np.asarray(named["ping_time"]) // _MINUTE_NS
    latency = np.asarray(named["latency"].fill_null(np.nan), dtype=np.float64) * 1e-6
    sent = np.asarray(named["packets_sent"].fill_null(1), dtype=np.float64)
    lost = np.asarray(pc.equal(named["dial"], "fail"), dtype=np.float64)
    lost = np.asarray(pc.coalesce(named["loss_rate"], pa.array(lost)), dtype=np.float64) * sent
    is_starved = np.asarray(named["starved"].fill_null(0)) == 1

    made = []
    for number, way in enumerate(ways):
        own = np.flatnonzero(of_way == number)
        host, rnic, far_host, far_rnic, task, dscp, port = (
            column.dictionary[int(code)].as_py() for column, code in zip(columns, way, strict=True)
        )
        name = path_id(host, rnic, far_host, far_rnic, _PROBES[task], dscp << 2 | _ECT0, port)
        healthy = []
        for minute in np.unique(minutes[own]):
            rows = own[minutes[own] == minute]
            trips = latency[rows][~np.isnan(latency[rows])]
            if (
                len(trips)
                and not is_starved[rows].any()
                and lost[rows].sum() <= thresholds.path_loss_ratio * sent[rows].sum()
            ):
                healthy.append(float(np.median(trips)))
        made.append(LiteralPath(name, tuple(healthy)))
    return sorted(made, key=lambda path: path.path)
