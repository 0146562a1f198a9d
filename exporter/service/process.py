"""The process that talks with the skeleton service: tells of this exporter, and keeps the plans that are handed out.

Started as ``python -m exporter.service.process STORE CONTROL``. It ends when the pipe closes; ``Told`` messages come
over it. Plans are files that the control process reads as it would an operator's, so that they last while the service
is away, and while this process is.
"""

from __future__ import annotations

import math
import os
import random
import select
import sys
import threading
import time

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.service_metrics import SERVICE, SERVICE_ANSWERED, SERVICE_FAILURES, SERVICE_PLANS
from exporter.inheritance import inherit
from exporter.messages import receive_message
from exporter.service.client import WAIT_SECONDS, Backoff, Client, Listed, PlanDirectory, UnansweredError
from exporter.service.settings import ServiceSettings, Told, service_tables
from exporter.store import Store

AGAIN_SECONDS = 600.0
"""What is registered is said again so often: a service whose state was lost learns of it."""
_COLUMN = {metric: column for column, metric in enumerate(SERVICE.metrics)}


class Report:
    """How the talk goes, as metrics and in the log: each change of it once. For several threads."""

    def __init__(self, store: Store, url: str) -> None:
        store.clear()
        self._row = store.writer(SERVICE).add(())
        self._row.set(_COLUMN[SERVICE_ANSWERED], math.nan)
        self._row.set(_COLUMN[SERVICE_PLANS], math.nan)
        self._lock = threading.Lock()
        self._url = url
        self._problems: dict[str, str] = {}

    def well(self, what: str, plans: int | None = None) -> None:
        with self._lock:
            self._row.begin()
            self._row.set(_COLUMN[SERVICE_ANSWERED], time.time())
            if plans is not None:
                self._row.set(_COLUMN[SERVICE_PLANS], plans)
            self._row.end()
            if self._problems.pop(what, ""):
                self._say(f"{what}: well again")

    def failed(self, what: str, problem: str) -> None:
        with self._lock:
            self._row.begin()
            self._row.add(_COLUMN[SERVICE_FAILURES])
            self._row.end()
            if self._problems.get(what) != problem:
                self._say(f"{what}: {problem}; the plans that are known stay")
            self._problems[what] = problem

    def _say(self, line: str) -> None:
        print(f"skeleton service {self._url}: {line}", file=sys.stderr, flush=True)


def follow(client: Client, directory: PlanDirectory, report: Report) -> None:
    """Keep the plans of this host, for ever."""
    tag, backoff = "", Backoff()
    while True:
        begun = time.monotonic()
        try:
            # Before the first answer nothing is waited for: what was kept may be of another time.
            listed = client.plans(tag, WAIT_SECONDS if tag else 0.0)
            if listed is not None:
                take(client, directory, listed)
                tag = listed.tag
        except UnansweredError as error:
            report.failed("plans", str(error))
            time.sleep(backoff.seconds(error.retry_after))
        except Exception as error:  # noqa: BLE001 - a full disk, or what nobody thought of: plans are needed after it
            report.failed("plans", str(error) or type(error).__name__)
            time.sleep(backoff.seconds())
        else:
            backoff.well()
            report.well("plans", len(directory.generations))
            # What lies between may answer at once, or take the tag away: no reason to ask without a pause.
            time.sleep(max(random.uniform(0.5, 1) - (time.monotonic() - begun), 0))  # noqa: S311


def take(client: Client, directory: PlanDirectory, listed: Listed) -> None:
    """Bring the directory to what the service listed; what is wrong with one plan is no reason to leave the others.

    Raise UnansweredError or ContractError of the first that was wrong.
    """
    problems: list[Exception] = []
    for job, generation in sorted(listed.generations.items()):
        if directory.has(job, generation):
            continue
        try:
            if (plan := client.plan(job)) is not None:  # else it ended in between, which the next list says
                directory.keep(plan)
        except (UnansweredError, ContractError) as error:
            problems.append(error)
    directory.keep_only(listed.generations, listed.state)
    if problems:
        raise problems[0]


def main() -> None:
    given = inherit(ServiceSettings)
    settings = given.settings
    report = Report(Store(service_tables(), *given.memory), settings.service.url)
    try:
        directory = PlanDirectory(settings.service.plans)
    except OSError as error:
        sys.exit(f"{settings.service.plans}: {error.strerror or error}")
    client = Client(settings.service, settings.host)
    threading.Thread(target=follow, args=(client, directory, report), daemon=True).start()
    ended = select.poll()
    ended.register(given.control, select.POLLIN)
    client, backoff = Client(settings.service, settings.host), Backoff()
    told: Told | None = None
    wait: float | None = None
    while True:
        if ended.poll(None if wait is None else wait * 1000):
            message = receive_message(given.control)
            if message is None:
                os._exit(0)  # the other thread may be waiting for the service
            told = msgspec.msgpack.decode(message, type=Told)
        if told is None:
            continue
        try:
            client.register(told, settings.version)
        except UnansweredError as error:
            report.failed("registration", str(error))
            wait = backoff.seconds(error.retry_after)
        else:
            report.well("registration")
            backoff.well()
            wait = AGAIN_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311 - no two at once


if __name__ == "__main__":
    main()
