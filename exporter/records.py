"""Probe results as probe records (exporter.contracts.tables.ProbeRecord), in CSV."""

from __future__ import annotations

import csv
import io
import json

from exporter.contracts.catalogue import PATH
from exporter.contracts.plan import UDP_HEADERS, Plan
from exporter.contracts.tables import ProbeRecord, TaskType
from exporter.joins import flow_of_labels, routes
from exporter.results import ANSWERED, REFUSED, ResultRing
from exporter.store import Store

COLUMNS = ProbeRecord.__struct_fields__
_TASK: dict[str, TaskType] = {"udp": "UDP_PING", "mtu": "MTU", "tcp": "TCP_PING", "rdma": "RDMA_PING"}
_ERROR = {REFUSED: "refused"}


class RecordWriter:
    """Names the paths of results, also of paths that are gone by the time they are asked for."""

    def __init__(self, store: Store, results: ResultRing) -> None:
        self._store = store
        self._results = results
        self._labels: dict[int, tuple[str, ...]] = {}
        self._version = -1

    def remember(self) -> None:
        """Note the paths that exist now; call about once a second, so that none is missed."""
        version = self._store.version(PATH)
        if version == self._version:
            return
        self._version = version
        for row in self._store.read(PATH):
            self._labels.setdefault(row.identity, row.labels)
        if len(self._labels) > 4 * self._results.capacity:  # identities grow for ever, results do not
            for identity in sorted(self._labels)[: -self._results.capacity]:
                del self._labels[identity]

    def csv(self, since: float, plan: Plan | None) -> bytes:
        """Records of probes sent after ``since`` (Unix seconds), then a TRACEROUTE record per traced flow."""
        self.remember()
        targets = {target.path: target for target in plan.targets} if plan is not None else {}
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        results, _, _ = self._results.read(0)
        latest: dict[tuple[str, ...], dict[str, object]] = {}
        for result in results:
            labels = self._labels.get(result.path)
            if labels is None or result.time_ns < since * 1e9:
                continue
            path, source_host, source_rnic, destination_host, destination_rnic, probe = labels[: len(PATH.labels)]
            flow = flow_of_labels(labels)
            target = targets.get(path)
            answered = result.outcome == ANSWERED
            record: dict[str, object] = {
                "task_type": _TASK[probe],
                "ping_time": result.time_ns,
                "src_node_id": target.source.rpartition("/")[0] if target else source_host,
                "dst_node_id": target.destination.rpartition("/")[0] if target else destination_host,
                "src_node_sn": source_host,
                "dst_node_sn": destination_host,
                "src_ip": flow[0],
                "dst_ip": flow[2],
                "src_real_ip": flow[0],
                "dst_real_ip": flow[2],
                "src_port": flow[1],
                "dst_port": flow[3],
                "dial": "success" if answered else "fail",
                "latency": f"{result.rtt_ns / 1000:.3f}" if answered else "",
                "loss_rate": 0 if answered else 1,
                "job": plan.job if plan is not None and target else "",
                "src_rnic": source_rnic,
                "dst_rnic": destination_rnic,
                "dscp": int(labels[-1]) >> 2,
                "packets_sent": 1,
                "packets_lost": 0 if answered else 1,
                "probe_bytes": target.payload_bytes + UDP_HEADERS if target and probe != "tcp" else "",
                "error": _ERROR.get(result.outcome, ""),
            }
            writer.writerow(record)
            latest[flow] = record
        for flow, hops in routes(self._store).items():
            if flow in latest:
                writer.writerow(
                    {
                        **latest[flow],
                        "task_type": "TRACEROUTE",
                        "dial": "success",
                        "latency": "",
                        "loss_rate": "",
                        "packets_sent": "",
                        "packets_lost": "",
                        "probe_bytes": "",
                        "error": "",
                        "route": json.dumps(hops),
                    }
                )
        return text.getvalue().encode()
