"""Who tells of jobs, and where their rules go, as the configuration says: files, or a Kubernetes cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from skeleton_service.live.errors import UnknownJobError
from skeleton_service.live.jobfiles import JobFiles
from skeleton_service.live.kubernetes import connect, published_keys
from skeleton_service.live.podwatch import Making, PodWatch
from skeleton_service.live.ruleapi import RuleApi
from skeleton_service.live.rulefiles import RuleFiles
from skeleton_service.live.rulekeeper import RuleStore
from skeleton_service.live.ruleobjects import EVERYWHERE, Place, RuleObjects
from skeleton_service.live.service import Service
from skeleton_service.live.serviceaccounts import ServiceAccounts
from skeleton_service.live.settings import ServiceSettings
from skeleton_service.live.upkeep import JobFollower

_PODS = "pods"


class Sources:
    """For one event loop."""

    def __init__(self, settings: ServiceSettings, service: Service, making: Making, path: str) -> None:
        """``path``: of the configuration, which is told to be wrong. Raise ContractError."""
        self._settings, self._service = settings, service
        self.followers: list[JobFollower] = []
        self._files: JobFiles | None = None
        self._pods: PodWatch | None = None
        at_once, cluster = settings.plans.processes, settings.kubernetes
        self._cluster = connect(cluster.kubeconfig, path) if cluster is not None else None
        if settings.jobs is not None:
            self._files = JobFiles(settings.jobs)
            self._by_files = JobFollower(service, "file", self._files.look, at_once)
            self.followers.append(self._by_files)
        if self._cluster is not None and cluster is not None and cluster.jobs:
            self._pods = PodWatch(self._cluster, making, namespaces=cluster.namespaces, labels=cluster.labels)
            self._by_pods = JobFollower(service, _PODS, self._pods.look, at_once)
            self.followers.append(self._by_pods)

    def accounts(self) -> ServiceAccounts | None:
        """Whose tokens of the cluster are believed; None where none is."""
        cluster, settings = self._cluster, self._settings.kubernetes
        if cluster is None or settings is None or settings.agents is None:
            return None
        agents = settings.agents
        return ServiceAccounts(partial(published_keys, cluster), audience=agents.audience, accounts=agents.accounts)

    def watches(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """Each to be run for as long as there is a service."""
        return self._pods.watches() if self._pods is not None else iter(())

    def anew(self) -> None:
        """The topology is another one."""
        if self._pods is not None:
            self._pods.anew()

    def refused_files(self) -> int:
        """Job files that are wrong now."""
        return self._files.refused + len(self._by_files.problems) if self._files is not None else 0

    def refused_pods(self) -> int:
        """Jobs of pods that are wrong now, and watches that nobody answers."""
        return self._pods.refused + len(self._by_pods.problems) if self._pods is not None else 0

    def unsure(self, job: str) -> bool:
        """Whether a job that is not known may be there all the same."""
        return any(follower.unsure(job) for follower in self.followers)

    def _place(self, job: str) -> Place | None:
        """Where a job's rules belong: with its pods, if it has some."""
        rules = self._settings.rules
        assert self._cluster is not None and rules is not None and rules.objects is not None  # noqa: S101, PT018
        if rules.objects.namespace is not None:
            return Place(rules.objects.namespace)
        home = self._pods.home(job) if self._pods is not None else None
        if home is not None:
            return Place(*home)
        try:
            source = self._service.job(job).source
        except UnknownJobError:  # it has ended just now
            return None
        return None if source == _PODS else Place(self._cluster.namespace)

    def rules(self) -> RuleStore | None:
        """Where rules go; None where nobody wants them."""
        rules, cluster = self._settings.rules, self._settings.kubernetes
        if rules is not None and rules.directory is not None:
            return RuleFiles(rules.directory, rules.reload)
        if rules is not None and (mimir := rules.mimir) is not None:
            return RuleApi(mimir.url, tenant=mimir.tenant, token_file=mimir.token_file, prefix=mimir.namespaces)
        if rules is None or rules.objects is None or self._cluster is None or cluster is None:
            return None
        if rules.objects.namespace is not None:
            namespaces: tuple[str, ...] = (rules.objects.namespace,)
        elif not cluster.jobs:
            namespaces = (self._cluster.namespace,)
        elif cluster.namespaces:
            namespaces = (*dict.fromkeys((*cluster.namespaces, self._cluster.namespace)),)
        else:
            namespaces = (EVERYWHERE,)
        return RuleObjects(
            self._cluster, self._place, namespaces=namespaces, labels=rules.objects.labels,
            instance=rules.objects.instance,
        )  # fmt: skip
