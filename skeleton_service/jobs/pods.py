"""Kubernetes' pods to jobs: which pods are one training job, on which hosts, with which RNICs. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from exporter.contracts.codec import ContractError, decode, encode
from exporter.contracts.fabric import Fabric
from exporter.contracts.job import Container, Job, check_job
from exporter.contracts.topology import Host

NETWORK_STATUS: Final = "k8s.v1.cni.cncf.io/network-status"
"""What a pod's networks are: a list in JSON (Network Plumbing Working Group, multi-network specification, 4.1)."""
_JOB_INDEX: Final = "batch.kubernetes.io/job-completion-index"
RDMA_RESOURCES = ("rdma/",)
"""How names of resources begin of which whoever asks has the host's RNICs (k8s-rdma-shared-dev-plugin)."""
_MOST_SAID = 1 << 16
"""Of one pod's networks: some 500 of them."""
_RUNNING = frozenset({"Pending", "Running", "Unknown"})


@dataclass(frozen=True, slots=True)
class Kind:
    """What says that a pod is of a job, and which of its pods it is. Names of labels."""

    job: str
    places: tuple[str, ...] = ()
    """By which its pods are in order: numbers, or words."""
    uid: str = ""
    """Where the job's is, if not in its pods' owner."""


JOBSET = Kind(
    "jobset.sigs.k8s.io/jobset-name",
    ("jobset.sigs.k8s.io/replicatedjob-name", "jobset.sigs.k8s.io/job-index", _JOB_INDEX),
    "jobset.sigs.k8s.io/jobset-uid",
)
KUBEFLOW = Kind(
    "training.kubeflow.org/job-name", ("training.kubeflow.org/replica-type", "training.kubeflow.org/replica-index")
)
KINDS: Sequence[Kind] = (
    JOBSET,  # before the Jobs that it is made of
    KUBEFLOW,
    Kind("batch.kubernetes.io/job-name", (_JOB_INDEX,)),
    Kind("job-name", (_JOB_INDEX,)),  # before Kubernetes 1.27
)


class Owner(msgspec.Struct, frozen=True, rename="camel"):
    """A reference to one, as objects that go with it have it."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    namespace: str = "default"
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[Owner, ...] | None = None
    deletion_timestamp: str | None = None


class _Resources(msgspec.Struct):
    limits: dict[str, str | int] | None = None


class _PodContainer(msgspec.Struct):
    resources: _Resources = msgspec.field(default_factory=_Resources)


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str = ""
    host_network: bool = False
    containers: list[_PodContainer] = msgspec.field(default_factory=list)


class _Status(msgspec.Struct):
    phase: str = ""


class Pod(msgspec.Struct):
    """What is read of one, of core/v1. Equal where nothing that is read is another."""

    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def name(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def labels(self) -> Mapping[str, str]:
        return self.metadata.labels or {}

    @property
    def networks(self) -> str:
        """What its networks are, in JSON; empty where nobody said so yet."""
        return (self.metadata.annotations or {}).get(NETWORK_STATUS, "")

    @property
    def there(self) -> bool:
        """Whether it is on a node, and has neither ended nor been told to."""
        ends = self.metadata.deletion_timestamp is not None or self.status.phase not in _RUNNING
        return bool(self.spec.node_name) and not ends


class PodList(msgspec.Struct):
    """As ``kubectl get pods --output json`` has it."""

    items: list[Pod]


class _Pci(msgspec.Struct, rename="kebab"):
    pci_address: str = ""
    pf_pci_address: str = ""
    rdma_device: str = ""


class _Device(msgspec.Struct):
    pci: _Pci = msgspec.field(default_factory=_Pci)


class _Network(msgspec.Struct, rename="kebab"):
    ips: list[str] = msgspec.field(default_factory=list)
    device_info: _Device = msgspec.field(default_factory=_Device)


@dataclass(frozen=True, slots=True)
class Key:
    """Which job a pod is of."""

    namespace: str
    name: str
    kind: Kind

    @property
    def job(self) -> str:
        """Its name among all jobs: a namespace has no dot, so it is nobody else's."""
        return f"{self.namespace}.{self.name}"


def kinds(labels: Sequence[str] = ()) -> Sequence[Kind]:
    """What is known to name a pod's job, the first first. ``labels`` of the site come before those of operators."""
    return (*(Kind(label, (_JOB_INDEX,)) for label in labels), *KINDS)


def key_of(pod: Pod, known: Sequence[Kind]) -> Key | None:
    """None for a pod of no job."""
    kind = next((each for each in known if pod.labels.get(each.job)), None)
    return None if kind is None else Key(pod.metadata.namespace, pod.labels[kind.job], kind)


def read_of(pod: Pod, known: Sequence[Kind]) -> Pod:
    """A pod with those labels and annotations alone that are read: others have many more."""
    names = {label for kind in known for label in (kind.job, kind.uid, *kind.places)}
    metadata = msgspec.structs.replace(
        pod.metadata,
        labels={name: value for name, value in pod.labels.items() if name in names},
        annotations={NETWORK_STATUS: pod.networks} if pod.networks else None,
    )
    return msgspec.structs.replace(pod, metadata=metadata)


def job_of(key: Key, pods: Iterable[Pod], fabric: Fabric, resources: Sequence[str] = RDMA_RESOURCES) -> Job | None:
    """The job of these pods, or None where none has RNICs; raise ContractError for one that cannot be.

    Its tenant is its namespace, and its containers are those of its pods that have a node, have not ended, and have
    RNICs: by their networks, by a resource whose name begins with one of ``resources``, or with their host's network.
    Whatever else a job has, as a launcher, is left out.
    """
    members = sorted((pod for pod in pods if pod.there), key=lambda pod: _place(pod, key.kind))
    containers = tuple(_containers(members, key.kind, fabric, resources))
    if not containers:
        return None
    uid = _uid(members, key.kind)
    told = encode(Job(version=1, job=key.job, job_uid=uid, tenant=key.namespace, containers=containers))
    job = decode(told, Job, f"job {key.job}")  # a name may be whatever a file says
    check_job(job, f"job {key.job}")
    return job


def owners_of(pods: Iterable[Pod]) -> tuple[Owner, ...]:
    """What these pods go with: of a JobSet its Jobs, of others the job itself."""
    owners = {each.uid: each for pod in pods for each in pod.metadata.owner_references or () if each.controller}
    return tuple(owners[uid] for uid in sorted(owners))


def jobs_of(
    pods: Iterable[Pod],
    fabric: Fabric,
    *,
    labels: Sequence[str] = (),
    resources: Sequence[str] = RDMA_RESOURCES,
) -> tuple[list[Job], list[str]]:
    """(jobs by name, what is wrong, a line each). ``labels`` name jobs before those that are known; of the site.

    A job that cannot be is left out with a line (``job_of``), as is one of two of a name.
    """
    known = kinds(labels)
    groups: defaultdict[Key, list[Pod]] = defaultdict(list)
    for pod in pods:
        if (key := key_of(pod, known)) is not None:
            groups[key].append(pod)
    jobs: dict[str, Job] = {}
    wrong: list[str] = []
    for key, members in sorted(groups.items(), key=lambda each: (each[0].job, known.index(each[0].kind))):
        try:
            job = job_of(key, members, fabric, resources)
        except ContractError as error:
            wrong.append(str(error))
            continue
        if job is not None and jobs.setdefault(key.job, job) is not job:
            wrong.append(str(twice(key)))
    return list(jobs.values()), wrong


def twice(key: Key) -> ContractError:
    return ContractError(f"job {key.job}", f"another of that name is there, beside label {key.kind.job}", "rename one")


def _containers(pods: Sequence[Pod], kind: Kind, fabric: Fabric, resources: Sequence[str]) -> Iterator[Container]:
    ranked = bool(kind.places) and all(kind.places[-1] in pod.labels for pod in pods)
    rank = 0
    for pod in pods:
        host = fabric.hosts.get(pod.spec.node_name)
        if host is None:
            problem = f"pod {pod.name}: node {pod.spec.node_name!r} is not in the topology"
            raise ContractError(f"job of {pod.labels[kind.job]}", problem, "name its host as the node is named")
        rnics = _rnics(pod, host)
        asks = any(
            name.startswith(tuple(resources)) for each in pod.spec.containers for name in each.resources.limits or ()
        )
        if rnics or asks or pod.spec.host_network:
            yield Container(name=pod.name, host=host.name, rnics=rnics, rank=rank if ranked else None)
            rank += 1


def _rnics(pod: Pod, host: Host) -> tuple[str, ...]:
    """Of the host, which are the pod's: by device, by PCI address or by IP address of each of its networks."""
    if not pod.networks:
        return ()
    if len(pod.networks) > _MOST_SAID:
        raise ContractError(f"pod {pod.name}", f"annotation {NETWORK_STATUS} has more than {_MOST_SAID} characters")
    try:
        networks = msgspec.json.decode(pod.networks, type=list[_Network])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(f"pod {pod.name}", f"annotation {NETWORK_STATUS}: {error}") from error
    found = []
    for network in networks:
        pci = network.device_info.pci
        known = {pci.rdma_device, pci.pci_address, pci.pf_pci_address, *network.ips} - {""}
        found += [rnic.name for rnic in host.rnics if known & {rnic.name, rnic.pci, *rnic.addresses}]
    return tuple(dict.fromkeys(found))


def _place(pod: Pod, kind: Kind) -> tuple[tuple[bool, int, str], ...]:
    """By number where it is one: worker 10 comes after worker 9. A master comes before workers."""
    values = (pod.labels.get(label, "") for label in kind.places)
    return (
        *((not value.isdecimal(), int(value) if value.isdecimal() else 0, value) for value in values),
        (True, 0, pod.name),
    )


def _uid(pods: Sequence[Pod], kind: Kind) -> str | None:
    """The job's: its pods' label, or their owner; None where they do not agree."""
    if kind.uid:
        found = {pod.labels.get(kind.uid, "") for pod in pods}
    else:
        found = {owner.uid for pod in pods for owner in pod.metadata.owner_references or () if owner.controller}
    return found.pop() or None if len(found) == 1 else None
