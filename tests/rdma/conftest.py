"""Tests below ``guest/`` run in a guest, which has RoCEv2 ports; out here each is a test like any other.

Those selected go first, in at most two boots: one in ordinary time, one for those marked ``virtual_time``.
In the guest pytest runs the same files and writes a line for each report; out here the lines become
reports again, as pytest-xdist does with those of its workers. A guest that dies fails the test it was at,
with the end of its console, and the next test starts another guest.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.guest import kernel
from lab.guest.machine import SHARE_IN_GUEST, Guest, inside

IN_GUEST = Path(__file__).with_name("guest")
REPORTS = "reports"
SECONDS_IN_GUEST, SECONDS_HERE = 90, 120  # for one test; here with the boot


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Reporter(config) if inside() else Guests())


class Reporter:
    """In the guest: tells the machine of every report."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._file = (SHARE_IN_GUEST / REPORTS).open("a", buffering=1)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._file.write(json.dumps(data) + "\n")


class Guests:
    """On the machine: has tests run in guests, and reports them."""

    def __init__(self) -> None:
        self._kernel: kernel.Kernel | None = None
        self._why_no_kernel = ""
        self._remaining: list[pytest.Item] = []
        self._run: GuestRun | None = None
        self._hopeless = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # First, because pytest takes fixtures down by what the next test needs, and these set up none out here.
        items.sort(key=lambda item: (not _for_guest(item), _virtual(item)))
        self._remaining = [item for item in items if _for_guest(item)]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._remaining and not session.config.option.collectonly:
            try:
                self._kernel = kernel.find()
            except LabError as error:
                self._why_no_kernel = str(error)

    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if not _for_guest(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        self._remaining.remove(item)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        if self._kernel is None:
            yield _skipped(item, self._why_no_kernel)
            return
        if _virtual(item) and self._kernel.machine != "uml":
            yield _skipped(item, "virtual time needs User-Mode Linux (make uml-kernel)")
            return
        start = time.time()
        if self._hopeless:
            yield _report(item, "failed", self._hopeless, start)
            return
        try:
            if self._run is None or item not in self._run.items:
                self._end()
                same = [each for each in self._remaining if _virtual(each) == _virtual(item)]
                self._run = GuestRun(same, self._kernel)
            yield from self._run.reports(item, deadline=time.monotonic() + SECONDS_HERE)
        except LabError as error:
            if self._run is None or not self._run.heard:
                self._hopeless = str(error)  # the next would fare no better, and might take as long to show it
            self._end()
            yield _report(item, "failed", str(error), start)

    def _end(self) -> None:
        if self._run is not None:
            self._run.guest.end()
            self._run = None

    def pytest_unconfigure(self) -> None:
        self._end()


class GuestRun:
    """One boot that runs ``items``, in this order."""

    def __init__(self, items: list[pytest.Item], which: kernel.Kernel) -> None:
        self.items = items
        self._config = items[0].config
        root = self._config.rootpath
        # What addopts deselects was deselected out here.
        options = ["-o", "addopts=--strict-markers", "-o", f"timeout={SECONDS_IN_GUEST}", "-p", "no:cacheprovider"]
        self.guest = Guest(
            [sys.executable, "-m", "pytest", "-q", *options, *(str(root / item.nodeid) for item in items)],
            which,
            cwd=root,
            environ={"PYTEST_ADDOPTS": ""},
            virtual_time=_virtual(items[0]),
        )
        self._lines = self._follow()
        self._received: dict[str, list[pytest.TestReport]] = {}

    def _follow(self) -> Iterator[dict[str, object] | None]:
        """Reports as they come; None while there is no new one. Raises LabError when there will be none."""
        path = self.guest.share / REPORTS
        path.touch()
        with path.open() as file:
            line = ""
            end = ""
            while True:
                try:
                    if self.guest.poll() is not None:
                        end = "pytest in the guest ended early"
                except LabError as error:
                    end = str(error)
                while piece := file.readline():
                    line += piece
                    if line.endswith("\n"):
                        data = json.loads(line)
                        if isinstance(data["longrepr"], list):  # where and why it was skipped: JSON has no tuples
                            data["longrepr"] = tuple(data["longrepr"])
                        yield data
                        line = ""
                if end:
                    raise LabError(f"{end}\nIts output:\n{self.guest.output().decode(errors='replace')}")
                yield None

    @property
    def heard(self) -> bool:
        """Whether the guest has reported anything."""
        return any(self._received.values())

    def reports(self, item: pytest.Item, deadline: float) -> list[pytest.TestReport]:
        """The reports of ``item``, the last of which is that of its teardown."""
        mine = self._received.setdefault(item.nodeid, [])
        while not mine or mine[-1].when != "teardown":
            data = next(self._lines)
            if data is not None:
                report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
                self._received.setdefault(report.nodeid, []).append(report)
            elif time.monotonic() > deadline:
                raise LabError(f"no report from the guest; its console ends with:\n{self.guest.console_tail()}")
            else:
                time.sleep(0.01)
        return mine


def _for_guest(item: pytest.Item) -> bool:
    return IN_GUEST in item.path.parents


def _virtual(item: pytest.Item) -> bool:
    return item.get_closest_marker("virtual_time") is not None


def _skipped(item: pytest.Item, reason: str) -> pytest.TestReport:
    return _report(item, "skipped", (str(item.path), (item.location[1] or 0) + 1, f"Skipped: {reason}"), time.time())


def _report(item: pytest.Item, outcome: str, longrepr: str | tuple[str, int, str], start: float) -> pytest.TestReport:
    stop = time.time()
    return pytest.TestReport(
        item.nodeid,
        item.location,
        dict.fromkeys(item.keywords, 1),
        outcome,
        longrepr,
        "call",
        duration=stop - start,
        start=start,
        stop=stop,
    )
