"""Probe results as probe records (exporter.contracts.tables.ProbeRecord)."""

from __future__ import annotations

import csv
import io
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import msgspec

from exporter.contracts.catalogue import DNS, PATH
from exporter.contracts.plan import UDP_HEADERS, Target
from exporter.contracts.tables import ProbeRecord, TaskType
from exporter.joins import Flow, failing_traces, flow_of_labels, routes
from exporter.planfile import Work
from exporter.results import (
    ANSWERED,
    LOOKUP,
    LOOKUP_FAILURES,
    LOST,
    REFUSED,
    REPLY_LOST,
    RESTARTED,
    UNANSWERED_LOOKUPS,
    Result,
    ResultRing,
)
from exporter.store import Store

COLUMNS = ProbeRecord.__struct_fields__
_TASK: dict[str, TaskType] = {"udp": "UDP_PING", "mtu": "MTU", "tcp": "TCP_PING", "rdma": "RDMA_PING"}
_SLACK = 1024
_ERROR = {ANSWERED: "", LOST: "timeout", REFUSED: "refused", **{n: error for error, n in LOOKUP_FAILURES.items()}}
_LOST = frozenset({LOST, REFUSED, REPLY_LOST, RESTARTED, *UNANSWERED_LOOKUPS})
_NEEDED: dict[str, object] = {"dst_node_sn": "", "src_ip": "", "src_real_ip": "", "src_port": None}
"""Columns of the contract that a DNS record has nothing for."""

Record = dict[str, object]
"""Column to value; what is missing or None is absent."""


class RecordWriter:
    """Names the paths and DNS lookups of results, also of paths that are gone by the time they are asked for."""

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

    def csv(self, since: float, work: Work, others: Iterable[Record] = ()) -> bytes:
        """Records of probes sent after ``since`` (Unix seconds), a TRACEROUTE per traced flow, then ``others``.

        A path that loses probes, and whose trace does not come to its destination, has a failed one: how far it comes.
        """
        with self._formatting:
            return to_csv(chain(self._records(since, work), others))

    def records(self, since: float, work: Work) -> list[Record]:
        """Records of probes sent after ``since``, for another writer to put with its own."""
        with self._formatting:
            return list(self._records(since, work))

    def jsonl(self, since: float, work: Work, others: Iterable[Record] = ()) -> bytearray:
        """The same, an object a line; what is optional and absent is left out."""
        with self._formatting:
            return to_jsonl(chain(self._records(since, work), others))

    def _records(self, since: float, work: Work) -> Iterator[Record]:
        self.remember()
        targets = {target.path: target for target in work.targets}
        lookups = self._lookups()
        latest: dict[Flow, Record] = {}
        latest_of: dict[int, Record] = {}
        for result, error in _with_errors(self._results.read(0)[0]):
            if result.time_ns < since * 1e9:
                continue
            if result.path & LOOKUP:
                if result.path in lookups:
                    yield _lookup_columns(lookups[result.path]) | _outcome_columns(result, error)
                continue
            labels = self._labels.get(result.path)
            if labels is None:
                continue
            target = targets.get(labels[0])
            # One job's, of several that have the path: what a record tells is the same for all.
            job = work.jobs[target.path][0].job if target is not None else None
            record = _path_columns(labels, target, job)
            record |= self._real_columns(record)
            yield record | _outcome_columns(result, error)
            latest[flow_of_labels(labels)] = latest_of[result.path] = record
        trace: Record = {"task_type": "TRACEROUTE", "ping_time": time.time_ns(), "probe_bytes": None}
        trace |= {"latency": None, "loss_rate": None}
        for flow, hops in routes(self._store).items():
            if flow in latest and hops is not None:
                yield latest[flow] | trace | {"dial": "success", "route": json.dumps(hops), "protocol": flow[-1]}
        for path, failing in failing_traces(self._store).items():
            if path in latest_of and failing.outcome != "reached":
                ended = {"dial": "fail", "route": json.dumps(failing.hops), "error": failing.outcome}
                protocol = "tcp" if latest_of[path]["task_type"] == "TCP_PING" else "udp"
                yield latest_of[path] | trace | ended | {"protocol": protocol}

    def _lookups(self) -> dict[int, tuple[str, ...]]:
        """Labels of the DNS lookups, of which none ever leaves; none without the section ``dns``."""
        if DNS not in self._store.tables:
            return {}
        return {LOOKUP | row.identity: row.labels for row in self._store.read(DNS)}

    def _real_columns(self, record: Mapping[str, object]) -> Record:
        ends = (("src", "src_node_sn", "src_rnic"), ("dst", "dst_node_sn", "dst_rnic"))
        known = {f"{end}_real_ip": self._underlay.get((str(record[h]), str(record[r]))) for end, h, r in ends}
        return {name: address for name, address in known.items() if address}


def to_csv(records: Iterable[Record]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def to_jsonl(records: Iterable[Record]) -> bytearray:
    lines, encoder = bytearray(), msgspec.json.Encoder()
    for record in records:
        encoder.encode_into(ProbeRecord(**(_NEEDED | record)), lines, -1)  # type: ignore[arg-type]
        lines += b"\n"
    return lines


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


def _path_columns(labels: Sequence[str], target: Target | None, job: str | None) -> Record:
    _, source_host, source_rnic, destination_host, destination_rnic, probe = labels[: len(PATH.labels)]
    source, source_port, destination, destination_port, _ = flow_of_labels(labels)
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
        "src_port": int(source_port),
        "dst_port": int(destination_port),
        "job": job,
        "src_rnic": source_rnic,
        "dst_rnic": destination_rnic,
        "dscp": int(labels[-1]) >> 2,
        "probe_bytes": target.payload_bytes + UDP_HEADERS if target and probe != "tcp" else None,
    }


def _lookup_columns(labels: Sequence[str]) -> Record:
    host, resolver, name, address, port = labels
    return {
        "task_type": "DNS",
        "src_node_id": host,
        "dst_node_id": resolver,
        "src_node_sn": host,
        "dst_ip": address,
        "dst_real_ip": address,
        "dst_port": int(port),
        "dns_name": name,
    }


def _outcome_columns(result: Result, error: str) -> Record:
    lost = int(result.outcome in _LOST)
    return {
        "ping_time": result.time_ns,
        "dial": "fail" if error else "success",
        "latency": round(result.rtt_ns / 1000, 3) if result.rtt_ns and not error else None,
        "loss_rate": lost,
        "packets_sent": 1,
        "packets_lost": lost,
        "error": error or None,
        "starved": int(result.starved),
    }
