"""`fabric-exporter probe --type rdma` as far as it goes without a device; with one: tests/rdma/guest."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from exporter.cli import _parser, main
from exporter.contracts.addresses import canonical
from exporter.contracts.plan import INTRODUCTION_PORT, ROCE_SOURCE_PORTS
from exporter.probe import request as request_module
from exporter.probe.path import ProbedPath
from exporter.probe.render import headline, notes
from exporter.probe.request import Request, read_request
from exporter.probe.session import Session
from exporter.probe.verdict import problems
from exporter.probing.loop import Loop
from exporter.rdma.ports import NO_DEVICE, VerbsError, gid_of, roce_addresses
from tests.unit.test_probe import path_summary
from tests.unit.test_rdma_ports import ADDRESS, Tree

SIX = "2001:db8::1"
DESTINATION = "10.9.0.2"
NEED_PYVERBS = ("verbs", "completions", "device", "inbox", "prober", "responder")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """The devices of this host: mlx5_0 with an IPv4 and an IPv6 address, and mlx5_1 without any."""
    made = Tree(tmp_path)
    made.gid(5, gid_of(SIX), "RoCE v2")
    (made.sysfs / "mlx5_1").mkdir()
    monkeypatch.setattr(request_module, "roce_addresses", partial(roce_addresses, made.sysfs))
    return made


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    (tmp_path / "probe.key").write_bytes(b"k" * 32)
    return str(tmp_path / "probe.key")


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """The command takes the process for its own."""
    handler, interval = signal.getsignal(signal.SIGTERM), sys.getswitchinterval()
    yield
    signal.signal(signal.SIGTERM, handler)
    sys.setswitchinterval(interval)


def read(key_file: str, *options: str) -> Request:
    return read_request(_parser().parse_args(["probe", "--type", "rdma", "--key-file", key_file, *options]))


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(("source", "destination"), [(ADDRESS, DESTINATION), (SIX, "2001:DB8:0:0::2")])
def test_the_device_is_the_one_that_has_the_source_address(source: str, destination: str, key_file: str) -> None:
    request = read(key_file, destination, "--source", source)
    (target,) = request.targets
    assert request.devices == {source: "mlx5_0"}
    assert (target.source_address, target.destination_address) == (source, canonical(destination))
    assert (target.probe, target.destination_port, target.payload_bytes) == ("rdma", INTRODUCTION_PORT, 64)
    assert target.source_ports[0] in ROCE_SOURCE_PORTS
    more = read(key_file, destination, "--source", source, "--source-port", "49153,65535")
    assert [target.source_ports for target in more.targets] == [(49153,), (65535,)]


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [DESTINATION, "--source", "10.9.0.7"],
            f"--source: 10.9.0.7 is no RoCEv2 address of an RDMA device (mlx5_0 has {ADDRESS}, {SIX}; mlx5_1 has none)",
        ),
        ([DESTINATION, "--source", ADDRESS, "--size", "100"], "--size: is of no use with --type rdma, whose messages"),
        (
            [DESTINATION, "--source", ADDRESS, "--source-port", "49152"],
            f"--source-port: rdma probes cannot be sent from 49152 of {ADDRESS} (49153-65535)",
        ),
        (["::1", "--source", ADDRESS], "::1: has no IPv4 address (only --type rdma probes IPv6, and from an IPv6"),
        ([DESTINATION, "--source", SIX], f"{DESTINATION}: has no IPv6 address"),
        (["fe80::2"], "fe80::2: is a link-local address"),
        ([DESTINATION, "--source", "eth0"], "--source: 'eth0' is no IP address"),
        ([DESTINATION, "--ecmp"], "--ecmp: is of no use with --type rdma"),
    ],
)
def test_wrong_usage_is_exit_2_with_one_line(
    options: list[str], message: str, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", "--type", "rdma", "--key-file", key_file, *options]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"fabric-exporter: {message}")
    assert (output.err.count("\n"), output.out) == (1, "")


def test_a_key_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--type", "rdma", DESTINATION]) == 2
    assert "--key-file: is missing, and rdma probes are answered under" in capsys.readouterr().err


def test_a_host_without_any_device_is_told_the_ways_to_one(
    tree: Tree, key_file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_module, "roce_addresses", partial(roce_addresses, tree.sysfs / "none"))
    assert main(["probe", "--type", "rdma", DESTINATION, "--source", ADDRESS, "--key-file", key_file]) == 2
    assert NO_DEVICE in capsys.readouterr().err


@pytest.mark.usefixtures("tree")
def test_a_host_without_pyverbs_is_exit_2_with_what_to_install(
    key_file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("probe.rdma", *(f"rdma.{each}" for each in NEED_PYVERBS)):
        monkeypatch.delitem(sys.modules, f"exporter.{name}", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyverbs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not Path(entry, "pyverbs").exists()])
    assert main(["probe", "--type", "rdma", DESTINATION, "--source", ADDRESS, "--key-file", key_file]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("fabric-exporter: --type rdma: pyverbs is not installed: apt-get install")
    assert (output.err.count("\n"), output.out) == (1, "")


QUESTIONS = (0, 1, 3, 6)


class AskingRnic:
    """In place of a device: of what it is told to send, some are questions, the others answered after 5 ms."""

    timestamps = "hardware"

    def __init__(self, loop: Loop, _: object, name: str, *__: object) -> None:
        self.name = name
        self._loop = loop
        self._told = 0

    def add(self, path: ProbedPath) -> Callable[[], None]:
        return partial(self._send, path)

    def _send(self, path: ProbedPath) -> None:
        now = time.time_ns()
        question, self._told = self._told in QUESTIONS, self._told + 1
        if not question:
            path.book_sent()
        end = partial(path.leave_question, now, answered=True) if question else partial(path.book_answer, 9000, now)
        self._loop.after(0.005, end)

    def check(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("count", [1, 4, 5])
def test_a_question_in_place_of_a_probe_is_none_and_the_count_is_of_probes(
    count: int, key_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count that was reached by a question would end too soon, or never."""
    monkeypatch.setitem(sys.modules, "exporter.probe.rdma", SimpleNamespace(Rnic=AskingRnic))
    request = read(key_file, DESTINATION, "--source", ADDRESS, "-c", str(count), "-i", "0.02")
    session = Session(request, keep_samples=True)
    session.start()
    assert session.wait(10)
    (path,) = session.summaries()
    assert (path.sent, path.answered, path.lost, path.introduced) == (count, count, 0, True)
    assert (path.device, path.timestamps, path.ecn_marked, path.lost_return) == ("mlx5_0", "hardware", 0, 0)
    assert [sample.number for _, sample in session.samples] == list(range(count))


@pytest.mark.usefixtures("tree")
def test_the_first_probe_does_not_wait_for_the_next_interval(key_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "exporter.probe.rdma", SimpleNamespace(Rnic=AskingRnic))
    monkeypatch.setattr(sys.modules[__name__], "QUESTIONS", (0,))
    session = Session(read(key_file, DESTINATION, "--source", ADDRESS, "-c", "1", "-i", "3600"))
    session.start()
    assert session.wait(10)


class LeavingRnic(AskingRnic):
    def check(self) -> None:
        if self._told > 3:
            raise VerbsError("the device has gone")


@pytest.mark.usefixtures("tree")
def test_a_device_that_goes_is_exit_2_after_what_was_seen(
    key_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "exporter.probe.rdma", SimpleNamespace(Rnic=LeavingRnic))
    options = ["--type", "rdma", "--source", ADDRESS, "--key-file", key_file, "-i", "0.02", "-c", "1000", "--json"]
    assert main(["probe", DESTINATION, *options]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["problems"] == ["--type rdma: the device has gone"]
    assert not document["within_thresholds"]
    assert document["paths"][0]["answered"] > 0


@pytest.mark.usefixtures("tree")
def test_it_is_said_what_is_in_the_way(key_file: str) -> None:
    request = read(key_file, DESTINATION, "--source", ADDRESS)
    silent = {"answered": 0, "destination_port": INTRODUCTION_PORT, "introduced": False, "rtt_seconds": None}
    lost = {**silent, "lost": 8, "lost_ratio": 1.0}
    assert problems(request, [path_summary(**lost)]) == [
        "gpu-1: no answer from UDP port 65301 (is fabric-exporter running there, under the key of --key-file, and does "
        "no firewall drop the port?)"
    ]
    (introduced,) = problems(request, [path_summary(**lost | {"introduced": True})])
    assert introduced.startswith(
        "gpu-1: introduced over UDP port 65301, but no RDMA probe was answered (something drops"
    )
    (refused,) = problems(request, [path_summary(**silent, refused=8)])
    assert refused.startswith("gpu-1: refused: the host is there, but no exporter answers RDMA probes (UDP port 65301;")


@pytest.mark.usefixtures("tree")
def test_marks_and_who_knows_the_times_are_said_once(key_file: str) -> None:
    request = read(key_file, DESTINATION, "--source", ADDRESS)
    assert headline(request).startswith(
        "rdma, introduced at UDP port 65301, 64-byte messages, traffic class 106, every"
    )
    stamped = {"device": "mlx5_0", "timestamps": "hardware"}
    paths = [path_summary(**stamped, ecn_marked=3), path_summary(**stamped, source_port=50_001, starved=2)]
    assert notes(paths) == [
        "gpu-1 from port 50000: 3 of 8 answered were marked by a congested queue (ECN)",
        "mlx5_0: round trips by hardware timestamps",
        "2 starved (!): timed with over 0.2 ms of doubt because this host, or the other, was busy",
    ]
    assert json.loads(msgspec.json.encode(paths[0]))["ecn_marked"] == 3
