"""The service's configuration file: strict, so that a misspelt key is an error with the right name beside it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from exporter.contracts.codec import ContractError, decode, read_bytes
from exporter.contracts.secrets import read_secret
from exporter.contracts.strict import convert_strictly
from exporter.contracts.topology import read_topology
from skeleton_service.alertlinks import GRAFANA, RUNBOOKS
from skeleton_service.jobs.pods import RDMA_RESOURCES
from skeleton_service.live.identity import read_keys
from skeleton_service.live.tls import Certificates
from skeleton_service.live.workers import Knowledge
from skeleton_service.planning.plan import Settings, SmallProbe
from skeleton_service.reading.prometheusapi import Api
from skeleton_service.ruleset import Links, Thresholds, read_thresholds
from skeleton_service.ruleset.formats import check_labels

Port = Annotated[int, Meta(ge=1, le=65535)]
DEFAULT_PORT = 9106


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every section: unknown keys are errors."""


class Listen(_Section, frozen=True, kw_only=True):
    address: str = "0.0.0.0"  # noqa: S104 - agents of all hosts ask
    port: Port = DEFAULT_PORT
    plain: bool = False
    """Without TLS though not on loopback: where something before it, or a mesh, has it."""


class Tls(_Section, frozen=True, kw_only=True):
    """Files in PEM, looked at again when they change."""

    certificate: str
    key: str
    client_ca: str | None = None
    """Who signs client certificates that are believed; without it none is asked for."""


class Plans(_Section, frozen=True, kw_only=True):
    """What each plan is to be like; as the options of ``skeleton-service plan``."""

    probes: frozenset[SmallProbe] = frozenset({"udp"})
    coverage: Annotated[float, Meta(gt=0, lt=1)] = 0.99
    max_paths: Annotated[int, Meta(ge=1, le=100_000)] = 4096
    exploration: Annotated[float, Meta(ge=0, le=1)] = 0.05
    rotation: Annotated[float, Meta(ge=0, le=1)] = 0.25
    traffic_class: int = Settings().traffic_class
    default_traffic_class: int | None = Settings().default_traffic_class
    valid_seconds: Annotated[float, Meta(ge=60, le=7 * 86400)] = 3600.0
    """How long agents go on probing for a job when they hear nothing more of it."""
    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    """That make plans: beside the one that answers."""

    @property
    def settings(self) -> Settings:
        """Raise ContractError for traffic classes that would measure something else than the fabric."""
        return Settings(
            probes=self.probes,
            path_probability=self.coverage,
            max_paths=self.max_paths,
            exploration=self.exploration,
            rotation=self.rotation,
            traffic_class=self.traffic_class,
            default_traffic_class=self.default_traffic_class,
        )


class Dask(_Section, frozen=True, kw_only=True):
    """A cluster whose workers infer: each runs what its scheduler is sent, so only with TLS in a network of others."""

    scheduler: str
    """``tcp://HOST:8786``, or ``tls://HOST:8786`` with the files."""
    ca_file: str | None = None
    certificate: str | None = None
    key: str | None = None


class Inference(_Section, frozen=True, kw_only=True):
    """From jobs' traffic to their skeletons."""

    exporters: str | None = None
    """URL of a host's exporter: ``{host}`` stands for its name, as in ``http://{host}:9105``. It is asked for what it
    has seen; without it the Prometheus of section ``prometheus`` is, for each job's series."""
    at_once: Annotated[int, Meta(ge=1, le=4096)] = 1
    """Jobs that are looked at at a time: processes beside the service, or tasks on Dask's workers."""
    dask: Dask | None = None
    after_seconds: Annotated[float, Meta(ge=10, le=86400)] = 300.0
    """From a job's beginning, or its last change, to the first look at its traffic."""
    every_seconds: Annotated[float, Meta(ge=10, le=86400)] = 900.0


class Agents(_Section, frozen=True, kw_only=True):
    """Exporters whose tokens are the cluster's: of their pods, which names their nodes (Kubernetes 1.30)."""

    accounts: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Service accounts that are exporters', ``NAMESPACE/NAME``."""
    audience: str = "fabric-skeleton"
    """That their tokens are made for."""


class Kubernetes(_Section, frozen=True, kw_only=True):
    """The cluster whose pods are jobs."""

    kubeconfig: str | None = None
    """Without it the service account of the service's own pod, or what ``KUBECONFIG`` names."""
    jobs: bool = True
    """Whether pods are; without it only rules go there."""
    namespaces: tuple[str, ...] = ()
    """Whose pods are looked at; of all without any."""
    labels: tuple[str, ...] = ()
    """Of the site, that name a pod's job: before those of operators."""
    resources: tuple[str, ...] = RDMA_RESOURCES
    """How names of resources begin of which a pod that asks for one has all RNICs of its node."""
    agents: Agents | None = None


class RuleObjectSettings(_Section, frozen=True, kw_only=True):
    """``PrometheusRule`` objects, each in the namespace of its job."""

    labels: dict[str, str] = {}
    """By which the operator's ``ruleSelector`` finds them, as ``release: prometheus``."""
    namespace: str | None = None
    """Of all of them, if not each job's own. They do not vanish with their jobs' objects there, but with the jobs."""
    instance: str = "skeleton-service"
    """Another for each service in a cluster: what is not of a job of this one is taken away."""


class MimirSettings(_Section, frozen=True, kw_only=True):
    """Mimir's ruler, by its API: 20 rules a group and 70 groups a tenant are kept or told (its limits by default)."""

    url: str
    """With its prefix for Prometheus' API: ``http://mimir:8080/prometheus``."""
    tenant: str | None = None
    """``X-Scope-OrgID``."""
    token_file: str | None = None
    namespaces: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]+$")] = "fabric-skeleton"
    """How names of its namespaces begin, before the job's: another for each service of a tenant."""


class Rules(_Section, frozen=True, kw_only=True):
    """Rules of jobs: files for a Prometheus beside the service, or objects for the Prometheus operator."""

    directory: str | None = None
    objects: RuleObjectSettings | None = None
    mimir: MimirSettings | None = None
    after_seconds: Annotated[float, Meta(ge=0, le=86400)] = 60.0
    """Jobs that end sooner get none."""
    reload: str | None = None
    """What is posted to when files have changed: ``http://prometheus:9090/-/reload``."""
    thresholds: str | None = None
    runbooks: str = RUNBOOKS
    grafana: str = GRAFANA


class DiagnosisSettings(_Section, frozen=True, kw_only=True):
    """From the probe records of jobs that something hurts to what is broken."""

    exporters: str
    """URL of a host's exporter, as ``inference.exporters``."""
    jobs: Annotated[int, Meta(ge=1, le=64)] = 4
    """That are diagnosed at a time, each by a process."""
    hosts: Annotated[int, Meta(ge=2, le=4096)] = 64
    """Of a job, whose records are asked for: those that it hurts most."""
    every_seconds: Annotated[float, Meta(ge=1, le=60)] = 5.0
    quiet_seconds: Annotated[float, Meta(ge=30, le=86400)] = 300.0
    """For which nothing hurts a job before it is left."""


class Prometheus(_Section, frozen=True, kw_only=True):
    """The Prometheus that has the rules: what it says is suspect is what people and automation are told."""

    url: str
    token_file: str | None = None


class Webhook(_Section, frozen=True, kw_only=True):
    """Told of suspects as they come and go: to cordon hosts, or to open tickets."""

    url: str
    key_file: str
    """What its messages are signed with: a secret on the first line."""
    every_seconds: Annotated[float, Meta(ge=5, le=3600)] = 15.0


class ServiceSettings(_Section, frozen=True, kw_only=True):
    """A whole configuration. Paths are absolute once read."""

    topology: str
    state: str
    """The file that outlives the service."""
    jobs: str | None = None
    """A directory of job files."""
    kubernetes: Kubernetes | None = None
    listen: Listen = msgspec.field(default_factory=Listen)
    tls: Tls | None = None
    keys: str | None = None
    """Keys that sign bearer tokens, one a line, the newest first."""
    metrics_protected: bool = False
    """Whether ``/metrics`` takes a reader's token or certificate."""
    plans: Plans = msgspec.field(default_factory=Plans)
    inference: Inference | None = None
    rules: Rules | None = None
    prometheus: Prometheus | None = None
    webhook: Webhook | None = None
    diagnosis: DiagnosisSettings | None = None

    def knowledge(self) -> Knowledge:
        """What work is done by, read from its files. Raise ContractError."""
        topology = msgspec.msgpack.encode(read_topology(self.topology))
        thresholds = read_thresholds(self.rules.thresholds) if self.rules and self.rules.thresholds else Thresholds()
        links = Links(self.rules.runbooks, self.rules.grafana) if self.rules is not None else Links()
        return Knowledge(topology, self.plans.settings, thresholds, links)


def read_settings(path: Path | str) -> ServiceSettings:
    """Read and check a configuration; relative paths in it are relative to it. Raise ContractError."""
    source = str(path)
    settings = convert_strictly(decode(read_bytes(path), dict, source), ServiceSettings, source)
    base = Path(path).absolute().parent

    def resolve(name: str | None) -> str | None:
        return None if name is None else str(base / name)

    tls = settings.tls
    if tls is not None:
        tls = Tls(certificate=str(base / tls.certificate), key=str(base / tls.key), client_ca=resolve(tls.client_ca))
    inference = settings.inference
    if inference is not None and (dask := inference.dask) is not None:
        files = {name: resolve(getattr(dask, name)) for name in ("ca_file", "certificate", "key")}
        inference = msgspec.structs.replace(inference, dask=msgspec.structs.replace(dask, **files))
    prometheus, webhook = settings.prometheus, settings.webhook
    if prometheus is not None:
        prometheus = msgspec.structs.replace(prometheus, token_file=resolve(prometheus.token_file))
    if webhook is not None:
        webhook = msgspec.structs.replace(webhook, key_file=str(base / webhook.key_file))
    rules = settings.rules
    if rules is not None:
        thresholds = resolve(rules.thresholds)
        mimir = rules.mimir
        if mimir is not None:
            mimir = msgspec.structs.replace(mimir, token_file=resolve(mimir.token_file))
        directory = resolve(rules.directory)
        rules = msgspec.structs.replace(rules, directory=directory, mimir=mimir, thresholds=thresholds)
    kubernetes = settings.kubernetes
    if kubernetes is not None:
        kubernetes = msgspec.structs.replace(kubernetes, kubeconfig=resolve(kubernetes.kubeconfig))
    settings = msgspec.structs.replace(
        settings,
        topology=str(base / settings.topology),
        state=str(base / settings.state),
        jobs=resolve(settings.jobs),
        kubernetes=kubernetes,
        keys=resolve(settings.keys),
        tls=tls,
        inference=inference,
        rules=rules,
        prometheus=prometheus,
        webhook=webhook,
    )
    _check(settings, source)
    return settings


@contextmanager
def _of(source: str, name: str) -> Iterator[None]:
    """What is wrong with a file or a value that a configuration names is told with the name that it has there."""
    try:
        yield
    except ContractError as error:
        raise ContractError(source, f"{name}: {error.source}: {error.problem}", error.remedy) from error


def _check_url(source: str, field: str, url: str) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ContractError(source, f"field '{field}': {url!r} is no URL", "https://…")


def _check_rules(rules: Rules, kubernetes: Kubernetes | None, source: str) -> None:
    if sum(each is not None for each in (rules.directory, rules.objects, rules.mimir)) != 1:
        raise ContractError(
            source, "section 'rules' says not where they go", "give it 'directory', 'objects' or 'mimir', one of them"
        )
    if rules.objects is not None:
        if kubernetes is None:
            raise ContractError(
                source, "section 'rules.objects' is of a Kubernetes cluster", "add a section 'kubernetes'"
            )
        if rules.reload is not None:
            raise ContractError(source, "field 'rules.reload': the operator looks itself", "take it out")
        labels = rules.objects.labels | {"instance": rules.objects.instance}
        check_labels(labels, source, "section 'rules.objects':")
    if rules.reload is not None:
        _check_url(source, "rules.reload", rules.reload)
    if rules.mimir is not None:
        _check_url(source, "rules.mimir.url", rules.mimir.url)
        if rules.mimir.token_file is not None:
            with _of(source, "field 'rules.mimir.token_file'"):
                read_secret(rules.mimir.token_file)


def _check_accounts(accounts: Iterable[str], source: str) -> None:
    for each in accounts:
        if len(list(filter(None, each.split("/")))) != 2:
            problem = f"field 'kubernetes.agents.accounts': {each!r} is no service account"
            raise ContractError(source, problem, "NAMESPACE/NAME")


def _check(settings: ServiceSettings, source: str) -> None:
    cluster = settings.kubernetes
    if cluster is not None:
        check_labels(dict.fromkeys(cluster.labels, ""), source, "field 'kubernetes.labels':")
    if cluster is not None and cluster.agents is not None:
        _check_accounts(cluster.agents.accounts, source)
    by_tokens = settings.keys is not None or (cluster is not None and cluster.agents is not None)
    if not by_tokens and (settings.tls is None or settings.tls.client_ca is None):
        remedy = "name the 'keys' of bearer tokens, or a 'tls.client_ca'"
        raise ContractError(source, "says not whom to believe", remedy)
    address = settings.listen.address
    try:
        own = ipaddress.ip_address(address)
    except ValueError as error:
        problem = f"field 'listen.address': {address!r} is no IP address"
        raise ContractError(source, problem, "0.0.0.0 is every IPv4 address, :: every address") from error
    if settings.tls is None and not own.is_loopback and not settings.listen.plain:
        problem = f"tokens would go over the network in the clear, to {address}"
        raise ContractError(source, problem, "add a section 'tls', or 'listen.plain: true' where another has it")
    if settings.keys is not None:
        with _of(source, "field 'keys'"):
            read_keys(Path(settings.keys))
    if settings.tls is not None:
        with _of(source, "section 'tls'"):
            Certificates(settings.tls.certificate, settings.tls.key, settings.tls.client_ca)
    if not (directory := Path(settings.state).parent).is_dir():
        raise ContractError(
            source, f"field 'state': there is no directory {directory}", "make it, for the service to write"
        )
    if settings.rules is not None:
        _check_rules(settings.rules, settings.kubernetes, source)
    for name in ("inference", "diagnosis"):
        section: Inference | DiagnosisSettings | None = getattr(settings, name)
        if section is not None and section.exporters is not None and "{host}" not in section.exporters:
            problem = f"field '{name}.exporters': {section.exporters!r} is the same for all hosts"
            raise ContractError(source, problem, "write {host} where its name goes: http://{host}:9105")
    if settings.inference is not None and settings.inference.exporters is None and settings.prometheus is None:
        problem = "section 'inference' says not who tells of traffic"
        raise ContractError(source, problem, "name its 'exporters', or add a section 'prometheus'")
    if settings.inference is not None and (dask := settings.inference.dask) is not None:
        scheme = urlsplit(dask.scheduler).scheme
        files = [each for each in (dask.ca_file, dask.certificate, dask.key) if each is not None]
        if scheme not in ("tcp", "tls") or len(files) != (3 if scheme == "tls" else 0):
            problem = f"section 'inference.dask': {dask.scheduler!r} with {len(files)} files"
            raise ContractError(
                source, problem, "tcp://HOST:8786, or tls://HOST:8786 with ca_file, certificate and key"
            )
    if settings.diagnosis is not None and settings.prometheus is None:
        problem = "section 'diagnosis' is of jobs that Prometheus says are hurt"
        raise ContractError(source, problem, "add a section 'prometheus'")
    with _of(source, "section 'plans'"):
        _ = settings.plans.settings
    if settings.webhook is not None:
        if settings.prometheus is None:
            raise ContractError(source, "section 'webhook' tells what Prometheus says", "add a section 'prometheus'")
        _check_url(source, "webhook.url", settings.webhook.url)
        with _of(source, "field 'webhook.key_file'"):
            read_secret(settings.webhook.key_file)
    if settings.prometheus is not None:
        with _of(source, "section 'prometheus'"):
            Api(settings.prometheus.url, settings.prometheus.token_file)
    with _of(source, "field 'topology', or 'rules.thresholds'"):
        settings.knowledge()
