"""Where a run is shown while it goes on: a terminal, lines, JSON lines, or nowhere before its end."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

import msgspec

from exporter.probe import render
from exporter.probe.render import Line
from exporter.probe.request import Request
from exporter.probe.session import Session
from exporter.probe.statistics import PathSummary, Sample
from exporter.probe.verdict import PATIENCE, silence

_COLOURS = {"": "", "header": "\x1b[1m", "bad": "\x1b[31m", "note": "\x1b[2m"}
_RESET, _ERASE_LINE, _ERASE_BELOW = "\x1b[0m", "\x1b[K", "\x1b[J"


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class View(Protocol):
    """``show`` is called a few times a second, ``end`` once, with what is to be said about thresholds."""

    keeps_samples: bool

    def show(self, session: Session) -> None: ...

    def end(self, session: Session, problems: list[str], elapsed: float) -> None: ...


class Table:
    """A table that is drawn again in place. Whatever lies above it on the terminal stays."""

    keeps_samples = False

    def __init__(self, request: Request, output: TextIO) -> None:
        self._request = request
        self._output = output
        self._colours = "NO_COLOR" not in os.environ  # https://no-color.org
        self._started = time.monotonic()
        self._height = 0

    def show(self, session: Session) -> None:
        width, height = shutil.get_terminal_size()
        elapsed = time.monotonic() - self._started
        paths, lines = self._lines(session, width, f", {elapsed:.0f} s so far; Ctrl-C ends")
        lines.extend(Line("bad", text) for text in silence(self._request, paths, patience=PATIENCE))
        if len(lines) >= height:
            left_out = len(lines) - height + 2
            lines = [*lines[: max(height - 2, 1)], Line("note", f"… {left_out} more lines than this terminal has")]
        self._draw(lines, width)

    def end(self, session: Session, problems: list[str], elapsed: float) -> None:
        width = shutil.get_terminal_size().columns
        paths, lines = self._lines(session, width)
        self._draw([*lines, Line("header", render.totals(paths, elapsed))], width, last=True)
        for problem in problems:  # whole: a remedy cut short is none
            self._output.write(self._styled(Line("bad", problem)) + "\n")
        self._output.flush()

    def _lines(self, session: Session, width: int, more: str = "") -> tuple[list[PathSummary], list[Line]]:
        paths = session.summaries()
        head = Line("header", render.headline(self._request) + more)
        return paths, [head, *render.table(paths, [path.tally.recent() for path in session.paths], width)]

    def _draw(self, lines: list[Line], width: int, *, last: bool = False) -> None:
        """Cut what would wrap, for the next drawing counts lines; the last one shows notes whole."""
        cut = [line if last and line.style == "note" else Line(line.style, line.text[: width - 1]) for line in lines]
        text = "".join(f"{self._styled(line)}{_ERASE_LINE}\n" for line in cut)
        up = f"\x1b[{self._height}A" if self._height else ""
        with _uninterrupted():  # or the next drawing would begin below this one
            self._output.write(f"\r{up}{text}{_ERASE_BELOW}")
            self._output.flush()
            self._height = len(lines)

    def _styled(self, line: Line) -> str:
        return f"{_COLOURS[line.style]}{line.text}{_RESET}" if self._colours and line.style else line.text


class Lines:
    """A line a probe, then the summary: for pipes, files and terminals that cannot move their cursor."""

    keeps_samples = True

    def __init__(self, request: Request, output: TextIO) -> None:
        self._output = output
        self._headline = render.headline(request)  # not yet said: there may be no run

    def show(self, session: Session) -> None:
        if self._headline:
            self._print(self._headline)
            self._headline = ""
        for path, sample in _taken(session):
            self._print(render.result(path, sample))
        self._output.flush()

    def end(self, session: Session, problems: list[str], elapsed: float) -> None:
        self.show(session)
        paths = session.summaries()
        for line in ["", *render.summary(paths), render.totals(paths, elapsed), *problems]:
            self._print(line)
        self._output.flush()

    def _print(self, line: str) -> None:
        self._output.write(line + "\n")


class JsonLines:
    """``{"event": "probe"}`` a probe, ``{"event": "summary"}`` at the end; with ``quiet`` the bare summary only."""

    def __init__(self, request: Request, output: TextIO, *, quiet: bool) -> None:
        self.keeps_samples = not quiet
        self._request = request
        self._output = output
        self._quiet = quiet

    def show(self, session: Session) -> None:
        for path, sample in _taken(session):
            ends = {"destination": path.destination, "source_port": path.source_port}
            self._print({"event": "probe", **ends, **msgspec.to_builtins(sample)})
        self._output.flush()

    def end(self, session: Session, problems: list[str], elapsed: float) -> None:
        self.show(session)
        report = msgspec.to_builtins(render.report(self._request, session.summaries(), problems, elapsed))
        self._print(report if self._quiet else {"event": "summary", **report})
        self._output.flush()

    def _print(self, document: dict[str, object]) -> None:
        text = msgspec.json.encode(document)
        self._output.write((msgspec.json.format(text) if self._quiet else text).decode() + "\n")


def _taken(session: Session) -> list[tuple[PathSummary, Sample]]:
    taken = []
    while session.samples:
        path, sample = session.samples.popleft()
        taken.append((path.summary(traced=False), sample))
    return taken


def view_for(request: Request, *, json: bool, json_lines: bool) -> View:
    """The view for where standard output goes."""
    output = sys.stdout
    if json or json_lines:
        return JsonLines(request, output, quiet=json)
    if output.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return Table(request, output)
    return Lines(request, output)
