"""Equal-cost ways: how many flows it takes to be sure, and the enumeration on loopback."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from exporter.cli import main
from exporter.probe.multipath import Multipath, flows_needed
from tests.unit.test_probe import FAR, Responding, arguments, key_file, responder

__all__ = ["key_file", "responder"]


def test_flows_needed_are_those_of_the_paper() -> None:
    """Augustin, Friedman and Teixeira 2007, table 1: 95 % confidence, 1 to 16 next hops."""
    assert [flows_needed(k) for k in range(1, 17)] == [6, 11, 16, 21, 27, 33, 38, 44, 51, 57, 63, 70, 76, 83, 90, 96]
    assert flows_needed(1, 0.99) == 8


@pytest.mark.parametrize("spines", [1, 2, 4, 8])
def test_all_ways_are_found_as_often_as_stated(spines: int) -> None:
    """Over simulated fabrics of one branching hop, at most some 5 % of the enumerations stop too early."""
    draw = random.Random(7)  # noqa: S311 - repeatable on purpose
    short = 0
    for _ in range(400):
        ways = Multipath("source")
        while not ways.conclusive:
            ways.add(ways.flows, ["leaf", f"spine-{draw.randrange(spines)}", "far-leaf", "destination"])
        short += len(ways.routes) < spines
    assert short <= 400 * 0.05 * 1.5
    assert spines == 1 or short > 0, "a rule that never errs asks too much"


def test_each_hop_is_judged_by_the_flows_that_met_it() -> None:
    """Eleven flows are enough for two spines, but not to know what lies behind one that only two of them met."""
    ways = Multipath("s")
    for port in range(11):
        ways.add(port, ["leaf", "spine-0" if port > 1 else "spine-1", "far", "d"])
    assert ways.undecided == [(2, "spine-1")]
    for port in range(11, 15):
        ways.add(port, ["leaf", "spine-1", "far", "d"])
    assert ways.conclusive
    assert ways.routes["leaf", "spine-1", "far", "d"] == [0, 1, 11, 12, 13, 14]


def test_silence_is_no_way_and_no_evidence() -> None:
    ways = Multipath("s")
    for port in range(5):
        ways.add(port, ["leaf", "spine-0", "d"])
    for port in range(5, 40):
        ways.add(port, ["leaf", None, "d"])
    assert dict(ways.next_hops[1, "leaf"]) == {"spine-0": 5}
    assert not ways.conclusive, "five answers do not tell that there is one spine"
    ways.add(40, ["leaf", "spine-0", "d"])
    assert ways.conclusive


def test_a_hop_that_never_answers_does_not_make_it_go_on_for_ever() -> None:
    ways = Multipath("s")
    for port in range(6):
        ways.add(port, ["leaf", None, "d"])
    assert ways.conclusive


def test_the_ways_on_loopback(responder: Responding, key_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = arguments(responder, key_file, "--type", "trace", "--ecmp")
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (hop,), (route,) = found["hops"], found["routes"]
    assert (hop["address"], hop["share_ratio"], hop["next_hops"]) == (FAR, 1.0, {})
    assert 0 < hop["rtt_seconds"]["min"] <= hop["rtt_seconds"]["median"] <= hop["rtt_seconds"]["max"] < 0.1
    assert found["conclusive"] is True
    assert found["flows"] == found["reached"] == len(set(route["source_ports"])) >= 6
    assert main(argv) == 0
    assert "1 way by " in capsys.readouterr().out


def test_ports_that_were_given_are_the_only_ones(
    responder: Responding, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments(responder, key_file, "--type", "trace", "--ecmp")
    assert main([*argv, "--source-port", "50100-50103", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["routes"][0]["source_ports"] == [50100, 50101, 50102, 50103]
    assert found["conclusive"] is False
    assert main([*argv, "--max-flows", "2"]) == 0
    assert "not conclusive" in capsys.readouterr().out


def test_silence_is_not_called_a_way_that_is_known(
    responder: Responding, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One flow under another key: nothing on the way to a host nearby, and no answer from it."""
    (tmp_path / "key").write_bytes(b"another key, 16 and more")
    few = ("--max-flows", "1", "--max-hops", "1")
    argv = arguments(responder, str(tmp_path / "key"), "--type", "trace", "--ecmp", *few)
    assert main([*argv, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["flows"], found["reached"], found["hops"], found["conclusive"]) == (1, 0, [], False)
    assert main(argv) == 1
    assert "no hop answered" in capsys.readouterr().out


def test_it_is_for_traces_only(key_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", FAR, "--key-file", key_file, "--ecmp"]) == 2
    assert "--ecmp: is of no use with --type udp (add --type trace)" in capsys.readouterr().err
