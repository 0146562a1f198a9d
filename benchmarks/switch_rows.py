"""What one row of a switch costs each client, in processor time: ours, snmp_exporter, snmpbulkwalk, on one agent.

``python -m benchmarks.switch_rows ENGINE PORT POLLS`` is the poller of that benchmark: it reads one switch so often
and prints JSON. A row is a varbind that was asked for and used: of ours, the values of tables (names and sysUpTime
cost, and do not count); of snmp_exporter, the samples that it makes of them; of snmpbulkwalk, the lines it prints.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import yaml

from benchmarks.switch_agents import COMMUNITY, free_port, pinned
from exporter.exposition import Renderer
from exporter.store import ROW_WORDS, Store
from exporter.switches.process import pollers
from exporter.switches.profile import Column, TableProfile, choose, read_profiles, tables_of
from exporter.switches.settings import PollerSettings, SwitchSettings, switch_tables
from exporter.switches.snmp import Community, Oid, Rows, Session, Value

RIVAL = "prometheus-snmp-exporter"
WALKER = "snmpbulkwalk"
REPETITIONS = 25
"""Of a GETBULK, of every client: as our profile of SONiC has it."""
_IF_NAME = "1.3.6.1.2.1.31.1.1.1.1"
_WAIT_SECONDS = 10.0
_PARTS = {
    "port": {"labelname": "ifIndex", "type": "gauge"},
    "bridge_port": {"labelname": "ifIndex", "type": "gauge"},
    "peer_inet": {"labelname": "peer", "type": "InetAddress"},
    "peer_ipv4": {"labelname": "peer", "type": "InetAddressIPv4"},
}
"""How snmp_exporter calls a piece of an index; what is not here is one number."""


@dataclass(frozen=True)
class Cost:
    """Of some polls of one switch."""

    seconds: float
    """Of the processor."""
    rows: int
    polls: int

    @property
    def microseconds(self) -> float:
        return 1e6 * self.seconds / self.rows


@dataclass(frozen=True)
class Asked:
    """A column that our poller walks, and how many rows the agent has in it."""

    oid: Oid
    rows: int


# ---- ours, in a process of its own


class _Recording:
    """A session that remembers which columns were walked."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.walked: dict[Oid, int] = {}

    async def get(self, oids: Sequence[Oid]) -> dict[Oid, Value]:
        return await self._session.get(oids)

    async def walk(self, column: Oid, known: Sequence[Oid] = ()) -> Rows:
        rows = await self._session.walk(column, known)
        self.walked[column] = len(rows)
        return rows

    async def refresh(self) -> None:
        await self._session.refresh()

    def close(self) -> None:
        self._session.close()


def _settings(engine: str, port: int) -> PollerSettings:
    switch = SwitchSettings(name="leaf-0", address="127.0.0.1", port=port, credentials=Community(COMMUNITY), aliases={})
    return PollerSettings(
        period_seconds=15, timeout_seconds=5, retries=1, engine=engine, priorities=(), tables=(), without=(),
        max_repetitions=None, profiles=None, switches=(switch,),
    )  # fmt: skip


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _change(store: Store) -> None:
    """Make every value another one, as it is after a period on a busy switch: its text is to be made anew."""
    words = np.frombuffer(store.words, np.uint64)
    for table in store.tables:
        layout = store.layout(table)
        used = int(words[layout.start + 1])
        rows = words[layout.row(0) : layout.end].reshape(layout.capacity, layout.row_words)[:used]
        rows[:, ROW_WORDS : ROW_WORDS + layout.columns].view(np.float64)[:] += 1 + time.monotonic_ns() % 1000


async def _poll(engine: str, port: int, polls: int) -> dict[str, object]:
    settings = _settings(engine, port)
    store = Store(switch_tables(1))
    (poller,) = pollers(settings, store)
    device = poller._device
    profile = choose(device._profiles, "", "SONiC")
    session = poller._open(device.settings, profile)
    recording = _Recording(session)
    for asking in (recording, session):  # learns what there is; then plans by it
        turn = await device.poll(asking)
        if not turn.whole:
            raise SystemExit(f"the agent was not read: {turn.error or [table.error for table in turn.failed]}")
        poller._tell(turn)
    renderer = Renderer()
    renderer.render([store])
    rows, polling, rendering = 0, 0.0, 0.0
    for _ in range(polls):
        began = _spent()
        turn = await device.poll(session)
        poller._tell(turn)
        polling += _spent() - began
        rows += turn.rows
        _change(store)
        began = _spent()
        renderer.render([store])
        rendering += _spent() - began
    session.close()
    return {"rows": rows, "polling": polling, "rendering": rendering, "walked": recording.walked}


def ours(engine: str, port: int, polls: int, core: int) -> tuple[Cost, Cost, list[Asked]]:
    """Polls alone; polls and the text of all that they gave; the columns that they walked."""
    argv = pinned(core, [sys.executable, "-m", "benchmarks.switch_rows", engine, str(port), str(polls)])
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    told = json.loads(done.stdout)
    asked = [Asked(oid, count) for oid, count in told["walked"].items()]
    return (
        Cost(told["polling"], told["rows"], polls),
        Cost(told["polling"] + told["rendering"], told["rows"], polls),
        asked,
    )


# ---- snmp_exporter


def columns(asked: Sequence[Asked]) -> dict[Oid, tuple[TableProfile, Column]]:
    """Those of SONiC's tables that have rows, each once: what every client reads, beside the ports' names."""
    walked = {each.oid for each in asked if each.rows}
    found: dict[Oid, tuple[TableProfile, Column]] = {}
    for table in tables_of(choose(read_profiles(), "", "SONiC")):
        for column in table.columns if table.default else ():
            if column.oid in walked:
                found.setdefault(column.oid, (table, column))
    return found


def module(asked: Sequence[Asked]) -> dict[str, object]:
    """Its module ``switch`` for the same columns, ports by their names as in ours."""
    metrics = {oid: _metric(*found) for oid, found in columns(asked).items()}
    return {
        "walk": [*metrics, _IF_NAME],
        "metrics": list(metrics.values()),
        "version": 2,
        "max_repetitions": REPETITIONS,
        "retries": 1,
        "timeout": "5s",
        "auth": {"community": COMMUNITY},
    }


def _metric(table: TableProfile, column: Column) -> dict[str, object]:
    indexes = [_PARTS.get(part.part, {"labelname": part.part, "type": "gauge"}) for part in table.parts]
    names = [
        {"labels": ["ifIndex"], "labelname": "switch_port", "oid": _IF_NAME, "type": "DisplayString"},
        {"labels": [], "labelname": "ifIndex"},
    ]
    metric = column.metric or ""
    return {
        "name": metric.removesuffix("_total") + "_" + column.oid.rpartition(".")[2],
        "oid": column.oid,
        "type": "counter" if metric.endswith("_total") else "gauge",
        "help": column.oid,
        "indexes": indexes,
        **({"lookups": names} if _PARTS["port"] in indexes else {}),
    }


class SnmpExporter:
    """Debian's daemon, told to walk those columns."""

    def __init__(self, process: subprocess.Popen[bytes], listens: int, agent: int) -> None:
        self._process = process
        self._url = f"http://127.0.0.1:{listens}/snmp?target=127.0.0.1:{agent}&module=switch"

    def wait(self) -> None:
        ends = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                self.scrape()
            except (URLError, ConnectionError):
                if time.monotonic() > ends or self._process.poll() is not None:
                    raise
                time.sleep(0.1)
            else:
                return

    def scrape(self) -> int:
        """Ask for the switch; return the samples made of its rows."""
        with urlopen(self._url, timeout=30) as answer:  # noqa: S310 - the benchmark's own
            return sum(line.startswith(b"fabric_") for line in answer.read().splitlines())

    def _spent(self) -> float:
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]  # proc_pid_stat(5)
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def poll(self, polls: int) -> Cost:
        began = self._spent()
        rows = sum(self.scrape() for _ in range(polls))
        return Cost(self._spent() - began, rows, polls)


@contextmanager
def snmp_exporter(asked: Sequence[Asked], agent: int, core: int) -> Iterator[SnmpExporter]:
    listens = free_port()
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "snmp.yml"
        config.write_text(yaml.safe_dump({"switch": module(asked)}))
        argv = [RIVAL, f"--config.file={config}", f"--web.listen-address=127.0.0.1:{listens}", "--log.level=error"]
        process = subprocess.Popen(pinned(core, argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            rival = SnmpExporter(process, listens, agent)
            rival.wait()
            yield rival
        finally:
            process.terminate()
            process.wait(10)


# ---- snmpbulkwalk


def snmpbulkwalk(asked: Sequence[Asked], agent: int, polls: int, core: int) -> tuple[Cost, Cost]:
    """Walks, a process a column; and the same without what a process takes that finds nothing."""
    walked = [*columns(asked), _IF_NAME]
    seconds, rows = _walks(walked * polls, agent, core)
    starts, _ = _walks([f"{_IF_NAME}.2000000000"] * len(walked) * polls, agent, core)
    return Cost(seconds, rows, polls), Cost(max(0.0, seconds - starts), rows, polls)


def _walks(columns: Sequence[Oid], agent: int, core: int) -> tuple[float, int]:
    program = shutil.which(WALKER) or WALKER
    options = ["-v2c", "-c", COMMUNITY, "-m", "", "-Oqn", "-Cc", f"-Cr{REPETITIONS}", f"127.0.0.1:{agent}"]
    seconds, rows = 0.0, 0
    for column in columns:
        with tempfile.TemporaryFile() as output:
            # taskset becomes the program: the kernel's account is of one process.
            process = subprocess.Popen(pinned(core, [program, *options, f".{column}"]), stdout=output)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise RuntimeError(f"{WALKER} of {column} ended with {process.returncode}")
            seconds += used.ru_utime + used.ru_stime
            output.seek(0)
            if column != _IF_NAME:
                rows += sum(line.startswith(f".{column}.".encode()) and b" No " not in line for line in output)
    return seconds, rows


def main() -> int:
    engine, port, polls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    print(json.dumps(asyncio.run(_poll(engine, port, polls))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
