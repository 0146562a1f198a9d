"""``diagnose --follow``: exporters on loopback that die, hang and come back, and what is told of a link that breaks."""

from __future__ import annotations

import csv
import io
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from exporter.contracts.codec import ContractError, encode, read, write
from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.fabric import Fabric
from skeleton_service.diagnosis import Diagnoser, diagnose
from skeleton_service.following import Following, Given
from skeleton_service.records import read_records
from tests.unit.fabrics import leaf_spine
from tests.unit.running import until
from tests.unit.test_skeleton_contract import skeleton

TOPOLOGY = leaf_spine(pods=3, rails=1, spines=2, hosts_per_pod=2)
FABRIC = Fabric(TOPOLOGY)
HOSTS = [host.name for host in TOPOLOGY.hosts]
PATHS = [(a, b, spine) for a in HOSTS for b in HOSTS for spine in range(2) if a[:7] != b[:7]]
BROKEN = "leaf-p0-r0:Ethernet0 -- spine-0:Ethernet0"
BEGIN = 1_760_000_000


@dataclass
class World:
    """What exporters see: BROKEN loses half of its probes from ``broken`` to ``repaired``. Times in seconds."""

    now: float = BEGIN
    broken: float = BEGIN + 60
    repaired: float = BEGIN + 90
    resolver_dead: float = float("inf")
    down: set[str] = field(default_factory=set)
    """Hosts whose exporter answers 503."""
    strange: set[str] = field(default_factory=set)
    """Hosts whose records name a host that the topology does not have."""
    ahead: float = 0.0
    """By how much the hosts' clocks are ahead of the diagnosing one's."""
    hasty: dict[str, float] = field(default_factory=dict)
    """By how much more some are."""

    def served(self, host: str, since: float) -> Iterator[dict[str, Any]]:
        """By the clock of the host and under its name."""
        ahead = self.ahead + self.hasty.get(host, 0.0)
        for row in self.rows(host, since - ahead):
            name = f"x-{host}" if host in self.strange else host
            yield row | {"ping_time": row["ping_time"] + int(ahead * 1e9), "src_node_sn": name}

    def rows(self, host: str, since: float) -> Iterator[dict[str, Any]]:
        """As an exporter serves them: probes up to now, then the traces of now; DNS queries when they time out."""
        for second in range(max(int(since), BEGIN), int(self.now)):
            for source, destination, spine in PATHS:
                if source == host:
                    crosses = source.startswith("host-p0") and spine == 0
                    lost = crosses and self.broken <= second < self.repaired and (second + len(destination)) % 2 == 0
                    yield self._row(source, destination, spine, second, lost)
            dead = second >= self.resolver_dead
            if second <= self.now - 10 * dead:
                yield {
                    "task_type": "DNS",
                    "ping_time": int(second * 1e9),
                    "src_node_id": host,
                    "src_node_sn": host,
                    "dst_node_id": "resolver-1",
                    "dial": "fail" if dead else "success",
                    "latency": None if dead else 800.0,
                    "loss_rate": float(dead),
                }
        for source, destination, spine in PATHS:
            if source == host:
                hops = [f"leaf-{source[5:7]}-r0", f"spine-{spine}", f"leaf-{destination[5:7]}-r0"]
                traced = {"task_type": "TRACEROUTE", "route": json.dumps(hops), "latency": None, "loss_rate": None}
                yield self._row(source, destination, spine, self.now, lost=False) | traced

    def _row(self, source: str, destination: str, spine: int, second: float, lost: bool) -> dict[str, Any]:
        return {
            "task_type": "UDP_PING",
            "ping_time": int(second * 1e9),
            "src_node_id": f"c-{source}",
            "dst_node_id": f"c-{destination}",
            "src_node_sn": source,
            "dst_node_sn": destination,
            "src_rnic": "mlx5_0",
            "dst_rnic": "mlx5_0",
            "src_port": 49152 + spine,
            "dst_port": 65300,
            "dial": "fail" if lost else "success",
            "latency": None if lost else 15.0,
            "loss_rate": float(lost),
        }


COLUMNS = ["task_type", "ping_time", "src_node_id", "dst_node_id", "src_node_sn", "dst_node_sn", "src_rnic", "dst_rnic",
           "src_port", "dst_port", "dial", "latency", "loss_rate", "route"]  # fmt: skip


def as_csv(rows: Iterator[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def url(world: World) -> Iterator[str]:
    """One server for all exporters: ``URL/HOST``."""

    class Exporter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            host = parts.path.strip("/")
            body = as_csv(world.served(host, float(parse_qs(parts.query)["since"][0])))
            self.send_response(503 if host in world.down else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Whoever asked has left: no event."""

    with Quiet(("127.0.0.1", 0), Exporter) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def following(world: World, url: str, tmp_path: Path) -> Callable[..., Following]:
    def make(*more: str, **changes: Any) -> Following:
        given = {
            "fabric": FABRIC,
            "skeleton": skeleton(),
            "probes": [f"{url}/{host}" for host in HOSTS] + list(more),
            "counters": (),
            "overlay": None,
            "output": tmp_path / "diagnosis.json",
            "interval": 2.0,
            "spraying": False,
        }
        return Following(Given(**{**given, **changes}), Event(), lambda: world.now)

    return make


def play(following: Following, world: World, seconds: int, step: int = 5) -> None:
    for _ in range(0, seconds, step):
        world.now += step
        following.round()


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
    monkeypatch.setattr("skeleton_service.following.PATIENCE_SECONDS", 3.0)
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


def test_a_verdict_that_cannot_be_written_is_told_of_once_and_written_when_it_can_be(
    following: Callable[..., Following], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "full.json"
    output.symlink_to("/dev/full")
    own = following(output=output)
    play(own, world, 80, step=20)
    told = capsys.readouterr()
    assert told.out.count(" found: ") == 1
    (line,) = told.err.splitlines()
    assert line.startswith(f"{output}: cannot be written: No space left on device (make room)")
    output.unlink()
    play(own, world, 10)
    assert capsys.readouterr().err == f"written again: {output}\n"
    assert read(output, Diagnosis).failures


def test_a_directory_that_is_missing_is_named_and_used_once_it_is_there(
    following: Callable[..., Following], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "no" / "diagnosis.json"
    own = following(output=output)
    play(own, world, 10)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{output}: cannot be written: No such file or directory (create its directory)")
    output.parent.mkdir()
    play(own, world, 5)
    assert read(output, Diagnosis).failures == ()


def test_bad_answers_that_come_later_are_named_once_and_end_nothing(
    following: Callable[..., Following], world: World, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = following()
    play(own, world, 10)
    assert capsys.readouterr().err == ""
    world.strange = {HOSTS[0]}
    play(own, world, 15)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"that the topology does not have: x-{HOSTS[0]}:mlx5_0 (from {url}/{HOSTS[0]})")
    world.strange = set(HOSTS)
    play(own, world, 10)
    (line,) = capsys.readouterr().err.splitlines()
    assert all(f"{url}/{host}" in line for host in HOSTS[1:4])
    assert f"{url}/{HOSTS[0]}" not in line
    assert line.endswith(" and 2 more)")


def test_a_clock_that_is_ahead_is_told_of_once_and_costs_the_others_nothing(
    following: Callable[..., Following], world: World, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.hasty, world.resolver_dead = {HOSTS[-1]: 61.0}, BEGIN + 40
    play(following(), world, 80)
    out, err = capsys.readouterr()
    assert err == (
        f"clock ahead of this one: {url}/{HOSTS[-1]} ({HOSTS[-1]}) by 61 s: what is yet to come waits: is it right?\n"
    )
    resolver, link = sorted(read(tmp_path / "diagnosis.json", Diagnosis).failures, key=lambda each: each.start)
    assert (link.component.name, link.end, resolver.component.name, resolver.end) == (BROKEN, None, "resolver-1", None)
    assert link.start == pytest.approx(world.broken, abs=2)
    assert (out.count(" found: "), out.count(" ended: ")) == (2, 0)


def test_counter_samples_of_times_to_come_wait(
    following: Callable[..., Following], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{BEGIN + 5 * at},fabric_switch_port_up_ratio,spine-0,Ethernet0,{int(at < 9)}" for at in range(20)]
    (tmp_path / "ports.csv").write_text("\n".join(["time,metric,node,port,value", *rows]))
    own = following(counters=[str(tmp_path / "ports.csv")])
    play(own, world, 30)
    assert "ports.csv (spine-0) by 90 s" in capsys.readouterr().err
    assert read(tmp_path / "diagnosis.json", Diagnosis).failures == ()


def test_a_host_whose_clock_is_slow_is_told_of(
    following: Callable[..., Following], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.ahead = -60.0
    own = following()
    play(own, world, 200, step=20)
    told = [line for line in capsys.readouterr().err.splitlines() if "is its clock right?" in line]
    assert len(told) == len(HOSTS)
    assert "its newest record is 61 s old" in told[0]


def test_records_of_another_fabric_end_it(following: Callable[..., Following], world: World) -> None:
    topology = leaf_spine(pods=1, rails=1, spines=1, hosts_per_pod=1)
    strange = Fabric(
        msgspec.structs.replace(topology, hosts=(msgspec.structs.replace(topology.hosts[0], name="x"),), links=())
    )
    with pytest.raises(ContractError, match="probe records are of RNICs that the topology does not have"):
        play(following(fabric=strange), world, 20)


def test_an_overlay_file_that_breaks_is_told_of_and_the_one_before_kept(
    following: Callable[..., Following], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "overlay.json"
    overlay.write_text('{"version": 1, "entries": []}')
    own = following(overlay=overlay)
    play(own, world, 10)
    assert capsys.readouterr().err == ""
    overlay.write_text("{")
    play(own, world, 10)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"overlay: {overlay}: ")
    assert line.endswith("the one before is used on")


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
