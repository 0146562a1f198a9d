"""A delay without netem: what ping and numbered datagrams see of it, in a sandbox of two hosts and a router."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from lab import sandbox
from lab.errors import LabError
from lab.network.delay import AnyOrder, InOrder, Stage

MEASURE = r"""
import json, re, socket, subprocess, sys, time
from pathlib import Path
from lab.network import delay
from lab.errors import LabError
from lab.sandbox.netns import inside, socket_in

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

process = None

def end():
    global process
    if process is not None:
        delay.remove("router", 7)
        process.terminate()
        assert process.wait(5) == 0
    process = None

def begin(*values, **named):
    global process
    end()
    def spawn(argv):
        global process
        process = subprocess.Popen(argv)
    delay.begin(delay.Stage(*values, **named), spawn)

found = {"whole": ping()}
begin("router", 7, 3000, match='iifname "near" ip protocol icmp')
found["delayed"] = ping()
found["near gateway"] = ping("10.0.0.0")
begin("router", 7, 2000, jitter=2000, match='iifname "near"', seed=1)
found["jitter"] = ping(count=150)
found["in order"] = datagrams()
begin("router", 7, 2000, jitter=2000, match='iifname "near"', seed=1, reorder=True)
found["reordered"] = datagrams()
begin("router", 7, 2000)
found["both ways"] = ping()
process.kill()
process.wait()
found["killed"] = ping()
process = None
begin("router", 7, 3000)
end()
found["ended"] = ping()
found["left"] = run("ip netns exec router nft list ruleset").stdout
try:
    delay.install(delay.Stage("far", 1, 1500, hook="input", match="udp dport 9 or_nothing"))
except LabError as error:
    found["refused"] = str(error)
words = "--node far --queue 1 --microseconds 1500 --hook input --match".split()
argv = [sys.executable, "-m", "lab.network.delay", *words, "icmp type echo-request"]
process = subprocess.Popen(argv)
while "delay_1" not in run("ip netns exec far nft list ruleset").stdout:
    time.sleep(0.01)
found["slow host"] = ping()
second = subprocess.run(argv, capture_output=True, text=True)
found["held twice"] = [second.returncode, second.stderr]
process.terminate()
process.wait()
found["left"] += run("ip netns exec far nft list ruleset").stdout
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(sandbox_possible: None) -> dict[str, dict[str, float]]:  # noqa: ARG001
    done = subprocess.run(
        sandbox.command([sys.executable, "-c", MEASURE]),
        env=sandbox.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def late(found: dict[str, dict[str, float]], what: str, milliseconds: float) -> bool:
    """Whether the quickest of many pings, and so all, took the time: others wait for a core now and then."""
    return milliseconds <= found[what]["least"] < milliseconds + 0.5


def test_ping_sees_the_delay_and_no_loss(found: dict[str, dict[str, float]]) -> None:
    assert late(found, "delayed", 3.0)
    assert found["delayed"]["received"] == 60


def test_what_does_not_match_is_untouched(found: dict[str, dict[str, float]]) -> None:
    assert found["near gateway"]["least"] < 0.5


def test_jitter_is_drawn_between_its_bounds(found: dict[str, dict[str, float]]) -> None:
    assert found["jitter"]["least"] >= 2.0
    assert found["jitter"]["mean"] > 2.7
    assert found["jitter"]["deviation"] > 0.3, "2 ms / sqrt(12) is 0.58"


def test_a_delay_without_a_match_holds_both_ways(found: dict[str, dict[str, float]]) -> None:
    assert late(found, "both ways", 4.0)


def test_packets_keep_their_order_unless_asked(found: dict[str, list[int]]) -> None:
    assert found["in order"] == list(range(1500))
    assert sorted(found["reordered"]) == list(range(1500))
    assert found["reordered"] != list(range(1500))


@pytest.mark.parametrize("what", ["killed", "ended"])
def test_packets_pass_when_nobody_holds_them(found: dict[str, dict[str, float]], what: str) -> None:
    assert found[what]["received"] == 60
    assert found[what]["least"] < 0.5


def test_nothing_is_left_of_a_delay_that_has_ended(found: dict[str, str]) -> None:
    assert "delay" not in found["left"]


def test_a_match_that_makes_no_sense_is_refused(found: dict[str, str]) -> None:
    assert "nft on far" in found["refused"]


def test_a_queue_has_one_holder(found: dict[str, list[object]]) -> None:
    code, complaint = found["held twice"]
    assert code == 2
    assert str(complaint).startswith("lab: delay on far")


def test_a_slow_host(found: dict[str, dict[str, float]]) -> None:
    assert late(found, "slow host", 1.5)


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
    words = Stage("r", 3, 12.5, jitter=2, seed=9, reorder=True).command()[1:]
    assert (
        " ".join(words) == "-m lab.network.delay --node r --queue 3 --microseconds 12.5 --jitter 2 --seed 9 --reorder"
    )


@pytest.mark.parametrize("values", [{"queue": 0}, {"microseconds": -1}, {"jitter": -1}])
def test_a_delay_that_cannot_be_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(LabError):
        Stage(**{"node": "router", "queue": 1, "microseconds": 1, **values})  # type: ignore[arg-type]
