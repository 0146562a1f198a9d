"""The job's traffic moves the bytes that the job's truth says, between those pairs and no others."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from exporter.contracts.codec import encode, write
from lab.jobs.job import Job, draw_job
from lab.network.design import Design
from lab.running import Running
from lab.sandbox import environment


def _sent(fabric: Running, design: Design) -> dict[str, int]:
    """Bytes sent so far by each host's RNIC of rail 0."""
    found = {}
    for host in design.hosts:
        netdev = next(rnic.netdev for rnic in host.rnics if rnic.rail == 0)
        answer = json.loads(fabric.run(host.name, ["ip", "-s", "-j", "link", "show", netdev]).stdout)
        found[host.name] = answer[0]["stats64"]["tx"]["bytes"]
    return found


def _expected(job: Job) -> dict[str, float]:
    """Bytes that each worker sends on a rail in one iteration."""
    found = {}
    for worker in job.workers:
        gradients = 2 * job.gradient_bytes[worker.stage] * (job.data_parallel - 1) / job.data_parallel
        forward = job.activation_bytes[worker.stage] if worker.stage + 1 < job.pipeline else 0
        backward = job.activation_bytes[worker.stage - 1] if worker.stage else 0
        found[worker.host] = gradients + job.micro_batches * (forward + backward)
    return found


def _command(fabric: Running, job: Job, directory: Path, *words: str) -> list[str]:
    write(directory / "job.json", encode(job))
    argv = [sys.executable, "-m", "lab.jobs.traffic", "--job", str(directory / "job.json"), *words]
    return list(fabric.command(None, argv))


def test_every_host_sends_what_its_place_in_the_job_asks(fabric: Running, design: Design, tmp_path: Path) -> None:
    job = draw_job(1, design.topology(), period_seconds=(2, 2))
    before = _sent(fabric, design)
    done = subprocess.run(
        _command(fabric, job, tmp_path, "--seconds", "3"),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    iterations = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["abandoned"] for line in iterations] == [0] * len(iterations)
    after = _sent(fabric, design)
    for host, wanted in _expected(job).items():
        share = (after[host] - before[host]) / (wanted * len(iterations))
        assert 1.0 <= share < 1.1, f"{host} sent {share:.3f} of its bytes"  # above 1: headers, acknowledgements


def test_it_outlives_a_dead_link_and_ends_at_a_signal(whole: Running, design: Design, tmp_path: Path) -> None:
    job = draw_job(2, design.topology(), period_seconds=(2, 2))
    process = subprocess.Popen(_command(whole, job, tmp_path), env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        json.loads(process.stdout.readline())
        whole.fault("link-down", design.links[0].id)
        while not json.loads(process.stdout.readline())["abandoned"]:
            pass
        whole.act("heal", "all")
        while json.loads(process.stdout.readline())["abandoned"]:
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
