"""`fabric-exporter probe` on loopback against a real responder: what a person, a script and a pipeline see of it."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from exporter.cli import _parser, main
from exporter.contracts.catalogue import PROBER
from exporter.probe.render import sparkline
from exporter.probe.request import read_request
from exporter.probe.session import Session
from exporter.probe.statistics import WINDOW, HopRoundTrips, PathSummary, Sample, Tally
from exporter.probe.units import percent, seconds
from exporter.probe.verdict import problems
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import REQUEST, Codec, Packet
from exporter.probing.responder import Streams, UdpResponder
from exporter.probing.tcp.responder import TcpResponder
from exporter.store import Store
from tests.unit.narrow import ROUTER, running

NEAR, FAR, DEAD = "127.0.0.2", "127.0.0.3", "127.0.0.4"
KEY = b"k" * 32


class EveryFourthUnheard(Codec):
    """A responder's codec to which every fourth request is noise: a network that loses a quarter."""

    def parse(self, data: bytes) -> Packet | None:
        packet = super().parse(data)
        return None if packet is not None and packet.kind == REQUEST and packet.sequence % 4 == 0 else packet


class Responding:
    """A host that answers, in a thread."""

    def __init__(self, codec: Codec) -> None:
        loop = Loop()
        counters = Store([(PROBER, 1)]).writer(PROBER).add(())
        udp = UdpResponder(codec, FAR, 0, 1, Streams(), SourceLimit(1000), counters)
        self.port: int = socket.socket(fileno=os.dup(udp.fileno())).getsockname()[1]
        tcp = TcpResponder(loop, codec, FAR, self.port, 1, SourceLimit(1000), counters)
        loop.watch(udp)
        loop.watch(tcp)
        self._loop, self._sockets = loop, (udp, tcp)
        self._tick()  # it looks whether it should stop whenever it wakes
        self._thread = threading.Thread(target=loop.run, daemon=True)
        self._thread.start()

    def _tick(self) -> None:
        self._loop.after(0.05, self._tick)

    def close(self) -> None:
        self._loop.stop()
        self._thread.join(5)
        for each in self._sockets:
            each.close()


@pytest.fixture
def responder() -> Iterator[Responding]:
    running = Responding(Codec(KEY))
    yield running
    running.close()


@pytest.fixture
def lossy() -> Iterator[Responding]:
    running = Responding(EveryFourthUnheard(KEY))
    yield running
    running.close()


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "probe.key"
    path.write_bytes(KEY)
    return str(path)


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """The command takes the process for its own."""
    handler, interval = signal.getsignal(signal.SIGTERM), sys.getswitchinterval()
    yield
    signal.signal(signal.SIGTERM, handler)
    sys.setswitchinterval(interval)


def arguments(responder: Responding, key_file: str, *more: str, to: tuple[str, ...] = (FAR,)) -> list[str]:
    """Eight probes, 40 ms apart."""
    basic = ["probe", *to, "--source", NEAR, "--port", str(responder.port), "-c", "8", "-i", "0.04", "--timeout", "0.5"]
    return [*basic, "--key-file", key_file, *more]


def test_lines_and_a_summary_where_output_is_no_terminal(
    responder: Responding, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(responder, key_file)) == 0
    first, *probes, _, summary, totals = capsys.readouterr().out.splitlines()
    assert first == f"udp to port {responder.port}, 92-byte packets, traffic class 106, every 0.04 s"
    assert [re.sub(r" from port \d+", "", line).split("]")[0] for line in probes] == [
        f"{FAR} : [{number}" for number in range(8)
    ]
    assert re.search(r"sent/answered/lost = 8/8/0 %, min/median/p90/p99/max = \d", summary)
    assert totals.startswith("1 path, 8 probes sent, 8 answered in ")


@pytest.mark.parametrize("kind", ["udp", "tcp", "mtu", "trace"])
def test_every_type_gives_a_document_with_numbers_in_seconds(
    kind: str, responder: Responding, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--type", kind, "--json", "--source-port", "50100-50101", "--dscp", "10"]
    assert main(arguments(responder, key_file, *options)) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["type"], document["within_thresholds"], document["traffic_class"]) == (kind, True, 10 << 2 | 2)
    assert [path["source_port"] for path in document["paths"]] == [50100, 50101]
    for path in document["paths"]:
        assert (path["sent"], path["answered"], path["lost"], path["lost_ratio"]) == (8, 8, 0, 0)
        trips = path["rtt_seconds"]
        assert 0 < trips["min"] <= trips["median"] <= trips["p90"] <= trips["p99"] <= trips["max"] < 0.5
        # The responder counts what it heard; nobody counts handshakes: absent, not 0.
        assert path["lost_return"] == (None if kind == "tcp" else 0)
        echoes, trips = path["echoes"], path["echo_rtt_seconds"]
        assert (echoes, trips is None) == ((8, False) if kind == "tcp" else (None, True))
        counts = [path[name] for name in ("syn_retransmits", "retransmits", "resets")]
        assert counts == ([0, 0, 0] if kind == "tcp" else [None] * 3)
        hops = [list(hop["addresses"]) for hop in path["hops"] or []]
        assert hops == ([[FAR]] if kind == "trace" else [])


def test_full_size_probes_fill_the_interface(
    responder: Responding, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(responder, key_file, "--type", "mtu", "--json")) == 0
    mtu = int(Path("/sys/class/net/lo/mtu").read_text())
    assert json.loads(capsys.readouterr().out)["packet_bytes"] == min(mtu, 65535)


def test_what_passes_is_said_and_whether_roce_does(
    responder: Responding, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(responder, key_file, "--type", "mtu", "--size", "4200", "-c", "1")) == 0
    assert f"\n{FAR}: packets of 4200 bytes pass; RoCE fits at path MTU 4096\n" in capsys.readouterr().out
    assert main(arguments(responder, key_file, "--type", "mtu", "--size", "4159", "-c", "1")) == 0
    assert f"\n{FAR}: packets of 4159 bytes pass; RoCE fits at path MTU 2048\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (None, "larger ones vanish without a word (black hole)"),
        (1500, f"{ROUTER} said that larger ones are too large (frag needed)"),
    ],
)
def test_the_largest_size_that_passes_is_found_with_who_said_so(
    says: int | None, why: str, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["-c", "2", "-i", "0.05", "--timeout", "0.2", "--key-file", key_file, "--size", "9000"]
    with running() as network:
        network.mtu, network.says = 1500, says
        probe = ["probe", FAR, "--source", NEAR, "--port", str(network.port), "--type", "mtu", *options]
        assert main(probe) == 1
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == (f"{FAR}: packets of at most 1500 bytes pass, not 9000: {why}; RoCE fits at path MTU 1024")
        assert main([*probe, "--json"]) == 1
        (path,) = json.loads(capsys.readouterr().out)["paths"]
        kind, hop = ("black_hole", None) if says is None else ("frag_needed", ROUTER)
        found = {"bytes": 1500, "tried_bytes": 9000, "kind": kind, "hop": hop, "roce_path_mtu": 1024}
        assert path["path_mtu"] == found


def test_json_lines_are_one_a_probe_and_the_document_as_the_last(
    responder: Responding, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(responder, key_file, "--json-lines")) == 0
    *probes, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(probe["event"], probe["number"], probe["outcome"]) for probe in probes] == [
        ("probe", number, "answered") for number in range(8)
    ]
    assert (last["event"], last["paths"][0]["sent"]) == ("summary", 8)


@pytest.mark.parametrize(("allowed", "code"), [("25", 0), ("24.9", 1), (None, 0)])
def test_the_exit_code_is_1_only_when_more_is_lost_than_allowed(
    allowed: str | None, code: int, lossy: Responding, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [] if allowed is None else ["--max-loss", allowed]
    assert main(arguments(lossy, key_file, *more)) == code
    output = capsys.readouterr().out
    assert "sent/answered/lost = 8/6/25 %" in output
    assert ("lost 25 %, more than the 24.9 % allowed" in output) == (code == 1)
    assert output.count("] lost\n") == 2


def test_a_99th_percentile_above_the_threshold_is_exit_1(
    responder: Responding, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(responder, key_file, "--max-rtt-ms", "0.0001")) == 1
    assert "more than the 0.10 µs allowed" in capsys.readouterr().out
    assert main(arguments(responder, key_file, "--max-rtt-ms", "500")) == 0


def test_a_host_without_a_responder_is_refused_with_the_remedy(
    responder: Responding, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(responder, key_file, to=(DEAD,))) == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"{DEAD}: refused: the network is fine, but no responder listens on UDP port {responder.port} "
        "(start fabric-exporter run there, or name its --port)"
    )


def test_another_key_is_silence_with_the_remedy(
    responder: Responding, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.key").write_bytes(b"o" * 16)
    assert main(arguments(responder, str(tmp_path / "other.key"), "--source-port", "50110,50111")) == 1
    output = capsys.readouterr().out
    assert "sent/answered/lost = 8/0/100 %" in output
    # One line for both paths: they have one reason.
    assert output.splitlines()[-1].startswith(f"{FAR}: no answer from UDP port {responder.port} (is fabric-exporter")
    assert output.count("no answer") == 1


def test_echoes_of_tcp_connections_are_told_apart_and_asked_for_by_key_alone(
    responder: Responding, key_file: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(arguments(responder, key_file, "--type", "tcp", "--source-port", "50110")) == 0
    told = f"{FAR} from port 50110: echo on 8 of 8 connections, min/median/p90/p99/max = "
    assert told in capsys.readouterr().out
    assert main(["probe", FAR, "--type", "tcp", "--port", str(responder.port), "-c", "2", "-i", "0.02"]) == 0
    assert "echo" not in capsys.readouterr().out
    (other := tmp_path / "other.key").write_bytes(b"z" * 32)
    assert main(arguments(responder, str(other), "--type", "tcp")) == 0, "a handshake was answered"
    assert f"{FAR}: no echo; is fabric-exporter running there, under the key" in capsys.readouterr().out


def test_a_closed_tcp_port_is_measured_and_needs_no_key(
    responder: Responding, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--type", "tcp", "--port", str(responder.port), "-c", "3", "-i", "0.04"]
    assert main(["probe", DEAD, *options]) == 0
    output = capsys.readouterr().out
    assert output.count("(closed port)") == 3
    assert "sent/answered/lost = 3/3/0 %" in output
    assert f"\n{DEAD}: the port is closed; this process timed its resets" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([FAR], "--key-file: is missing, and udp probes are answered under the responder's key only (name a copy"),
        ([FAR, "--key-file", "/none"], "/none: No such file or directory"),
        (["no such name", "--type", "tcp"], "no such name: has no IPv4 address"),
        (
            ["::1", "--type", "tcp"],
            "::1: has no IPv4 address (only --type rdma probes IPv6, and from",
        ),
        (["224.0.0.1", "--type", "tcp"], "224.0.0.1: is not a unicast address"),
        ([FAR, "--type", "tcp", "--size", "100"], "--size: is of no use with --type tcp"),
        ([FAR, "--type", "tcp", "--source", "192.0.2.1"], "--source: 192.0.2.1 is no address of this host"),
        ([FAR, "--type", "tcp", "--source", "lo"], "--source: 'lo' is no IPv4 address"),
    ],
)
def test_wrong_usage_is_exit_2_with_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", *options]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"fabric-exporter: {message}")
    assert (output.err.count("\n"), output.out) == (1, "")


@pytest.mark.parametrize(
    "option",
    ["--source-port=80", "--source-port=2000-1999", "--interval=0", "--count=0", "--dscp=64", "--max-loss=nan", "-s=9"],
)
def test_a_value_out_of_range_is_exit_2(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["probe", FAR, "--type", "udp", option])
    assert end.value.code == 2
    assert option.partition("=")[0] in capsys.readouterr().err


def test_a_source_port_in_use_is_exit_2_and_says_by_whom(
    responder: Responding, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((NEAR, 0))
        port = other.getsockname()[1]
        assert main(arguments(responder, key_file, "--source-port", str(port))) == 2
    assert (
        f"--source-port: {port} of {NEAR} is in use (another program, perhaps the exporter" in capsys.readouterr().err
    )


class Terminal:
    """The command under a terminal of 24 lines and 110 columns."""

    def __init__(self, arguments: list[str]) -> None:
        self.output = ""
        self._screen, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "110", "LINES": "24"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "exporter.cli", *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
            env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def read_until(self, text: str, seconds: float = 20.0) -> None:
        ends = time.monotonic() + seconds
        while text not in self.output:
            assert time.monotonic() < ends, f"{text!r} is not in {self.output!r}"
            if select.select([self._screen], [], [], 0.1)[0]:
                self.output += os.read(self._screen, 65536).decode()

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """The exit code, once all output is read."""
        while True:
            try:
                self.output += os.read(self._screen, 65536).decode()
            except OSError:  # how Linux says that the other end is closed
                break
        os.close(self._screen)
        return self._process.wait(20)


def test_a_terminal_shows_a_table_in_place_until_ctrl_c(responder: Responding, key_file: str) -> None:
    options = arguments(responder, key_file, to=(FAR, DEAD))
    del options[options.index("-c") : options.index("-c") + 2]
    terminal = Terminal(options)
    terminal.read_until("s so far; Ctrl-C ends")
    terminal.read_until("refused: the network is fine")
    terminal.interrupt()
    assert terminal.end() == 1
    last = terminal.output.rpartition("A\x1b[1mudp")[2]  # after the last move up to the top of the table
    assert "Ctrl-C ends" not in last
    assert re.search(rf"{FAR} +\d+ +\d+ +0 %( +[\d.]+ [µm]s){{6}}  [▁▂▃▄▅▆▇█!]+\x1b", last)
    assert re.search(rf"\x1b\[31m{DEAD} +\d+ +\d+ +0 %( +-){{6}}  r+\x1b", last)
    assert re.search(r"2 paths, \d+ probes sent, \d+ answered in ", last)
    assert max(len(re.sub(r"\x1b\[\w*", "", line)) for line in last.splitlines()[:4]) < 110


def test_ctrl_c_ends_lines_with_the_summary(responder: Responding, key_file: str) -> None:
    command = [sys.executable, "-m", "exporter.cli", *arguments(responder, key_file, "-c", "100000")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "[3]" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0
    assert re.search(r"sent/answered/lost = (\d+)/\1/0 %", rest)


def test_a_reader_that_leaves_ends_it_without_a_traceback(responder: Responding, key_file: str) -> None:
    command = [sys.executable, "-m", "exporter.cli", *arguments(responder, key_file, "-c", "100000")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_a_probe_that_a_busy_host_sent_late_is_starved_and_none_is_made_up_for(
    responder: Responding, key_file: str
) -> None:
    options = arguments(responder, key_file)
    session = Session(read_request(_parser().parse_args(options)), keep_samples=True)
    session._loop.after(0.12, lambda: time.sleep(0.2))  # between two probes; five periods
    session.start()
    assert session.wait(20)
    (path,) = session.summaries()
    assert (path.sent, path.answered, path.unsent) == (8, 8, 0)
    assert path.starved >= 1
    times = [sample.time for _, sample in session.samples]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) > 0.15
    assert sum(gap < 0.005 for gap in gaps) == 0  # not in a clump afterwards


def test_a_run_ends_after_a_stall_that_outlived_its_probes(key_file: str) -> None:
    """Ctrl-Z and fg: nobody can tell what became of the probes that were under way, and none is waited for."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((FAR, 0))
        options = ["probe", FAR, "--source", NEAR, "--port", str(silent.getsockname()[1]), "--key-file", key_file]
        options += ["--count", "4", "--interval", "0.05", "--timeout", "0.3"]
        session = Session(read_request(_parser().parse_args(options)))
        session._loop.after(0.25, lambda: time.sleep(1))
        session.start()
        assert session.wait(10)
    (path,) = session.summaries()
    assert (path.sent, path.answered, path.lost) == (4, 0, 4 - path.unjudged)
    assert path.unjudged > 0


def sample(rtt: float | None, *, number: int = 0, starved: bool = False) -> Sample:
    outcome = "lost" if rtt is None else "answered"
    return Sample(number=number, time=1.0, outcome=outcome, rtt_seconds=rtt, starved=starved)


def test_percentiles_are_the_nearest_rank_of_the_last_window_and_extremes_of_all() -> None:
    tally = Tally()
    tally.add(sample(9.0))
    for number in range(WINDOW):
        tally.add(sample((number + 1) / WINDOW))
    trips = tally.round_trips()
    assert trips is not None
    assert (trips.last, trips.min, trips.max) == (1.0, 1 / WINDOW, 9.0)
    assert (trips.median, trips.p90, trips.p99) == (0.5, 0.9, 0.99)


def test_a_sparkline_marks_what_was_lost_and_starved_and_steps_by_the_square_root_of_two() -> None:
    tally = Tally()
    for rtt in (1e-5, None, 1.3e-5, 1.5e-5, 2.1e-5, 1.0):
        tally.add(sample(rtt))
    tally.add(sample(1e-5, starved=True))
    tally.add(Sample(number=0, time=0.0, outcome="answered", rtt_seconds=None, starved=False))  # its SYN was sent again
    assert sparkline(tally.recent(), tally.round_trips()) == "▁x▁▂▃█!s"


def test_hops_that_differ_are_shown_together_and_silence_at_the_end_is_left_out() -> None:
    tally = Tally()
    for hops in (["a", None, "c"], ["a", None, "d"], ["a", None, "c"], ["b", None, None, None]):
        tally.add_trace(hops, [1000] * len(hops))
    assert [(hop.traces, hop.addresses) for hop in tally.hops("z")] == [
        (4, {"a": 3, "b": 1}),
        (4, {}),
        (4, {"c": 2, "d": 1}),
    ]


def test_a_destination_whose_answers_were_lost_is_no_hop_after_itself() -> None:
    """A path that lost 30 % used to be one hop longer than it was."""
    tally = Tally()
    for hops in (["a", "z"], ["a", None, "z"], ["a", None, None, "z"]):
        tally.add_trace(hops, [1000] * len(hops))
    assert [hop.addresses for hop in tally.hops("z")] == [{"a": 3}, {"z": 1}]


def test_a_hop_has_the_round_trips_of_the_traces_that_it_answered() -> None:
    tally = Tally()
    for rtts in ([30_000, 70_000], [10_000, 90_000], [20_000, None]):
        tally.add_trace(["a", "z"], rtts)
    tally.add_trace([None, "z"], [None, 80_000])
    near, far = tally.hops("z")
    assert (near.rtt_seconds, far.rtt_seconds) == (
        HopRoundTrips(min=10e-6, median=20e-6, max=30e-6),
        HopRoundTrips(min=70e-6, median=80e-6, max=90e-6),
    )


def path_summary(**changes: object) -> PathSummary:
    basis = PathSummary(
        destination="gpu-1", destination_address=FAR, destination_port=65300, source_address=NEAR, source_port=50000,
        sent=8, answered=8, lost=0, lost_return=0, refused=0, unsent=0, unjudged=0, starved=0, lost_ratio=0.0,
        mtu_reported_bytes=None, rtt_seconds=None, hops=None,
    )  # fmt: skip
    return msgspec.structs.replace(basis, **changes)


def test_one_silent_path_of_a_destination_is_named_with_its_port(key_file: str) -> None:
    """A destination was called silent whose other paths answered."""
    options = ["probe", FAR, "--source", NEAR, "--type", "mtu", "--key-file", key_file]
    request = read_request(_parser().parse_args(options))
    dead = {"answered": 0, "lost": 8, "lost_ratio": 1.0, "mtu_reported_bytes": 1500}
    paths = [path_summary(), path_summary(source_port=50001, **dead), path_summary(destination="gpu-2", **dead)]
    assert problems(request, paths) == [
        "gpu-1 from port 50001, gpu-2: too large: the path reports an MTU of 1500 bytes (try a smaller --size)"
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00 µs"), (4.51e-5, "45.1 µs"), (0.00099949, "999 µs"), (0.0009996, "1.00 ms"), (0.0123, "12.3 ms"),
     (0.9999, "1.00 s"), (12.34, "12.3 s")],
)  # fmt: skip
def test_times_have_three_digits(value: float, text: str) -> None:
    assert seconds(value) == text


def test_percentages_keep_small_losses_visible() -> None:
    assert [percent(ratio) for ratio in (0, 0.0005, 1 / 3, 1)] == ["0 %", "0.05 %", "33.3 %", "100 %"]
