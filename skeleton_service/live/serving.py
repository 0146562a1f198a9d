"""``skeleton-service serve``: the service with its files, its processes and its HTTP, until a signal says stop."""

from __future__ import annotations

import asyncio
import logging
import random
import resource
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlencode

import msgspec
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from exporter.contracts.codec import ContractError
from exporter.contracts.job import Job
from exporter.contracts.service_metrics import REFUSED_FILES, RELOAD_REFUSED
from skeleton_service.live.http import application
from skeleton_service.live.identity import Keys
from skeleton_service.live.jobfiles import JobFiles, ended
from skeleton_service.live.logs import Form, log_to_stderr
from skeleton_service.live.metrics import Metrics
from skeleton_service.live.rulefiles import RuleFiles
from skeleton_service.live.service import BusyError, ForeignJobError, Service, UnknownJobError
from skeleton_service.live.settings import Inference, ServiceSettings, read_settings
from skeleton_service.live.state import State, StoredJob
from skeleton_service.live.tls import Certificates
from skeleton_service.live.workers import Workers

LOOK_SECONDS = 1.0
"""From one look at job files, keys and certificates to the next."""
_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 4096
_LAST_ANSWERS_SECONDS = 5
_log = logging.getLogger(__name__)


class _Protocol(HttpToolsProtocol):
    """Requests carry the client's certificate, which only the connection knows."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        handshake = self.transport.get_extra_info("ssl_object")
        self.scope["state"]["certificate"] = handshake.getpeercert() if handshake is not None else None


class _Server(uvicorn.Server):
    """Signals are the service's to handle: uvicorn would end by the one that it got, as if it had not been handled."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Running:
    """One service. ``run`` returns when a signal says stop."""

    def __init__(self, path: str) -> None:
        """Raise ContractError for a configuration that is wrong."""
        self._path = path
        settings = self._settings = read_settings(path)
        self._keys = Keys(Path(settings.keys)) if settings.keys is not None else None
        tls = settings.tls
        self._certificates = Certificates(tls.certificate, tls.key, tls.client_ca) if tls is not None else None
        self._files = JobFiles(settings.jobs) if settings.jobs is not None else None
        self._planners, self._observers = _workers(settings)
        self._rules = self._rule_files(settings)
        self._state = State(Path(settings.state))
        self._server: uvicorn.Server | None = None
        self.reload_refused = False

    async def run(self) -> None:
        settings = self._settings
        metrics = Metrics()
        metrics.gauge(RELOAD_REFUSED, lambda: self.reload_refused)
        metrics.gauge(REFUSED_FILES, lambda: self._files.refused if self._files is not None else 0)
        service = Service(self._state, self._planners.plan, metrics=metrics, valid_seconds=settings.plans.valid_seconds)
        app = application(service, self._keys, metrics_protected=settings.metrics_protected)
        certificates = self._certificates
        config = uvicorn.Config(
            app,
            http=_Protocol,
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
        if certificates is not None:
            config.ssl = certificates.context
        server = self._server = _Server(config)
        loop = asyncio.get_running_loop()
        reloading: set[asyncio.Task[None]] = set()

        def reload() -> None:
            reloading.add(task := loop.create_task(self._reload(service)))
            task.add_done_callback(reloading.discard)

        def stop() -> None:
            server.should_exit = True

        loop.add_signal_handler(signal.SIGHUP, reload)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loops = [self._look(service), self._renew(service)]
        loops += [self._keep_rules(service, self._rules)] if self._rules is not None else []
        loops += [self._observe(service, settings.inference)] if settings.inference is not None else []
        tasks = [asyncio.create_task(each) for each in loops]
        listening = self._listen(settings)
        _log.info("listens on %s port %d", *listening.getsockname()[:2], extra={"jobs": len(service.jobs)})
        closing = asyncio.create_task(self._close_waits(service, server))
        try:
            await server.serve([listening])
        finally:
            for task in (*tasks, closing):
                task.cancel()
            await asyncio.gather(*tasks, closing, return_exceptions=True)
            await service.close()
            for workers in filter(None, (self._planners, self._observers)):
                workers.close(cancel=True)
        _log.info("stopped")

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

    @staticmethod
    async def _close_waits(service: Service, server: uvicorn.Server) -> None:
        """Whoever waits for a plan would hold up the end."""
        while not server.should_exit:
            await asyncio.sleep(0.1)
        service.book.close()

    # ---- files

    async def _look(self, service: Service) -> None:
        while True:
            for refresh in (self._refresh_keys, self._refresh_certificates):
                try:
                    refresh()
                except ContractError as error:
                    _log.error("%s; what was before stays", error)
            if self._files is not None:
                await self._follow_files(service, self._files)
            else:
                service.files_looked_at.set()
            await asyncio.sleep(LOOK_SECONDS)

    def _refresh_keys(self) -> None:
        if self._keys is not None and self._keys.refresh():
            _log.info("keys read anew")

    def _refresh_certificates(self) -> None:
        if self._certificates is not None and self._certificates.refresh():
            _log.info("certificates read anew")

    async def _follow_files(self, service: Service, files: JobFiles) -> None:
        changes = await asyncio.to_thread(files.look)
        if changes is None:
            return
        service.files_looked_at.set()
        for name in ended({job.job: job.source for job in service.jobs}, changes.there):
            with suppress(UnknownJobError, ForeignJobError):
                await service.end(name, "file")
                _log.info("job has ended", extra={"job": name})
        for name, job in changes.jobs.items():
            try:
                if await service.put(job, "file"):
                    _log.info("job taken on", extra={"job": name, "containers": len(job.containers)})
            except (ContractError, ForeignJobError, BusyError) as error:
                _log.error("job refused: %s", error, extra={"job": name})

    async def _renew(self, service: Service) -> None:
        """Plans that go on before they expire, one after another; at a start those of a whole fleet may be due."""
        while True:
            for name in service.due():
                try:
                    await service.renew(name)
                except (ContractError, BusyError) as error:
                    _log.error("plan not renewed: %s", error, extra={"job": name})
            await asyncio.sleep(random.uniform(0.5, 1.5) * self._settings.plans.valid_seconds / 60)  # noqa: S311

    def _rule_files(self, settings: ServiceSettings) -> RuleFiles | None:
        rules = settings.rules
        return RuleFiles(rules.directory, self._planners.rules, rules.reload) if rules is not None else None

    async def _keep_rules(self, service: Service, files: RuleFiles) -> None:
        while True:
            await service.files_looked_at.wait()  # until then a job may seem to have ended
            rules = self._settings.rules
            oldest = time.time() - (rules.after_seconds if rules is not None else 0)
            await files.keep({job.job: job.skeleton for job in service.jobs if job.began <= oldest})
            await asyncio.sleep(LOOK_SECONDS)

    async def _observe(self, service: Service, settings: Inference) -> None:
        """Look at the traffic of one job after another, those first that have waited longest."""
        due: dict[str, tuple[bytes, float]] = {}
        """{job: (what it was, when to look)}: a job that has changed is looked at as a new one."""
        while True:
            now, jobs = time.monotonic(), {job.job: job for job in service.jobs}
            for name, job in jobs.items():
                if name not in due or due[name][0] != job.document:
                    due[name] = job.document, now + settings.after_seconds
            due = {name: each for name, each in due.items() if name in jobs}
            late = sorted((when, name) for name, (_, when) in due.items() if when <= now)
            for _, name in late[:1]:
                await self._infer(service, jobs[name], settings)
                due[name] = jobs[name].document, time.monotonic() + settings.every_seconds
            if not late:
                await asyncio.sleep(LOOK_SECONDS)

    async def _infer(self, service: Service, job: StoredJob, settings: Inference) -> None:
        if self._observers is None:
            return
        hosts = dict.fromkeys(container.host for container in msgspec.json.decode(job.document, type=Job).containers)
        query = urlencode({"job": job.job})
        sources = [f"{settings.exporters.replace('{host}', quote(host))}/v1/throughput?{query}" for host in hosts]
        try:
            skeleton = await self._observers.infer(job.document, sources, job.skeleton)
            if await service.observe(job.job, skeleton, of=job.document):
                _log.info("skeleton inferred", extra={"job": job.job})
        except (ContractError, BusyError, UnknownJobError, BrokenExecutor) as error:
            _log.warning("no skeleton: %s", error, extra={"job": job.job})

    # ---- SIGHUP

    async def _reload(self, service: Service) -> None:
        """Take the configuration anew: the topology and how plans are made. What is wrong changes nothing."""
        try:
            settings = await asyncio.to_thread(read_settings, self._path)
            planners, observers = await asyncio.to_thread(_workers, settings)
        except ContractError as error:
            self.reload_refused = True
            _log.error("not reloaded: %s; what was before stays", error)
            return
        self.reload_refused = False
        old = self._planners, self._observers
        self._planners, self._observers, service.planning = planners, observers, planners.plan
        if self._rules is not None:
            self._rules.rendering = planners.rules
            self._rules.forget()
        for workers in filter(None, old):
            workers.close(cancel=False)
        self._settings = settings
        _log.info("reloaded")


def _workers(settings: ServiceSettings) -> tuple[Workers, Workers | None]:
    """Who makes plans and rules, and who infers: that may take a minute, for which no plan should wait."""
    knowledge = settings.knowledge()
    return Workers(knowledge, settings.plans.processes), Workers(knowledge, 1) if settings.inference else None


def serve(path: str, form: Form) -> int:
    """Serve until SIGTERM or SIGINT."""
    log_to_stderr(form)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a socket an agent
    running = Running(path)
    uvloop.run(running.run())
    return 0
