"""The scripted SNMP subagent speaks pass_persist (snmpd.conf(5)) over its pipes."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.counters import subagent
from lab.counters.control import Counters
from lab.counters.dialects import A_PFC_INDICATIONS, ARISTA_MIBS, C_PRIORITY_INDICATIONS, CISCO, CISCO_MIBS
from lab.counters.timeline import FILE, LEAD_SECONDS, Event
from lab.network.design import End, Switch, draw, dump


class Subagent:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, *lines: str) -> list[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines))
        self.process.stdin.flush()
        first = self.process.stdout.readline().rstrip("\n")
        return [first, *(self.process.stdout.readline().rstrip("\n") for _ in range(2 if first.startswith(".") else 0))]

    def walk(self, root: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str, str]]:
        position = text(root)
        while True:
            answer = self.ask("getnext", position)
            if answer == ["NONE"]:
                return
            position, kind, value = answer
            oid = tuple(int(part) for part in position[1:].split("."))
            if oid[: len(root)] != root:
                return
            yield oid, kind, value


def text(oid: tuple[int, ...]) -> str:
    return "." + ".".join(map(str, oid))


@pytest.fixture
def counters(tmp_path: Path) -> Counters:
    """A lab whose first switch has one port that this machine has as well: its loopback interface."""
    design = draw(3, pods=1, rails=1, spines=1, hosts_per_pod=1)
    (tmp_path / "design.json").write_bytes(dump(design))
    counters = Counters(tmp_path)
    counters.begin()
    return counters


@pytest.fixture
def switch(counters: Counters) -> Switch:
    return counters.design.leaves[0]


@pytest.fixture
def agent(tmp_path: Path, counters: Counters, switch: Switch, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subagent]:
    monkeypatch.setattr(type(counters.design), "end", lambda self, name: End(*name.split(":"), "lo", ""))  # noqa: ARG005
    document = {"switch": switch.name, "timeline": str(tmp_path / FILE), "ports": [["lo", True], ["gone", False]]}
    (tmp_path / "ports.json").write_text(json.dumps(document))
    argv = [sys.executable, "-I", "-S", subagent.__file__, str(tmp_path / "ports.json")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Subagent(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(5) == 0


def test_a_walk_is_in_order_and_comes_to_an_end(agent: Subagent) -> None:
    assert agent.ask("PING") == ["PONG"]
    oids = [oid for oid, _, _ in agent.walk(ARISTA_MIBS)]
    assert len(oids) == 2 * 8 + 6 * 8 + 2 + 1  # the port whose interface is gone has no row
    assert all(one < other for one, other in itertools.pairwise(oids))


def test_what_is_not_there_is_none(agent: Subagent) -> None:
    assert agent.ask("get", text((*A_PFC_INDICATIONS, 999, 3))) == ["NONE"]
    assert agent.ask("get", text(A_PFC_INDICATIONS)) == ["NONE"]
    assert agent.ask("getnext", ".1.3.9") == ["NONE"]
    assert agent.ask("get", "nonsense") == ["NONE"]
    assert agent.ask("what is this") == ["NONE"]
    assert agent.ask("set", text(A_PFC_INDICATIONS), "integer 5") == ["not-writable"]


def test_an_event_shows_within_a_second(agent: Subagent, counters: Counters, switch: Switch) -> None:
    (oid, kind, value), *_ = [row for row in agent.walk(A_PFC_INDICATIONS) if row[0][-1] == 3]
    assert (kind, value) == ("counter64", "0")
    counters.add(Event(switch.name, "lo", "pfc_received", 3, once=2**40))
    time.sleep(LEAD_SECONDS + subagent.CACHE_SECONDS)
    assert agent.ask("get", text(oid)) == [text(oid), "counter64", str(2**40)]


def test_a_switch_changes_its_dialect_while_the_subagent_runs(
    agent: Subagent, counters: Counters, switch: Switch
) -> None:
    assert not list(agent.walk(CISCO_MIBS))
    counters.speak(switch.name, CISCO)
    time.sleep(subagent.CACHE_SECONDS)
    assert not list(agent.walk(ARISTA_MIBS))
    assert len(list(agent.walk(C_PRIORITY_INDICATIONS))) == 8
