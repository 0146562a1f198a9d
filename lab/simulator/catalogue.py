"""The named cases. Each varies the plain pipeline-parallel job in one respect; everything else is drawn widely."""

from __future__ import annotations

from lab.simulator.case import QUIET, Background, Case

_HEAVY_STORAGE = Background(
    other_bytes_per_second=2e6,
    storage_bursts_per_minute=5.0,
    storage_bytes=(1e8, 1e10),
    storage_bytes_per_second=(5e8, 8e9),
)

_LISTED = (
    Case(name="1f1b", help="data and pipeline parallel, 1F1B, ring all-reduce"),
    Case(name="gpipe", help="all forward passes before all backward ones", schedule=("gpipe",)),
    Case(
        name="interleaved",
        help="interleaved 1F1B: 2 to 4 model chunks per stage, last stage sends to the first",
        schedule=("interleaved",),
    ),
    Case(
        name="distributed-optimizer",
        help="reduce-scatter after the backward passes, parameters gathered before the next iteration",
        synchronisation=("distributed-optimizer",),
    ),
    Case(
        name="overlapped",
        help="gradients reduced in buckets during the last backward pass",
        synchronisation=("overlapped",),
    ),
    Case(
        name="tied-embeddings",
        help="first and last stage add up the gradients of the shared embedding",
        tied_embeddings=True,
        pipeline=(3, 64),
        hosts=(9, 64),
    ),
    Case(
        name="fully-sharded",
        help="parameters sharded over all hosts, gathered per group of layers; no pipeline",
        synchronisation=("fully-sharded",),
        pipeline=(1, 1),
        accumulation=(1, 4),
        activation_bytes=(1.0, 1.0),
    ),
    Case(
        name="data-parallel-only",
        help="no pipeline: every host a replica",
        pipeline=(1, 1),
        synchronisation=("all-reduce", "overlapped", "distributed-optimizer"),
    ),
    Case(
        name="pipeline-only",
        help="one replica: a chain of hosts, nothing to synchronise",
        data_parallel=(1, 1),
        hosts=(4, 32),
        schedule=("1f1b", "1f1b", "gpipe", "interleaved"),
    ),
    Case(
        name="mixture-of-experts",
        help="all-to-all within expert-parallel groups, unevenly loaded",
        expert_parallel=(2, 16),
        synchronisation=("all-reduce", "distributed-optimizer"),
    ),
    Case(
        name="small-tensor-parallelism",
        help="2, 4 or 8 data-parallel ranks in each container, each with its own RNICs and its own jitter",
        ranks_per_container=(2, 4, 8),
    ),
    Case(name="one-rnic", help="one RNIC per container", rnics=(1,)),
    Case(name="two-rnics", help="two RNICs per container", rnics=(2,)),
    Case(name="four-rnics", help="four RNICs per container", rnics=(4,)),
    Case(
        name="containers-share-hosts",
        help="two or four containers of the job on each host, each with its own rails",
        rnics=(2, 4),
        containers_per_host=(2, 4),
        hosts=(4, 32),
    ),
    Case(
        name="stragglers",
        help="hosts and replicas slower than the others, for some iterations or all along",
        lasting_stragglers=(0, 2),
        passing_stragglers=0.15,
    ),
    Case(
        name="checkpoints",
        help="training pauses every few iterations while hosts write to storage",
        checkpoint_iterations=(4, 15),
    ),
    Case(
        name="evaluation",
        help="every few iterations some forward passes alone",
        evaluation_iterations=(4, 12),
    ),
    Case(name="restarts", help="killed once or twice, minutes of silence, then again", restarts=(1, 2)),
    Case(name="period-changes", help="the iteration period changes in the middle of the window", period_changes=(1, 2)),
    Case(
        name="startup-skew",
        help="containers appear minutes apart; the job begins with the last",
        startup_skew_seconds=300.0,
        period_seconds=(4.0, 40.0),
    ),
    Case(
        name="missing-samples",
        help="5 % of the samples missing, counters reset now and then",
        missing_share=0.05,
        counter_resets_per_hour=4.0,
    ),
    Case(name="noisy", help="five times the noise of the counters", noise=0.15, nic_spread=0.05),
    Case(name="clock-offsets", help="hosts' clocks 20 ms apart", clock_offset_seconds=0.020),
    Case(name="storage-traffic", help="heavy reads from storage beside training", background=_HEAVY_STORAGE),
    Case(name="quiet", help="next to nothing but the job's own traffic", background=QUIET),
    Case(name="debug", help="no structure: bursts between random pairs", structure="debug"),
    Case(
        name="independent", help="no structure: single-host jobs that only read from storage", structure="independent"
    ),
    Case(name="sweep", help="no structure: single-host trainings, each with its own period", structure="sweep"),
)

CASES: dict[str, Case] = {case.name: case for case in _LISTED}
