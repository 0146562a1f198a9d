"""``fabric-exporter switch``: what a person reads of a switch, and what a topology is made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from exporter import cli
from exporter.contracts.codec import read
from exporter.contracts.neighbors import Neighbors
from exporter.contracts.switch_counters import SIGNALS
from lab.switches.agent import Agent
from lab.switches.generated import sonic
from lab.switches.serve import serving
from lab.switches.walk import Walk
from skeleton_service import cli as service

SONIC = Path(__file__).parents[1] / "data" / "switches" / "SYNTHETIC_sonic_t30.snmprec"


@pytest.fixture
def port() -> Iterator[int]:
    with serving([Agent(Walk.from_snmprec(SONIC))]) as (port,):
        yield port


@pytest.fixture
def community(tmp_path: Path) -> Path:
    path = tmp_path / "community"
    path.write_text("public\n")
    return path


def switch(*words: object) -> int:
    return cli.main(["switch", *map(str, words)])


def test_coverage_says_what_is_told_by_which_table_and_what_to_do(
    port: int, community: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert switch("coverage", "127.0.0.1", "--port", port, "--community-file", community) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"127.0.0.1 (127.0.0.1:{port})"
    assert lines[2] == "  profile sonic (SONiC; tried on its agent), 4 ports"
    told = {line.split()[0]: line for line in lines[5:]}
    assert list(told) == list(SIGNALS)
    assert told["pfc"].split()[1:] == ["yes", "cisco_pfc", "80"]
    assert "gNMI tells it, with counterpoll wredqueue enable" in told["ecn"]
    assert told["cnp"].endswith("name the queue that CNPs are classed into: cnp_queue")
    assert told["queues"].endswith("not read: queue_bytes (name it in switches.tables)")
    assert told["optics"].endswith("asked, nothing there")
    assert all(len(line) < 140 for line in lines)


def test_coverage_as_json_is_of_every_signal(port: int, community: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert switch("coverage", "127.0.0.1", "--port", port, "--community-file", community, "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)["switches"]
    assert (told["profile"], told["ports"], told["error"]) == ("sonic", 4, None)
    states = {signal["signal"]: signal["state"] for signal in told["signals"]}
    assert states.keys() == set(SIGNALS)
    assert {"supported", "absent"} == set(states.values())


def test_targets_of_a_configuration_are_asked_and_one_that_is_dead_is_said(
    port: int, community: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = [
        {"name": "leaf-a1", "address": "127.0.0.1", "port": port, "cnp_queue": 6},
        {"name": "gone", "address": "127.0.0.1", "port": 1},
    ]
    config = tmp_path / "poller.yaml"
    config.write_text(yaml.safe_dump({"switches": {"community_file": community.name, "targets": targets}}))
    assert switch("coverage", "--config", config) == 2
    out = capsys.readouterr().out
    assert "gone (127.0.0.1:1): nothing listens at 127.0.0.1:1 (ICMP port unreachable)" in out
    assert "  cnp            yes" in out
    assert switch("coverage", "leaf-a1", "--config", config) == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "switch: no target (name one, or a --config)"),
        (
            ("10.0.0.1",),
            "switch: target '10.0.0.1' is in no configuration (say with --community-file who asks it)",
        ),
        (("10.0.0.1", "--community-file", "none"), "No such file or directory"),
    ],
)
def test_wrong_usage_is_one_line(words: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert switch("coverage", *words) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_a_target_by_name_is_looked_up_and_one_without_address_is_said(
    port: int, community: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert switch("coverage", "localhost", "--port", port, "--community-file", community) == 0
    capsys.readouterr()
    assert switch("coverage", "no-such.invalid", "--community-file", community) == 2
    assert "'no-such.invalid' has no address (" in capsys.readouterr().out


def test_what_does_not_count_for_a_configured_target_is_refused(
    port: int, community: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "poller.yaml"
    targets = [{"name": "leaf-a1", "address": "127.0.0.1", "port": port}]
    config.write_text(yaml.safe_dump({"switches": {"community_file": community.name, "targets": targets}}))
    assert switch("coverage", "leaf-a1", "--config", config, "--port", 161) == 2
    assert "--community-file and --port are of no use for 'leaf-a1'" in capsys.readouterr().err
    assert switch("coverage", "127.0.0.1", "--config", config) == 0  # by its address


def test_an_unknown_profile_is_named_with_those_there_are(
    port: int, community: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("127.0.0.1", "--port", port, "--community-file", community, "--profile", "sonik")
    assert switch("coverage", *words) == 2
    assert "no profile 'sonik' (one of arista_eos" in capsys.readouterr().err


def test_neighbours_are_read_back_and_become_a_topology(
    port: int, community: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spine = sonic(ports=2, name="spine-1")
    with serving([Agent(spine)]) as (other,):
        targets = [
            {"name": "leaf-a1", "address": "127.0.0.1", "port": port},
            {"name": "spine-1", "address": "127.0.0.1", "port": other},
        ]
        operator = tmp_path / "topology.yaml"
        ports = [{"name": f"Ethernet{4 * number}", "aliases": [f"etp{number + 1}"]} for number in range(4)]
        operator.write_text(
            yaml.safe_dump(
                {
                    "version": 1,
                    "hosts": [
                        {"name": "gpu-node-01", "rnics": [{"name": "mlx5_0", "ip": "10.0.0.1", "netdev": "eth0"}]}
                    ],
                    "switches": [
                        {"name": "leaf-a1", "tier": "leaf", "ports": ports},
                        {"name": "spine-1", "tier": "spine", "ports": [{"name": "Ethernet0", "aliases": ["etp1"]}]},
                    ],
                    "links": [{"a": "gpu-node-01:mlx5_0", "b": "leaf-a1:Ethernet4"}],
                }
            )
        )
        config = tmp_path / "poller.yaml"
        section = {"community_file": community.name, "targets": targets}
        config.write_text(yaml.safe_dump({"topology": operator.name, "switches": section}))
        assert switch("neighbors", "--config", config) == 0
    document = tmp_path / "neighbors.json"
    document.write_text(capsys.readouterr().out)
    neighbors = read(document, Neighbors)
    first = neighbors.switches[0].ports[0]
    assert (first.name, first.aliases, first.mtu, first.speed_mbps) == ("Ethernet0", ("etp1",), 9100, 400_000)
    assert first.neighbors[0].system_name == "gpu-node-01"
    words = ["--discovered", str(document), "--operator", str(operator), "--output", str(tmp_path / "found.yaml")]
    service.main(["topology", *words])
    said = capsys.readouterr().out
    assert "the file says" in said  # the cable of gpu-node-01 is in another port than the file has it
    found = yaml.safe_load((tmp_path / "found.yaml").read_text())
    links = {frozenset((link["a"], link["b"])) for link in found["links"]}
    assert frozenset(("gpu-node-01:mlx5_0", "leaf-a1:Ethernet0")) in links
    assert frozenset(("leaf-a1:Ethernet8", "spine-1:Ethernet0")) in links
