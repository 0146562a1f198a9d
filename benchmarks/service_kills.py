"""The service killed again and again while jobs begin, change and end: what it answered is what the next one knows."""

from __future__ import annotations

import random
import sqlite3
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

HOSTS = 400
_JOB_HOSTS = (2, 8)
_MOST_JOBS = 40
_SETTLE_SECONDS = 20.0


@dataclass
class Ledger:
    """What was asked for, and what of it was answered. {job: hosts}."""

    known: dict[str, list[int]] = field(default_factory=dict)
    """Begun, or changed, and answered."""
    ended: set[str] = field(default_factory=set)
    open: dict[str, set[tuple[int, ...] | None]] = field(default_factory=dict)
    """What jobs may be as well: an answer to the last request did not come. None: ended."""
    answered: int = 0
    lost: list[str] = field(default_factory=list)


class Client:
    """Somebody of one role; each request is tried once."""

    def __init__(self, port: int, keys: Keys, role: Role, name: str) -> None:
        self._pool = urllib3.HTTPConnectionPool("127.0.0.1", port, maxsize=1, timeout=20, retries=False)
        self._headers = {"Authorization": f"Bearer {keys.sign(Identity(role, name), 7200)}"}

    def ask(self, method: str, path: str, document: Any = None) -> tuple[int, bytes]:
        """Raise urllib3's HTTPError where no answer comes."""
        body = None if document is None else msgspec.json.encode(document)
        answer = self._pool.request(method, path, body=body, headers=self._headers)
        return answer.status, answer.data


def churn(client: Client, ledger: Ledger, dice: random.Random, stop: threading.Event) -> None:
    """Begin, change and end jobs until told to stop, or until the service is gone."""
    number = ledger.answered
    while not stop.is_set():
        number += 1
        running = sorted(ledger.known)
        if running and (len(running) >= _MOST_JOBS or dice.random() < 0.4):
            name = dice.choice(running)
        else:
            name = f"job-{number:06d}-{dice.randrange(10**6)}"
        hosts: tuple[int, ...] | None = tuple(sorted(dice.sample(range(HOSTS), dice.randint(*_JOB_HOSTS))))
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
        _settle(ledger, name, hosts)
        ledger.answered += 1


def _settle(ledger: Ledger, name: str, hosts: tuple[int, ...] | None) -> None:
    ledger.open.pop(name, None)
    if hosts is None:
        ledger.known.pop(name, None)
        ledger.ended.add(name)
    else:
        ledger.known[name] = list(hosts)


def examine(port: int, keys: Keys, ledger: Ledger, directory: Path, dice: random.Random) -> None:
    """Hold what the service knows against what was answered, and note what is wrong."""
    reader = Client(port, keys, Role.READER, "benchmark")
    _, body = reader.ask("GET", "/v1/jobs")
    there = {each["job"]: each for each in msgspec.json.decode(body)}
    for name in (ledger.known.keys() | ledger.ended | ledger.open.keys()) | there.keys():
        may = set(ledger.open.get(name, ()))
        if name in ledger.known:
            may.add(tuple(ledger.known[name]))
        elif name not in ledger.open or name in ledger.ended or name in ledger.open:
            may.add(None)
        found = _hosts(reader, name) if name in there else None
        if found not in may:
            ledger.lost.append(f"job {name} is {found}, not {sorted(map(str, may))}")
        _settle(ledger, name, found)
    for name in dice.sample(sorted(ledger.known), min(5, len(ledger.known))):
        _examine_plan(port, keys, ledger, name, there[name]["generation"])
    _examine_rules(ledger, directory / "rules")


def _hosts(reader: Client, name: str) -> tuple[int, ...]:
    _, body = reader.ask("GET", f"/v1/jobs/{name}/plan")
    targets = msgspec.json.decode(body, type=Plan).targets
    return tuple(sorted({int(each.source_host.partition("-")[2]) for each in targets if each.source_host}))


def _examine_plan(port: int, keys: Keys, ledger: Ledger, name: str, generation: int) -> None:
    host = host_name(ledger.known[name][0])
    agent = Client(port, keys, Role.AGENT, host)
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
    times: int, port: int, keys: Keys, directory: Path, start: Callable[[], Any], seed: int
) -> tuple[Ledger, list[float]]:
    """(ledger, seconds from each start to being ready); ``start`` starts a service, and gives its process."""
    dice, ledger, starts = random.Random(seed), Ledger(), []
    for _ in range(times + 1):
        begun = time.monotonic()
        process = start()
        try:
            _until_ready(port)
            starts.append(time.monotonic() - begun)
            examine(port, keys, ledger, directory, dice)
            stop = threading.Event()
            client = Client(port, keys, Role.OPERATOR, "benchmark")
            thread = threading.Thread(target=churn, args=(client, ledger, dice, stop))
            thread.start()
            time.sleep(dice.uniform(0, 1.0))
        finally:
            process.kill()
            process.wait()
        stop.set()
        thread.join()
        with sqlite3.connect(directory / "state.db") as connection:
            (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
        connection.close()
        if answer != "ok":
            ledger.lost.append(f"state: {answer}")
    return ledger, starts


def _until_ready(port: int) -> None:
    pool = urllib3.HTTPConnectionPool("127.0.0.1", port, timeout=5, retries=False)
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        with suppress(urllib3.exceptions.HTTPError):
            if pool.request("GET", "/readyz").status == 200:
                return
        time.sleep(0.02)
    raise SystemExit("the service did not become ready within a minute")
