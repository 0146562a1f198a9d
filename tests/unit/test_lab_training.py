"""The training job's sizes and places, and what is made of counted packets; without PyTorch and without a lab."""

from __future__ import annotations

import pytest

from exporter.contracts.codec import decode, encode
from lab.errors import LabError
from lab.jobs.training.pairs import Sent, exchanged
from lab.jobs.training.shape import Shape, Training, draw_training
from lab.network.design import draw


def test_the_same_seed_gives_the_same_job_on_every_container_of_one_tenant() -> None:
    design = draw(3)
    training = draw_training(5, design)
    assert training == draw_training(5, design)
    assert {worker.container for worker in training.job.workers} == {c.name for c in design.tenants[0].containers}
    assert decode(encode(training), Training, "training.json") == training


def test_a_rank_sits_at_the_interface_of_its_rail() -> None:
    design = draw(4)
    training = draw_training(4, design)
    for worker in training.job.workers:
        container = design.container(worker.container)
        assert container.host == worker.host
        for nic, place in zip(worker.nics, training.places[worker.container], strict=True):
            assert (nic.name, nic.rail) == (place.rnic, place.rail)
            (interface,) = (each for each in container.interfaces if each.rail == nic.rail)
            assert (place.netdev, place.address) == (interface.netdev, interface.address)


def test_the_truth_has_a_group_for_each_stage_and_rail() -> None:
    training = draw_training(7, draw(7))
    job, truth = training.job, training.job.truth()
    assert len(truth.groups) == job.pipeline * training.shape.tensor_parallel
    assert len(truth.edges) == (job.pipeline - 1) * job.data_parallel * training.shape.tensor_parallel


def test_1f1b_needs_a_micro_batch_for_each_stage() -> None:
    for seed in range(20):
        shape = draw_training(seed, draw(1, hosts_per_pod=8)).shape
        assert shape.micro_batches >= shape.pipeline


def test_the_gradients_of_a_stage_are_those_of_its_layers() -> None:
    shape = Shape(tensor_parallel=2, pipeline=3, micro_batches=4, vocabulary=10, width=8, heads=2, positions=5)
    block = (3 + 1 + 4 + 4) * 8 * 8 // 2 + 2 * 2 * 8  # four matrices, cut in two; two norms
    assert shape.gradient_bytes(1) == 4 * 2 * block
    assert shape.gradient_bytes(0) == 4 * (2 * block + (10 + 5) * 8)
    assert shape.gradient_bytes(2) == 4 * (2 * block + (10 + 2) * 8)


def test_both_directions_of_a_pair_are_added_and_strangers_left_out() -> None:
    endpoints = {"10.128.0.1": "a/r0", "10.128.0.2": "b/r0"}
    sent = {
        ("10.128.0.1", "10.128.0.2"): Sent(2, 100),
        ("10.128.0.2", "10.128.0.1"): Sent(1, 50),
        ("127.0.0.1", "127.0.0.1"): Sent(9, 900),
        ("10.128.0.1", "10.128.9.9"): Sent(1, 10),
    }
    assert exchanged(sent, endpoints) == {frozenset(("a/r0", "b/r0")): 150}


def test_a_lab_without_containers_is_refused() -> None:
    with pytest.raises(LabError, match="tenants"):
        draw_training(1, draw(1, tenants=0))
