"""One rank of the training job: its process groups, its stage, and the training loop."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from exporter.contracts.codec import Contract
from exporter.contracts.names import endpoint_id
from lab.jobs.job import Job, Worker
from lab.jobs.training.model import Language, build_stage, loss_of
from lab.jobs.training.shape import Training

LEARNING_RATE = 3e-3
BUCKET_BYTES = 4_000_000
LOOPBACK = "lo"


class Progress(Contract, frozen=True, kw_only=True):
    """What one rank says after an iteration."""

    endpoint: str
    iteration: int
    time: float
    """beginning, seconds since the epoch"""
    seconds: float
    busy_seconds: float
    """of ``seconds``, before it waited for the next batch"""
    sent_bytes: int
    """payload that it sent to other containers"""
    loss: float | None = None
    """nats per word; last stage only"""


class Rank:
    """Rank ``place`` of ``worker``: the process for its RNIC number ``place``. Runs in the container's namespace."""

    def __init__(self, training: Training, worker: Worker, place: int, store: Path) -> None:
        self.training, self.worker, self.place = training, worker, place
        job, shape = training.job, training.shape
        torch.set_num_threads(1)
        # Gloo reads it whenever a group is made. Connections are made when first used: an idle pair has none.
        os.environ["GLOO_SOCKET_IFNAME"] = training.places[worker.container][place].netdev
        os.environ["TORCH_GLOO_LAZY_INIT"] = "1"
        size = len(job.workers) * shape.tensor_parallel
        self._store = dist.FileStore(str(store), size)
        dist.init_process_group("gloo", store=self._store, rank=self._rank(worker, place), world_size=size)
        self._replicas = self._group([self._rank(each, place) for each in job.members(worker.stage)])
        pipeline = self._group([self._rank(each, place) for each in _pipeline(job, worker.replica)])
        os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
        tensor = self._group([self._rank(worker, each) for each in range(shape.tensor_parallel)])
        self._model = build_stage(shape, worker.stage, place, job.seed, tensor)  # alike in every replica
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=LEARNING_RATE)
        stage = PipelineStage(self._model, worker.stage, job.pipeline, torch.device("cpu"), group=pipeline)
        self._schedule = Schedule1F1B(stage, shape.micro_batches, loss_fn=loss_of)
        self._language = Language(shape, job.seed, worker.replica)

    def _rank(self, worker: Worker, place: int) -> int:
        return worker.rank * self.training.shape.tensor_parallel + place

    def _group(self, ranks: list[int]) -> dist.ProcessGroup:
        return dist.new_group(ranks, backend="gloo", use_local_synchronization=True)

    def _average_gradients(self) -> None:
        """Data parallelism: the mean of the replicas' gradients, in buckets of about ``BUCKET_BYTES`` at once."""
        buckets: list[list[torch.Tensor]] = [[]]
        room = BUCKET_BYTES
        for parameter in reversed(list(self._model.parameters())):
            gradient = parameter.grad
            if room < 0:
                buckets.append([])
                room = BUCKET_BYTES
            buckets[-1].append(gradient)
            room -= gradient.numel() * gradient.element_size()
        # DistributedDataParallel would begin during the last backward pass, but rebuilds its buckets after the
        # first and fails where all forward passes come before it, as on a 1F1B pipeline's first stage.
        sums = [torch.cat([gradient.flatten() for gradient in bucket]) for bucket in buckets]
        works = [dist.all_reduce(each, group=self._replicas, async_op=True) for each in sums]
        for bucket, each, work in zip(buckets, sums, works, strict=True):
            work.wait()
            means = (each / self.training.job.data_parallel).split([gradient.numel() for gradient in bucket])
            for gradient, mean in zip(bucket, means, strict=True):
                gradient.copy_(mean.view_as(gradient))

    def _leave_together(self) -> None:
        """Wait for every rank without a byte on the network, so that nobody's last connection is reset."""
        self._store.set(f"done/{dist.get_rank()}", "")
        self._store.wait([f"done/{rank}" for rank in range(dist.get_world_size())])

    def train(self, iterations: int | None) -> Iterator[Progress]:
        """Train for so many iterations, or for ever; a batch is there at most every ``period_seconds``."""
        job, worker = self.training.job, self.worker
        first, last = worker.stage == 0, worker.stage == job.pipeline - 1
        number = 0
        while iterations is None or number < iterations:
            began, begin = time.time(), time.monotonic()
            words, following = self._language.batch()
            losses: list[torch.Tensor] = []
            if first:
                self._schedule.step(words)
            elif last:
                self._schedule.step(target=following, losses=losses)
            else:
                self._schedule.step()
            self._average_gradients()
            self._optimizer.step()
            self._optimizer.zero_grad()
            busy = time.monotonic() - begin
            if first:
                time.sleep(max(0.0, begin + job.period_seconds - time.monotonic()))
            yield Progress(
                endpoint=endpoint_id(worker.container, worker.nics[self.place].name),
                iteration=number,
                time=began,
                seconds=time.monotonic() - begin,
                busy_seconds=busy,
                sent_bytes=sent_bytes(self.training, worker),
                loss=float(torch.stack(losses).detach().mean()) if last else None,
            )
            number += 1
        self._leave_together()


def _pipeline(job: Job, replica: int) -> list[Worker]:
    return sorted((w for w in job.workers if w.replica == replica), key=lambda worker: worker.stage)


def sent_bytes(training: Training, worker: Worker) -> int:
    """Payload bytes that one rank sends to other containers in an iteration.

    Gloo's all-reduce is a ring: every member sends its share of the sum and of the result to the next,
    2 (n - 1) / n of the gradients. A stage boundary carries every micro-batch forward and its gradient back.
    """
    job, shape = training.job, training.shape
    ring = 2 * (job.data_parallel - 1) * shape.gradient_bytes(worker.stage) // job.data_parallel
    boundaries = (worker.stage > 0) + (worker.stage < job.pipeline - 1)
    return ring + boundaries * shape.micro_batches * shape.activation_bytes
