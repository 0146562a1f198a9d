"""Steady DNS lookups from every host, as probe records: ``python -m lab.scenarios.lookups DIRECTORY --output FILE``.

Each host asks its resolver for a name of the second site that nobody asked before, so that no cache can answer
and the resolver's own way is measured. One question a period, no retry: what a stub resolver would wait for.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import itertools
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from exporter.contracts.tables import ProbeRecord
from lab.network import design as drawn
from lab.network import dns, resolver
from lab.network.design import Design, Host
from lab.sandbox.netns import socket_in

COLUMNS = ProbeRecord.__struct_fields__
TIMEOUT_SECONDS = 5.0  # resolv.conf(5)


class Lookups:
    """One host's questions, one after the other at a steady pace; answers may come late."""

    def __init__(self, host: Host, plan: resolver.Plan, address: str, output: TextIO) -> None:
        self._host, self._plan, self._address = host, plan, address
        self._writer = csv.DictWriter(output, COLUMNS, lineterminator="\n")
        self._output = output

    async def run(self, period: float, first: float) -> None:
        """Ask until cancelled, ``first`` seconds from now on."""
        await asyncio.sleep(first)
        asking: set[asyncio.Task[None]] = set()
        for number in itertools.count():
            task = asyncio.create_task(self._ask(number))
            asking.add(task)
            task.add_done_callback(asking.discard)
            await asyncio.sleep(period)

    async def _ask(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        name = f"probe-{self._host.name}-{number}.{self._plan.store}"
        with socket_in(self._host.namespace, kind=socket.SOCK_DGRAM) as asker:
            asker.setblocking(False)
            began, moment = time.time_ns(), time.perf_counter()
            try:
                await loop.sock_connect(asker, (self._address, dns.PORT))
                await loop.sock_sendall(asker, dns.query(number & 0xFFFF, name, dns.A))
                answer = dns.decode(await asyncio.wait_for(loop.sock_recv(asker, 4096), TIMEOUT_SECONDS))
                error = "" if answer.rcode == dns.NOERROR else dns.RCODES.get(answer.rcode, str(answer.rcode))
            except (TimeoutError, OSError, ValueError) as failure:
                error = "timeout" if isinstance(failure, asyncio.TimeoutError) else type(failure).__name__
            seconds = time.perf_counter() - moment
            port = asker.getsockname()[1]
        self._write(began, seconds, port, error)

    def _write(self, began: int, seconds: float, port: int, error: str) -> None:
        source = self._host.rnics[0]
        record = ProbeRecord(
            task_type="DNS",
            ping_time=began,
            src_node_id=self._host.name,
            dst_node_id=self._plan.host,
            src_node_sn=self._host.name,
            dst_node_sn=self._plan.host,
            src_ip=source.address,
            dst_ip=self._address,
            src_real_ip=source.address,
            dst_real_ip=self._plan.address,
            src_port=port,
            dst_port=dns.PORT,
            dial="fail" if error else "success",
            latency=None if error else round(seconds * 1e6, 3),
            loss_rate=1.0 if error else 0.0,
            src_rnic=source.name,
            packets_sent=1,
            packets_lost=1 if error else 0,
            error=error or None,
        )
        row = {name: "" if value is None else value for name, value in msgspec.structs.asdict(record).items()}
        self._writer.writerow(row)
        self._output.flush()


async def _run(design: Design, output: TextIO, period: float) -> None:
    plan = resolver.plan(design)
    csv.writer(output, lineterminator="\n").writerow(COLUMNS)
    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    if running is not None:
        loop.add_signal_handler(signal.SIGTERM, running.cancel)
    lookups = [Lookups(host, plan, resolver.resolver_of(design, host), output) for host in design.hosts]
    shift = period / max(1, len(lookups))
    try:
        await asyncio.gather(*(each.run(period, number * shift) for number, each in enumerate(lookups)))
    except asyncio.CancelledError:
        return


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.scenarios.lookups", description=__doc__)
    parser.add_argument("directory", type=Path, help="the lab's directory; run inside its sandbox")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--period", type=float, default=2.0, help="seconds between a host's questions (default: 2)")
    arguments = parser.parse_args(words)
    design = drawn.load((arguments.directory / "design.json").read_bytes())
    with open(arguments.output, "w", newline="") as output:
        asyncio.run(_run(design, output, arguments.period))
    return 0


if __name__ == "__main__":
    sys.exit(main())
