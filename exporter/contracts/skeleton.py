"""The skeleton file: the paths that a job's traffic really uses, as inferred from throughput."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Literal

from exporter.contracts.codec import Contract, ContractError, Version, read
from exporter.contracts.names import split_endpoint

Role = Literal["dp", "pp", "ep", "basic", "storage", "external"]


class Window(Contract, frozen=True, kw_only=True):
    """The observation the skeleton was made from: seconds since the epoch, and the sampling step."""

    start: float
    end: float
    step_seconds: float


class Parallelism(Contract, frozen=True, kw_only=True):
    dp: int
    pp: int
    position_groups: int


class Endpoint(Contract, frozen=True, kw_only=True):
    id: str
    host: str
    container: str
    rnic: str
    rail: int | None = None
    ip: str | None = None
    rank: int | None = None
    stage: int | None = None
    replica: int | None = None
    tenant: str | None = None


class Group(Contract, frozen=True, kw_only=True):
    """A clique: every member talks to every other, members on one host excepted."""

    role: Role
    stage: int | None = None
    rail: int | None = None
    members: tuple[str, ...]


class Edge(Contract, frozen=True, kw_only=True):
    a: str
    b: str
    role: Role


class Skeleton(Contract, frozen=True, kw_only=True):
    version: Version
    job: str
    job_uid: str | None = None
    window: Window
    period_seconds: float | None
    confidence: float
    fallback: Literal["basic"] | None
    parallelism: Parallelism | None
    endpoints: tuple[Endpoint, ...] = ()
    groups: tuple[Group, ...]
    edges: tuple[Edge, ...]

    def pairs(self) -> Iterator[tuple[str, str, Role]]:
        """Yield each undirected pair once, as (endpoint, endpoint, role): edges, then group cliques.

        Pairs on one host are left out: their traffic never leaves it.
        """
        host = {endpoint.id: endpoint.host for endpoint in self.endpoints}
        seen: set[tuple[str, str]] = set()
        cliques = ((*pair, group.role) for group in self.groups for pair in combinations(group.members, 2))
        explicit = ((edge.a, edge.b, edge.role) for edge in self.edges)
        for a, b, role in (*explicit, *cliques):
            pair = (a, b) if a.encode() < b.encode() else (b, a)
            if pair in seen or a == b or (a in host and host[a] == host.get(b)):
                continue
            seen.add(pair)
            yield *pair, role

    def pair_count(self) -> int:
        """How many pairs there are, counted without listing them; those of two groups at once count twice."""
        host = {endpoint.id: endpoint.host for endpoint in self.endpoints}
        count = len(self.edges)
        for group in self.groups:
            beside = Counter(host.get(member, member) for member in group.members)
            count += (len(group.members) ** 2 - sum(size**2 for size in beside.values())) // 2
        return count


def read_skeleton(path: Path | str) -> Skeleton:
    return read(path, Skeleton, check_skeleton)


def check_skeleton(skeleton: Skeleton, source: str) -> None:
    """Refuse endpoints named twice and groups or edges that name an endpoint the file does not list."""
    known: set[str] = set()
    for number, endpoint in enumerate(skeleton.endpoints):
        if endpoint.id in known:
            raise ContractError(source, f"field 'endpoints[{number}].id': {endpoint.id!r} appears twice")
        known.add(endpoint.id)
    mentioned = [
        (f"groups[{n}].members", member) for n, group in enumerate(skeleton.groups) for member in group.members
    ]
    mentioned += [(f"edges[{n}]", end) for n, edge in enumerate(skeleton.edges) for end in (edge.a, edge.b)]
    for field, name in mentioned:
        try:
            split_endpoint(name)
        except ValueError as error:
            raise ContractError(source, f"field '{field}': {error}") from error
        # Older files have no endpoints at all; a file that lists some must list them all.
        if known and name not in known:
            raise ContractError(source, f"field '{field}': {name!r} is not in 'endpoints'", "list every endpoint")
