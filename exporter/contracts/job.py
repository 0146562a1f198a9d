"""The job file: which containers a training job has and on which hosts, as whoever starts it knows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from exporter.contracts.codec import Contract, ContractError, Version, read

Name = Annotated[str, Meta(min_length=1, max_length=253)]
"""As long as a name of Kubernetes may be."""
PathName = Annotated[str, Meta(pattern=r"^(?!\.{1,2}$)[!-.0-~]{1,253}$")]
"""One that can be a part of a URL's path, and a file's name: printable, without a space or a slash."""


class Container(Contract, frozen=True, kw_only=True):
    """One container of a job. ``rnics`` are those that it was given; without any, all of its host's."""

    name: Name
    host: PathName
    rnics: tuple[Name, ...] = ()
    rank: Annotated[int, Meta(ge=0)] | None = None
    """Node rank, or completion index."""


class Job(Contract, frozen=True, kw_only=True):
    """A job for as long as its file is there."""

    version: Version
    job: PathName
    job_uid: str | None = None
    tenant: str | None = None
    containers: Annotated[tuple[Container, ...], Meta(min_length=1, max_length=65_536)]


def read_job(path: Path | str) -> Job:
    """Read and check a job; raise ContractError naming the file, the field and the remedy."""
    return read(path, Job, check_job)


def check_job(job: Job, source: str) -> None:
    """Refuse containers named twice, and RNICs that two containers of the job have: each sends for one."""
    names: set[str] = set()
    hosts = Counter(container.host for container in job.containers)
    taken: dict[tuple[str, str], str] = {}
    for number, container in enumerate(job.containers):
        where = f"field 'containers[{number}]'"
        if container.name in names:
            raise ContractError(source, f"{where}: container {container.name!r} appears twice")
        names.add(container.name)
        if not container.rnics and hosts[container.host] > 1:
            problem = f"{where}: has all RNICs of host {container.host!r}, where others of the job are too"
            raise ContractError(source, problem, "name the 'rnics' of each")
        for rnic in container.rnics:
            other = taken.setdefault((container.host, rnic), container.name)
            if other != container.name:
                problem = f"{where}: RNIC {rnic!r} of host {container.host!r} is container {other!r}'s already"
                raise ContractError(source, problem, "give each container its own")
