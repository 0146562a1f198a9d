"""RDMA probes over real RoCEv2: what is sent, lost, delayed, marked, and what happens to ports and responders."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.guest.network import Fabric
from tests.rdma.guest.hosts import LAST_REPLY, LOST, STARVED, Host, target, until


def test_paths_from_several_source_ports_are_answered(either: Fabric) -> None:
    near, far = either.ports
    with Host(near) as here, Host(far) as there:
        until(lambda: here.up() and there.up())
        here.plan(target(near, far, port) for port in (50_000, 50_001, 50_002))
        here.answers(100)
        paths = here.paths()
    assert len(paths) == 3
    # Not RTT: on a busy machine every round trip may be spoilt.
    assert all(values[LOST] == 0 and LAST_REPLY in values for values in paths.values())


def test_what_netem_drops_is_what_is_lost_and_which_way_is_known(either: Fabric) -> None:
    near, far = either.ports
    with Host(near) as here, Host(far) as there:
        until(lambda: here.up() and there.up())
        here.plan([target(near, far)])
        here.answers(20)
        either.impair(far, "loss", "20%")
        here.answers(200)
        here.plan([])  # what is under way is not judged any more, so the last may be missing
        dropped = either.dropped(far)
    lost = sum(result.outcome == 2 for result in here.results())
    assert 10 < lost <= dropped <= lost + 1 + 0.3 / 0.01


def test_each_drop_is_a_loss_and_each_loss_a_drop(fabric: Fabric) -> None:
    near, far = fabric.ports
    with Host(near) as here, Host(far) as there:
        until(lambda: here.up() and there.up())
        here.plan(target(near, far, port) for port in (50_000, 50_001))
        here.answers(40)
        fabric.impair(far, "loss", "20%", roce_only=True)
        here.answers(400)
        fabric.impair(far, "loss", "0%", roce_only=True)
        time.sleep(1)  # what is under way has come back, or is lost
        assert here.total(LOST) == fabric.dropped(far) > 50


def test_loss_on_the_way_back_is_told_apart(either: Fabric) -> None:
    near, far = either.ports
    with Host(near) as here, Host(far) as there:
        until(lambda: here.up() and there.up())
        here.plan([target(near, far)])
        here.answers(20)
        either.impair(near, "loss", "30%")
        until(lambda: here.total(LOST) >= 30)
        either.heal(near)
        here.answers(50)
        assert here.total("fabric_path_probes_lost_return_total") >= here.total(LOST) - 2


def test_marks_of_congested_queues_are_counted(either: Fabric) -> None:
    near, far = either.ports
    with Host(near) as here, Host(far) as there:
        until(lambda: here.up() and there.up())
        here.plan([target(near, far)])
        here.answers(20)
        either.impair(far, "loss", "50%", "ecn")
        here.answers(100)
        here.plan([target(near, far, 50_001)])
        time.sleep(0.2)
        assert here.total(LOST) == 0
        marked, counted = either.dropped(far), here.total("fabric_path_ecn_marked_total")
    assert 0 < counted <= marked


def test_a_responder_that_dies_and_returns_is_no_loss(either: Fabric) -> None:
    near, far = either.ports
    with Host(near) as here:
        with Host(far) as there:
            until(lambda: here.up() and there.up())
            here.plan([target(near, far)])
            here.answers(20)
        until(lambda: here.total("fabric_path_probes_refused_total") > 10)
        with Host(far):
            here.answers(50)
            assert here.total(LOST) == 0
            assert here.total("fabric_path_responder_restarts_total") == 1


def test_what_waits_is_probed_once_its_destination_is_up(either: Fabric) -> None:
    near, far = either.ports
    with Host(near) as here:
        until(here.up)
        here.plan([target(near, far, active=False)])
        time.sleep(1.5)
        assert here.paths() == {}
        assert here.rnics()["rxe0"]["fabric_rdma_waiting_targets"] == 1
        with Host(far) as there:
            until(there.up)
            there.plan([target(far, near)])  # it asks, and is asked at once
            here.answers(20)
            assert here.total(LOST) == 0
            assert here.rnics()["rxe0"]["fabric_rdma_waiting_targets"] == 0


def test_a_destination_whose_gid_went_loses_and_an_own_gid_that_moved_is_counted(fabric: Fabric) -> None:
    near, far = fabric.ports
    with Host(near) as here, Host(far) as there:
        until(lambda: here.up() and there.up())
        here.plan([target(near, far)])
        here.answers(20)
        assert here.total(LOST) == 0
        fabric.change_address(far, "10.9.0.77/24")
        until(lambda: here.total(LOST) > 5)
        until(lambda: not there.up())
        assert there.rnics()["rxe1"]["fabric_rdma_device_losses_total"] == 1
        fabric.change_address(far, "10.9.0.2/24")
        until(there.up)
        here.answers(20)


def test_a_device_that_vanishes_and_returns_is_opened_again(fabric: Fabric) -> None:
    near, far = fabric.ports
    with Host(near) as here, Host(far) as there:
        until(lambda: here.up() and there.up())
        here.plan([target(near, far)])
        here.answers(20)
        fabric.remove_device(near)
        until(lambda: not here.up())
        fabric.add_device(near)
        until(here.up)
        here.answers(20)
        assert here.rnics()["rxe0"]["fabric_rdma_device_losses_total"] == 1
        assert here.total(LOST) == 0


def test_over_vxlan(overlay: Fabric) -> None:
    first, second, third = overlay.ports
    with Host(first) as here, Host(second) as there, Host(third) as other:
        until(lambda: here.up() and there.up() and other.up())
        here.plan([target(first, second), target(first, third, 50_001)])
        here.answers(50)
        assert here.total(LOST) == 0
        overlay.impair(third, "loss", "100%")
        until(lambda: here.total(LOST) > 5)
        assert here.paths()["rxe0>rxe1/50000"][LOST] == 0


def test_sixteen_ports_in_one_process_probe_each_other(mesh: Fabric) -> None:
    with Host(*mesh.ports) as host:
        until(host.up)
        host.plan(target(near, far, period=1.0) for near in mesh.ports for far in mesh.ports if near is not far)
        until(lambda: sum(LAST_REPLY in values for values in host.paths().values()) == 240)
        assert host.total(LOST) == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("delay_us", [200, 1000, 5000])
def test_a_delay_is_seen_to_the_microsecond(fabric: Fabric, delay_us: int) -> None:
    near, far = fabric.ports
    with Host(near) as here, Host(far) as there:
        until(lambda: here.up() and there.up())
        here.plan([target(near, far, period=0.02)])
        idle = round_trips(here, 120)
        fabric.impair(far, "delay", f"{delay_us}us")
        delayed = round_trips(here, 120)
    for percentile in (50, 99):
        difference = (nearest_rank(delayed, percentile) - nearest_rank(idle, percentile)) / 1e3
        assert difference == pytest.approx(delay_us, abs=1)


@pytest.mark.virtual_time
@pytest.mark.parametrize("starved", ["prober", "responder"])
def test_a_process_without_processor_spoils_no_round_trip(fabric: Fabric, starved: str) -> None:
    near, far = fabric.ports
    with Host(near) as here, Host(far) as there:
        until(lambda: here.up() and there.up())
        here.plan([target(near, far, period=0.02)])
        idle = round_trips(here, 120)
        fabric.impair(far, "delay", "5000us")
        spoilt = here.total_of_rnics(STARVED)
        with stopping(here.process.pid if starved == "prober" else there.process.pid):
            delayed = round_trips(here, 120)
        assert here.total_of_rnics(STARVED) > spoilt + 10
        assert here.total(LOST) == 0
    # Each reading of virtual time advances it by 256 ns, so what other processes read in between is in these figures.
    for percentile, tolerance_us in ((50, 5), (99, 10)):
        difference = (nearest_rank(delayed, percentile) - nearest_rank(idle, percentile)) / 1e3
        assert difference == pytest.approx(5000, abs=tolerance_us)


@contextmanager
def stopping(pid: int | None) -> Iterator[None]:
    """Stop a process for 3 ms again and again."""
    assert pid is not None
    ended = threading.Event()
    spread = random.Random(1)  # noqa: S311 - no secret

    def stop() -> None:
        while not ended.wait(spread.uniform(0.005, 0.02)):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.003)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def round_trips(host: Host, count: int) -> list[int]:
    """Of the next ``count`` answers that are not starved, ns."""
    before = len(host.results())

    def found() -> list[int]:
        return [each.rtt_ns for each in host.results()[before:] if each.rtt_ns and not each.starved]

    until(lambda: len(found()) >= count, 60)
    return found()[:count]


def nearest_rank(values: list[int], percent: int) -> int:
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]
