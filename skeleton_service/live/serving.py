"""``skeleton-service serve``: the service with its files, its processes and its HTTP, until a signal says stop."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import uvicorn
import uvloop

from exporter.contracts.codec import ContractError
from exporter.contracts.job import Job
from exporter.contracts.service_metrics import REFUSED_FILES, REFUSED_PODS, REFUSED_RULES, RELOAD_REFUSED
from exporter.contracts.supervision import Supervisor
from skeleton_service.jobs.pods import Key, Pod
from skeleton_service.live.connections import Connection, Server
from skeleton_service.live.diagnosing import Diagnoses
from skeleton_service.live.http import application
from skeleton_service.live.identity import Keys, Tokens
from skeleton_service.live.logs import Form, log_to_stderr
from skeleton_service.live.memory import OF_CONNECTIONS, map_from
from skeleton_service.live.metrics import Metrics
from skeleton_service.live.rulekeeper import RuleKeeper
from skeleton_service.live.service import Service
from skeleton_service.live.settings import ServiceSettings, read_settings
from skeleton_service.live.sources import Sources
from skeleton_service.live.spread import Spread
from skeleton_service.live.state import State
from skeleton_service.live.suspects import Messenger, Suspects
from skeleton_service.live.tls import Certificates
from skeleton_service.live.upkeep import LOOK_SECONDS, Observer, Renewal, again
from skeleton_service.live.workers import Knowledge, Workers

_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 4096
_LAST_ANSWERS_SECONDS = 5
_OTHER_FILES = 256
"""Descriptors that are no connections."""
_FORGET_SECONDS = 3600.0
_TAKEN_ANEW = frozenset({"topology", "plans"})
_log = logging.getLogger(__name__)


class Running:
    """One service. ``run`` returns when a signal says stop."""

    def __init__(self, path: str) -> None:
        """Raise ContractError for a configuration that is wrong."""
        self._path = path
        settings = self._settings = read_settings(path)
        self._keys = Keys(Path(settings.keys)) if settings.keys is not None else None
        tls = settings.tls
        self._certificates = Certificates(tls.certificate, tls.key, tls.client_ca) if tls is not None else None
        self._state = State(Path(settings.state))
        self._reload_refused = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        settings, metrics = self._settings, Metrics()
        knowledge = settings.knowledge()
        self._planners, self._observers = _workers(settings, knowledge)
        service = self._service = Service(
            self._state, self._planners.plan, metrics=metrics, valid_seconds=settings.plans.valid_seconds
        )
        self._renewal = Renewal(service, settings.plans.processes)
        self._observer = self._keeper = None
        sources = self._sources = Sources(settings, service, self._job_of, self._path)
        self._accounts = sources.accounts()
        metrics.gauge(REFUSED_FILES, sources.refused_files)
        metrics.gauge(REFUSED_PODS, lambda: sources.refused_pods() + bool(self._accounts and self._accounts.problem))
        if settings.rules is not None and (store := sources.rules()) is not None:
            after = settings.rules.after_seconds
            self._keeper = RuleKeeper(service, store, self._planners.rules, after, sources.unsure)
        metrics.gauge(REFUSED_RULES, lambda: self._keeper.refused if self._keeper is not None else 0)
        if settings.inference is not None and self._observers is not None:
            self._observer = Observer(service, settings.inference, self._observers.infer, settings.prometheus)
        self._suspects = Suspects(settings.prometheus) if settings.prometheus is not None else None
        self._messenger = None
        if settings.webhook is not None and self._suspects is not None:
            self._messenger = Messenger(self._suspects, settings.webhook)
        self._diagnoses = None
        if settings.diagnosis is not None and self._suspects is not None:
            self._diagnoses = Diagnoses(service, settings.diagnosis, self._suspects, knowledge.topology)
            metrics.also(self._diagnoses)
        metrics.gauge(RELOAD_REFUSED, lambda: self._reload_refused)
        listening = self._listen(settings)
        server = self._server(settings, service)
        self._handle_signals(server)
        for coroutine in self._upkeep():
            self._spawn(coroutine)
        self._spawn(self._close_waits(server))
        self._spawn(self._live(server, service))
        _log.info("listens on %s port %d", *listening.getsockname()[:2], extra={"jobs": len(service.jobs)})
        try:
            await server.serve([listening])
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await service.close()
            if self._diagnoses is not None:
                self._diagnoses.close()
            self._planners.close(cancel=True)
            await _close(self._observers, cancel=True)
        _log.info("stopped")

    async def _job_of(self, key: Key, pods: Sequence[Pod]) -> Job | None:
        cluster = self._settings.kubernetes
        return await self._planners.job(key, pods, cluster.resources if cluster is not None else ())

    def _server(self, settings: ServiceSettings, service: Service) -> Server:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        config = uvicorn.Config(
            application(
                service,
                Tokens(self._keys, self._accounts) if self._keys is not None or self._accounts is not None else None,
                rules=self._keeper,
                suspects_=self._suspects,
                diagnoses=self._diagnoses,
                infers=self._observer is not None,
                metrics_protected=settings.metrics_protected,
            ),
            http=Connection.of(self._certificates, max(most - _OTHER_FILES, 1)),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_LAST_ANSWERS_SECONDS,
            backlog=_BACKLOG,
        )
        config.load()
        if self._certificates is not None:
            config.ssl = self._certificates.context
        return Server(config)

    def _handle_signals(self, server: uvicorn.Server) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            server.should_exit = True

        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reload()))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _upkeep(self) -> Iterator[Coroutine[Any, Any, None]]:
        def look() -> float:
            return LOOK_SECONDS

        yield again(self._refresh, look)
        yield again(self._renewal.turn, self._renewal.pause)
        yield again(self._service.forget_agents, lambda: _FORGET_SECONDS)
        if self._messenger is not None:
            yield again(self._messenger.turn, self._messenger.pause)
        if self._diagnoses is not None:
            yield again(self._diagnoses.turn, self._diagnoses.pause)
        for each in (*self._sources.followers, self._keeper, self._observer, self._accounts):
            if each is not None:
                yield again(each.turn, look)
        for watch in self._sources.watches():
            yield again(watch, look)

    @staticmethod
    def _listen(settings: ServiceSettings) -> socket.socket:
        address, port = settings.listen.address, settings.listen.port
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((address, port))
        except OSError as error:
            raise ContractError(f"{address}:{port}", f"cannot listen: {error.strerror}", "change 'listen'") from error
        return listening

    async def _live(self, server: uvicorn.Server, service: Service) -> None:
        """Tell whoever supervises: ready once agents are answered, then that this loop turns."""
        supervisor = Supervisor()
        while not (server.started and service.sources_looked_at.is_set()):
            await asyncio.sleep(0.05)
            supervisor.alive()
        supervisor.ready(f"{len(service.jobs)} jobs")
        try:
            while True:
                supervisor.alive()
                await asyncio.sleep(supervisor.pause or LOOK_SECONDS)
        finally:
            supervisor.stopping()

    async def _close_waits(self, server: uvicorn.Server) -> None:
        """Whoever waits for a plan would hold up the end."""
        while not server.should_exit:
            await asyncio.sleep(0.1)
        self._service.book.close()

    # ---- files that change

    async def _refresh(self) -> None:
        if self._keys is not None:
            self._try("keys", self._keys.refresh)
        if self._certificates is not None:
            self._try("certificates", self._certificates.refresh)

    @staticmethod
    def _try(what: str, refresh: Callable[[], bool]) -> None:
        try:
            if refresh():
                _log.info("%s read anew", what)
        except ContractError as error:
            _log.error("%s; what was before stays", error)

    async def _reload(self) -> None:
        """Take the topology, how plans are made and thresholds of rules anew. What is wrong changes nothing."""
        try:
            settings = await asyncio.to_thread(read_settings, self._path)
            knowledge = await asyncio.to_thread(settings.knowledge)
            planners, observers = _workers(settings, knowledge)
        except ContractError as error:
            self._reload_refused = True
            _log.error("not reloaded: %s; what was before stays", error)
            return
        self._reload_refused = False
        for name in _unchangeable(self._settings, settings):
            _log.warning("'%s' is another now: that needs a start", name)
        old = self._planners, self._observers
        self._planners, self._observers = planners, observers
        service = self._service
        service.planning, service.valid_seconds = planners.plan, settings.plans.valid_seconds
        service.renew_all()
        self._spawn(self._renewal.turn())
        if self._keeper is not None:
            self._keeper.rendering = planners.rules
            self._keeper.forget()
        self._sources.anew()
        if self._observer is not None and observers is not None:
            self._observer.infer = observers.infer
        if self._diagnoses is not None:
            self._diagnoses.know(knowledge.topology)
        old[0].close(cancel=False)
        await _close(old[1], cancel=False)
        _log.info("reloaded")


def _unchangeable(before: ServiceSettings, now: ServiceSettings) -> list[str]:
    """Settings that are others now, and that a running service does not take."""
    names = (each for each in before.__struct_fields__ if each not in _TAKEN_ANEW)
    return [name for name in names if getattr(before, name) != getattr(now, name)]


def _workers(settings: ServiceSettings, knowledge: Knowledge) -> tuple[Workers, Workers | Spread | None]:
    """Who makes plans and rules, and who infers: that may take a minute, for which no plan should wait."""
    inference, observers = settings.inference, None
    if inference is not None and inference.dask is not None:
        observers = Spread(inference.dask, knowledge.topology)
    elif inference is not None:
        return Workers(knowledge, settings.plans.processes), Workers(knowledge, inference.at_once)
    return Workers(knowledge, settings.plans.processes), observers


async def _close(observers: Workers | Spread | None, *, cancel: bool) -> None:
    if isinstance(observers, Spread):
        await observers.close()
    elif observers is not None:
        observers.close(cancel=cancel)


def serve(path: str, form: Form) -> NoReturn:
    """Serve until SIGTERM or SIGINT."""
    log_to_stderr(form)
    map_from(OF_CONNECTIONS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a socket an agent
    uvloop.run(Running(path).run())
    logging.shutdown()
    os._exit(0)  # not by way of the pools' threads: those wait for what is still being made
