"""The overlay carries tenants apart, over the right RNICs, and its tables say what it does."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab.network import overlay
from lab.network.design import Container, Design, Interface, Tenant
from lab.running import Running

INNER_JUMBO = 9000 - 50 - 28  # overlay MTU less IPv4 and ICMP headers


def ping(fabric: Running, source: Container, own: Interface, address: str, *, size: int = 56, count: int = 2) -> int:
    """Number of lost pings, sent with the don't-fragment bit."""
    argv = f"ping -n -q -M do -s {size} -c {count} -i 0.01 -W 0.3 -I {own.address} {address}".split()
    answer = fabric.run(source.name, argv, check=False).stdout
    match = re.search(r"(\d+) packets transmitted, (\d+) received", answer)
    return count if match is None else int(match[1]) - int(match[2])


def pair(design: Design, tenant: int = 0) -> tuple[Tenant, Container, Container]:
    """Two containers of one tenant on hosts of different pods."""
    one = design.tenants[tenant]
    first = one.containers[0]
    pod = {host.name: host.pod for host in design.hosts}
    return one, first, next(each for each in one.containers if pod[each.host] != pod[first.host])


def sent_by(fabric: Running, design: Design, host: str) -> dict[str, int]:
    """Packets sent so far by each RNIC of a host, from the kernel's counters."""
    rnics = design.host(host).rnics
    files = [f"/sys/class/net/{rnic.netdev}/statistics/tx_packets" for rnic in rnics]
    return {
        rnic.name: int(word) for rnic, word in zip(rnics, fabric.run(host, ["cat", *files]).stdout.split(), strict=True)
    }


def test_containers_of_one_tenant_reach_each_other_at_the_inner_mtu(fabric: Running, design: Design) -> None:
    def lost(source: Container, own: Interface, there: Interface) -> tuple[int, int]:
        fits = ping(fabric, source, own, there.address, size=INNER_JUMBO)
        return fits, ping(fabric, source, own, there.address, size=INNER_JUMBO + 1, count=1)

    ways = [
        (tenant.containers[0], own, there)
        for tenant in design.tenants
        for other in tenant.containers[1:]
        for own, there in zip(tenant.containers[0].interfaces, other.interfaces, strict=True)
    ]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda way: lost(*way), ways)) == [(0, 1)] * len(ways)


def test_tenants_share_addresses_and_do_not_meet(fabric: Running, design: Design) -> None:
    first, second = design.tenants
    addresses = {each.address for container in first.containers for each in container.interfaces}
    assert addresses == {each.address for container in second.containers for each in container.interfaces}
    # An address of the other tenant is somewhere else, or nowhere, in one's own.
    source = first.containers[0]
    owner = {i.address: c for c in first.containers for i in c.interfaces}
    for container in second.containers:
        for interface in container.interfaces:
            if owner[interface.address].host != container.host:
                counters = f"/sys/class/net/{interface.netdev}/statistics/rx_packets"
                before = int(fabric.run(container.name, ["cat", counters]).stdout)
                ping(fabric, source, source.interfaces[0], interface.address, count=5)
                assert int(fabric.run(container.name, ["cat", counters]).stdout) == before
                return
    pytest.fail("the draw put every address on the same host for both tenants")


def test_a_container_sends_through_the_rnic_that_its_interface_belongs_to(fabric: Running, design: Design) -> None:
    _, source, destination = pair(design)
    for own in source.interfaces:
        for there in destination.interfaces:
            before = sent_by(fabric, design, source.host)
            back = sent_by(fabric, design, destination.host)
            assert ping(fabric, source, own, there.address, count=50) == 0
            after = sent_by(fabric, design, source.host)
            assert [rnic for rnic in after if after[rnic] - before[rnic] >= 50] == [own.rnic]
            returned = sent_by(fabric, design, destination.host)
            assert [rnic for rnic in returned if returned[rnic] - back[rnic] >= 50] == [there.rnic]


def test_the_fabric_sees_vxlan_with_the_rnics_addresses(fabric: Running, design: Design) -> None:
    tenant, source, destination = pair(design)
    own, there = source.interfaces[0], destination.interfaces[0]
    outer = [next(rnic for rnic in design.host(c.host).rnics if rnic.name == "mlx5_0") for c in (source, destination)]
    table = f"""
        table netdev seen {{
            counter vxlan {{ }}
            chain arriving {{
                type filter hook ingress device "{outer[1].netdev}" priority 0;
                ip saddr {outer[0].address} ip daddr {outer[1].address} udp dport 4789 @ih,32,24 {tenant.vni} \
counter name vxlan
            }}
        }}"""
    fabric.run(destination.host, ["sh", "-c", f"nft -f - <<'END'\n{table}\nEND"])
    try:
        assert ping(fabric, source, own, there.address, count=20) == 0
        listed = json.loads(fabric.run(destination.host, ["nft", "-j", "list", "counters"]).stdout)["nftables"]
        counted = {each["counter"]["name"]: each["counter"]["packets"] for each in listed if "counter" in each}
        assert counted["vxlan"] >= 20
    finally:
        fabric.run(destination.host, ["nft", "delete", "table", "netdev", "seen"])


def test_the_fabric_sees_the_class_of_what_is_inside(fabric: Running, design: Design) -> None:
    _, source, destination = pair(design)
    device = design.host(destination.host).rnics[0].netdev
    table = f"""
        table netdev seen {{
            counter lossless {{ }}
            chain arriving {{
                type filter hook ingress device "{device}" priority 0;
                udp dport 4789 ip dscp 26 counter name lossless
            }}
        }}"""
    fabric.run(destination.host, ["sh", "-c", f"nft -f - <<'END'\n{table}\nEND"])
    try:
        ends = ["-I", source.interfaces[0].address, destination.interfaces[0].address]
        fabric.run(source.name, ["ping", "-c", "10", "-i", "0.01", "-Q", str(26 << 2), *ends])
        listed = json.loads(fabric.run(destination.host, ["nft", "-j", "list", "counters"]).stdout)["nftables"]
        assert next(e["counter"]["packets"] for e in listed if e.get("counter", {}).get("name") == "lossless") >= 10
    finally:
        fabric.run(destination.host, ["nft", "delete", "table", "netdev", "seen"])


def test_inner_flows_spread_over_the_spines(fabric: Running, design: Design) -> None:
    _, source, destination = pair(design)
    own, there = source.interfaces[0], destination.interfaces[0]
    leaf = design.far_end(design.rnic_end(f"{source.host}:{own.rnic}")).node
    uplinks = [end.netdev for end, _ in design.peers(leaf)]

    def sent() -> list[int]:
        files = [f"/sys/class/net/{uplink}/statistics/tx_packets" for uplink in uplinks]
        return [int(word) for word in fabric.run(leaf, ["cat", *files]).stdout.split()]

    script = (
        "import socket\n"
        "for port in range(20000, 21000):\n"
        "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"    s.bind(('{own.address}', port)); s.sendto(b'x', ('{there.address}', 4791)); s.close()\n"
    )
    before = sent()
    fabric.run(source.name, ["python3", "-c", script])
    spread = [after - earlier for earlier, after in zip(before, sent(), strict=True)]
    assert all(packets > 400 for packets in spread), spread


def test_both_tables_agree_on_a_healthy_overlay(fabric: Running, design: Design) -> None:
    state = json.loads(fabric.act("overlay"))
    tables: dict[str, dict[tuple[str, int, str], str | None]] = {"vswitch": {}, "rnic": {}}
    for entry in state["entries"]:
        tables[entry["table"]][entry["host"], entry["vni"], entry["dst"]] = entry["next"]
    expected = len(design.tenants) * len(design.hosts) ** 2 * len(design.hosts[0].rnics)
    assert len(tables["vswitch"]) == expected
    assert tables["vswitch"] == tables["rnic"]
    assert {(s["host"], s["table"]) for s in state["snapshots"]} == {
        (host.name, table) for host in design.hosts for table in ("vswitch", "rnic")
    }


def test_the_tables_name_the_rnic_behind_which_an_address_is(fabric: Running, design: Design) -> None:
    tenant, source, destination = pair(design, 1)
    state = json.loads(fabric.act("overlay"))
    for there in destination.interfaces:
        rnic = next(rnic for rnic in design.host(destination.host).rnics if rnic.name == there.rnic)
        following = {
            entry["next"]
            for entry in state["entries"]
            if (entry["host"], entry["vni"], entry["dst"]) == (source.host, tenant.vni, there.address)
        }
        assert following == {rnic.address}


def test_names_of_interfaces_are_short_enough(design: Design) -> None:
    for tenant in design.tenants:
        assert len(overlay.tunnel(tenant)) <= 15
