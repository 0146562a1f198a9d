"""The section ``underlay`` as an operator runs it, with loopback for a fabric: nothing on it answers a trace."""

from __future__ import annotations

import ctypes
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from exporter.contracts.codec import ContractError, encode, write
from exporter.underlay.capture import require_capability
from tests.unit.encapsulated import INNER, OUTER, probe, vxlan
from tests.unit.running import RunningExporter, until
from tests.unit.test_plan_contract import PLAN, TARGET

PORT = 14_790  # of VXLAN, for tests on loopback
TOPOLOGY = f"""
version: 1
hosts:
  - {{name: near, rnics: [{{name: r0, ip: {OUTER[0]}, netdev: lo}}]}}
  - {{name: far, rnics: [{{name: r0, ip: {OUTER[2]}}}]}}
switches:
  - {{name: leaf, tier: leaf, ports: [{{name: p0, addresses: [192.0.2.1]}}, {{name: p1, addresses: [192.0.2.2]}}]}}
links: [{{a: "near:r0", b: "leaf:p0"}}, {{a: "far:r0", b: "leaf:p1"}}]
"""
CONFIGURATION = f"""
topology: topology.yaml
rnics: [{{name: r0, ip: {OUTER[0]}, netdev: lo}}]
underlay: {{plans: [{{plan: containers.json, key_file: key}}], port: {PORT}, trace_period_seconds: 0.5}}
"""
_CAP_NET_RAW, _PR_CAPBSET_DROP = 13, 24


def gauge(exporter: RunningExporter, name: str) -> float:
    return exporter.value(f"fabric_exporter_underlay_{name}") or 0.0


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[RunningExporter]:
    """On a host whose container is to probe INNER twenty times a second."""
    try:
        require_capability()
    except ContractError as error:
        pytest.skip(str(error))
    directory = tmp_path / "exporter"
    directory.mkdir()
    (directory / "topology.yaml").write_text(TOPOLOGY)
    target = msgspec.structs.replace(
        TARGET,
        source_address=INNER[0],
        source_ports=(INNER[1],),
        destination_address=INNER[2],
        source_host="host-",
        destination_host="far",
        period_seconds=0.05,
    )
    write(directory / "containers.json", encode(msgspec.structs.replace(PLAN, targets=(target,), expires=9e9)))
    running = RunningExporter(directory, CONFIGURATION, address="")
    try:
        yield running
    finally:
        assert running.stop() == 0


def sender() -> socket.socket:
    """A socket with the outer source port, as no tunnel has one."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(OUTER[:2])
    return made


def test_what_is_seen_is_learnt_and_traced_unless_its_port_is_taken(exporter: RunningExporter) -> None:
    until(lambda: gauge(exporter, "flows") == 1)
    assert exporter.value("fabric_exporter_underlay_learnt_flows") == 0
    with sender() as tunnel:

        def send_until(name: str) -> None:
            def there() -> bool:
                for payload in (vxlan(payload=probe(key=b"o" * 32)), vxlan(), vxlan()):
                    tunnel.sendto(payload, (OUTER[2], PORT))
                return gauge(exporter, name) > 0

            until(there, 20)

        send_until("learnt_flows")
        send_until("ports_in_use_total")  # the tunnel here is a socket
    assert gauge(exporter, "rejected_total") > 0
    assert gauge(exporter, "seen_total") >= 2
    assert gauge(exporter, "looking_seconds_total") > 0
    until(lambda: gauge(exporter, "traces_total") > 0, 20)
    assert gauge(exporter, "traces_incomplete_total") == gauge(exporter, "traces_total")
    assert exporter.metrics().get("fabric_path_link_info", {}) == {}
    assert exporter.get("/v1/probe-records").count("\n") == 1  # the header


def test_its_process_ends_with_the_exporter_and_starts_again_when_it_dies(exporter: RunningExporter) -> None:
    first = exporter.children()["exporter.underlay.process"]
    subprocess.run(["kill", "-9", str(first)], check=True)
    until(lambda: exporter.value("fabric_exporter_process_restarts_total", process="underlay") == 1)
    until(lambda: gauge(exporter, "flows") == 1)  # and is told its flows again
    assert exporter.children()["exporter.underlay.process"] != first


def test_without_the_capability_the_exporter_says_what_to_give_it(tmp_path: Path) -> None:
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)
    (tmp_path / "key").write_bytes(b"k" * 32)
    (tmp_path / "config.yaml").write_text(f"host: near\n{CONFIGURATION}")

    def drop() -> None:
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_NET_RAW, 0, 0, 0)

    argv = [sys.executable, "-m", "exporter.cli", "run", "--config", str(tmp_path / "config.yaml")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, preexec_fn=drop)
    assert done.returncode == 2
    assert done.stderr == (
        "fabric-exporter: section 'underlay': this process may not look at packets (give it CAP_NET_RAW: "
        "AmbientCapabilities= in its systemd unit, capabilities.add: [NET_RAW] in its pod)\n"
    )
