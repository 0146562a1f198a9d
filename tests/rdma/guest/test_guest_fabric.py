"""The guest's fabric carries RoCEv2, and does to it what it is told to do."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from lab.guest.network import Fabric, Port, addresses
from tests.rdma.guest.verbs import Endpoint, PyverbsRDMAError, ping


@contextmanager
def endpoints(*ports: Port) -> Iterator[list[Endpoint]]:
    with ExitStack() as stack:
        made = []
        for port in ports:
            made.append(Endpoint(port))
            stack.callback(made[-1].close)
        yield made


def test_every_question_is_answered(fabric: Fabric) -> None:
    with endpoints(*fabric.ports) as (near, far):
        answers = ping([(near, far)], 200)
    assert answers.lost == 0
    time.sleep(0.02)  # the counters' lifespan
    assert [port.counter("sent_pkts") for port in fabric.ports] == [200, 200]
    assert {message.source for message in answers.arrived} == {"10.9.0.1"}
    assert {message.traffic_class for message in answers.arrived} == {2}


def test_over_ipv6() -> None:
    with Fabric(["fd09::1/64", "fd09::2/64"]) as fabric, endpoints(*fabric.ports) as (near, far):
        answers = ping([(near, far)], 50)
    assert answers.lost == 0
    assert {message.source for message in answers.arrived} == {"fd09::1"}


def test_a_router_is_a_hop(routed: Fabric) -> None:
    with endpoints(*routed.ports) as (near, far):
        answers = ping([(near, far)], 50)
    assert answers.lost == 0
    assert {message.hop_limit for message in answers.arrived} == {63}


@pytest.mark.parametrize(("network", "roce"), [(1500, 1024), (4200, 4096)])
def test_the_mtu_follows_the_networks(network: int, roce: int) -> None:
    with Fabric(addresses(2), mtu=network) as fabric, endpoints(*fabric.ports) as ends:
        assert [end.mtu() for end in ends] == [roce, roce]


def test_what_netem_drops_is_what_is_lost(fabric: Fabric) -> None:
    near, far = fabric.ports
    with endpoints(near, far) as (asker, responder):
        fabric.impair(far, "loss", "20%")
        answers = ping([(asker, responder)], 400)
        assert 0 < answers.lost < 400
        assert answers.lost == fabric.dropped(far)
        fabric.heal(far)
        assert ping([(asker, responder)], 100).lost == 0


def test_what_bears_marks_is_marked_in_place_of_being_dropped(fabric: Fabric) -> None:
    near, far = fabric.ports
    traffic_class = 26 << 2 | 2
    with endpoints(near, far) as (asker, responder):
        fabric.impair(far, "loss", "50%", "ecn")
        answers = ping([(asker, responder)], 200, traffic_class=traffic_class)
        marked = sum(message.traffic_class == traffic_class | 1 for message in answers.arrived)
        assert answers.lost == 0
        assert marked == fabric.dropped(far)
        assert 0 < marked < 200


def test_over_vxlan(overlay: Fabric) -> None:
    with endpoints(*overlay.ports) as (first, second, third):
        answers = ping([(first, second), (second, third), (third, first)], 50)
        assert answers.lost == 0
        overlay.impair(third.port, "loss", "100%")
        # Neither a question to the third nor an answer to it gets there; its underlay is what loses them.
        answers = ping([(first, second), (second, third), (third, first)], 10)
        assert answers.lost == 20
        assert answers.pairs == {("10.7.0.1", "10.7.0.2")}
        assert overlay.dropped(third.port) == 20


def test_a_mesh_of_sixteen_ports(mesh: Fabric) -> None:
    with endpoints(*mesh.ports) as ends:
        pairs = [(near, far) for near in ends for far in ends if near is not far]
        answers = ping(pairs, 3, interval=0.5, patience=2)
    assert answers.lost == 0
    assert len(answers.pairs) == 16 * 15


def test_a_device_that_vanishes_and_returns(fabric: Fabric) -> None:
    near, far = fabric.ports
    with endpoints(near) as (asker,):
        with endpoints(far) as (responder,):
            fabric.remove_device(far)
            with pytest.raises(PyverbsRDMAError, match="rxe1"):
                Endpoint(far)
            # What is open goes on working: who does not look does not notice.
            assert ping([(asker, responder)], 20).lost == 0
        fabric.add_device(far)
        with endpoints(far) as (responder,):
            assert ping([(asker, responder)], 20).lost == 0


def test_a_responder_that_has_died_answers_nothing(fabric: Fabric) -> None:
    near, far = fabric.ports
    with endpoints(near) as (asker,):
        with endpoints(far) as (responder,):
            assert ping([(asker, responder)], 5).lost == 0
        # Its successor has another queue pair: who does not learn that asks the dead.
        with endpoints(far) as (successor,):
            assert successor.queue_pair != responder.queue_pair
            assert ping([(asker, successor)], 5, queue_pair=responder.queue_pair).lost == 5
            assert ping([(asker, successor)], 5).lost == 0


def test_a_changed_address_is_another_gid(fabric: Fabric) -> None:
    near, far = fabric.ports
    with endpoints(near, far) as (asker, responder):
        assert ping([(asker, responder)], 20).lost == 0
        fabric.change_address(far, "10.9.0.77/24")
        assert ping([(asker, responder)], 5, address="10.9.0.2").lost == 5
    with endpoints(near, far) as (asker, responder):
        assert ping([(asker, responder)], 20).lost == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("delay_us", [200, 1000, 5000])
def test_a_delay_is_seen_to_the_microsecond(fabric: Fabric, delay_us: int) -> None:
    near, far = fabric.ports
    with endpoints(near, far) as (asker, responder):
        ping([(asker, responder)], 1)  # makes the address handles
        idle = ping([(asker, responder)], 100, interval=0.02).rtt_us
        fabric.impair(far, "delay", f"{delay_us}us")
        delayed = ping([(asker, responder)], 100, interval=0.02).rtt_us
    assert len(idle) == len(delayed) == 100
    for percentile in (50, 99):
        assert _percentile(delayed, percentile) - _percentile(idle, percentile) == pytest.approx(delay_us, abs=1)


def test_a_delay_is_seen_in_ordinary_time(fabric: Fabric) -> None:
    near, far = fabric.ports
    with endpoints(near, far) as (asker, responder):
        idle = ping([(asker, responder)], 100).rtt_us
        fabric.impair(far, "delay", "5ms")
        delayed = ping([(asker, responder)], 100, interval=0.01).rtt_us
    assert statistics.median(delayed) - statistics.median(idle) == pytest.approx(5000, rel=0.5)


def test_neighbours_find_each_other_when_they_are_not_told() -> None:
    with Fabric(addresses(2), static_neighbours=False) as fabric, endpoints(*fabric.ports) as (near, far):
        assert ping([(near, far)], 5, patience=2).lost == 0


def _percentile(values: list[float], percent: int) -> float:
    """By nearest rank."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]
