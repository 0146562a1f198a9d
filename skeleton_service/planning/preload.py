"""What is known of a job before any of its containers runs: on which hosts it will, hence its RNICs."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from exporter.contracts.codec import ContractError, read_bytes
from exporter.contracts.names import endpoint_id
from exporter.contracts.skeleton import Endpoint, Skeleton, Window
from exporter.contracts.topology import Host, Topology


def unobserved(job: str, topology: Topology, hosts: Sequence[str] | None = None) -> Skeleton:
    """The skeleton of a job that nothing is known of but its ``hosts``: endpoints, and no structure.

    Without ``hosts``, every active host of the topology. A host stands for the container that will run there, so an
    endpoint is ``host/rnic``; paths are named by hosts in any case, so their series go on under the containers' names.
    Raises ContractError for a host that the topology does not have or that is named twice.
    """
    known = {host.name: host for host in topology.hosts}
    chosen = (
        [host for host in topology.hosts if host.state == "active"]
        if hosts is None
        else [_find(name, known) for name in hosts]
    )
    for name, times in Counter(host.name for host in chosen).most_common(1):
        if times > 1:
            raise ContractError("--hosts", f"host {name!r} appears twice")
    if not any(host.rnics for host in chosen):
        raise ContractError("topology", "has no RNIC on the job's hosts", "name its hosts with --hosts")
    return Skeleton(
        version=1,
        job=job,
        window=Window(start=0.0, end=0.0, step_seconds=1.0),
        period_seconds=None,
        confidence=0.0,
        fallback="basic",
        parallelism=None,
        endpoints=tuple(
            Endpoint(
                id=endpoint_id(host.name, rnic.name),
                host=host.name,
                container=host.name,
                rnic=rnic.name,
                rail=rnic.rail,
                ip=rnic.ip,
            )
            for host in chosen
            for rnic in host.rnics
        ),
        groups=(),
        edges=(),
    )


def read_hosts(names_or_file: str) -> list[str]:
    """Host names from ``a,b,c``, or from a file: between them commas or white space, after ``#`` a comment."""
    if not Path(names_or_file).is_file():
        return [name for name in names_or_file.split(",") if name]
    lines = read_bytes(names_or_file).decode("utf-8", "replace").splitlines()
    names = [name for line in lines for name in line.partition("#")[0].replace(",", " ").split()]
    if not names:
        raise ContractError(names_or_file, "names no host")
    return names


def _find(name: str, known: dict[str, Host]) -> Host:
    if name in known:
        return known[name]
    nearest = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else "add it, or name a file of host names"
    raise ContractError("--hosts", f"host {name!r} is not in the topology", remedy)
