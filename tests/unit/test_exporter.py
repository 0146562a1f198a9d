"""The whole exporter on loopback: real processes, real sockets, asked over HTTP like Prometheus asks."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import msgspec
import pytest

from tests.unit.running import HERE, THERE, RunningExporter, alive, until

SENT, LOST, REFUSED = (f"fabric_path_probes_{what}_total" for what in ("sent", "lost", "refused"))
PROBER = "exporter.probing.process"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExporter]:
    """The far host, for the whole module: it answers and probes nothing."""
    exporter = RunningExporter(tmp_path_factory.mktemp("there"), "", address=THERE)
    yield exporter
    assert exporter.stop() == 0, exporter.log


def answered(exporter: RunningExporter, path: str, probes: int = 10) -> bool:
    return (exporter.value(SENT, path=path) or 0) >= probes


def timed(exporter: RunningExporter, probe: str) -> float:
    """Round trips of a type of probe so far."""
    return exporter.value("fabric_rtt_seconds_count", probe=probe, src_rnic="r0", role="basic") or 0


def test_udp_mtu_and_tcp_paths_are_answered(here: RunningExporter, there: RunningExporter) -> None:
    here.plan(
        here.target("u", "udp", there.responder),
        here.target("m", "mtu", there.responder, payload_bytes=8972),
        here.target("t", "tcp", there.responder),
    )
    until(lambda: all(timed(here, probe) >= 10 for probe in ("udp", "mtu", "tcp")))
    metrics = here.metrics()
    for path, probe in (("u", "udp"), ("m", "mtu"), ("t", "tcp")):
        assert here.value(LOST, path=path, probe=probe) == 0
        assert here.value(REFUSED, path=path) == 0
        rtt = here.value("fabric_path_rtt_seconds", path=path)
        assert rtt is not None
        assert 0 < rtt < 0.3
        assert timed(here, probe) <= (here.value(SENT, path=path) or 0)
    for name in ("fabric_path_mtu_bytes", "fabric_path_mtu_promised_bytes"):
        assert {dict(labels)["path"]: size for labels, size in metrics[name].items()} == {"m": 9000}
    assert "fabric_path_mtu_limit_info" not in metrics
    ((echoed, seconds),) = metrics["fabric_path_tcp_echo_rtt_seconds"].items()
    assert dict(echoed)["path"] == "t"
    assert 0 < seconds < 0.3
    assert {dict(key)["path"] for key in metrics["fabric_path_tcp_syn_retransmits_total"]} == {"t"}, "absent, not 0"
    labels = dict(next(iter(metrics[SENT])))
    assert (labels["src_host"], labels["src_rnic"], labels["dst_host"]) == (f"host-{HERE}", "r0", "there")
    assert here.value("fabric_job_path_info", path="u", training_job="job-1") == 1
    assert here.value("fabric_exporter_paths") == 3
    assert here.value("fabric_exporter_plan_generation") == 1
    assert here.value("target_info", service_name="fabric-exporter") == 1
    records = here.get("/v1/probe-records").splitlines()
    assert {line.split(",")[0] for line in records[1:]} >= {"UDP_PING", "MTU", "TCP_PING"}


def test_a_plan_change_keeps_the_counts_of_paths_that_stay_and_removed_paths_vanish(
    here: RunningExporter, there: RunningExporter
) -> None:
    stays, goes = here.target("stays", "udp", there.responder), here.target("goes", "tcp", there.responder)
    here.plan(stays, goes)
    until(lambda: answered(here, "stays"))
    before = here.value(SENT, path="stays")
    here.plan(stays, here.target("comes", "udp", there.responder), generation=2)
    until(lambda: here.paths() == {"stays", "comes"})
    assert (here.value(SENT, path="stays") or 0) >= (before or 0)
    assert 'path="goes"' not in here.get("/metrics")
    assert here.value("fabric_exporter_plan_generation") == 2


def test_a_bad_plan_is_refused_and_counted_and_the_old_one_stays(here: RunningExporter, there: RunningExporter) -> None:
    here.plan(here.target("good", "udp", there.responder))
    until(lambda: answered(here, "good"))
    for number, text in enumerate([b"{", b'{"version": 2}', b"[" * 100_000, b"a: 2026-13-45"], 1):
        (here.directory / "plan.json").write_bytes(text)
        until(lambda number=number: here.value("fabric_exporter_plan_rejected_total") == number)
    sent = here.value(SENT, path="good") or 0
    until(lambda: (here.value(SENT, path="good") or 0) > sent)
    assert here.log.count("plan refused: ") == 4


def test_an_expired_plan_stops_probing(here: RunningExporter, there: RunningExporter) -> None:
    here.plan(here.target("short", "udp", there.responder), expires=time.time() + 1.5)
    until(lambda: here.paths() == {"short"})
    until(lambda: not here.paths(), seconds=4)
    assert "has expired" in here.log
    here.plan(here.target("late", "udp", there.responder), expires=time.time() - 1)
    time.sleep(0.4)
    assert not here.paths()


def test_a_responder_that_is_gone_refuses_and_loses_nothing(here: RunningExporter, tmp_path: Path) -> None:
    far = RunningExporter(tmp_path / "far", "", address="127.0.0.4")
    to_far = {"destination_address": "127.0.0.4", "port": far.responder}
    here.plan(here.target("u", **to_far), here.target("t", "tcp", **to_far))
    until(lambda: answered(here, "u") and answered(here, "t"))
    far.stop()
    # What was under way when the sockets closed may be lost, and is known to be after its timeout, six periods; from
    # then on nothing is.
    until(lambda: all((here.value(REFUSED, path=path) or 0) >= 15 for path in "ut"))
    lost = {path: here.value(LOST, path=path) or 0 for path in "ut"}
    assert max(lost.values()) <= 5
    until(lambda: all((here.value(REFUSED, path=path) or 0) >= 30 for path in "ut"))
    assert {path: here.value(LOST, path=path) or 0 for path in "ut"} == lost


def test_a_responder_that_starts_again_is_a_restart_and_not_a_loss(here: RunningExporter, tmp_path: Path) -> None:
    far = RunningExporter(tmp_path / "far", "", address="127.0.0.4")
    here.plan(here.target("u", port=far.responder, destination_address="127.0.0.4"))
    until(lambda: answered(here, "u"))
    os.kill(far.children()[PROBER], signal.SIGKILL)
    until(lambda: here.value("fabric_path_responder_restarts_total", path="u") == 1)
    assert (here.value(LOST, path="u") or 0) <= 3  # those in its socket died with it: it looks each 100 ms
    far.stop()


def test_a_killed_prober_is_started_again_and_counted(here: RunningExporter, there: RunningExporter) -> None:
    here.plan(here.target("u", "udp", there.responder))
    until(lambda: answered(here, "u", 20))
    first = here.children()[PROBER]
    os.kill(first, signal.SIGKILL)
    until(lambda: here.value("fabric_exporter_process_restarts_total", process="probing") == 1)
    until(lambda: here.children().get(PROBER, first) != first)
    sent = here.value(SENT, path="u") or 0
    until(lambda: (here.value(SENT, path="u") or 0) != sent)
    assert here.paths() == {"u"}


def test_children_end_with_a_control_process_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "community").write_text("public\n")
    switches = "switches: {targets: [{name: s, address: 127.0.0.9, community_file: ../community}]}\n"
    exporter = RunningExporter(tmp_path / "here", switches)
    children = exporter.children()
    assert set(children) == {PROBER, "exporter.switches.process"}
    exporter.stop(signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in children.values()), seconds=2)


def test_junk_is_counted_and_harms_nobody(here: RunningExporter, there: RunningExporter) -> None:
    own = here.target("u", "udp", there.responder)
    here.plan(own)
    until(lambda: answered(here, "u"))
    rejected = there.value("fabric_exporter_responder_rejected_total") or 0
    dice = random.Random(7)  # noqa: S311 - junk that is the same every time
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as junk:
        for _ in range(500):
            data = dice.choice([b"", b"FSKP\x01\x01"]) + dice.randbytes(dice.choice([0, 1, 63, 64, 1400, 40_000]))
            junk.sendto(data, (THERE, there.responder))
            junk.sendto(data, (HERE, own.source_ports[0]))
    until(lambda: (there.value("fabric_exporter_responder_rejected_total") or 0) > rejected)
    sent = here.value(SENT, path="u") or 0
    until(lambda: (here.value(SENT, path="u") or 0) > sent + 5)
    assert here.value("fabric_exporter_process_restarts_total", process="probing") == 0
    assert there.value("fabric_exporter_process_restarts_total", process="probing") == 0


def test_a_stopped_exporter_ends_with_0_and_leaves_no_process(tmp_path: Path) -> None:
    exporter = RunningExporter(tmp_path / "here", "")
    children = exporter.children()
    assert exporter.stop() == 0
    assert not any(alive(pid) for pid in children.values())
    assert "Traceback" not in exporter.log


def test_a_port_in_use_is_one_line_and_exit_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = tmp_path / "config.yaml"
        config.write_text(f"listen: {{address: 127.0.0.1, port: {port}}}\n")
        argv = [sys.executable, "-m", "exporter.cli", "run", "--config", str(config)]
        run = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=20)
    assert run.returncode == 2
    assert run.stderr == (
        f"fabric-exporter: 127.0.0.1:{port}: cannot be listened on: Address already in use (set another listen.port)\n"
    )


@pytest.mark.parametrize(("page", "status"), [("/nowhere", 404), ("/v1/throughput?since=soon", 400)])
def test_a_wrong_request_is_answered_and_not_logged(page: str, status: int, here: RunningExporter) -> None:
    with pytest.raises(HTTPError) as refusal:
        here.get(page)
    assert refusal.value.code == status


def test_a_client_that_leaves_before_its_answer_leaves_no_traceback(here: RunningExporter) -> None:
    """The fixture looks for one in the log."""
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", here.http), timeout=5) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
    time.sleep(0.3)
    assert here.get("/healthz") == "ok\n"


def test_a_request_that_is_no_url_is_answered_with_400(here: RunningExporter) -> None:
    """It used to leave the client without an answer and a traceback in the log."""
    with socket.create_connection(("127.0.0.1", here.http), timeout=5) as client:
        client.sendall(b"GET http://[ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_connections_held_open_take_no_more_than_64_descriptors_and_probes_go_on(
    here: RunningExporter, there: RunningExporter
) -> None:
    """They used to take all that the prober had, and every socket after that failed."""
    here.plan(here.target("u", "udp", there.responder), here.target("t", "tcp", there.responder))
    until(lambda: all(answered(here, path) for path in "ut"))
    prober = there.children()[PROBER]
    before, most = descriptors(prober), 0
    held = [socket.create_connection((THERE, there.responder), timeout=5) for _ in range(300)]
    try:
        ends = time.monotonic() + 0.7
        while time.monotonic() < ends:
            most = max(most, descriptors(prober))
            time.sleep(0.02)
    finally:
        for connection in held:
            connection.close()
    assert most <= before + 64 + 2  # and what a probe of our own has just opened
    sent = {path: here.value(SENT, path=path) or 0 for path in "ut"}
    until(lambda: all((here.value(SENT, path=path) or 0) > sent[path] + 5 for path in "ut"))
    assert all(here.value(LOST, path=path) == 0 for path in "ut")
    assert there.children()[PROBER] == prober


def test_another_role_or_container_keeps_the_count_and_the_route_of_a_path(
    here: RunningExporter, there: RunningExporter
) -> None:
    """The path used to be begun again: its counts went back to 0 and it had no route for a minute."""

    def traces() -> list[str]:
        return [line for line in here.get("/v1/probe-records").splitlines() if line.startswith("TRACEROUTE")]

    target = here.target("u", "udp", there.responder, role="basic")
    here.plan(target)
    until(lambda: answered(here, "u", 20) and traces())
    before = here.value(SENT, path="u") or 0
    moved = msgspec.structs.replace(target, role="pp", source="other/0", destination="another/0")
    here.plan(moved, generation=2)
    until(lambda: here.value("fabric_exporter_plan_generation") == 2)
    time.sleep(0.1)
    assert traces()
    assert (here.value(SENT, path="u") or 0) >= before
    assert here.value("fabric_job_path_info", path="u", role="pp") == 1
    until(lambda: (here.value("fabric_rtt_seconds_count", src_rnic="r0", role="pp") or 0) > 0)
    assert ",other," in here.get("/v1/probe-records")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH (apt: prometheus)")
def test_resource_attributes_of_any_name_leave_metrics_that_prometheus_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dash used to make the whole page unreadable; so did two names that become one label."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team-name=x,a.b=1,a_b=2,9lives=y")
    exporter = RunningExporter(tmp_path / "here", "")
    try:
        assert exporter.value("target_info", team_name="x") == 1
        page = exporter.get("/metrics")
    finally:
        exporter.stop()
    run = subprocess.run(["promtool", "check", "metrics"], input=page, check=False, capture_output=True, text=True)
    assert run.returncode != 1, run.stdout + run.stderr  # 3 is a matter of style
    assert "error while linting" not in run.stderr
