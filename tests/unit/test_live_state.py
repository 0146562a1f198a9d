"""What outlives the service, whenever it dies."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exporter.contracts.codec import ContractError
from skeleton_service.live.state import Part, State, StoredJob


def job(name: str = "j", generation: int = 1) -> StoredJob:
    return StoredJob(name, b"{}", "api", 10.0, "preload", generation, 99.0, None, 2)


def part(host: str, name: str = "j", generation: int = 1) -> Part:
    return Part(host, name, generation, 4, b"gz")


def test_what_was_put_is_there_for_the_next(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.put(job(), [part("a"), part("b")])
    state.put(job("k"), [part("b", "k", 5)])
    state.put(job(generation=2), [part("b", generation=2)])
    state.register({"a": b"one", "b": b"two"}, 7.0)
    state.register({"a": b"three"}, 8.0)
    state.close()
    state = State(tmp_path / "state.db")
    assert state.jobs() == [job(generation=2), job("k")]
    assert state.hosts() == {"b": [("j", 2), ("k", 5)]}
    assert state.part("b", "j") == part("b", generation=2)
    assert state.part("a", "j") is None
    assert state.agents() == {"a": (b"three", 8.0), "b": (b"two", 7.0)}
    assert state.forget_agents(before=8.0) == 1
    state.end("j")
    assert (state.jobs(), state.hosts()) == ([job("k")], {"b": [("k", 5)]})


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.put(job(), [part("a")])
    with pytest.raises(sqlite3.IntegrityError):
        state.put(job(generation=2), [part("a", generation=2), part("a", generation=2)])
    assert state.jobs() == [job()]
    assert state.part("a", "j") == part("a")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_text("a diary" * 1000)
    with pytest.raises(ContractError, match="is no state of this service"):
        State(path)
    assert path.read_text().startswith("a diary")


def test_a_file_of_a_later_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    State(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ContractError, match="is of a later release"):
        State(path)


WRITER = """
import sys
from pathlib import Path
from skeleton_service.live.state import Part, State, StoredJob
state = State(Path(sys.argv[1]))
generation = max((job.generation for job in state.jobs()), default=0)
while True:
    generation += 1
    parts = [Part(f"h{n}", "j", generation, 1, b"x" * 3000) for n in range(50)]
    state.put(StoredJob("j", b"{}", "api", 1.0, "preload", generation, 9.0, None, 50), parts)
    print(generation, flush=True)
"""


def test_a_process_that_is_killed_leaves_one_change_or_the_other(tmp_path: Path) -> None:
    path, chance = tmp_path / "state.db", random.Random(7)  # noqa: S311
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        said = process.communicate()[0].split()
        state = State(path)
        (stored,) = state.jobs()
        assert stored.generation >= int(said[-1]) if said else stored.generation
        assert state.hosts() == {f"h{n}": [("j", stored.generation)] for n in range(50)}
        state.close()
