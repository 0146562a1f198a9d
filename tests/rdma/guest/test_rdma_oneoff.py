"""`fabric-exporter probe --type rdma` against an exporter's RDMA process, with and without one on this side."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab.guest.network import Fabric, Port
from tests.rdma.guest.hosts import LOST, Host, target, until

REFUSED = "fabric_path_probes_refused_total"


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    (tmp_path / "probe.key").write_bytes(b"k" * 32)
    return str(tmp_path / "probe.key")


def command(near: Port, far: Port, key_file: str, *options: str) -> list[str]:
    ends = [far.address, "--source", near.address, "--key-file", key_file]
    return [sys.executable, "-m", "exporter.cli", "probe", *ends, "--type", "rdma", *options]


def probed(near: Port, far: Port, key_file: str, *options: str, code: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(printed(command(near, far, key_file, "--json", *options), code))
    return document


def printed(arguments: list[str], code: int = 0) -> str:
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.mark.parametrize("beside", [True, False], ids=["beside an exporter", "alone"])
def test_all_is_answered_and_no_exporter_feels_it(either: Fabric, key_file: str, beside: bool) -> None:
    near, far = either.ports
    with ExitStack() as stack:
        there = stack.enter_context(Host(far))
        until(there.up)
        there.plan([target(far, near, active=False)])
        if beside:
            here = stack.enter_context(Host(near))
            until(here.up)
            here.plan([target(near, far)])
            here.answers(20)
            there.answers(20)
        document = probed(near, far, key_file, "-c", "20", "-i", "0.05", "--source-port", "50000,50001")
        assert document["type"] == "rdma"
        for path in document["paths"]:
            assert (path["sent"], path["answered"], path["lost"], path["refused"]) == (20, 20, 0, 0)
            assert (path["device"], path["timestamps"], path["introduced"]) == (near.device, "software", True)
            assert 0 < path["rtt_seconds"]["min"] < 0.5
        if beside:
            for host in (here, there):
                host.answers(20)
                assert (host.total(LOST), host.total(REFUSED)) == (0, 0)
                assert host.total("fabric_path_responder_restarts_total") == 0
        else:
            assert there.paths() == {}, "it was taken for an exporter, whose paths wait for it"


def test_what_netem_drops_is_what_is_lost_until_ctrl_c(fabric: Fabric, key_file: str) -> None:
    near, far = fabric.ports
    arguments = command(near, far, key_file, "--json-lines", "-c", "100000", "-i", "0.02")
    with Host(far) as there:
        until(there.up)
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            try:
                events = ended(process)
                while next(events)["number"] < 10:
                    pass
                fabric.impair(far, "loss", "30%", roce_only=True)
                lost = 0
                while lost < 20:
                    lost += next(events)["outcome"] == "lost"
                fabric.impair(far, "loss", "0%", roce_only=True)  # the same qdisc, which counts on
                process.send_signal(signal.SIGINT)
                *_, last = events
            finally:
                process.terminate()
        dropped = fabric.dropped(far)
    assert process.returncode == 0
    (path,) = last["paths"]
    assert path["sent"] == path["answered"] + path["lost"]
    assert path["lost"] == dropped >= 20


def test_a_device_that_goes_ends_it_with_what_was_seen(fabric: Fabric, key_file: str) -> None:
    near, far = fabric.ports
    arguments = command(near, far, key_file, "--json-lines", "-c", "100000", "-i", "0.02")
    with Host(far) as there:
        until(there.up)
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            try:
                events = ended(process)
                while next(events)["number"] < 10:
                    pass
                fabric.remove_device(near)
                *_, last = events
            finally:
                process.terminate()
    assert process.returncode == 2
    assert last["problems"][0].startswith(f"--type rdma: RDMA device {near.device}")
    assert last["paths"][0]["answered"] >= 10


def ended(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """Each event that is printed."""
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def test_marks_of_congested_queues_are_counted(fabric: Fabric, key_file: str) -> None:
    near, far = fabric.ports
    with Host(far) as there:
        until(there.up)
        fabric.impair(far, "loss", "50%", "ecn")
        (path,) = probed(near, far, key_file, "-c", "40", "-i", "0.02")["paths"]
        marked = fabric.dropped(far)
    assert (path["answered"], path["lost"]) == (40, 0)
    assert 5 < path["ecn_marked"] <= marked


def test_a_host_without_an_exporter_refuses(fabric: Fabric, key_file: str) -> None:
    near, far = fabric.ports
    document = probed(near, far, key_file, "-c", "2", "-i", "0.1", code=1)
    (path,) = document["paths"]
    assert (path["answered"], path["refused"], path["introduced"]) == (0, 2, False)
    (problem,) = document["problems"]
    assert "no exporter answers RDMA probes" in problem


def test_lines_say_who_knows_the_times(fabric: Fabric, key_file: str) -> None:
    near, far = fabric.ports
    with Host(far) as there:
        until(there.up)
        text = printed(command(near, far, key_file, "-c", "3"))
    assert "sent/answered/lost = 3/3/0 %" in text
    assert f"\n{near.device}: round trips by software timestamps\n" in text
