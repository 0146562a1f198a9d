"""The exporter's configuration: a misspelt key names the right one, and no error tells a secret."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from exporter.config import Config, read_config
from exporter.contracts.codec import ContractError
from exporter.contracts.secrets import read_key
from exporter.otlp.settings import compression_of, endpoint_of, read_headers
from exporter.rdma.settings import Reliable

CONFIGS = Path(__file__).parent / "configs"
INVALID = sorted(CONFIGS.glob("invalid-*.yaml"))
COMMUNITY = "s3cret-community"

TOPOLOGY = """
version: 1
hosts:
  - {name: host-1, rnics: [{name: mlx5_0, ip: 127.0.0.2, netdev: lo}]}
  - {name: host-2, rnics: [{name: mlx5_0, ip: 127.0.0.3}]}
switches: []
links: []
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The files that the configurations beside this test name."""
    (tmp_path / "key").write_bytes(b"k" * 32 + b"\n")
    (tmp_path / "short-key").write_bytes(b"k" * 15)
    (tmp_path / "long-key").write_bytes(b"k" * 33)
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "seven").write_text("s3cret7\n")
    (tmp_path / "community").write_text(COMMUNITY + "\n")
    (tmp_path / "headers").write_text("Authorization: Bearer s3cret\n\nX-Scope-OrgID : tenant-1\n")
    (tmp_path / "bad-headers").write_text("Authorization: Bearer s3cret\nX-Key: s3cret\x07\n")
    (tmp_path / "resolv.conf").write_text("nameserver resolver.example\n")
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)
    return tmp_path


def written(directory: Path, text: str) -> Path:
    (directory / "config.yaml").write_text(text)
    return directory / "config.yaml"


@pytest.mark.parametrize("invalid", INVALID, ids=lambda path: path.stem)
def test_a_wrong_configuration_is_refused_in_the_words_of_its_first_line(invalid: Path, directory: Path) -> None:
    path = shutil.copy(invalid, directory / "config.yaml")
    expected = invalid.read_text().splitlines()[0].removeprefix("# ").replace("CONFIG", "config.yaml")
    with pytest.raises(ContractError) as refusal:
        read_config(path)
    assert str(refusal.value).replace(f"{directory}/", "") == expected


def test_there_is_a_configuration_for_every_refusal() -> None:
    """As many files as there are ways to refuse, at least: a new check comes with its file."""
    assert len(INVALID) >= 50


def test_a_short_configuration_has_sensible_defaults(directory: Path) -> None:
    config = read_config(written(directory, "host: host-1\ntopology: topology.yaml\nprobing: {key_file: key}\n"))
    assert config.listen.port == 9105
    assert config.probing is not None
    assert config.probing.responder_port == 65300
    assert [rnic.name for rnic in config.rnics] == ["mlx5_0"]
    assert config.switches is None


def test_an_rnic_may_have_an_ipv6_address_for_rdma_probes_and_others_beside(directory: Path) -> None:
    rnics = 'rnics: [{name: mlx5_0, ip: "FD00:0::1", ips: ["::ffff:10.0.0.1"]}]'
    config = read_config(written(directory, f"host: h\n{rnics}\nprobing: {{key_file: key}}\nrdma: {{}}\n"))
    assert config.rnics[0].addresses == ("fd00::1", "10.0.0.1")


def test_reliable_connections_are_off_unless_asked_for(directory: Path) -> None:
    text = "host: host-1\ntopology: topology.yaml\nprobing: {key_file: key}\n"
    plain, asked = (read_config(written(directory, text + each)).rdma for each in ("rdma: {}", "rdma: {reliable: {}}"))
    assert plain is not None
    assert plain.reliable is None
    assert asked is not None
    assert asked.reliable == Reliable(period_seconds=10, bytes=65_536, ack_timeout_seconds=0.067, retries=3)


def test_the_host_is_this_machine_unless_named(directory: Path) -> None:
    assert read_config(written(directory, "sysfs: /sys\n")).host == socket.gethostname()


def test_paths_are_relative_to_the_configuration(directory: Path) -> None:
    config = read_config(written(directory, "host: host-1\ntopology: topology.yaml\nplan: plans/p.json\n"))
    assert config.plan == str(directory / "plans/p.json")
    assert config.topology == str(directory / "topology.yaml")


def test_a_host_that_the_topology_does_not_know_may_poll_switches(directory: Path) -> None:
    text = "host: poller\ntopology: topology.yaml\n"
    text += "switches: {targets: [{name: s, address: 127.0.0.1, community_file: community}]}\n"
    config = read_config(written(directory, text))
    assert config.rnics == ()
    assert config.switches is not None
    assert config.switches.targets[0].community_file == str(directory / "community")


def test_the_final_newline_is_no_part_of_a_key(directory: Path) -> None:
    assert read_key(str(directory / "key")) == b"k" * 32


def test_no_error_and_no_value_tells_the_community(directory: Path) -> None:
    """A secret lives in its own file; neither the configuration nor any message about it holds it."""
    good = "switches: {targets: [{name: s, address: 127.0.0.1, community_file: community}]}\n"
    assert COMMUNITY not in repr(read_config(written(directory, good)))
    for text in (good.replace("address", "adress"), good.replace("127.0.0.1", "[1]"), good + "x: 1\n"):
        with pytest.raises(ContractError) as refusal:
            read_config(written(directory, text))
        assert COMMUNITY not in str(refusal.value)
        assert COMMUNITY not in repr(refusal.value.__cause__)


def test_check_config_says_good_or_why_not(directory: Path) -> None:
    def check() -> tuple[int, str, str]:
        argv = [sys.executable, "-m", "exporter.cli", "check-config", str(directory / "config.yaml")]
        run = subprocess.run(argv, check=False, capture_output=True, text=True)
        return run.returncode, run.stdout, run.stderr

    path = written(directory, "host: host-1\ntopology: topology.yaml\nprobing: {key_file: key}\n")
    assert check() == (0, f"{path}: good\n", "")
    written(directory, "hots: host-1\n")
    assert check() == (2, "", f"fabric-exporter: {path}: unknown key 'hots' (did you mean 'host'?)\n")


def test_every_section_refuses_unknown_keys() -> None:
    assert Config.__struct_config__.forbid_unknown_fields


def test_an_otlp_section_takes_its_files_from_beside_it_and_the_rest_from_the_environment(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318/")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "NONE")
    otlp = read_config(written(directory, "otlp: {headers_file: headers}")).otlp
    assert otlp is not None
    assert endpoint_of(otlp) == "https://collector:4318/v1/metrics"
    assert compression_of(otlp) == "none"
    assert read_headers(otlp.headers_file or "") == {"authorization": "Bearer s3cret", "x-scope-orgid": "tenant-1"}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://metrics/as/it/is")
    assert endpoint_of(otlp) == "https://metrics/as/it/is"
    assert endpoint_of(msgspec.structs.replace(otlp, endpoint="https://own/x")) == "https://own/x"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli")
    with pytest.raises(ContractError, match="neither 'gzip' nor 'none'"):
        read_config(written(directory, "otlp: {}"))
