"""The service killed again and again while jobs begin, change and end: what it answered is what the next one knows.

Beside it all exporters of a fleet hold a connection each (``benchmarks.service_load``), lose it, and come back.
"""

from __future__ import annotations

import random
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import urllib3
import yaml

from benchmarks.simulated_fleet import host_name
from exporter.contracts.plan import Plan, check_plan
from skeleton_service.live.identity import Identity, Keys, Role
from skeleton_service.ruleset import rule_file_name

_JOB_HOSTS = (4, 16)
_MOST_JOBS, _AT_ONCE = 48, 6
"""Jobs that run at a time, and that are changed at a time."""
_EXAMINED = 10
"""Jobs whose plans are read after a start, beside those that were being changed: reading all takes half a minute."""
_LONGEST_LIFE = 12.0
_SETTLE_SECONDS = 60.0


@dataclass
class Ledger:
    """What was asked for, and what of it was answered. {job: hosts}."""

    known: dict[str, list[int]] = field(default_factory=dict)
    """Begun, or changed, and answered."""
    ended: set[str] = field(default_factory=set)
    open: dict[str, set[tuple[int, ...] | None]] = field(default_factory=dict)
    """What jobs may be as well: an answer to the last request did not come. None: ended."""
    answered: int = 0
    created: int = 0
    """Containers of jobs that began."""
    lived: float = 0.0
    """Seconds that services lived while jobs were changed."""
    lost: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Site:
    """A service: where it listens, who believes whom, where its files are, and how many hosts it knows."""

    port: int
    keys: Keys
    context: ssl.SSLContext
    directory: Path
    hosts: int


class Client:
    """Somebody of one role; each request is tried once."""

    def __init__(self, site: Site, role: Role, name: str) -> None:
        self._pool = urllib3.HTTPSConnectionPool(
            "127.0.0.1",
            site.port,
            maxsize=1,
            timeout=60,
            retries=False,
            ssl_context=site.context,
            assert_hostname=False,
        )
        self._headers = {"Authorization": f"Bearer {site.keys.sign(Identity(role, name), 4 * 3600)}"}

    def ask(self, method: str, path: str, document: Any = None) -> tuple[int, bytes]:
        """Raise urllib3's HTTPError where no answer comes."""
        body = None if document is None else msgspec.json.encode(document)
        answer = self._pool.request(method, path, body=body, headers=self._headers)
        return answer.status, answer.data


def churn(site: Site, ledger: Ledger, own: str, seed: int, stop: threading.Event) -> None:
    """Begin, change and end jobs whose names begin with ``own``, until told to stop, or until the service is gone."""
    dice = random.Random(seed)
    client, number = Client(site, Role.OPERATOR, "benchmark"), 0
    while not stop.is_set():
        number += 1
        running = [name for name in sorted(ledger.known) if name.startswith(own)]
        if running and (len(running) >= _MOST_JOBS // _AT_ONCE or dice.random() < 0.4):
            name = dice.choice(running)
        else:
            name = f"{own}-{number:04d}-{dice.randrange(10**9)}"
        hosts: tuple[int, ...] | None = _hosts_of_a_job(site.hosts, dice)
        if name in ledger.known and dice.random() < 0.6:
            hosts = None
        ledger.open.setdefault(name, set()).add(hosts)
        path = f"/v1/jobs/{name}"
        try:
            if hosts is None:
                status, _ = client.ask("DELETE", path)
            else:
                containers = [{"name": f"{name}-{host}", "host": host_name(host)} for host in hosts]
                status, _ = client.ask("PUT", path, {"version": 1, "job": name, "containers": containers})
        except urllib3.exceptions.HTTPError:
            return
        if status not in (200, 204):
            ledger.lost.append(f"{path}: answered {status}")
            return
        with ledger.lock:
            if hosts is not None and name not in ledger.known:
                ledger.created += len(hosts)
            _settle(ledger, name, hosts)
            ledger.answered += 1


def _hosts_of_a_job(hosts: int, dice: random.Random) -> tuple[int, ...]:
    """Half of the jobs are in neighbouring hosts, half anywhere."""
    number = dice.randint(*_JOB_HOSTS)
    if dice.random() < 0.5:
        first = dice.randrange(hosts - number)
        return tuple(range(first, first + number))
    return tuple(sorted(dice.sample(range(hosts), number)))


def _settle(ledger: Ledger, name: str, hosts: tuple[int, ...] | None) -> None:
    ledger.open.pop(name, None)
    if hosts is None:
        ledger.known.pop(name, None)
        ledger.ended.add(name)
    else:
        ledger.known[name] = list(hosts)


def examine(site: Site, ledger: Ledger, dice: random.Random, most: int) -> None:
    """Hold what the service knows against what was answered, and note what is wrong; of plans read ``most``."""
    reader = Client(site, Role.READER, "benchmark")
    there = _jobs(reader)
    changing = set(ledger.open)
    read = {*dice.sample(sorted(ledger.known), min(most, len(ledger.known))), *changing}
    for name in ledger.known.keys() | ledger.ended | changing | there.keys():
        may = set(ledger.open.get(name, ()))
        may.add(tuple(ledger.known[name]) if name in ledger.known else None)
        found: tuple[int, ...] | None = None
        if name in there:
            found = _hosts(reader, name) if name in read or name not in ledger.known else tuple(ledger.known[name])
            if there[name]["containers"] != len(found):
                ledger.lost.append(f"job {name} has {there[name]['containers']} containers, not {len(found)}")
        if found not in may:
            ledger.lost.append(f"job {name} is {found}, not {sorted(map(str, may))}")
        _settle(ledger, name, found)
    for name in sorted(read & ledger.known.keys())[:5]:
        _examine_plan(site, ledger, name, there[name]["generation"])
    _examine_rules(ledger, site.directory / "rules")


def _jobs(reader: Client) -> dict[str, dict[str, Any]]:
    _, body = reader.ask("GET", "/v1/jobs")
    return {each["job"]: each for each in msgspec.json.decode(body)}


def examine_herd(site: Site, ledger: Ledger, herd: subprocess.Popen[bytes]) -> None:
    """Whether each exporter has the plans that the service last made, and no others, once all have come back."""
    generations = {name: each["generation"] for name, each in _jobs(Client(site, Role.READER, "benchmark")).items()}
    wanted: dict[str, dict[str, int]] = {}
    for name, hosts in ledger.known.items():
        for host in hosts:
            wanted.setdefault(host_name(host), {})[name] = generations[name]
    assert herd.stdin is not None and herd.stdout is not None  # noqa: S101, PT018
    has: dict[str, dict[str, int]] = {}
    ends = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < ends:
        herd.stdin.write(b"\n")
        herd.stdin.flush()
        told = msgspec.json.decode(herd.stdout.readline())
        has = {host: plans for host, plans in told.items() if plans}
        if has == wanted and len(told) == site.hosts:
            return
        time.sleep(1)
    wrong = sorted(host for host in has.keys() | wanted.keys() if has.get(host) != wanted.get(host))
    ledger.lost.append(
        f"exporters: {len(told)} were answered; {len(wrong)} have other plans than they should: {wrong[:5]}"
    )


def _hosts(reader: Client, name: str) -> tuple[int, ...]:
    _, body = reader.ask("GET", f"/v1/jobs/{name}/plan")
    targets = msgspec.json.decode(body, type=Plan).targets
    return tuple(sorted({int(each.source_host.partition("-")[2]) for each in targets if each.source_host}))


def _examine_plan(site: Site, ledger: Ledger, name: str, generation: int) -> None:
    host = host_name(ledger.known[name][0])
    agent = Client(site, Role.AGENT, host)
    _, index = agent.ask("GET", f"/v1/agents/{host}/plans")
    listed = {each["job"]: each["generation"] for each in msgspec.json.decode(index)["plans"]}
    _, body = agent.ask("GET", f"/v1/agents/{host}/plans/{name}")
    plan = msgspec.json.decode(body, type=Plan)
    check_plan(plan, name)
    if not listed.get(name) == plan.generation == generation:
        ledger.lost.append(f"job {name}: generation {generation}, listed {listed.get(name)}, plan {plan.generation}")


def _examine_rules(ledger: Ledger, rules: Path) -> None:
    wanted = {rule_file_name(name) for name in ledger.known}
    ends = time.monotonic() + _SETTLE_SECONDS
    while (names := {path.name for path in rules.glob("*.yaml")}) != wanted and time.monotonic() < ends:
        time.sleep(0.1)
    if names != wanted:
        ledger.lost.append(f"rules: {sorted(names - wanted)} are of no job, {sorted(wanted - names)} are missing")
    for path in rules.glob("*.yaml"):
        if not yaml.safe_load(path.read_text())["groups"]:
            ledger.lost.append(f"{path.name} is half a file")


def kill_again_and_again(
    times: int, site: Site, start: Callable[[], Any], herd: subprocess.Popen[bytes], seed: int
) -> tuple[Ledger, list[float]]:
    """(ledger, seconds from each start to being ready); ``start`` starts a service, and gives its process."""
    dice, ledger, starts = random.Random(seed), Ledger(), []
    for number in range(times + 1):
        begun = time.monotonic()
        process = start()
        stop = threading.Event()
        threads = [
            threading.Thread(target=churn, args=(site, ledger, f"job-{own}", dice.randrange(1 << 32), stop))
            for own in range(_AT_ONCE)
        ]
        try:
            _until_ready(site)
            starts.append(time.monotonic() - begun)
            examine(site, ledger, dice, _EXAMINED if number < times else _MOST_JOBS)
            if number == times:
                examine_herd(site, ledger, herd)
                break
            for thread in threads:
                thread.start()
            life = dice.uniform(0, _LONGEST_LIFE)
            time.sleep(life)
            ledger.lived += life
        finally:
            process.kill()
            process.wait()
        stop.set()
        for thread in threads:
            thread.join()
        with sqlite3.connect(site.directory / "state.db") as connection:
            (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
        connection.close()
        if answer != "ok":
            ledger.lost.append(f"state: {answer}")
    return ledger, starts


def _until_ready(site: Site) -> None:
    client = Client(site, Role.READER, "benchmark")
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        with suppress(urllib3.exceptions.HTTPError):
            if client.ask("GET", "/readyz")[0] == 200:
                return
        time.sleep(0.05)
    raise SystemExit("the service did not become ready within two minutes")
