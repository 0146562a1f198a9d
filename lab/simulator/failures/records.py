"""From what became of probes to probe records, traces among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lab.simulator.failures.effects import Probes
from lab.simulator.failures.flows import FULL_BYTES, OVERLAY_BYTES, SMALL_BYTES, TASKS, TCP
from lab.simulator.failures.habits import Habits
from lab.simulator.failures.lookups import Lookups
from lab.simulator.failures.scene import Scene
from lab.simulator.failures.traces import Traces
from lab.simulator.failures.wiring import Booleans, Floats, Integers
from skeleton_service.reading.records import KINDS

_TRACE, _FULL = len(TASKS), len(TASKS) + 1
_TASK_NAMES = (*TASKS, "TRACEROUTE", "MTU")
_NANOSECONDS = 1e9


def write_records(scene: Scene, habits: Habits, probes: Probes, traces: Traces, lookups: Lookups | None) -> pa.Table:
    """The table with the columns of ``skeleton_service.reading.records.KINDS``, by time."""
    flows = scene.flows
    sent = probes.time.size
    time = np.concatenate([probes.time, traces.time])
    order = np.argsort(time, kind="stable")
    path = np.concatenate([probes.path, traces.path])[order]
    traced = order >= sent
    origin = np.where(traced, 0, order)  # of a row among the probes
    lost = np.concatenate([probes.lost, ~traces.reached])[order]

    kinds = np.where(flows.full, _FULL, flows.task)
    texts = _path_texts(scene, habits)
    take = pa.array(path)
    columns: dict[str, pa.Array] = {}
    for name, kind in KINDS.items():
        if name in texts:
            columns[name] = texts[name].take(take)
        else:
            columns[name] = pa.nulls(path.size, kind)
    columns["task_type"] = _words(_TASK_NAMES, np.where(traced, _TRACE, kinds[path]))
    columns["ping_time"] = pa.array(np.round(time[order] * _NANOSECONDS).astype(np.int64))
    columns["dial"] = _words(("success", "fail"), lost.astype(np.int64))
    columns["latency"] = pa.array(np.round(probes.latency[origin], 3), mask=lost | traced)
    columns["loss_rate"] = pa.array(lost.astype(float), mask=traced)
    columns["packets_lost"] = pa.array(lost.astype(np.int64), mask=traced)
    columns["packets_sent"] = pa.array(np.ones(path.size, np.int64), mask=traced)
    columns["starved"] = pa.array(probes.starved[origin].astype(np.int64), mask=traced)
    sizes = np.where(flows.full, np.where(flows.overlay, OVERLAY_BYTES, FULL_BYTES), SMALL_BYTES)
    columns["probe_bytes"] = pa.array(sizes[path], mask=traced | (flows.task[path] == TCP))
    columns["error"] = _errors(habits, probes, origin, lost, traced)
    routes = np.concatenate([np.zeros(sent, np.int64), traces.route + 1])[order]
    columns["route"] = _words((None, *traces.routes), routes)
    columns["protocol"] = _words((None, "udp", "tcp"), np.where(traced, 1 + (flows.task[path] == TCP), 0))
    table = pa.table(columns)
    return table if lookups is None else _with_lookups(table, scene, lookups)


def _words(words: Sequence[str | None], index: Integers) -> pa.Array:
    return pa.array(words, pa.string()).take(pa.array(index))


def _errors(habits: Habits, probes: Probes, origin: Integers, lost: Booleans, traced: Booleans) -> pa.Array:
    words = [None, "timeout", "reply lost", "silent", *probes.errors[1:]]
    proven = probes.reply_lost & (probes.time < _last_answer(probes)[probes.path])
    told = np.where(proven[origin], 2, 1) if habits.told else np.zeros(origin.size, np.int64)
    special = probes.error[origin]
    index = np.where(special > 0, special + 3, told)
    return _words(tuple(words), np.where(traced, np.where(lost, 3, 0), np.where(lost, index, 0)))


def _last_answer(probes: Probes) -> Floats:
    """Per path when the last answered probe was sent: only a later reply's count proves that a probe had arrived."""
    last = np.zeros(int(probes.path.max()) + 1)
    np.maximum.at(last, probes.path[~probes.lost], probes.time[~probes.lost])
    return last


def _path_texts(scene: Scene, habits: Habits) -> dict[str, pa.Array]:
    """What all records of a path have in common, one value each (P,)."""
    flows, job, wiring = scene.flows, scene.job, scene.wiring
    cards = [(host.name, card) for host in wiring.topology.hosts for card in host.rnics]
    columns: dict[str, pa.Array] = {}
    for side, ends in (("src", flows.source), ("dst", flows.destination)):
        rows = list(zip(ends.tolist(), flows.overlay.tolist(), strict=True))
        hosts = [cards[end][0] for end, _ in rows]
        columns[f"{side}_node_sn"] = pa.array(hosts)
        columns[f"{side}_node_id"] = pa.array(
            [cards[end][0] if habits.hosts_known_only and not over else job.container[end] for end, over in rows]
        )
        columns[f"{side}_ip"] = pa.array([job.overlay[end] if over else cards[end][1].ip for end, over in rows])
        columns[f"{side}_real_ip"] = pa.array([cards[end][1].ip for end, _ in rows])
        columns[f"{side}_rnic"] = pa.array([cards[end][1].name for end, _ in rows])
        columns[f"{side}_tenant_id"] = pa.array([f"vni-{job.vni}" if over else None for _, over in rows], pa.string())
    columns["src_port"], columns["dst_port"] = pa.array(flows.source_port), pa.array(flows.destination_port)
    columns["dscp"] = pa.array(flows.dscp)
    columns["job"] = pa.array([job.name] * flows.number)
    return columns


def _with_lookups(table: pa.Table, scene: Scene, lookups: Lookups) -> pa.Table:
    number = lookups.time.size
    ip = {host.name: host.rnics[0].ip for host in scene.wiring.topology.hosts}
    failed = np.isnan(lookups.latency)
    columns: dict[str, pa.Array] = {name: pa.nulls(number, kind) for name, kind in KINDS.items()}
    own = pa.array([ip[host] for host in lookups.host])
    columns |= {
        "task_type": pa.array(["DNS"] * number),
        "ping_time": pa.array(np.round(lookups.time * _NANOSECONDS).astype(np.int64)),
        "src_node_id": pa.array(lookups.host),
        "src_node_sn": pa.array(lookups.host),
        "dst_node_id": pa.array(lookups.resolver),
        "src_real_ip": own,
        "src_ip": own,
        "dst_ip": pa.array(lookups.address),
        "dst_real_ip": pa.array(lookups.address),
        "dst_port": pa.array(np.full(number, 53)),
        "dns_name": pa.array(lookups.name),
        "dial": _words(("success", "fail"), np.array([error is not None for error in lookups.error]).astype(np.int64)),
        "latency": pa.array(np.round(lookups.latency, 3), mask=failed),
        "loss_rate": pa.array(np.array([float(error == "timeout") for error in lookups.error])),
        "packets_sent": pa.array(np.ones(number, np.int64)),
        "packets_lost": pa.array(np.array([int(error == "timeout") for error in lookups.error])),
        "error": pa.array(lookups.error, pa.string()),
    }
    return pa.concat_tables([table, pa.table(columns)]).sort_by("ping_time")
