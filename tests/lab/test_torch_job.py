"""A real training job crosses the lab's fabric: what it learns, what it sends, and between whom."""

from __future__ import annotations

import importlib.util
import json
import math
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from exporter.contracts.codec import encode, write
from lab.jobs.training.pairs import Sent, exchanged
from lab.jobs.training.shape import Training, draw_training
from lab.network.design import Design
from lab.running import Running
from lab.sandbox import environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="PyTorch is not installed: scripts/setup --torch"
    ),
]

ITERATIONS = 6


def _command(fabric: Running, training: Training, directory: Path, *words: str) -> list[str]:
    write(directory / "training.json", encode(training))
    argv = [sys.executable, "-m", "lab.jobs.training", "--training", str(directory / "training.json"), *words]
    return list(fabric.command(None, argv))


def _sent_by_rnics(fabric: Running, design: Design, training: Training) -> dict[str, int]:
    """{endpoint: bytes that its RNIC has sent so far}, from the kernel's counters of the host's interface."""
    found = {}
    for worker in training.job.workers:
        answer = json.loads(fabric.run(worker.host, ["ip", "-s", "-j", "link"]).stdout)
        sent = {link["ifname"]: link["stats64"]["tx"]["bytes"] for link in answer}
        for rnic in design.host(worker.host).rnics:
            found[f"{worker.container}/{rnic.name}"] = sent[rnic.netdev]
    return found


def _sent_by_containers(fabric: Running, training: Training) -> dict[tuple[str, str], Sent]:
    argv = [sys.executable, "-m", "lab.jobs.training.pairs", *(worker.container for worker in training.job.workers)]
    lines = map(json.loads, fabric.run(None, argv).stdout.splitlines())
    return {(line["source"], line["destination"]): Sent(line["packets"], line["bytes"]) for line in lines}


def _connected(members: Sequence[str], pairs: set[frozenset[str]]) -> bool:
    reached, new = {members[0]}, {members[0]}
    while new:
        new = {other for other in members if any(frozenset((one, other)) in pairs for one in new)} - reached
        reached |= new
    return reached == set(members)


@pytest.mark.parametrize("degrees", [(4, 2), (2, 4)])
def test_it_learns_and_its_bytes_cross_the_fabric_between_the_right_pairs(
    fabric: Running, design: Design, tmp_path: Path, degrees: tuple[int, int]
) -> None:
    training = next(
        drawn
        for drawn in (draw_training(seed, design) for seed in range(100))
        if (drawn.job.data_parallel, drawn.job.pipeline) == degrees
    )
    before = _sent_by_rnics(fabric, design, training)
    done = subprocess.run(
        _command(fabric, training, tmp_path, "--iterations", str(ITERATIONS)),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    after = _sent_by_rnics(fabric, design, training)
    iterations = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["iteration"] for line in iterations] == list(range(ITERATIONS))

    # The training is real: from guessing among all words towards the four that may follow.
    losses = [line["loss"] for line in iterations]
    assert losses[0] > 0.95 * math.log(training.shape.vocabulary)
    assert math.log(4) * 0.9 < losses[-1] < 0.75 * losses[0]

    # Three witnesses of the bytes: what autograd and gloo had to send, the containers' packets, the RNICs' counters.
    endpoints = training.endpoints
    packets = _sent_by_containers(fabric, training)
    for endpoint in endpoints.values():
        said = sum(line["sent_bytes"][endpoint] for line in iterations)
        left = sum(amount.size for (source, _), amount in packets.items() if endpoints.get(source) == endpoint)
        counted = after[endpoint] - before[endpoint]
        assert said < left < 1.05 * said, f"{endpoint}: {left / said:.3f} of its bytes left the container"
        assert left < counted < 1.05 * left, f"{endpoint}: the RNIC sent {counted / left:.3f} of the container's bytes"

    measured = set(exchanged(packets, endpoints))
    truth = training.job.truth()
    assert measured <= {frozenset(pair[:2]) for pair in truth.pairs()}
    assert {frozenset((edge.a, edge.b)) for edge in truth.edges} <= measured
    for group in truth.groups:  # which of its pairs an all-reduce uses is gloo's choice
        inside = {frozenset(pair) for pair in combinations(group.members, 2)} & measured
        assert _connected(group.members, inside)
    # The tensor-parallel all-reduces stay in their containers.
    assert packets["127.0.0.1", "127.0.0.1"].size > 1_000_000


def test_it_outlives_packet_loss_and_ends_at_a_signal(whole: Running, design: Design, tmp_path: Path) -> None:
    training = draw_training(1, design)
    process = subprocess.Popen(
        _command(whole, training, tmp_path), env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        whole.fault("silent-loss", design.links[0].id, 5)
        json.loads(process.stdout.readline())
        lossy = json.loads(process.stdout.readline())
        assert json.loads(whole.act("dropped")).popitem()[1] > 0
        whole.act("heal", "all")
        healed = json.loads(process.stdout.readline())
        assert first["loss"] > lossy["loss"] > healed["loss"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("sandbox_possible")
def test_the_demo_on_a_real_training_job_names_both_broken_links(tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    run = subprocess.run(
        [sys.executable, "-m", "lab", "demo", "--workload", "torch", "--report", str(report_file)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    report = json.loads(report_file.read_text())
    (inferred,) = (step["detail"] for step in report["steps"] if step["name"] == "skeleton inferred")
    assert "recall 100%" in inferred
    for fault in report["faults"]:
        assert fault["alert"] == fault["service"] == fault["injected"]
