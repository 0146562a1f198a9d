"""Who tells of jobs, and where their rules go, as the configuration says: files, or a Kubernetes cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from skeleton_service.live.jobfiles import JobFiles
from skeleton_service.live.kubernetes import connect, published_keys
from skeleton_service.live.podwatch import Making, PodWatch
from skeleton_service.live.rulefiles import RuleFiles
from skeleton_service.live.rulekeeper import RuleStore
from skeleton_service.live.ruleobjects import RuleObjects
from skeleton_service.live.service import Service
from skeleton_service.live.serviceaccounts import ServiceAccounts
from skeleton_service.live.settings import ServiceSettings
from skeleton_service.live.upkeep import JobFollower


class Sources:
    """For one event loop."""

    def __init__(self, settings: ServiceSettings, service: Service, making: Making, path: str) -> None:
        """``path``: of the configuration, which is told to be wrong. Raise ContractError."""
        self._settings = settings
        self.followers: list[JobFollower] = []
        self._files: JobFiles | None = None
        self._pods: PodWatch | None = None
        at_once, cluster = settings.plans.processes, settings.kubernetes
        self._client = connect(cluster.kubeconfig, path) if cluster is not None else None
        if settings.jobs is not None:
            self._files = JobFiles(settings.jobs)
            self._by_files = JobFollower(service, "file", self._files.look, at_once)
            self.followers.append(self._by_files)
        if self._client is not None and cluster is not None and cluster.jobs:
            self._pods = PodWatch(self._client, making, namespaces=cluster.namespaces, labels=cluster.labels)
            self._by_pods = JobFollower(service, "pods", self._pods.look, at_once)
            self.followers.append(self._by_pods)

    def accounts(self) -> ServiceAccounts | None:
        """Whose tokens of the cluster are believed; None where none is."""
        client, cluster = self._client, self._settings.kubernetes
        if client is None or cluster is None or cluster.agents is None:
            return None
        agents = cluster.agents
        return ServiceAccounts(partial(published_keys, client), audience=agents.audience, accounts=agents.accounts)

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

    def rules(self) -> RuleStore | None:
        """Where rules go; None where nobody wants them."""
        rules, cluster = self._settings.rules, self._settings.kubernetes
        if rules is not None and rules.directory is not None:
            return RuleFiles(rules.directory, rules.reload)
        if rules is None or rules.objects is None or self._client is None or cluster is None:
            return None
        return RuleObjects(
            self._client,
            self._pods.home if self._pods is not None else lambda _: None,
            own=rules.objects.namespace,
            namespaces=cluster.namespaces,
            labels=rules.objects.labels,
            instance=rules.objects.instance,
        )
