"""Rules of jobs as ``PrometheusRule`` objects: what the Prometheus operator gives to Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import yaml

from skeleton_service.jobs.pods import Owner
from skeleton_service.live.errors import BrokenError
from skeleton_service.live.kubernetes import Cluster, RefusedError, told
from skeleton_service.live.rulekeeper import Held
from skeleton_service.ruleset.formats import operator_objects

MANAGED = {"app.kubernetes.io/managed-by": "skeleton-service"}
INSTANCE = "app.kubernetes.io/instance"
OF_JOB = "fabric-skeleton/job"
"""An annotation: whose rules an object holds."""
EVERYWHERE = "*"
_MOST_OWNERS = 64
"""An object stays while one of its owners is there, so some of many do."""
_PAGE = 500
_ABSENT = 404
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Place(NamedTuple):
    """Where a job's rules belong."""

    namespace: str
    owners: tuple[Owner, ...] = ()
    """What they are to vanish with."""


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    annotations: dict[str, str] | None = None
    continue_: str | None = msgspec.field(default=None, name="continue")


class _Object(msgspec.Struct):
    metadata: _Metadata


class _Page(msgspec.Struct):
    items: list[_Object] | None
    metadata: _Metadata


def _kind() -> Any:
    from lightkube.generic_resource import create_namespaced_resource, get_generic_resource  # noqa: PLC0415

    known = get_generic_resource("monitoring.coreos.com/v1", "PrometheusRule")
    return known or create_namespaced_resource("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules")


class RuleObjects:
    """A ``RuleStore``. Names are ``NAMESPACE/NAME``."""

    def __init__(
        self,
        cluster: Cluster,
        place: Callable[[str], Place | None],
        *,
        namespaces: Sequence[str],
        labels: Mapping[str, str],
        instance: str,
    ) -> None:
        """``place``: of a job; None where it is not known yet. ``namespaces``: all that there may be, or ``*``.

        ``labels``: by which the operator selects. ``instance`` tells this service's objects from those of another.
        """
        self._cluster, self._place, self._namespaces = cluster, place, namespaces
        self._own = {**MANAGED, INSTANCE: instance}
        self._labels = {**labels, **self._own}
        self._kind = _kind()

    def belongs(self, job: str) -> Place | None:
        return self._place(job)

    async def put(self, job: str, files: Mapping[str, str]) -> Sequence[str]:
        namespace, owners = self._place(job) or Place(self._cluster.namespace)
        names = []
        for made in await asyncio.to_thread(self._objects, files, namespace):
            metadata = made["metadata"]
            metadata["annotations"] = {OF_JOB: job}
            if owners:
                metadata["ownerReferences"] = [_reference(owner) for owner in owners[:_MOST_OWNERS]]
            name = f"{namespace}/{metadata['name']}"
            with told(f"PrometheusRule {name}"):
                await self._cluster.objects.apply(self._kind(made), metadata["name"], namespace=namespace, force=True)
            names.append(name)
        return names

    def _objects(self, files: Mapping[str, str], namespace: str) -> list[dict[str, Any]]:
        objects = operator_objects(files, namespace=namespace, labels=self._labels)
        return [yaml.safe_load(text) for text in objects.values()]

    async def remove(self, names: Sequence[str]) -> None:
        for each in names:
            namespace, _, name = each.partition("/")
            try:
                with told(f"PrometheusRule {each}"):
                    await self._cluster.objects.delete(self._kind, name, namespace=namespace)
            except RefusedError as error:
                if error.code != _ABSENT:
                    raise

    async def held(self) -> Held:
        there: dict[str, str] = {}
        unknown: list[str] = []
        problem = ""
        for namespace in self._namespaces:
            try:
                there |= await self._listed(namespace)
            except RefusedError as error:  # what is in others is known all the same
                unknown.append("" if namespace == EVERYWHERE else f"{namespace}/")
                problem = str(error)
        return Held(there, tuple(unknown), problem)

    async def _listed(self, namespace: str) -> dict[str, str]:
        """{name: job} of this service's objects, without what is in them."""
        within = "" if namespace == EVERYWHERE else f"namespaces/{namespace}/"
        path = f"/apis/monitoring.coreos.com/v1/{within}prometheusrules"
        selector = ",".join(f"{label}={value}" for label, value in self._own.items())
        parameters = {"labelSelector": selector, "limit": str(_PAGE)}
        found: dict[str, str] = {}
        while True:
            answer = await self._cluster.get(path, parameters, _METADATA)
            try:
                page = msgspec.json.decode(answer, type=_Page)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise BrokenError(f"{path}: the API server sent what cannot be read: {error}") from error
            for each in page.items or ():
                found[f"{each.metadata.namespace}/{each.metadata.name}"] = (each.metadata.annotations or {}).get(
                    OF_JOB, ""
                )
            if not page.metadata.continue_:
                return found
            parameters["continue"] = page.metadata.continue_

    async def settle(self) -> None:
        """The operator looks itself."""

    async def text(self, names: Sequence[str]) -> str:
        groups = []
        for each in names:
            namespace, _, name = each.partition("/")
            with told(f"PrometheusRule {each}"):
                found = await self._cluster.objects.get(self._kind, name, namespace=namespace)
            groups += found["spec"]["groups"]
        return await asyncio.to_thread(_dumped, groups) if groups else ""


def _dumped(groups: list[Any]) -> str:
    return str(yaml.safe_dump({"groups": groups}, sort_keys=False, allow_unicode=True))


def _reference(owner: Owner) -> dict[str, object]:
    """Without blockOwnerDeletion: that would take a right on the owner's finalizers."""
    return {"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
