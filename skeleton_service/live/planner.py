"""From a job to what each of its hosts is to probe. Pure."""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.fabric import Fabric
from exporter.contracts.job import Job
from exporter.contracts.names import endpoint_id
from exporter.contracts.plan import Plan
from exporter.contracts.skeleton import Endpoint, Skeleton, Window
from skeleton_service.live.state import Part
from skeleton_service.planning.plan import Settings, draft

_GZIP_LEVEL = 1
"""A plan says the same again and again: level 1 leaves a fifteenth, level 9 takes ten times as long for a twentieth."""


def unobserved(job: Job, fabric: Fabric) -> Skeleton:
    """The skeleton of a job whose traffic nobody has seen yet: its endpoints, and no structure.

    Raise ContractError for a host or an RNIC that the topology does not have.
    """
    endpoints = []
    for container in job.containers:
        host = fabric.hosts.get(container.host)
        if host is None:
            problem = f"host {container.host!r} of container {container.name!r} is not in the topology"
            raise ContractError(f"job {job.job}", problem, "add it, or correct the job")
        known = {rnic.name: rnic for rnic in host.rnics}
        for name in container.rnics or known:
            if name not in known:
                problem = f"container {container.name!r}: host {host.name!r} has no RNIC {name!r}"
                raise ContractError(f"job {job.job}", problem, f"it has {', '.join(sorted(known)) or 'none'}")
            endpoints.append(
                Endpoint(
                    id=endpoint_id(container.name, name),
                    host=host.name,
                    container=container.name,
                    rnic=name,
                    rail=known[name].rail,
                    ip=known[name].ip,
                    rank=container.rank,
                    tenant=job.tenant,
                )
            )
    return Skeleton(
        version=1,
        job=job.job,
        job_uid=job.job_uid,
        window=Window(start=0.0, end=0.0, step_seconds=1.0),
        period_seconds=None,
        confidence=0.0,
        fallback="basic",
        parallelism=None,
        endpoints=tuple(endpoints),
        groups=(),
        edges=(),
    )


def observed(skeleton: Skeleton, job: Job, fabric: Fabric) -> Skeleton:
    """What was inferred, with what the job says of its containers; raise ContractError where some were not seen.

    A plan of a part of a job would take the other containers' paths away.
    """
    known = {each.id: each for each in unobserved(job, fabric).endpoints}
    unseen = known.keys() - {each.id for each in skeleton.endpoints}
    if unseen:
        problem = f"nothing was told of {len(unseen)} of {len(known)} endpoints, as of {min(unseen)}"
        raise ContractError(f"job {job.job}", problem, "do all of its exporters answer?")
    if skeleton.fallback is not None:
        raise ContractError(f"job {job.job}", "its traffic shows no structure", "it is looked at again later")
    endpoints = tuple(
        msgspec.structs.replace(each, rank=known[each.id].rank, tenant=job.tenant)
        for each in skeleton.endpoints
        if each.id in known
    )
    return msgspec.structs.replace(skeleton, job_uid=job.job_uid, endpoints=endpoints)


def joined(made: Sequence[Part]) -> bytes:
    """The parts of one plan as one plan, as JSON. Raise IndexError where there are none."""
    plans = [msgspec.json.decode(gzip.decompress(each.body), type=Plan) for each in made]
    targets = tuple(target for plan in plans for target in plan.targets)
    return msgspec.json.encode(msgspec.structs.replace(plans[0], targets=targets))


def parts(
    skeleton: Skeleton, fabric: Fabric, *, observed: bool, generation: int, expires: float, settings: Settings
) -> list[Part]:
    """The plan of a job, host by host: of every pair of a rail before its traffic was seen, then of its skeleton's."""
    made = draft(
        skeleton,
        fabric,
        phase="skeleton" if observed else "preload",
        generation=generation,
        expires=expires,
        settings=settings,
    )
    return [
        Part(
            host=host,
            job=skeleton.job,
            generation=generation,
            paths=len(plan.targets),
            body=gzip.compress(msgspec.json.encode(plan), _GZIP_LEVEL, mtime=0),
        )
        for host, plan in made.by_host()
    ]
