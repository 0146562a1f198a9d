"""Switches answer with ICMP as real ones do: policed and counted, from the address that was chosen."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from lab.network import icmp
from lab.network.design import Design, Switch
from lab.running import Running


def counters(fabric: Running, switch: str) -> dict[str, int]:
    """The control plane's packets by the counter's name."""
    answer = json.loads(fabric.run(switch, ["nft", "-j", "list", "counters", "table", "ip", icmp.TABLE]).stdout)
    rows = [entry["counter"] for entry in answer["nftables"] if "counter" in entry]
    return {str(row["name"]): int(row["packets"]) for row in rows}


def flood(fabric: Running, host: str, address: str, count: int, *options: str) -> tuple[int, int, float]:
    """Send ``count`` echo requests, 1 ms apart; return replies, ICMP errors and the seconds it took."""
    argv = ["ping", "-n", "-q", "-c", str(count), "-i", "0.001", "-W", "1", *options, address]
    answer = fabric.run(host, argv, check=False).stdout
    match = re.search(r"transmitted, (\d+) received,(?: \+(\d+) errors,)?.* time (\d+)ms", answer)
    assert match, answer
    return int(match[1]), int(match[2] or 0), int(match[3]) / 1000


def first_hop(design: Design) -> tuple[str, str, Switch, str]:
    """A host, its RNIC's address, its leaf, and the leaf's address that faces it."""
    host = design.hosts[0]
    link = next(link for link in design.links if link.a.node == host.name and link.a.port == host.rnics[0].name)
    return host.name, host.rnics[0].address, design.switch(link.b.node), link.b.address


@pytest.fixture
def rested(fabric: Running) -> Iterator[Running]:
    """The fabric with every policer's bucket full, before and after the test."""
    time.sleep(1)
    yield fabric
    time.sleep(1)


def test_expired_packets_are_answered_up_to_a_rate_and_the_rest_is_counted(rested: Running, design: Design) -> None:
    host, own, leaf, _ = first_hop(design)
    count = 500
    before = counters(rested, leaf.name)
    _, errors, seconds = flood(rested, host, design.hosts[-1].rnics[0].address, count, "-I", own, "-t", "1")
    after = counters(rested, leaf.name)
    sent, policed = (after[name] - before[name] for name in ("errors_sent", "errors_policed"))
    assert sent == errors, "what the host heard is what the switch says it sent"
    assert sent + policed == count, "every packet that expired is accounted for"
    burst = design.icmp_rate
    assert burst <= errors <= burst + design.icmp_rate * (seconds + 1)
    assert policed > 0


def test_forwarding_is_not_policed(rested: Running, design: Design) -> None:
    host, own, _, _ = first_hop(design)
    replies, _, _ = flood(rested, host, design.hosts[-1].rnics[0].address, 500, "-I", own)
    assert replies == 500


def test_echo_requests_to_a_switch_are_policed(rested: Running, design: Design) -> None:
    host, own, leaf, address = first_hop(design)
    before = counters(rested, leaf.name)["echoes_policed"]
    replies, _, _ = flood(rested, host, address, 500, "-I", own)
    assert design.icmp_rate <= replies < 500
    assert counters(rested, leaf.name)["echoes_policed"] - before == 500 - replies


def test_the_management_network_is_not_policed(fabric: Running, design: Design) -> None:
    replies, _, _ = flood(fabric, str(design.switches[0].name), design.switches[1].management, 300)
    assert replies == 300


@pytest.mark.parametrize(("source", "rate"), [("loopback", 100), ("off", 100), ("inbound", 0)])
def test_source_and_rate_are_chosen_at_up(sandbox_possible: None, source: str, rate: int) -> None:  # noqa: ARG001
    name = f"pytest-icmp-{os.getpid()}"
    words = ["--name", name, "--pods", "1", "--rails", "1", "--spines", "1", "--hosts-per-pod", "2", "--tenants", "0"]
    up = [sys.executable, "-m", "lab", "up", *words, "--icmp", source, "--icmp-rate", str(rate)]
    running = Running(name)
    try:
        subprocess.run(up, check=True, capture_output=True)
        design = running.design()
        host, own, leaf, facing = first_hop(design)
        there = design.hosts[-1].rnics[0].address
        argv = ["traceroute", "-n", "-q", "1", "-w", "0.3", "-m", "2", "-s", own, there]
        first, second = running.run(host, argv).stdout.splitlines()[1:]
        assert first.split()[1] == {"loopback": leaf.loopback, "off": "*", "inbound": facing}[source]
        assert second.split()[1] == there
        if not rate:
            assert flood(running, host, there, 500, "-I", own, "-t", "1")[1] == 500
        if source == "off":
            assert counters(running, leaf.name)["errors_off"] > 0
    finally:
        running.down()
