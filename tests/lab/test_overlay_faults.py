"""Faults of the overlay do what they say, measured with ping and the kernel's own tables, and heal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from lab.network.design import Container, Design
from lab.running import Running
from tests.lab.pings import ping
from tests.lab.processes import command_lines, until


@pytest.fixture
def ends(design: Design) -> tuple[Container, Container, Container]:
    """Three containers of one tenant on three hosts: a sender, the one that is spoken to, and a bystander."""
    source, destination, bystander, *_ = design.tenants[0].containers
    return source, destination, bystander


@pytest.fixture
def mended(fabric: Running) -> Iterator[Running]:
    yield fabric
    fabric.act("heal", "all")


def lost(fabric: Running, source: Container, destination: Container, count: int = 5) -> int:
    """Pings lost from the first interface of one container to that of another."""
    ends = source.interfaces[0].address, destination.interfaces[0].address
    return ping(fabric, source.name, *ends, count=count, patience=0.3).lost


def following(fabric: Running, table: str, host: str, container: Container) -> set[str | None]:
    """Where one table of a host sends the packets of a container."""
    state = json.loads(fabric.act("overlay"))
    macs = {interface.mac for interface in container.interfaces}
    return {e["next"] for e in state["entries"] if (e["host"], e["table"]) == (host, table) and e["dst_mac"] in macs}


def test_a_missing_entry_cuts_one_host_off_from_one_container(
    mended: Running, ends: tuple[Container, Container, Container]
) -> None:
    source, destination, bystander = ends
    mended.fault("fdb-missing", destination.name, source.host)
    assert lost(mended, source, destination) == 5
    assert lost(mended, source, bystander) == 0
    assert lost(mended, bystander, destination) == 0
    assert following(mended, "vswitch", source.host, destination) == set()
    assert following(mended, "rnic", source.host, destination) == set()
    mended.act("heal", "all")
    assert lost(mended, source, destination) == 0
    assert following(mended, "vswitch", source.host, destination) == following(mended, "rnic", source.host, destination)


def test_a_fault_that_moves_to_another_host_is_mended_where_it_was(
    mended: Running, ends: tuple[Container, Container, Container]
) -> None:
    source, destination, bystander = ends
    mended.fault("fdb-missing", destination.name)
    mended.fault("fdb-missing", destination.name, bystander.host)
    assert lost(mended, source, destination) == 0
    assert lost(mended, bystander, destination) == 5
    mended.act("heal", "all")
    assert lost(mended, bystander, destination) == 0


def test_a_wrong_entry_sends_packets_to_another_host(
    mended: Running, design: Design, ends: tuple[Container, Container, Container]
) -> None:
    source, destination, _ = ends
    mended.fault("fdb-wrong", destination.name)
    assert lost(mended, source, destination) == 5
    right = {rnic.address for rnic in design.host(destination.host).rnics}
    wrong = following(mended, "vswitch", source.host, destination)
    assert wrong == following(mended, "rnic", source.host, destination)
    assert not wrong & right
    mended.act("heal", "all")
    assert following(mended, "rnic", source.host, destination) == right
    assert lost(mended, source, destination) == 0


def test_a_loop_turns_and_is_kept_from_eating_the_machine(
    mended: Running, design: Design, ends: tuple[Container, Container, Container]
) -> None:
    source, destination, _ = ends
    mended.fault("fdb-loop", destination.name, source.host)
    second = next(host for host in design.hosts if host.name not in (source.host, destination.host))
    device = f"vx-{design.tenants[0].vni}"

    def passed() -> int:
        return int(mended.run(second.name, ["cat", f"/sys/class/net/{device}/statistics/rx_packets"]).stdout)

    before = passed()
    assert lost(mended, source, destination, count=20) == 20
    time.sleep(0.5)
    assert passed() - before > 60, "twenty packets pass the second host over and over"
    assert json.loads(mended.act("dropped"))[f"fdb-loop {destination.name}"] > 0
    mended.act("heal", "all")
    assert lost(mended, source, destination) == 0
    before = passed()
    time.sleep(0.5)
    assert passed() - before < 50, "nothing turns any more"


def test_a_stale_offload_loses_packets_while_the_virtual_switch_is_right(
    mended: Running, design: Design, ends: tuple[Container, Container, Container]
) -> None:
    source, destination, bystander = ends
    mended.fault("offload-stale", destination.name, source.host)
    assert lost(mended, source, destination) == 5
    assert lost(mended, bystander, destination) == 0
    right = {rnic.address for rnic in design.host(destination.host).rnics}
    assert following(mended, "vswitch", source.host, destination) == right
    assert not following(mended, "rnic", source.host, destination) & right


def test_flows_that_are_not_offloaded_are_slow_and_lose_nothing(
    mended: Running, ends: tuple[Container, Container, Container]
) -> None:
    source, destination, bystander = ends
    path = source.interfaces[0].address, destination.interfaces[0].address
    before = ping(mended, source.name, *path, count=50)
    mended.fault("offload-missing", destination.name, source.host, 2000)
    during = ping(mended, source.name, *path, count=50)
    assert during.lost == 0
    assert during.least > before.mean + 2
    assert ping(mended, source.name, *path, size=8922, count=5).lost == 0, "the slow path carries full-size packets"
    others = ping(mended, source.name, path[0], bystander.interfaces[0].address, count=50)
    assert others.least < 2
    assert following(mended, "rnic", source.host, destination) == set()
    assert following(mended, "vswitch", source.host, destination) != set()
    mended.act("heal", "all")
    assert ping(mended, source.name, *path, count=50).least < 2
    assert mended.run(source.host, ["ip", "-br", "link"]).stdout.count("sp-") == 0


def test_flows_that_are_invalidated_again_and_again_change_between_fast_and_slow(
    mended: Running, ends: tuple[Container, Container, Container]
) -> None:
    source, destination, _ = ends
    path = source.interfaces[0].address, destination.interfaces[0].address
    mended.fault("offload-repeated", destination.name, source.host, 5000, 1)
    seen = ping(mended, source.name, *path, count=150, interval=0.02)
    assert seen.lost <= 7  # a packet may find no flow as one goes; that is no loss to speak of
    assert seen.least < 5 < seen.most
    mended.act("heal", "all")
    assert ping(mended, source.name, *path, count=100).least < 5


def test_some_flows_only_can_be_slow(mended: Running, ends: tuple[Container, Container, Container]) -> None:
    source, destination, _ = ends
    mended.fault("offload-missing", destination.name, source.host, 5000, "some")
    first, last = (
        ping(mended, source.name, own.address, there.address, count=10).least
        for own, there in ((i, j) for i, j in zip(source.interfaces, destination.interfaces, strict=True))
    )
    assert first > 5 > last


def test_a_killed_container_is_gone_and_an_empty_one_comes_back(
    mended: Running, ends: tuple[Container, Container, Container]
) -> None:
    source, destination, bystander = ends
    mended.run(None, ["sh", "-c", f"ip netns exec {destination.name} sleep 600 >/dev/null 2>&1 &"])
    until(lambda: "sleep 600" in command_lines(mended), 5, "it runs")
    mended.fault("container-kill", destination.name)
    assert lost(mended, source, destination) == 5
    assert lost(mended, source, bystander) == 0
    assert destination.name not in mended.run(None, ["ip", "netns", "list"]).stdout
    assert "sleep 600" not in command_lines(mended)
    mended.act("heal", "all")
    assert lost(mended, source, destination) == 0
    assert lost(mended, destination, source) == 0


def test_a_vlan_that_loses_packets_is_one_tenants(mended: Running, design: Design) -> None:
    rnic = next(r for r in design.host(design.tenants[0].containers[0].host).rnics if r.rail == 0)
    leaf = design.far_end(design.rnic_end(f"{design.tenants[0].containers[0].host}:{rnic.name}")).node
    mended.fault("vlan-loss", leaf, design.tenants[1].name, 100)
    for tenant, expected in zip(design.tenants, (0, 5), strict=True):
        source, destination, *_ = tenant.containers
        assert lost(mended, source, destination) == expected
    assert json.loads(mended.act("dropped"))[f"vlan-loss {leaf}"] >= 5
    mended.act("heal", "all")
    assert lost(mended, *design.tenants[1].containers[:2]) == 0
