"""What the demo shows: one line a step with its seconds, a spinner while it runs, no wall of logs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.status import Status
from rich.table import Table

from lab.demo.notifications import Notification

WIDTH = 120


def _console() -> Console:
    """A terminal's own width; what is piped into a file or a CI log gets a steady one."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


@dataclass
class Step:
    name: str
    detail: str = ""
    seconds: float = 0.0
    done: bool = False


@dataclass
class Narrator:
    console: Console = field(default_factory=_console)
    steps: list[Step] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)
    _status: Status | None = None

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Show ``name`` while the block runs, then its detail and seconds; a failed one is marked as such."""
        step = Step(name)
        self.steps.append(step)
        began = time.monotonic()
        with self.console.status(f"{escape(name)} …") as self._status:
            try:
                yield step
                step.done = True
            finally:
                step.seconds = time.monotonic() - began
                mark = "[green]✔[/]" if step.done else "[red]✘[/]"
                self.console.print(
                    f"{mark} {self.elapsed:5.1f} s  [bold]{escape(name):<28}[/] {escape(step.detail)} "
                    f"[dim]({step.seconds:.1f} s)[/]",
                    soft_wrap=True,
                )

    def progress(self, text: str) -> None:
        """Change what the spinner says."""
        if self._status is not None:
            self._status.update(f"{escape(self.steps[-1].name)} … {escape(text)}")

    def say(self, text: str) -> None:
        self.console.print(f"           {escape(text)}", soft_wrap=True)

    def notification(self, notification: Notification) -> None:
        """The notification as the person on call reads it."""
        labels, notes = notification.labels, notification.annotations
        lines = [
            f"[bold]{escape(notes.get('summary', ''))}[/]",
            f"component  [bold]{escape(labels.get('component_kind', ''))} {escape(notification.component)}[/]",
            f"job        {escape(labels.get('training_job', ''))}",
            escape(notes.get("description", "")),
            *([f"evidence   {escape(notes['evidence'])}"] if notes.get("evidence") else []),
            f"[dim]runbook    {escape(notes.get('runbook_url', ''))}[/]",
        ]
        title = f"{notification.status.upper()}  {notification.name}  {labels.get('severity', '')}"
        self.console.print(
            Panel(
                "\n".join(lines),
                title=title,
                title_align="left",
                border_style="red",
                width=min(self.console.width, WIDTH),
            )
        )

    def verdict(self, rows: list[tuple[str, str, str, str, bool]]) -> None:
        table = Table(title="injected against named", title_justify="left", title_style="bold")
        for column in ("fault", "injected on", "alert named", "service named", ""):
            table.add_column(column, overflow="fold")
        for fault, injected, alert, service, right in rows:
            mark = "[green]right[/]" if right else "[red]WRONG[/]"
            table.add_row(*map(escape, (fault, injected, alert, service)), mark)
        self.console.print(table)
