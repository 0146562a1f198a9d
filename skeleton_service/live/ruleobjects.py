"""Rules of jobs as ``PrometheusRule`` objects: what the Prometheus operator gives to Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from skeleton_service.live.kubernetes import RefusedError, told
from skeleton_service.pods import Owner
from skeleton_service.ruleset.formats import operator_objects

if TYPE_CHECKING:
    from lightkube import AsyncClient

MANAGED = {"app.kubernetes.io/managed-by": "skeleton-service"}
INSTANCE = "app.kubernetes.io/instance"
_ABSENT = " 404:"
_log = logging.getLogger(__name__)

Home = Callable[[str], tuple[str, tuple[Owner, ...]] | None]
"""From a job to (its namespace, what its rules are to vanish with); None for a job of no pods."""


def _kind() -> Any:
    from lightkube.generic_resource import create_namespaced_resource, get_generic_resource  # noqa: PLC0415

    known = get_generic_resource("monitoring.coreos.com/v1", "PrometheusRule")  # type: ignore[no-untyped-call]
    return known or create_namespaced_resource("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules")


class RuleObjects:
    """A ``RuleStore``. Names are ``NAMESPACE/NAME``."""

    def __init__(
        self,
        client: AsyncClient,
        home: Home,
        *,
        own: str | None = None,
        namespaces: Sequence[str] = (),
        labels: Mapping[str, str],
        instance: str,
    ) -> None:
        """``own``: the namespace of all objects; without it each is in that of its job's pods, or in the service's.

        ``namespaces``: whose pods are jobs; of all without any. ``labels``: by which the operator selects. ``instance``
        tells this service's objects from those of another in the cluster.
        """
        self._client, self._home, self._own = client, home, own
        self._namespace = own or client.namespace
        self._swept = (own,) if own else (*dict.fromkeys((*namespaces, self._namespace)),) if namespaces else ("*",)
        self._labels = {**labels, **MANAGED, INSTANCE: instance}
        self._selector = {**MANAGED, INSTANCE: instance}
        self._kind = _kind()

    def belongs(self, job: str) -> tuple[str, tuple[Owner, ...]]:
        found = None if self._own else self._home(job)
        return found if found is not None else (self._namespace, ())

    async def put(self, job: str, files: Mapping[str, str]) -> Sequence[str]:
        namespace, owners = self.belongs(job)
        names = []
        for text in operator_objects(files, namespace=namespace, labels=self._labels).values():
            made = yaml.safe_load(text)
            if owners:
                made["metadata"]["ownerReferences"] = [_reference(owner) for owner in owners]
            name = f"{namespace}/{made['metadata']['name']}"
            with told(f"PrometheusRule {name}"):
                await self._client.apply(self._kind(made), made["metadata"]["name"], namespace=namespace, force=True)
            names.append(name)
        return names

    async def remove(self, names: Sequence[str]) -> None:
        for each in names:
            namespace, _, name = each.partition("/")
            try:
                with told(f"PrometheusRule {each}"):
                    await self._client.delete(self._kind, name, namespace=namespace)
            except RefusedError as error:
                if _ABSENT not in str(error):
                    raise

    async def sweep(self, names: Collection[str]) -> Collection[str]:
        there = set()
        for namespace in self._swept:
            with told("list PrometheusRule objects"):
                async for each in self._client.list(self._kind, namespace=namespace, labels=dict(self._selector)):
                    there.add(f"{each.metadata.namespace}/{each.metadata.name}")
        left = there - set(names)
        await self.remove(sorted(left))
        for each in sorted(left):
            _log.info("rules removed: of no job that is there", extra={"object": each})
        return set(names) - there

    async def settle(self) -> None:
        """The operator looks itself."""

    async def text(self, names: Sequence[str]) -> str:
        texts = []
        for each in names:
            namespace, _, name = each.partition("/")
            with told(f"PrometheusRule {each}"):
                found = await self._client.get(self._kind, name, namespace=namespace)
            texts.append(yaml.safe_dump({"groups": found["spec"]["groups"]}, sort_keys=False, allow_unicode=True))
        return "---\n".join(texts)


def _reference(owner: Owner) -> dict[str, object]:
    """Without blockOwnerDeletion: that would take a right on the owner's finalizers."""
    return {"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
