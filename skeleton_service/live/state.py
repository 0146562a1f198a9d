"""What outlives the service: jobs, their plans host by host, and which agents are there. SQLite, one file.

One transaction a change, in the write-ahead log: whenever the process dies, the next one finds the change whole or not
at all. What is lost with a machine's power is at most the last moments (``synchronous=NORMAL``), never the file.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO

from exporter.contracts.codec import ContractError

_BUSY_SECONDS = 5.0
_MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE jobs (
        job TEXT PRIMARY KEY, document BLOB NOT NULL, source TEXT NOT NULL, began REAL NOT NULL,
        phase TEXT NOT NULL, generation INTEGER NOT NULL, expires REAL NOT NULL, skeleton BLOB,
        containers INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE parts (
        host TEXT NOT NULL, job TEXT NOT NULL, generation INTEGER NOT NULL, paths INTEGER NOT NULL,
        body BLOB NOT NULL, PRIMARY KEY (host, job)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX parts_of_job ON parts (job);
    CREATE TABLE agents (host TEXT PRIMARY KEY, document BLOB NOT NULL, time REAL NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE state (identity TEXT NOT NULL) STRICT;
    INSERT INTO state VALUES (lower(hex(randomblob(8))));
    """,
)
"""Each brings a file of the version before it to its own; PRAGMA user_version counts them."""


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A row of the table ``jobs``, in its order."""

    job: str
    document: bytes
    source: str
    """``file``, ``pods`` or ``api``: who may end it."""
    began: float
    """Unix seconds."""
    phase: str
    generation: int
    expires: float
    skeleton: bytes | None
    containers: int
    """How many."""


_PUT_JOB = "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Part:
    """What one host is to probe for one job."""

    host: str
    job: str
    generation: int
    paths: int
    body: bytes
    """The plan as JSON, gzipped."""


class State:
    """For one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it; raise ContractError where it is none of ours, or of a later release."""
        self.path = path
        self._held = _hold(path)
        try:
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            for setting in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
                self._connection.execute(f"PRAGMA {setting}")
            self._migrate()
        except sqlite3.Error as error:
            raise ContractError(
                str(path), f"is no state of this service: {error}", "move it away to begin anew"
            ) from error

    def _migrate(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(_MIGRATIONS):
            problem = f"is of a later release (version {version}, this one knows {len(_MIGRATIONS)})"
            raise ContractError(str(self.path), problem, "run that release, or move the file away to begin anew")
        for number in range(version, len(_MIGRATIONS)):
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {_MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            if self._connection.in_transaction:  # of a full disk SQLite has rolled back itself
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()
        self._held.close()

    @property
    def identity(self) -> str:
        """Of this file: one that was made anew has another."""
        (identity,) = self._connection.execute("SELECT identity FROM state").fetchone()
        return str(identity)

    # ---- jobs and their plans

    def put(self, job: StoredJob, parts: Iterable[Part]) -> None:
        """Keep a job and all parts of its plan in place of those before."""
        with self._transaction() as connection:
            values = tuple(getattr(job, each.name) for each in fields(job))
            connection.execute(_PUT_JOB, values)
            connection.execute("DELETE FROM parts WHERE job = ?", (job.job,))
            connection.executemany(
                "INSERT INTO parts VALUES (?, ?, ?, ?, ?)",
                ((each.host, each.job, each.generation, each.paths, each.body) for each in parts),
            )

    def end(self, job: str) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM jobs WHERE job = ?", (job,))
            connection.execute("DELETE FROM parts WHERE job = ?", (job,))

    def jobs(self) -> list[StoredJob]:
        rows = self._connection.execute("SELECT * FROM jobs ORDER BY job")
        return [StoredJob(*row) for row in rows]

    def part(self, host: str, job: str) -> Part | None:
        row = self._connection.execute("SELECT * FROM parts WHERE host = ? AND job = ?", (host, job)).fetchone()
        return Part(*row) if row is not None else None

    def parts(self, job: str) -> list[Part]:
        rows = self._connection.execute("SELECT * FROM parts WHERE job = ? ORDER BY host", (job,))
        return [Part(*row) for row in rows]

    def hosts(self) -> dict[str, list[tuple[str, int]]]:
        """{host: (job, generation) of each part, in the order of jobs}"""
        found: dict[str, list[tuple[str, int]]] = {}
        for host, job, generation in self._connection.execute(
            "SELECT host, job, generation FROM parts ORDER BY host, job"
        ):
            found.setdefault(host, []).append((job, generation))
        return found

    # ---- agents

    def register(self, documents: Mapping[str, bytes], now: float) -> None:
        """Keep what these hosts' agents said last."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO agents VALUES (?, ?, ?)",
                ((host, document, now) for host, document in documents.items()),
            )

    def agents(self) -> dict[str, tuple[bytes, float]]:
        """{host: what its agent said last, and when}"""
        rows = self._connection.execute("SELECT host, document, time FROM agents")
        return {host: (document, time) for host, document, time in rows}

    def forget_agents(self, before: float) -> int:
        """Those that said nothing since; how many they were."""
        with self._transaction() as connection:
            return connection.execute("DELETE FROM agents WHERE time < ?", (before,)).rowcount


def _hold(path: Path) -> IO[bytes]:
    """Keep others from the file: what each service has in mind of it is its own. Raise ContractError."""
    try:
        held = open(f"{path}.lock", "ab")  # noqa: SIM115 - for as long as the service runs
    except OSError as error:
        raise ContractError(f"{path}.lock", error.strerror or str(error), "its directory must be writable") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        held.close()
        raise ContractError(str(path), "another service has it", "end that one, or give each its own") from error
    return held
