"""``diagnose --follow``: exporters on loopback that die, hang and come back, and what is told of a link that breaks."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.contracts.codec import encode, read, write
from exporter.contracts.diagnosis import Diagnosis
from skeleton_service.diagnosis import Diagnoser, diagnose
from skeleton_service.following.follow import Following
from skeleton_service.reading.records import read_records
from tests.unit.followed import BEGIN, BROKEN, FABRIC, HOSTS, PATHS, TOPOLOGY, World, as_csv, play
from tests.unit.running import until
from tests.unit.test_skeleton_contract import skeleton


def test_a_failure_is_told_when_it_is_found_and_when_it_ends_and_forgotten_later(
    following: Callable[..., Following], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = following()
    play(own, world, 80)
    out = capsys.readouterr().out
    assert out.count(" found: loss: ") == 1
    assert BROKEN in out.splitlines()[0]
    assert out.splitlines()[0].startswith("2025-10-09 08:5")
    assert all(line.startswith("  ") for line in out.splitlines()[1:])
    (failure,) = read(tmp_path / "diagnosis.json", Diagnosis).failures
    assert (failure.component.name, failure.end) == (BROKEN, None)
    assert failure.start == pytest.approx(world.broken, abs=2)
    play(own, world, 60)
    out = capsys.readouterr().out
    assert [line.split(" UTC ")[1].split(":")[0] for line in out.splitlines()] == ["ended"]
    (failure,) = read(tmp_path / "diagnosis.json", Diagnosis).failures
    assert failure.end == pytest.approx(world.repaired, abs=2)
    play(own, world, 400, step=20)
    assert read(tmp_path / "diagnosis.json", Diagnosis).failures == ()
    assert capsys.readouterr().out == ""


def test_pieces_give_the_verdict_of_the_whole(
    following: Callable[..., Following], world: World, tmp_path: Path
) -> None:
    play(following(), world, 80)
    (live,) = read(tmp_path / "diagnosis.json", Diagnosis).failures
    files = []
    for host in HOSTS:
        files.append(tmp_path / f"{host}.csv")
        files[-1].write_bytes(as_csv(world.rows(host, BEGIN)))
    (whole,) = diagnose(read_records(files), FABRIC, skeleton()).failures
    assert (live.component, live.symptom, live.start) == (whole.component, whole.symptom, whole.start)


def test_two_addresses_of_one_exporter_are_counted_once(
    following: Callable[..., Following], world: World, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    advance = Diagnoser.advance
    monkeypatch.setattr(Diagnoser, "advance", lambda own, rows: taken.append(len(rows)) or advance(own, rows))
    play(following(f"{url}/{HOSTS[0]}?format=csv"), world, 10)
    # The seconds but the last four, a query of each host in them, and the traces of each of two rounds.
    assert sum(taken) == 6 * (len(PATHS) + len(HOSTS)) + 2 * len(PATHS)


def test_a_dead_source_is_told_of_once_and_again_when_it_is_back(
    following: Callable[..., Following], world: World, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = following()
    play(own, world, 10)
    world.down = {HOSTS[0]}
    play(own, world, 15)
    until_back = f"left out until it answers: {url}/{HOSTS[0]}: cannot be fetched: HTTP Error 503"
    assert [line[: len(until_back)] for line in capsys.readouterr().err.splitlines()] == [until_back]
    world.down = set()
    # A silent source is not waited for: its answer counts from the round on in which it is there.
    deadline = time.monotonic() + 5
    err = ""
    while not err and time.monotonic() < deadline:
        play(own, world, 5)
        time.sleep(0.05)
        err = capsys.readouterr().err
    assert err == f"back: {url}/{HOSTS[0]}\n"


def test_a_source_that_never_answers_holds_up_one_round_at_most(
    following: Callable[..., Following],
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skeleton_service.following.follow.PATIENCE_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        own = following(f"http://127.0.0.1:{mute.getsockname()[1]}/v1/probe-records")
        began = time.monotonic()
        play(own, world, 80)
        assert time.monotonic() - began < 30, "sixteen rounds, one of which waits"
        mute_url = f"http://127.0.0.1:{mute.getsockname()[1]}/v1/probe-records"
    assert capsys.readouterr().err.count(f"{mute_url}: has not answered for 3 s") == 1
    (failure,) = read(tmp_path / "diagnosis.json", Diagnosis).failures
    assert failure.component.name == BROKEN


def test_queries_that_time_out_late_are_not_missed(
    following: Callable[..., Following], world: World, tmp_path: Path
) -> None:
    world.broken, world.resolver_dead = float("inf"), BEGIN + 40
    play(following(), world, 80)
    (failure,) = read(tmp_path / "diagnosis.json", Diagnosis).failures
    assert (failure.symptom, failure.component.name) == ("resolution", "resolver-1")


def test_a_resolver_that_fails_for_longer_than_anything_is_kept_is_told_once(
    following: Callable[..., Following], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.broken, world.resolver_dead = float("inf"), BEGIN + 100
    own = following()
    play(own, world, 180, step=30)
    (first,) = read(tmp_path / "diagnosis.json", Diagnosis).failures
    play(own, world, 600, step=50)
    (later,) = read(tmp_path / "diagnosis.json", Diagnosis).failures
    assert (later.id, later.start, later.detected_at) == (first.id, first.start, first.detected_at)
    assert later.end is None
    out = capsys.readouterr().out
    assert (out.count(" found: "), out.count(" ended: "), out.count(" withdrawn: ")) == (1, 0, 0)
    world.resolver_dead = float("inf")
    play(own, world, 120, step=30)
    assert capsys.readouterr().out.count(" ended: resolution: resolver resolver-1") == 1


def test_what_counters_alone_tell_is_told_once_for_longer_than_they_are_kept(
    following: Callable[..., Following],
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skeleton_service.following.follow.COUNTER_SECONDS", 900.0)
    ports = tmp_path / "ports.csv"
    own = following(probes=(), counters=[str(ports)])
    for at in range(200, 3000, 100):
        rows = [
            f"{BEGIN + each},fabric_switch_port_mtu_bytes,spine-{spine},Ethernet0,{1500 if failing else 9216}"
            for each in range(0, at, 20)
            for spine in range(2)
            for failing in [spine == 0 and 500 <= each < 2500]
        ]
        ports.write_text("\n".join(["time,metric,node,port,value", *rows]))
        world.now = BEGIN + at
        own.round()
        failures = read(tmp_path / "diagnosis.json", Diagnosis).failures
        if 520 < at < 2500:
            assert [(each.start, each.detected_at, each.end) for each in failures] == [(BEGIN + 500, BEGIN + 500, None)]
    out, err = capsys.readouterr()
    told = [line.split(" UTC ", 1)[1] for line in out.splitlines() if not line.startswith(" ")]
    assert [line.split(": ")[:2] for line in told] == [["found", "mtu"], ["ended", "mtu"]]
    assert err == ""


def test_an_end_that_shows_late_is_told_all_the_same(
    following: Callable[..., Following], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = tmp_path / "ports.csv"
    own = following(probes=(), counters=[str(ports)])
    for at in range(600, 4200, 120):
        rows = [
            f"{BEGIN + each},fabric_switch_port_fcs_errors_total,spine-0,Ethernet0,{6000 * bursts}"
            for each in range(0, at, 60)
            for bursts in [min(max(each - 600, 0), 1800) // 240]  # four minutes apart: so long nothing says of an end
        ]
        ports.write_text("\n".join(["time,metric,node,port,value", *rows]))
        world.now = BEGIN + at
        own.round()
    told = [line.split(" UTC ", 1)[1] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    # After the first burst it seems to be over, since nothing says yet how far apart they are.
    assert [line.split(": ")[0] for line in told] == ["found", "ended", "found", "ended"]
    assert read(tmp_path / "diagnosis.json", Diagnosis).failures == ()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_goes_on_until_it_is_stopped(
    number: signal.Signals, world: World, url: str, tmp_path: Path
) -> None:
    world.now = time.time()
    world.broken, world.repaired = world.now - 60, float("inf")
    write(tmp_path / "topology.json", encode(TOPOLOGY))
    write(tmp_path / "skeleton.json", encode(skeleton()))
    output = tmp_path / "diagnosis.json"
    argv = [sys.executable, "-m", "skeleton_service.cli", "diagnose", "--follow", "0.2", "--output", str(output)]
    argv += ["--topology", str(tmp_path / "topology.json"), "--skeleton", str(tmp_path / "skeleton.json")]
    argv += ["--probes", *(f"{url}/{host}" for host in HOSTS)]
    monitor = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def found() -> bool:
        world.now = time.time()
        return output.exists() and bool(read(output, Diagnosis).failures)

    try:
        until(found, 60)
        monitor.send_signal(number)
        out, err = monitor.communicate(timeout=60)
    finally:
        monitor.kill()
    assert (monitor.returncode, err) == (0, "")
    assert out.count(" found: ") == 1
    assert BROKEN in out


def test_files_cannot_be_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from skeleton_service.cli import main

    examples = Path(__file__).parents[2] / "examples"
    words = ["--topology", str(examples / "topology.yaml"), "--skeleton", str(examples / "skeleton.json")]
    words += ["--probes", str(examples / "probe-records.csv"), "--output", str(tmp_path / "d.json")]
    assert main(["diagnose", *words, "--follow"]) == 2
    error = capsys.readouterr().err
    assert error.endswith("does not go on (give URLs of exporters, or leave --follow out)\n")
    assert error.count("\n") == 1
