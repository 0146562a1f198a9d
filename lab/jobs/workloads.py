"""What the demo's hosts carry: a drawn job's traffic, or a real training job."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Protocol

from exporter.contracts.codec import encode
from lab.errors import LabError
from lab.jobs.job import Job, draw_job
from lab.jobs.training import pairs
from lab.jobs.training.shape import draw_training
from lab.network.design import Design

PERIOD_SECONDS = (4.0, 5.5)
SYNTHETIC, TORCH = "synthetic", "torch"
NAMES = (SYNTHETIC, TORCH)


class Workload(Protocol):
    """Traffic of one job on one lab."""

    @property
    def job(self) -> Job: ...

    def command(self, directory: Path) -> list[str]:
        """The program to run inside the lab; what it reads is written to ``directory``."""
        ...

    def moving(self, log: Path) -> bool:
        """Whether it has begun, told from its output so far."""
        ...

    def exchanged(self) -> dict[frozenset[str], int] | None:
        """{pair of endpoints: bytes} as counted by the kernel in the containers; None where nothing counts."""
        ...


class Synthetic:
    """Zeros in the pattern and proportion of a job (lab.jobs.traffic)."""

    def __init__(self, seed: int, design: Design) -> None:
        self.job = draw_job(seed, design.topology(), period_seconds=PERIOD_SECONDS)

    def command(self, directory: Path) -> list[str]:
        file = directory / "job.json"
        file.write_bytes(encode(self.job))
        return [sys.executable, "-m", "lab.jobs.traffic", "--job", str(file)]

    def moving(self, log: Path) -> bool:  # noqa: ARG002 - it moves bytes from its first second
        return True

    def exchanged(self) -> None:
        return None


class Torch:
    """A model in training, in the containers of the first tenant (lab.jobs.training)."""

    def __init__(self, seed: int, design: Design) -> None:
        self.training = draw_training(seed, design, period_seconds=PERIOD_SECONDS)
        self.job = self.training.job

    def command(self, directory: Path) -> list[str]:
        file = directory / "training.json"
        file.write_bytes(encode(self.training))
        return [sys.executable, "-m", "lab.jobs.training", "--training", str(file)]

    def moving(self, log: Path) -> bool:
        """After the first iteration, which makes the connections and is longer than the others."""
        return any(line.startswith('{"iteration"') for line in log.read_text().splitlines())

    def exchanged(self) -> dict[frozenset[str], int]:
        sent = pairs.read(worker.container for worker in self.job.workers)
        return pairs.exchanged(sent, self.training.endpoints)


def draw_workload(name: str, seed: int, design: Design) -> Workload:
    return Torch(seed, design) if name == TORCH else Synthetic(seed, design)


def require(name: str) -> None:
    """Raise LabError, with the remedy, when the workload needs what is not installed."""
    if name == TORCH and importlib.util.find_spec("torch") is None:
        raise LabError("the torch workload needs PyTorch, which is not installed", "make demo WORKLOAD=torch")
