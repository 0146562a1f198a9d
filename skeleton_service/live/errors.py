"""What may be wrong with a request that is well-formed."""

from __future__ import annotations


class BusyError(Exception):
    """More is asked than can be queued; ``seconds`` later there may be room."""

    def __init__(self, seconds: float, problem: str = "too much at once") -> None:
        super().__init__(f"{problem}: again in {seconds:g} s")
        self.seconds = seconds


class UnknownJobError(KeyError):
    """No job of this name runs."""


class AbsentError(Exception):
    """Nothing of this kind is there of a job that runs; ``remedy`` says what makes it come."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


class ForeignJobError(Exception):
    """The job is another source's, so nobody else says what it is."""


class BrokenError(Exception):
    """What the service stands on does not work now: its disk, or a process of its own. ``str()`` says what."""
