"""A delay without netem: what ping and numbered datagrams see of it, in a sandbox of two hosts and a router."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import sandbox
from lab.delay import AnyOrder, InOrder, Stage

BUSY = 1.5  # how much longer the mean may be on a machine whose cores are shared with other tests
MEASURE = r"""
import json, os, re, signal, socket, subprocess, sys, time
from pathlib import Path
from lab import background, delay
from lab.errors import LabError
from lab.netns import inside, socket_in

directory = Path(sys.argv[1])

def run(line, **options):
    return subprocess.run(line.split(), capture_output=True, text=True, **options)

for node in ("near", "far", "router"):
    run(f"ip netns add {node}", check=True)
for host, network in (("near", "10.0.0"), ("far", "10.0.1")):
    run(f"ip link add name eth0 netns {host} type veth peer name {host} netns router", check=True)
    for node, device, address in ((host, "eth0", f"{network}.1"), ("router", host, f"{network}.0")):
        run(f"ip -n {node} addr add {address}/31 dev {device}", check=True)
        run(f"ip -n {node} link set dev {device} up", check=True)
    run(f"ip -n {host} route add default via {network}.0", check=True)
with inside("router"):
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

def ping(address="10.0.1.1", count=60):
    answer = run(f"ip netns exec near ping -n -q -c {count} -i 0.004 -W 1 {address}").stdout
    lost = int(re.search(r"(\d+) packets transmitted, (\d+) received", answer)[2])
    least, mean, most, deviation = map(float, re.search(r"= (\S+)/(\S+)/(\S+)/(\S+) ms", answer).groups())
    return {"received": lost, "least": least, "mean": mean, "most": most, "deviation": deviation}

def datagrams(count=1500, size=100):
    '''Numbered datagrams, sent in bursts: the numbers that arrive, in order of arrival.'''
    with socket_in("far", kind=socket.SOCK_DGRAM) as to, socket_in("near", kind=socket.SOCK_DGRAM) as by:
        to.bind(("10.0.1.1", 4791))
        to.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        to.settimeout(0.3)
        arrived = []
        for number in range(count):
            by.sendto(number.to_bytes(4, "big") + bytes(size), ("10.0.1.1", 4791))
            if number % 50 == 49:
                time.sleep(0.005)
        try:
            while True:
                arrived.append(int.from_bytes(to.recv(2048)[:4], "big"))
        except TimeoutError:
            return arrived

found = {"whole": ping()}
stage = delay.Stage("router", 7, 3000, match='iifname "near" ip protocol icmp')
delay.begin(directory, stage)
found["delayed"] = ping()
found["near gateway"] = ping("10.0.0.0")
delay.begin(directory, delay.Stage("router", 7, 2000, jitter=2000, match='iifname "near"', seed=1))
found["jitter"] = ping(count=150)
found["in order"] = datagrams()
delay.begin(directory, delay.Stage("router", 7, 2000, jitter=2000, match='iifname "near"', seed=1, reorder=True))
found["reordered"] = datagrams()
delay.begin(directory, delay.Stage("router", 7, 2000))
found["both ways"] = ping()
os.kill(background.running(directory, "delay-router-7"), signal.SIGKILL)
while background.running(directory, "delay-router-7"):
    time.sleep(0.01)
found["killed"] = ping()
delay.begin(directory, stage)
delay.end(directory, stage)
delay.end(directory, stage)
found["ended"] = ping()
found["left"] = run("ip netns exec router nft list ruleset").stdout
slow_host = delay.Stage("far", 1, 1500, hook="input", match="udp dport 9 or_nothing")
try:
    delay.begin(directory, slow_host)
except LabError as error:
    found["refused"] = str(error)
found["left running"] = background.running(directory, slow_host.name)
delay.begin(directory, delay.Stage("far", 1, 1500, hook="input", match="icmp type echo-request"))
found["slow host"] = ping()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(sandbox_possible: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:  # noqa: ARG001
    directory = tmp_path_factory.mktemp("delay")
    done = subprocess.run(
        sandbox.command([sys.executable, "-c", MEASURE, str(directory)]),
        env=sandbox.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def added(found: dict[str, dict[str, float]], what: str) -> float:
    """Milliseconds more than on the whole path, in the mean."""
    return found[what]["mean"] - found["whole"]["mean"]


def test_ping_sees_the_delay_and_no_loss(found: dict[str, dict[str, float]]) -> None:
    assert found["delayed"]["least"] >= 3.0, "never less than asked for"
    assert 2.9 < added(found, "delayed") < BUSY * 3
    assert found["delayed"]["received"] == 60


def test_what_does_not_match_is_untouched(found: dict[str, dict[str, float]]) -> None:
    assert found["near gateway"]["mean"] < 0.5


def test_jitter_is_drawn_between_its_bounds(found: dict[str, dict[str, float]]) -> None:
    assert found["jitter"]["least"] >= 2.0
    assert 2.7 < added(found, "jitter") < BUSY * 3
    assert 0.3 < found["jitter"]["deviation"] < 1.2, "2 ms / sqrt(12) is 0.58"


def test_a_delay_without_a_match_holds_both_ways(found: dict[str, dict[str, float]]) -> None:
    assert 3.9 < added(found, "both ways") < BUSY * 4


def test_packets_keep_their_order_unless_asked(found: dict[str, list[int]]) -> None:
    assert found["in order"] == list(range(1500))
    assert sorted(found["reordered"]) == list(range(1500))
    assert found["reordered"] != list(range(1500))


@pytest.mark.parametrize("what", ["killed", "ended"])
def test_packets_pass_when_nobody_holds_them(found: dict[str, dict[str, float]], what: str) -> None:
    assert found[what]["received"] == 60
    assert found[what]["mean"] < 0.5


def test_nothing_is_left_of_a_delay_that_has_ended(found: dict[str, str]) -> None:
    assert "delay" not in found["left"]


def test_a_match_that_makes_no_sense_is_refused_and_leaves_no_process(found: dict[str, str]) -> None:
    assert "nft on far" in found["refused"]
    assert found["left running"] is None


def test_a_slow_host(found: dict[str, dict[str, float]]) -> None:
    assert 1.4 < added(found, "slow host") < BUSY * 1.5


# ---- without a kernel


@dataclass
class Released:
    """A queue that notes what is released."""

    numbers: list[int]

    def fileno(self) -> int:
        raise AssertionError

    def arrived(self) -> list[int]:
        return []

    def release(self, identifier: int, *, earlier_too: bool = False) -> None:
        self.numbers += range(self.numbers[-1] + 1 if self.numbers else 1, identifier) if earlier_too else []
        self.numbers.append(identifier)


def test_none_overtakes_another_on_a_cable() -> None:
    waiting, released = InOrder(), Released([])
    for identifier, due in ((1, 500), (2, 100), (3, 600)):
        waiting.add(due, identifier)
    waiting.release(499, released)
    assert released.numbers == []
    waiting.release(500, released)
    assert released.numbers == [1, 2]
    assert waiting.next_due() == 600


def test_each_has_its_own_time_when_order_does_not_matter() -> None:
    waiting, released = AnyOrder(), Released([])
    for identifier, due in ((1, 500), (2, 100), (3, 600)):
        waiting.add(due, identifier)
    waiting.release(550, released)
    assert released.numbers == [2, 1]
    assert len(waiting) == 1


def test_a_stage_says_its_process_all_it_needs() -> None:
    words = Stage("r", 3, 12.5, jitter=2, seed=9, reorder=True).words()
    assert " ".join(words) == "--node r --queue 3 --microseconds 12.5 --jitter 2 --seed 9 --reorder"


def test_a_queue_that_is_none_is_refused(tmp_path: Path) -> None:
    from lab import delay
    from lab.errors import LabError

    for stage in (Stage("r", 0, 1), Stage("r", 1, -1)):
        with pytest.raises(LabError):
            delay.begin(tmp_path, stage)
