"""What a pod of a job is given so that it has an exporter beside it: a JSON patch (RFC 6902). Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from exporter.contracts.codec import ContractError, decode, read_bytes
from skeleton_service.jobs.pods import RDMA_RESOURCES

LABEL: Final = "fabric-skeleton/inject"
"""Of a pod: ``"true"`` gives it an exporter whatever it asks for, ``"false"`` gives it none."""
_SHARED = RDMA_RESOURCES[0]
"""How names of resources begin that several containers may share: the others are a container's alone."""


class Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What pods are given, in Kubernetes' own words."""

    container: dict[str, Any]
    """Of ``initContainers``, with ``restartPolicy: Always``: before the job's, and never what it waits for."""
    volumes: list[dict[str, Any]]
    shares_device: bool = False
    """Whether it is given one of each shared RDMA resource that its pod asks for."""
    resources: tuple[str, ...] = RDMA_RESOURCES
    """How names of resources begin that say that a pod uses RDMA."""

    @property
    def name(self) -> str:
        return str(self.container["name"])


class _Request(msgspec.Struct):
    uid: str
    object: dict[str, Any] | None = None


class _Review(msgspec.Struct, rename="camel"):
    request: _Request
    api_version: str = "admission.k8s.io/v1"
    kind: str = "AdmissionReview"


def read_sidecar(path: Path | str) -> Sidecar:
    """Raise ContractError naming the file, the field and the remedy."""
    source = str(path)
    try:
        sidecar = msgspec.convert(decode(read_bytes(path), dict, source), Sidecar)
    except msgspec.ValidationError as error:
        raise ContractError(source, str(error), "keys: container, volumes, sharesDevice, resources") from error
    for field in ("name", "image"):
        if not isinstance(sidecar.container.get(field), str):
            raise ContractError(source, f"field 'container.{field}' is missing", "as in a pod's initContainers")
    if sidecar.container.get("restartPolicy") != "Always":
        raise ContractError(source, "field 'container.restartPolicy' is not Always", "else a job waits for it for ever")
    return sidecar


def reviewed(document: bytes, sidecar: Sidecar) -> bytes:
    """The answer to an AdmissionReview (admission.k8s.io/v1) of a pod: it is always allowed, some are patched.

    Raise ContractError for what is no review.
    """
    try:
        review = msgspec.json.decode(document, type=_Review)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError("the review", str(error), "an AdmissionReview of admission.k8s.io/v1, of a pod") from error
    response: dict[str, Any] = {"uid": review.request.uid, "allowed": True}
    if patch := list(patches(review.request.object or {}, sidecar)):
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(msgspec.json.encode(patch)).decode()}
    return msgspec.json.encode({"apiVersion": review.api_version, "kind": review.kind, "response": response})


def patches(pod: Mapping[str, Any], sidecar: Sidecar) -> Iterator[dict[str, Any]]:
    """None for a pod that uses no RDMA, does not want one, or has one; raise ContractError for what is no pod."""
    try:
        labels = pod.get("metadata", {}).get("labels") or {}
        spec = pod.get("spec", {})
        before, volumes = spec.get("initContainers") or [], spec.get("volumes") or []
        asked = dict.fromkeys(_asked(spec.get("containers") or [], sidecar.resources))
        containers = {each.get("name") for each in (*before, *(spec.get("containers") or []))}
        mounted = {each.get("name") for each in volumes}
        wanted = labels.get(LABEL, "true" if asked else "false") == "true"
    except (AttributeError, KeyError, TypeError) as error:
        raise ContractError("the review", f"its object is no pod: {error!r}", "register it for pods alone") from error
    if not wanted or sidecar.name in containers:
        return
    container = dict(sidecar.container)
    if sidecar.shares_device and (shared := [name for name in asked if name.startswith(_SHARED)]):
        resources = container.get("resources") or {}
        limits = {**(resources.get("limits") or {}), **dict.fromkeys(shared, "1")}
        container["resources"] = {**resources, "limits": limits}
    if before:
        yield {"op": "add", "path": "/spec/initContainers/0", "value": container}
    else:
        yield {"op": "add", "path": "/spec/initContainers", "value": [container]}
    added = [volume for volume in sidecar.volumes if volume["name"] not in mounted]
    if volumes:
        yield from ({"op": "add", "path": "/spec/volumes/-", "value": volume} for volume in added)
    elif added:
        yield {"op": "add", "path": "/spec/volumes", "value": added}


def _asked(containers: Iterable[Mapping[str, Any]], resources: tuple[str, ...]) -> Iterator[str]:
    for container in containers:
        limits = (container.get("resources") or {}).get("limits") or {}
        yield from (name for name in limits if name.startswith(resources))
