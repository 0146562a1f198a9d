"""Probe results as probe records (exporter.contracts.tables.ProbeRecord), in CSV."""

from __future__ import annotations

import csv
import io
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

from exporter.contracts.catalogue import PATH
from exporter.contracts.plan import UDP_HEADERS, Plan, Target
from exporter.contracts.tables import ProbeRecord, TaskType
from exporter.joins import Flow, flow_of_labels, routes
from exporter.results import ANSWERED, LOST, REFUSED, REPLY_LOST, RESTARTED, Result, ResultRing
from exporter.store import Store

COLUMNS = ProbeRecord.__struct_fields__
_TASK: dict[str, TaskType] = {"udp": "UDP_PING", "mtu": "MTU", "tcp": "TCP_PING", "rdma": "RDMA_PING"}
_SLACK = 1024
_ERROR = {ANSWERED: "", LOST: "timeout", REFUSED: "refused"}


class RecordWriter:
    """Names the paths of results, also of paths that are gone by the time they are asked for."""

    def __init__(
        self, store: Store, results: ResultRing, underlay: Mapping[tuple[str, str], str] | None = None
    ) -> None:
        """``underlay`` is {(host, RNIC): address}, for agents whose probes bear addresses of an overlay."""
        self._underlay = underlay or {}
        self._store = store
        self._results = results
        self._labels: dict[int, tuple[str, ...]] = {}
        self._version = -1
        self._prune_at = _SLACK
        self._noting = threading.Lock()  # apart from formatting: remember() must not wait for a long answer
        self._formatting = threading.Lock()  # one answer at a time: each holds the whole ring in memory

    def remember(self) -> None:
        """Note the paths that exist now; call about once a second, so that none is missed.

        Kept are the paths that exist, those that results in the ring still speak of, and at most ``_SLACK`` more.
        """
        with self._noting:
            version = self._store.version(PATH)
            if version == self._version:
                return
            self._version = version
            now: dict[int, tuple[str, ...]] = {}
            for row in self._store.read(PATH):
                # Interned: tens of thousands of paths share a few hosts, RNICs, addresses and ports.
                now[row.identity] = self._labels.get(row.identity) or tuple(map(sys.intern, row.labels))
            labels = self._labels | now
            if len(labels) > self._prune_at:
                told = self._results.paths()
                labels = {known: text for known, text in labels.items() if known in now or known in told}
                self._prune_at = len(labels) + _SLACK
            self._labels = labels

    def csv(self, since: float, plan: Plan | None) -> bytes:
        """Records of probes sent after ``since`` (Unix seconds), then a TRACEROUTE record per traced flow."""
        with self._formatting:
            return self._csv(since, plan)

    def _csv(self, since: float, plan: Plan | None) -> bytes:
        self.remember()
        targets = {target.path: target for target in plan.targets} if plan is not None else {}
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        latest: dict[Flow, dict[str, object]] = {}
        for result, error in _with_errors(self._results.read(0)[0]):
            labels = self._labels.get(result.path)
            if labels is None or result.time_ns < since * 1e9:
                continue
            target = targets.get(labels[0])
            record = _path_columns(labels, target, plan.job if plan is not None and target is not None else "")
            record |= self._real_columns(record)
            writer.writerow(record | _outcome_columns(result, error))
            latest[flow_of_labels(labels)] = record
        for flow, hops in routes(self._store).items():
            if flow in latest and hops is not None:
                traced = {"task_type": "TRACEROUTE", "dial": "success", "route": json.dumps(hops), "probe_bytes": ""}
                writer.writerow(latest[flow] | {"ping_time": time.time_ns()} | traced)
        return text.getvalue().encode()

    def _real_columns(self, record: Mapping[str, object]) -> dict[str, object]:
        ends = (("src", "src_node_sn", "src_rnic"), ("dst", "dst_node_sn", "dst_rnic"))
        known = {f"{end}_real_ip": self._underlay.get((str(record[h]), str(record[r]))) for end, h, r in ends}
        return {name: address for name, address in known.items() if address}


def _with_errors(results: Sequence[Result]) -> list[tuple[Result, str]]:
    """Each probe's result with its error.

    A REPLY_LOST says which way an earlier loss of its path went, a RESTARTED that the last ones met no responder.
    """
    errors: list[str | None] = []
    unproven: dict[int, deque[int]] = {}
    for number, result in enumerate(results):
        errors.append(_ERROR.get(result.outcome))
        if result.outcome == LOST:
            unproven.setdefault(result.path, deque()).append(number)
        elif result.outcome == REPLY_LOST and unproven.get(result.path):
            errors[unproven[result.path].popleft()] = "reply lost"
        elif result.outcome == RESTARTED and unproven.get(result.path):
            errors[unproven[result.path].pop()] = "restarted"
    return [(result, error) for result, error in zip(results, errors, strict=True) if error is not None]


def _path_columns(labels: Sequence[str], target: Target | None, job: str) -> dict[str, object]:
    _, source_host, source_rnic, destination_host, destination_rnic, probe = labels[: len(PATH.labels)]
    source, source_port, destination, destination_port = flow_of_labels(labels)
    return {
        "task_type": _TASK[probe],
        "src_node_id": target.source.rpartition("/")[0] if target else source_host,
        "dst_node_id": target.destination.rpartition("/")[0] if target else destination_host,
        "src_node_sn": source_host,
        "dst_node_sn": destination_host,
        "src_ip": source,
        "dst_ip": destination,
        "src_real_ip": source,
        "dst_real_ip": destination,
        "src_port": source_port,
        "dst_port": destination_port,
        "job": job,
        "src_rnic": source_rnic,
        "dst_rnic": destination_rnic,
        "dscp": int(labels[-1]) >> 2,
        "probe_bytes": target.payload_bytes + UDP_HEADERS if target and probe != "tcp" else "",
    }


def _outcome_columns(result: Result, error: str) -> dict[str, object]:
    answered = result.outcome == ANSWERED
    return {
        "ping_time": result.time_ns,
        "dial": "success" if answered else "fail",
        "latency": f"{result.rtt_ns / 1000:.3f}" if answered else "",
        "loss_rate": 0 if answered else 1,
        "packets_sent": 1,
        "packets_lost": 0 if answered else 1,
        "error": error,
        "starved": int(result.starved),
    }
