"""Faults of hosts and RNICs do what they say, measured with ping and ip, and heal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from lab.network.design import Design, Host
from lab.running import Running
from tests.lab.pings import ping
from tests.lab.processes import command_lines, until


@pytest.fixture
def mended(fabric: Running) -> Iterator[Running]:
    yield fabric
    fabric.act("heal", "all")
    fabric.act("wait-converged")


@pytest.fixture
def ends(design: Design) -> tuple[Host, Host]:
    """Two hosts in two pods: the broken one and one that speaks to it."""
    broken = design.hosts[1]
    return broken, next(host for host in design.hosts if host.pod != broken.pod)


def lost(fabric: Running, ends: tuple[Host, Host], rail: int, **options: int) -> int:
    """Pings lost on one rail from the healthy host to the broken one, of five."""
    broken, healthy = ends
    addresses = healthy.rnics[rail].address, broken.rnics[rail].address
    return ping(fabric, healthy.name, *addresses, count=5, patience=0.3, **options).lost


def carrier(fabric: Running, design: Design, port: str) -> str:
    """Operational state of a port, read when it had time to follow: the kernel's link watch takes up to a second."""
    time.sleep(1.2)
    end = design.end(port)
    return fabric.run(end.node, ["cat", f"/sys/class/net/{end.netdev}/operstate"]).stdout.strip()


def test_a_host_without_power_is_gone_with_its_containers_and_comes_back(
    mended: Running, design: Design, ends: tuple[Host, Host]
) -> None:
    broken, _ = ends
    containers = [each for each in design.containers if each.host == broken.name]
    others = [next(c for c in t.containers if c.host != broken.name) for t in design.tenants]
    mended.run(None, ["sh", "-c", f"ip netns exec {containers[0].name} sleep 601 >/dev/null 2>&1 &"])
    until(lambda: "sleep 601" in command_lines(mended), 5, "it runs")
    mended.fault("host-off", broken.name)
    assert "sleep 601" not in command_lines(mended)
    for rnic in broken.rnics:
        assert lost(mended, ends, rnic.rail) == 5
        far = design.far_end(design.rnic_end(f"{broken.name}:{rnic.name}"))
        assert carrier(mended, design, far.id) != "up", "the leaf sees it too"
    mended.act("heal", "all")
    mended.act("wait-converged")
    for rnic in broken.rnics:
        assert lost(mended, ends, rnic.rail) == 0
    for container, other in zip(containers, others, strict=True):
        for own, there in zip(container.interfaces, other.interfaces, strict=True):
            assert ping(mended, container.name, own.address, there.address, count=2).lost == 0


def test_an_rnic_that_is_down_takes_the_switch_ports_carrier(
    mended: Running, design: Design, ends: tuple[Host, Host]
) -> None:
    broken, _ = ends
    rnic = f"{broken.name}:{broken.rnics[1].name}"
    mended.fault("rnic-down", rnic)
    assert carrier(mended, design, design.far_end(design.rnic_end(rnic)).id) != "up"
    assert lost(mended, ends, 1) == 5
    assert lost(mended, ends, 0) == 0
    mended.act("heal", "all")
    mended.act("wait-converged")
    assert lost(mended, ends, 1) == 0


def test_a_flapping_rnic_loses_some_and_carries_some(mended: Running, ends: tuple[Host, Host]) -> None:
    broken, healthy = ends
    mended.fault("rnic-flap", f"{broken.name}:{broken.rnics[0].name}", 2.5, 1)
    addresses = healthy.rnics[0].address, broken.rnics[0].address
    seen = ping(mended, healthy.name, *addresses, count=100, interval=0.05, patience=0.3)
    assert 10 < seen.received < 90, seen
    mended.act("heal", "all")
    mended.act("wait-converged")
    assert ping(mended, healthy.name, *addresses, count=50, interval=0.02).lost == 0


def test_a_dead_rnic_has_carrier_and_passes_nothing(mended: Running, design: Design, ends: tuple[Host, Host]) -> None:
    broken, _ = ends
    rnic = f"{broken.name}:{broken.rnics[0].name}"
    mended.fault("rnic-dead", rnic)
    assert carrier(mended, design, rnic) == "up"
    assert lost(mended, ends, 0) == 5
    assert lost(mended, ends, 1) == 0
    assert json.loads(mended.act("dropped"))[f"rnic-dead {rnic}"] >= 5
    mended.act("heal", "all")
    assert lost(mended, ends, 0) == 0


def test_an_rnic_whose_ports_do_not_bond_has_no_address(
    mended: Running, design: Design, ends: tuple[Host, Host]
) -> None:
    broken, _ = ends
    rnic = f"{broken.name}:{broken.rnics[0].name}"
    mended.fault("bond-error", rnic)
    assert carrier(mended, design, rnic) == "up"
    assert lost(mended, ends, 0) == 5
    mended.act("heal", "all")
    assert lost(mended, ends, 0) == 0


def test_a_changed_gid_kills_roce_and_nothing_else(mended: Running, ends: tuple[Host, Host]) -> None:
    """RoCE is UDP in the lossless class: that dies; TCP to the same address and ping live."""
    broken, healthy = ends
    target = broken.rnics[0].address
    mended.fault("gid-change", f"{broken.name}:{broken.rnics[0].name}")
    send = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"s.bind(('{healthy.rnics[0].address}', 0)); s.settimeout(0.5)\n"
        "s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, int(sys.argv[1]) << 2)\n"
        f"s.connect(('{target}', 4791)); s.send(b'x')\n"
        "try:\n    s.recv(1)\n"
        "except ConnectionRefusedError:\n    print('arrived')\n"
        "except TimeoutError:\n    print('lost')\n"
    )
    assert mended.run(healthy.name, ["python3", "-c", send, "26"]).stdout.strip() == "lost"
    assert mended.run(healthy.name, ["python3", "-c", send, "0"]).stdout.strip() == "arrived"
    assert lost(mended, ends, 0, dscp=26) == 0
    mended.act("heal", "all")
    assert mended.run(healthy.name, ["python3", "-c", send, "26"]).stdout.strip() == "arrived"


def test_a_slow_rnic_delays_what_it_carries_and_loses_nothing(mended: Running, ends: tuple[Host, Host]) -> None:
    broken, healthy = ends
    addresses = healthy.rnics[0].address, broken.rnics[0].address
    mended.fault("rnic-slow", f"{broken.name}:{broken.rnics[0].name}", 3000)
    slow = ping(mended, healthy.name, *addresses, count=30)
    assert slow.lost == 0
    assert slow.least > 6, "in and out, 3 ms each"
    other = ping(mended, healthy.name, healthy.rnics[1].address, broken.rnics[1].address, count=30)
    assert other.least < 3
    mended.act("heal", "all")
    assert ping(mended, healthy.name, *addresses, count=30).least < 3


def test_a_slow_rnic_can_delay_the_overlay_only(mended: Running, design: Design, ends: tuple[Host, Host]) -> None:
    broken, healthy = ends
    mended.fault("rnic-slow", f"{broken.name}:{broken.rnics[0].name}", 3000, "vxlan", "in")
    inner = [next(c for c in design.tenants[0].containers if c.host == host.name) for host in (healthy, broken)]
    addresses = inner[0].interfaces[0].address, inner[1].interfaces[0].address
    assert ping(mended, inner[0].name, *addresses, count=20).least > 3
    assert ping(mended, healthy.name, healthy.rnics[0].address, broken.rnics[0].address, count=20).least < 3


def test_a_slow_host_is_slow_on_every_rail(mended: Running, ends: tuple[Host, Host]) -> None:
    broken, healthy = ends
    mended.fault("host-slow", broken.name, 3000)
    for own, there in zip(healthy.rnics, broken.rnics, strict=True):
        assert 3 < ping(mended, healthy.name, own.address, there.address, count=20).least < 6
    mended.act("heal", "all")
    time.sleep(0.1)
    assert ping(mended, healthy.name, healthy.rnics[0].address, broken.rnics[0].address, count=20).least < 3
