"""RNICs' counters in the lab, as exporters read them: each incident moves its own and no others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from exporter.contracts.codec import encode, write
from lab.counters import effects
from lab.counters.control import Counters
from lab.counters.effects import Events
from lab.counters.timeline import Event
from lab.network.design import Design, draw
from lab.running import Running
from tests.lab.agent import Agent, until

STEADY_SECONDS = 2.0
"""Longer than trees (0.5 s) and exporters (1 s) together take to show a change."""

Values = dict[tuple[str, ...], float]

MOVING = (
    "fabric_rnic_rdma_", "fabric_rnic_priority_receive_bytes", "fabric_rnic_priority_transmit_bytes",
    "fabric_rnic_counters_", "fabric_rnic_receive_bytes", "fabric_rnic_transmit_bytes",
    "fabric_rnic_hw_rx_write_requests",
)  # fmt: skip
"""What every packet moves: addresses are resolved and neighbours looked for, whatever else happens."""


@pytest.fixture(scope="module")
def fabric(sandbox_possible: None) -> Iterator[Running]:  # noqa: ARG001
    running = Running(f"pytest-host-counters-{os.getpid()}")
    running.up(draw(os.getpid(), pods=1, rails=2, spines=1, hosts_per_pod=2), die_with_parent=True)
    try:
        yield running
    finally:
        running.down()


@pytest.fixture(scope="module")
def design(fabric: Running) -> Design:
    return fabric.design()


@pytest.fixture(scope="module")
def agents(fabric: Running, design: Design, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Agent]]:
    directory = tmp_path_factory.mktemp("agents")
    topology = directory / "topology.json"
    write(topology, encode(design.topology()))
    started = []
    for host in design.hosts:
        sections = {
            "sysfs": str(fabric.directory / "sysfs" / host.name),
            "counters": {"period_seconds": 1, "ethtool": str(fabric.directory / "ethtool" / host.name)},
        }
        started.append(Agent(fabric, host, directory / host.name, topology, sections=sections))
    try:
        for agent in started:
            until(lambda agent=agent: "fabric_rnic_active" in agent.get("/metrics"))
        yield started
    finally:
        for agent in started:
            agent.stop()


@pytest.fixture
def counters(fabric: Running) -> Iterator[Counters]:
    counters = Counters(fabric.directory)
    yield counters
    counters.clear()


def counted(agents: list[Agent]) -> Values:
    """{(metric, host, RNIC, priority): value} of every counter of the RNICs that traffic alone does not move."""
    values = {}
    for agent in agents:
        for name, samples in agent.metrics().items():
            if not name.startswith("fabric_rnic_") or not name.endswith("_total") or name.startswith(MOVING):
                continue
            short = name.removeprefix("fabric_rnic_").removesuffix("_total")
            for labels, value in samples.items():
                where = dict(labels)
                values[short, where["host"], where["rnic"], where.get("priority", "")] = value
    return values


def settled(agents: list[Agent]) -> Values:
    """The same once nothing moves: an incident that has ended shows until trees and exporters have read its last."""
    values: list[Values] = []

    def steady() -> bool:
        values.append(counted(agents))
        time.sleep(STEADY_SECONDS)
        return counted(agents) == values[-1]

    until(steady)
    return values[-1]


def moved(agents: list[Agent], before: Values) -> set[tuple[str, ...]]:
    after = counted(agents)
    return {key for key, value in after.items() if value != before.get(key)} | before.keys() - after.keys()


def ends(design: Design) -> tuple[str, str]:
    """An RNIC, and the one of the other host on its rail."""
    return design.links[0].a.id, next(link.a.id for link in design.links[1:] if link.b.node == design.links[0].b.node)


def storm(design: Design) -> tuple[Events, set[tuple[str, str]]]:
    own, _ = ends(design)
    return effects.pfc_storm(design, own), {
        (own, "pfc_transmit_frames"), (own, "pfc_transmit_pause_seconds"), (own, "tx_pause_storm_warning_events"),
    }  # fmt: skip


def slow(design: Design) -> tuple[Events, set[tuple[str, str]]]:
    own, _ = ends(design)
    return effects.slow_receiver(design, own), {
        (own, "pfc_transmit_frames"), (own, "pfc_transmit_pause_seconds"), (own, "outbound_pci_stalled_wr_events"),
        (own, "rx_buffer_passed_thres_phy"),
    }  # fmt: skip


def incast(design: Design) -> tuple[Events, set[tuple[str, str]]]:
    own, sender = ends(design)
    return effects.incast(design, own, [sender]), {
        (own, "hw_np_ecn_marked_roce_packets"), (own, "hw_np_cnp_sent"), (own, "priority_receive_marked"),
        (sender, "hw_rp_cnp_handled"),
    }  # fmt: skip


def ignored(design: Design) -> tuple[Events, set[tuple[str, str]]]:
    own, sender = ends(design)
    return effects.incast(design, own, [sender], reacts=False), {
        (own, "hw_np_ecn_marked_roce_packets"), (own, "hw_np_cnp_sent"), (own, "priority_receive_marked"),
        (sender, "hw_rp_cnp_ignored"),
    }  # fmt: skip


def drops(design: Design) -> tuple[Events, set[tuple[str, str]]]:
    own, sender = ends(design)
    events = effects.queue_drops(design, design.links[0].b.id, 500, sender=sender, receiver=own)
    return events, {(own, "hw_out_of_sequence"), (sender, "hw_packet_seq_err")}


def dirty(design: Design) -> tuple[Events, set[tuple[str, str]]]:
    own, _ = ends(design)
    return effects.dirty_link(design, own, 50), {
        (own, "rx_crc_errors_phy"), (own, "rx_symbol_err_phy"), (own, "port_symbol_error"), (own, "port_rcv_errors"),
    }  # fmt: skip


def small_mtu(design: Design) -> tuple[Events, set[tuple[str, str]]]:
    own, sender = ends(design)
    events = effects.too_long(design, own, 50, senders=[sender])
    return events, {(own, "rx_oversize_pkts_phy"), (sender, "hw_local_ack_timeout_err")}


def dead_pairs(design: Design) -> tuple[Events, set[tuple[str, str]]]:
    own, _ = ends(design)
    host, rnic = own.split(":")
    return (Event(host, rnic, "req_transport_retries_exceeded", rate=10),), {
        (own, "hw_req_transport_retries_exceeded"),
    }  # fmt: skip


@pytest.mark.parametrize("incident", [storm, slow, incast, ignored, drops, dirty, small_mtu, dead_pairs])
def test_an_incident_shows_in_its_counters_and_in_no_others(
    incident: Callable[[Design], tuple[Events, set[tuple[str, str]]]],
    design: Design,
    agents: list[Agent],
    counters: Counters,
) -> None:
    events, expected = incident(design)
    before = settled(agents)
    counters.add(*events, fault=incident.__name__)

    def shown() -> set[tuple[str, str]]:
        return {(f"{host}:{rnic}", name) for name, host, rnic, _ in moved(agents, before)}

    until(lambda: shown() >= expected)
    assert shown() == expected
    assert {priority for _, _, _, priority in moved(agents, before)} <= {"", str(effects.PRIORITY)}


def test_an_rnic_that_is_gone_tells_nothing_and_says_so(
    design: Design, agents: list[Agent], counters: Counters
) -> None:
    host, rnic = ends(design)[0].split(":")
    agent = next(agent for agent in agents if agent.host.name == host)
    counters.remove_rnic(host, rnic, fault="gone")
    until(lambda: f'rnic="{rnic}",signal="cnp",state="stale"' in agent.get("/metrics"))
    assert not any(key[1:3] == (host, rnic) and key[0].startswith("hw_") for key in counted([agent]))
    counters.clear("gone")
    until(lambda: f'rnic="{rnic}",signal="cnp",state="supported"' in agent.get("/metrics"))


def test_a_gid_that_changes_is_counted(design: Design, agents: list[Agent], counters: Counters) -> None:
    host, rnic = ends(design)[0].split(":")
    agent = next(agent for agent in agents if agent.host.name == host)
    before = settled([agent])
    counters.change_gid(host, rnic, 3, "", fault="gid lost")
    until(lambda: ("gid_changes", host, rnic, "") in moved([agent], before))
    gids = [dict(labels) for labels in agent.metrics()["fabric_rnic_gid_info"]]
    assert sorted(gid["index"] for gid in gids if gid["rnic"] == rnic) == ["0", "1", "2"]


def test_the_pages_name_what_a_simulated_rnic_is(design: Design, agents: list[Agent]) -> None:
    host, rnic = ends(design)[0].split(":")
    (page,) = [agent.get("/metrics") for agent in agents if agent.host.name == host]
    (line,) = [line for line in page.splitlines() if line.startswith("fabric_rnic_device_info") and f'"{rnic}"' in line]
    assert 'firmware="28.39.1002"' in line
    assert 'board="MT4129"' in line


def test_the_tree_has_no_rnic_that_the_page_has_not(agents: list[Agent], fabric: Running) -> None:
    for agent in agents:
        tree = fabric.directory / "sysfs" / agent.host.name / "class/infiniband"
        shown = {dict(labels)["rnic"] for labels in agent.metrics()["fabric_rnic_active"]}
        assert shown == {path.name for path in tree.iterdir()}
