"""What a simulated job may be: every parameter of the physics, as ranges or choices that a seed draws from.

A ``Range`` is (low, high); sizes and durations are drawn log-uniformly from it, degrees and factors uniformly.
A tuple of choices is drawn from with equal chances; naming one twice doubles its chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Range = tuple[float, float]
Schedule = Literal["1f1b", "gpipe", "interleaved"]
Synchronisation = Literal["all-reduce", "distributed-optimizer", "overlapped", "fully-sharded"]
Structure = Literal["training", "debug", "independent", "sweep"]
RankOrder = Literal["dp-pp", "pp-dp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """Traffic that is not the job's own.

    ``other_bytes_per_second``: mean level per RNIC that is always there (control, monitoring).
    ``storage_bursts_per_minute``: reads from storage per host, at random instants.
    ``storage_bytes``: of one read, per host. ``storage_bytes_per_second``: its speed, per host.
    """

    other_bytes_per_second: float = 2e5
    storage_bursts_per_minute: float = 0.3
    storage_bytes: Range = (2e7, 1e9)
    storage_bytes_per_second: Range = (2e8, 4e9)


QUIET = Background(other_bytes_per_second=1e3, storage_bursts_per_minute=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of job. Volumes are bytes per RNIC, durations seconds; docs/simulator.md explains each field."""

    name: str
    help: str
    structure: Structure = "training"

    # Shape. ``hosts`` is drawn only where the caller names no number.
    hosts: tuple[int, int] = (8, 64)
    spare_hosts: Range = (0.0, 0.3)
    rnics: tuple[int, ...] = (8,)
    containers_per_host: tuple[int, ...] = (1,)
    ranks_per_container: tuple[int, ...] = (1,)
    data_parallel: tuple[int, int] = (2, 1 << 20)
    pipeline: tuple[int, int] = (2, 64)
    expert_parallel: tuple[int, int] | None = None
    schedule: tuple[Schedule, ...] = ("1f1b",)
    virtual_stages: tuple[int, ...] = (2, 3, 4)
    synchronisation: tuple[Synchronisation, ...] = ("all-reduce",)
    tied_embeddings: bool = False
    # Megatron-LM numbers ranks data-parallel first ("tp-cp-ep-dp-pp"); other frameworks pipeline first.
    rank_order: tuple[RankOrder, ...] = ("dp-pp", "dp-pp", "dp-pp", "pp-dp")

    # Time.
    period_seconds: Range = (4.0, 60.0)
    micro_batches_per_stage: Range = (1.0, 4.0)
    max_micro_batches: int = 128
    accumulation: tuple[int, int] = (1, 16)
    stage_spread: float = 0.01
    end_stages: Range = (1.0, 1.2)
    optimizer_share: Range = (0.005, 0.03)

    # Volumes.
    link_bytes_per_second: tuple[float, ...] = (25e9, 50e9)
    collective_efficiency: Range = (0.5, 0.9)
    gradient_bytes: Range = (0.3e9, 8e9)
    max_synchronisation_share: float = 0.25
    middle_spread: tuple[float, ...] = (0.0, 0.01, 0.05)
    embedding_share: Range = (0.05, 0.5)
    activation_bytes: Range = (4e6, 64e6)
    buckets: tuple[int, int] = (4, 16)
    layer_groups: tuple[int, int] = (8, 48)
    parameter_bytes: Range = (0.5e9, 12e9)
    expert_layers: tuple[int, int] = (1, 4)
    expert_bytes: Range = (16e6, 128e6)
    expert_imbalance: Range = (0.1, 0.5)

    # Irregularity of the computation.
    replica_jitter_seconds: Range = (0.005, 0.060)
    operation_jitter: float = 0.02
    lasting_stragglers: tuple[int, int] = (0, 0)
    lasting_slowdown: Range = (1.03, 1.15)
    passing_stragglers: float = 0.0  # chance per iteration
    passing_slowdown: Range = (1.1, 1.6)
    passing_iterations: tuple[int, int] = (1, 6)

    # What interrupts training.
    checkpoint_iterations: tuple[int, int] | None = None
    checkpoint_seconds: Range = (3.0, 20.0)
    checkpoint_bytes: Range = (5e9, 80e9)  # per writing host
    checkpoint_writers: tuple[Literal["all", "replica-0"], ...] = ("all", "replica-0")
    evaluation_iterations: tuple[int, int] | None = None
    evaluation_passes: tuple[int, int] = (3, 12)
    restarts: tuple[int, int] = (0, 0)
    restart_silence_seconds: Range = (60.0, 240.0)
    restart_changes_period: float = 0.5  # chance
    period_changes: tuple[int, int] = (0, 0)
    period_factor: Range = (0.55, 1.8)
    startup_skew_seconds: float = 0.0  # the last container starts at most this late
    initialisation_seconds: Range = (5.0, 30.0)

    # Counting.
    noise: float = 0.03
    nic_spread: float = 0.01
    clock_offset_seconds: float = 0.002
    missing_share: float = 0.0
    counter_resets_per_hour: float = 0.0  # per host
    background: Background = Background()

    def __post_init__(self) -> None:
        if self.expert_parallel and (max(self.containers_per_host) > 1 or max(self.ranks_per_container) > 1):
            raise ValueError(f"case {self.name}: expert parallelism needs one container per host, one rank in it")
        if "fully-sharded" in self.synchronisation and (self.pipeline[1] > 1 or len(set(self.synchronisation)) > 1):
            raise ValueError(f"case {self.name}: fully sharded means no pipeline and no other synchronisation")
        if max(self.containers_per_host) > 1 and max(self.ranks_per_container) > 1:
            raise ValueError(f"case {self.name}: several ranks per container need one container per host")
