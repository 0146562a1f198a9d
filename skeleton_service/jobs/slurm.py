"""Slurm's jobs to ours: what ``scontrol show jobs --json`` says runs, on which nodes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import product

import msgspec

from exporter.contracts.codec import ContractError, decode, encode
from exporter.contracts.fabric import Fabric
from exporter.contracts.job import Container, Job, check_job

MOST_NODES = 65_536
_RUNNING = frozenset({"RUNNING", "SUSPENDED", "COMPLETING"})
_NOT_IN_NAMES = re.compile(r"[^!-.0-~]|^\.+")
_PART = re.compile(r"\[([^\][]*)\]")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


class _Name(msgspec.Struct):
    name: str = ""


class _NodeName(msgspec.Struct):
    nodename: str = ""


class _Nodes(msgspec.Struct):
    """As since Slurm 24.05."""

    list: str = ""
    allocation: tuple[_Name, ...] = ()


class _Resources(msgspec.Struct):
    nodes: _Nodes | str = ""
    allocated_nodes: tuple[_NodeName, ...] = ()
    """As until Slurm 23.11."""


class SlurmJob(msgspec.Struct):
    """What is read of one."""

    job_id: int
    name: str = ""
    job_state: list[str] | str = ""
    account: str = ""
    user_name: str = ""
    nodes: str = ""
    job_resources: _Resources | None = None

    @property
    def runs(self) -> bool:
        states = [self.job_state] if isinstance(self.job_state, str) else self.job_state
        return bool(_RUNNING.intersection(states))


class SlurmJobs(msgspec.Struct):
    jobs: list[SlurmJob]


def jobs_of(told: Iterable[SlurmJob], fabric: Fabric) -> tuple[list[Job], list[str]]:
    """(jobs by number, what is wrong, a line each).

    A job is ``NAME.NUMBER``, its tenant is its account or else its user, and it has a container on each of its nodes,
    with all RNICs of the host. Those of one node alone have no traffic to watch, and are left out.
    """
    jobs: list[Job] = []
    wrong: list[str] = []
    for each in sorted(told, key=lambda job: job.job_id):
        if not each.runs:
            continue
        title = f"{_NOT_IN_NAMES.sub('_', each.name)[:200] or 'job'}.{each.job_id}"
        try:
            nodes = nodes_of(each)
            if len(nodes) < 2:
                continue
            if unknown := [node for node in nodes if node not in fabric.hosts]:
                problem = f"node {unknown[0]!r} is not in the topology"
                raise ContractError(f"job {title}", problem, "name its host as the node is named")
            containers = tuple(
                Container(name=f"slurm/{each.job_id}/{node}", host=node, rank=rank) for rank, node in enumerate(nodes)
            )
            job = Job(
                version=1,
                job=title,
                job_uid=str(each.job_id),
                tenant=each.account or each.user_name or None,
                containers=containers,
            )
            job = decode(encode(job), Job, f"job {title}")  # a name may be whatever a file says
            check_job(job, f"job {title}")
            jobs.append(job)
        except ContractError as error:
            wrong.append(str(error))
    return jobs, wrong


def nodes_of(job: SlurmJob) -> list[str]:
    """Of its allocation, in its order; raise ContractError."""
    resources = job.job_resources or _Resources()
    told = resources.nodes
    names = [node.nodename for node in resources.allocated_nodes]
    if isinstance(told, _Nodes):
        names = [node.name for node in told.allocation] or names
    listed = (told.list if isinstance(told, _Nodes) else told) or job.nodes
    found = [name for name in names if name] or list(expanded(listed, f"job {job.job_id}"))
    return list(dict.fromkeys(found))


def expanded(hostlist: str, source: str) -> Iterator[str]:
    """Each name of a list such as ``gpu[001-003,7],login``, as ``scontrol show hostnames`` gives them.

    Raise ContractError for what is none, or has more than MOST_NODES.
    """
    count = 0
    for expression in _split(hostlist, source):
        fixed = _PART.split(expression)
        words = [
            list(_numbers(part, source)) if place % 2 else [part] for place, part in enumerate(fixed)
        ]  # what is between brackets has the odd places
        size = 1
        for each in words:
            size *= len(each)
        count += size
        if count > MOST_NODES:
            raise ContractError(source, f"has more than {MOST_NODES} nodes: {hostlist[:60]}…")
        for name in product(*words):
            yield "".join(name)


def _split(hostlist: str, source: str) -> Iterator[str]:
    """At commas that are in no brackets."""
    depth, word = 0, ""
    for letter in hostlist:
        depth += (letter == "[") - (letter == "]")
        if depth not in (0, 1):
            raise ContractError(source, f"its nodes {hostlist[:60]!r} are no list: a bracket too many")
        if letter == "," and not depth:
            yield from [word] if word else []
            word = ""
        else:
            word += letter
    if depth:
        raise ContractError(source, f"its nodes {hostlist[:60]!r} are no list: a bracket is not closed")
    yield from [word] if word else []


def _numbers(ranges: str, source: str) -> Iterator[str]:
    """With the leading zeros of each range's first."""
    for each in ranges.split(","):
        match = _RANGE.fullmatch(each)
        if match is None:
            raise ContractError(source, f"its nodes have a range {each[:60]!r}", "as 001-004")
        first, last = match[1], match[2] or match[1]
        if int(last) - int(first) >= MOST_NODES:
            raise ContractError(source, f"has more than {MOST_NODES} nodes: {each}")
        for number in range(int(first), int(last) + 1):
            yield f"{number:0{len(first)}d}"
