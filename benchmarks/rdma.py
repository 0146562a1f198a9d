"""RDMA probes against a bare pyverbs loop, in a guest with soft-RoCE: how many a process carries, what each costs.

``make bench-rdma``. Everything shares the guest's one processor: prober, responder, the kernel's RoCE and the fabric
between. So look at the ratio of the two, in turns in one boot. Then: does the prober's memory grow?
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import mmap
import os
import re
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import msgspec
import pyverbs.base

from exporter.child import Child
from exporter.contracts.catalogue import PATH, PROBES_LOST, PROBES_SENT, PROBES_UNSENT, RDMA, RDMA_STARVED
from exporter.contracts.plan import Target
from exporter.probing.loop import Loop
from exporter.probing.settings import RESULT_CAPACITY
from exporter.rdma.device import GLOBAL_ROUTE_BYTES, QKEY, Device
from exporter.rdma.ports import PortState, read_port
from exporter.rdma.settings import Orders, RdmaSettings, rdma_tables
from exporter.rdma.verbs import MR, QP, SGE, QPAttr, QPCap, QPInitAttr, RecvWR, SendWR, constants
from exporter.results import ResultRing
from exporter.store import Store
from lab.guest.network import Fabric, Port, addresses

_PERIOD = 0.01
_GROWN_KIB = 256
_WINDOW = 64
_SLOT_BYTES, _MESSAGE = 128, struct.Struct("!QQ")
_COUNTED = tuple(PATH.metrics.index(metric) for metric in (PROBES_SENT, PROBES_LOST, PROBES_UNSENT))
_STARVED = RDMA.metrics.index(RDMA_STARVED)


def target(near: Port, far: Port) -> Target:
    return Target(
        path=f"{near.device}>{far.device}", source="a/r", destination="b/r", probe="rdma",
        source_address=near.address, destination_address=far.address, source_ports=(50_000,), traffic_class=106,
        payload_bytes=64, period_seconds=_PERIOD, active=True,
    )  # fmt: skip


class Prober:
    """The exporter's RDMA process with RNICs on ``ports``."""

    def __init__(self, ports: Sequence[Port], targets: Sequence[Target]) -> None:
        self._store = Store(rdma_tables(max(len(targets), 1), len(ports)))
        self._results = ResultRing(RESULT_CAPACITY)
        settings = RdmaSettings(
            host="host", rnics={port.device: port.address for port in ports}, key=b"k" * 32, timeout_seconds=0.5,
            max_paths=max(len(targets), 1), responder_packets_per_second=1e9,
        )  # fmt: skip
        descriptors = (self._store.descriptor, self._results.descriptor)
        self._child = Child("exporter.rdma.process", descriptors, msgspec.msgpack.encode(settings))
        self._child.tick(time.monotonic())
        self._child.tell(msgspec.msgpack.encode(Orders(targets=tuple(targets))))

    def busy_seconds(self) -> float:
        """Of the processor, since it started (proc_pid_stat(5): the guest's kernel has no finer count)."""
        spent = Path(f"/proc/{self._pid()}/stat").read_text().rpartition(")")[2].split()
        return (int(spent[11]) + int(spent[12])) / os.sysconf("SC_CLK_TCK")

    def resident_kib(self) -> int:
        status = Path(f"/proc/{self._pid()}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))

    def _pid(self) -> int:
        if self._child.pid is None:
            raise RuntimeError("the RDMA process does not run")
        return self._child.pid

    def counts(self) -> tuple[float, ...]:
        """Probes sent, lost and unsent; and those whose round trip a busy process has spoilt."""
        rows = [row.values for row in self._store.read(PATH)]
        paths = (sum(values[column] for values in rows) for column in _COUNTED)
        return (*paths, sum(row.values[_STARVED] for row in self._store.read(RDMA)))

    def round_trips(self, since: int) -> tuple[list[int], int]:
        """In ns, of all answers, also those whose time nobody knows to 0.2 ms; and where to go on."""
        results, end, _ = self._results.read(since)
        return [each.rtt_ns for each in results if each.rtt_ns], end

    def stop(self) -> None:
        self._child.stop()


@contextmanager
def probing(ports: Sequence[Port], targets: Sequence[Target]) -> Iterator[Prober]:
    made = Prober(ports, targets)
    try:
        time.sleep(4)
        yield made
    finally:
        made.stop()


def both_ways(ports: Sequence[Port], probes_per_second: int, source_ports: int) -> list[Target]:
    """Paths between two ports. Those of one source port share a queue pair: what is due together leaves together."""
    near, far = ports
    each = (target(near, far), target(far, near))
    return [
        msgspec.structs.replace(each[n % 2], path=f"p{n}", source_ports=(50_000 + n // 2 % source_ports,))
        for n in range(round(probes_per_second * _PERIOD))
    ]


def ours(ports: Sequence[Port], rate: int, seconds: float, source_ports: int = 1) -> None:
    with probing(ports, both_ways(ports, rate, source_ports)) as prober:
        before, busy, began = prober.counts(), prober.busy_seconds(), time.monotonic()
        time.sleep(seconds)
        after, busy, spent = prober.counts(), prober.busy_seconds() - busy, time.monotonic() - began
        sent, lost, unsent, starved = (b - a for a, b in zip(before, after, strict=True))
        print(
            f"prober, {rate:6} asked{2 * source_ports:7}"
            f"{sent / spent:10.0f}{lost:8.0f}{unsent:8.0f}{starved / sent:9.1%}"
            f"{busy / spent:8.0%}{busy / sent * 1e6:12.1f}",
            flush=True,
        )


class Bare:
    """One end of the bare loop: a queue pair, its buffers, and a chain of requests to the other end."""

    def __init__(self, port: Port) -> None:
        state = read_port(port.device, port.address)
        if not isinstance(state, PortState):
            raise SystemExit(state)
        self.device = Device(port.device, state, Loop())
        cap = QPCap(
            max_send_wr=4 * _WINDOW, max_recv_wr=4 * _WINDOW, max_send_sge=1, max_recv_sge=1, max_inline_data=64
        )
        attributes = QPAttr(port_num=1)
        attributes.qkey, attributes.pkey_index, attributes.sq_psn = QKEY, 0, 0
        queue = self.device.queue
        kind = QPInitAttr(qp_type=constants.IBV_QPT_UD, scq=queue, rcq=queue, cap=cap, sq_sig_all=0)
        self.pair = QP(self.device.domain, kind, attributes)
        self.memory = mmap.mmap(-1, 5 * _WINDOW * _SLOT_BYTES)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        region = MR(self.device.domain, len(self.memory), constants.IBV_ACCESS_LOCAL_WRITE, address=start)
        self._kept = [region]
        self.receives = [
            RecvWR(wr_id=slot, num_sge=1, sg=[SGE(start + slot * _SLOT_BYTES, _SLOT_BYTES, region.lkey)])
            for slot in range(4 * _WINDOW)
        ]
        for receive in self.receives:
            self.pair.post_recv(receive)
        self.first = 4 * _WINDOW * _SLOT_BYTES
        pieces = [SGE(start + self.first + slot * _SLOT_BYTES, 64, region.lkey) for slot in range(_WINDOW)]
        self.sends = [
            SendWR(
                wr_id=1 << 32, opcode=constants.IBV_WR_SEND, num_sge=1, sg=[piece],
                send_flags=constants.IBV_SEND_INLINE | (constants.IBV_SEND_SIGNALED if slot == _WINDOW - 1 else 0),
            )
            for slot, piece in enumerate(pieces)
        ]  # fmt: skip
        for request, following in zip(self.sends, self.sends[1:], strict=False):
            request.next_wr = following

    def aim(self, other: Bare, address: str) -> None:
        handle = self.device.make_handle(address, 106, 0)
        for request in self.sends:
            request.set_wr_ud(handle, other.pair.qp_num, QKEY)

    def arrived(self) -> list[int]:
        """Slots of what has arrived."""
        count, completions = self.device.queue.poll(_WINDOW)
        return [each.wr_id for each in completions if each.wr_id < 1 << 32] if count else []


@contextmanager
def as_it_comes() -> Iterator[None]:
    """pyverbs, of which each object has logging find a logger; exporter.rdma.verbs spares it that."""
    ours = pyverbs.base.logging
    pyverbs.base.logging = logging
    try:
        yield
    finally:
        pyverbs.base.logging = ours


def bare(ports: Sequence[Port], seconds: float, name: str) -> None:
    """Ask and answer in one loop, ``_WINDOW`` messages a call, without a protocol, and polling all the time."""
    near, far = Bare(ports[0]), Bare(ports[1])
    near.aim(far, ports[1].address)
    far.aim(near, ports[0].address)
    began, answered, under_way, number = time.monotonic(), 0, 0, 0
    process_began = time.process_time()
    while (now := time.monotonic()) - began < seconds:
        room = _WINDOW - under_way
        if room >= _WINDOW // 2:
            for slot in range(_WINDOW - room, _WINDOW):
                number += 1
                _MESSAGE.pack_into(near.memory, near.first + slot * _SLOT_BYTES, number, int(now * 1e9))
            near.pair.post_send(near.sends[_WINDOW - room])
            under_way += room
        if slots := far.arrived():
            place = _WINDOW - len(slots)
            for slot in slots:
                at, start = far.first + place * _SLOT_BYTES, slot * _SLOT_BYTES + GLOBAL_ROUTE_BYTES
                far.memory[at : at + 64] = far.memory[start : start + 64]
                place += 1
            far.pair.post_send(far.sends[_WINDOW - len(slots)])
            for slot in slots:
                far.pair.post_recv(far.receives[slot])
        for slot in near.arrived():
            _MESSAGE.unpack_from(near.memory, slot * _SLOT_BYTES + GLOBAL_ROUTE_BYTES)
            near.pair.post_recv(near.receives[slot])
            answered += 1
            under_way -= 1
    busy = time.process_time() - process_began
    print(
        f"{name:26}{answered / seconds:10.0f}{under_way:8}{'':17}{busy / seconds:8.0%}{busy / answered * 1e6:12.1f}",
        flush=True,
    )


def latency(ports: Sequence[Port], turns: int, seconds: float) -> None:
    """Round trips of one path and of perftest's ib_send_lat, each between two processes woken by events, in turns."""
    print(f"\n{'round trip, us':24}{'p50':>10}{'p99':>10}{'of':>8}")
    medians: dict[str, list[float]] = {"prober": [], "ib_send_lat": []}
    for _ in range(turns):
        with probing(ports[1:], []), probing(ports[:1], [target(*ports)]) as prober:
            _, start = prober.round_trips(0)
            time.sleep(seconds)
            found, _ = prober.round_trips(start)
        medians["prober"].append(_row("prober", [each / 1e3 for each in found]))
        medians["ib_send_lat"].append(_row("ib_send_lat -e", send_lat(ports, round(200 * seconds))))
    ours_us, theirs_us = (statistics.median(each) for each in medians.values())
    print(f"the prober adds {ours_us - theirs_us:+.0f} us to the round trip of ib_send_lat (median of medians)")


def _row(name: str, found: list[float]) -> float:
    found = sorted(found)
    median = statistics.median(found)
    print(f"{name:24}{median:10.0f}{found[len(found) * 99 // 100]:10.0f}{len(found):8}", flush=True)
    return median


def send_lat(ports: Sequence[Port], count: int) -> list[float]:
    """Round trips of ``count`` UD messages of 64 bytes, us, as ib_send_lat measures them.

    It prints half of each; in ticks, for the guest does not say how long they are.
    """
    near, far = ports
    common = ["ib_send_lat", "-c", "UD", "-e", "-C", "-s", "64", "-n", str(count), "-x"]
    server = subprocess.Popen(
        [*common, _gid_index(near), "-d", near.device], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    time.sleep(1)
    client = [*common, _gid_index(far), "-d", far.device, "-U", "127.0.0.1"]
    done = subprocess.run(client, capture_output=True, text=True, timeout=120, check=False)
    server.kill()
    server.communicate()
    found = [2 * float(each) / ticks_per_us() for each in re.findall(r"^\d+, ([\d.]+)$", done.stdout, re.MULTILINE)]
    if not found:
        raise SystemExit(f"ib_send_lat: {done.stdout[-500:]}{done.stderr[-500:]}")
    return found


@cache
def ticks_per_us() -> float:
    """Of the processor's time-stamp counter (RDTSC), against the clock."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("0f31 48c1e220 4809d0 c3"))  # rdtsc; shl rdx, 32; or rax, rdx; ret
    ticks = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    start, began = ticks(), time.monotonic_ns()
    time.sleep(0.5)
    return int(ticks() - start) / (time.monotonic_ns() - began) * 1e3


def _gid_index(port: Port) -> str:
    state = read_port(port.device, port.address)
    if not isinstance(state, PortState):
        raise SystemExit(state)
    return str(state.gid_index)


def loss(fabric: Fabric, seconds: float) -> bool:
    """Whether each packet that netem dropped is a lost probe, and each lost probe one of them."""
    print(f"\n{'loss':24}{'probes':>10}{'dropped':>10}{'lost':>10}")
    exact = True
    for percent in (0.1, 1, 5):
        fabric.impair(fabric.ports[1], "loss", "0%", roce_only=True)
        with probing(fabric.ports, both_ways(fabric.ports, 2_000, 1)) as prober:
            sent, lost, *_ = prober.counts()
            dropped = fabric.dropped(fabric.ports[1])
            fabric.impair(fabric.ports[1], "loss", f"{percent}%", roce_only=True)
            time.sleep(seconds)
            fabric.impair(fabric.ports[1], "loss", "0%", roce_only=True)
            time.sleep(2)
            sent, lost = (now - before for now, before in zip(prober.counts(), (sent, lost), strict=False))
            dropped = fabric.dropped(fabric.ports[1]) - dropped
        print(f"{percent:>22} %{sent:10,.0f}{dropped:10,}{lost:10,.0f}", flush=True)
        exact = exact and lost == dropped
    return exact


def memory(ports: Sequence[Port], rate: int, probes: int) -> bool:
    """Whether the process' memory stays as it was for so many probes."""
    print(f"\nmemory, {rate} probes/s asked")
    with probing(ports, both_ways(ports, rate, 1)) as prober:
        found: list[int] = []
        for tenth in range(1, 11):
            while prober.counts()[0] < probes * tenth / 10:
                time.sleep(1)
            found.append(prober.resident_kib())
            print(f"{prober.counts()[0]:12,.0f} probes{found[-1]:12,} KiB", flush=True)
    return found[-1] <= found[0] + _GROWN_KIB


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rdma", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the time: to see that it runs")
    parser.add_argument("--no-memory", action="store_true", help="without the ten million probes, a quarter of an hour")
    options = parser.parse_args(words)
    scale = 0.1 if options.quick else 1.0
    if not Path("/run/guest").is_dir():
        parser.error("runs in a guest only: make bench-rdma")
    with Fabric(addresses(2)) as fabric:
        print(f"{'':15}queue pairs{'probes/s':>10}{'lost':>8}{'unsent':>8}{'starved':>9}{'busy':>8}{'us a probe':>12}")
        for _ in range(2):
            with as_it_comes():
                bare(fabric.ports, max(2, 10 * scale), "bare loop, as it comes")
            bare(fabric.ports, max(2, 10 * scale), "bare loop, one logger")
            for rate in (1_000, 5_000, 10_000, 20_000, 25_000):
                ours(fabric.ports, rate, max(2, 10 * scale))
            for source_ports in (4, 16):
                ours(fabric.ports, 15_000, max(2, 10 * scale), source_ports)
        latency(fabric.ports, 2 if options.quick else 5, max(2, 10 * scale))
        exact = loss(fabric, 50 * scale)
        flat = options.no_memory or memory(fabric.ports, 15_000, round(10_000_000 * scale))
    return 0 if exact and flat else 1


if __name__ == "__main__":
    sys.exit(main())
