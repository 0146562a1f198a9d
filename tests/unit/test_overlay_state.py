"""From the kernel's messages and Open vSwitch's lines to overlay entries, and what is counted of them."""

from __future__ import annotations

import gzip
import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError

import msgspec
import pytest

from exporter.config import read_config
from exporter.contracts.codec import ContractError, encode
from exporter.contracts.overlay import OverlayState, read_overlay
from exporter.oneshot import OneShotError
from exporter.overlay import process
from exporter.overlay.dumps import Dumps
from exporter.overlay.kernel import Device, Forwarding, Neighbour, Tables, Way, forwarding
from exporter.overlay.openvswitch import OpenVSwitch, entries
from exporter.overlay.process import inconsistencies
from exporter.overlay.settings import OverlayPort, OverlaySettings, overlay_tables
from exporter.overlay.state import told, with_snapshots
from exporter.store import Store
from skeleton_service.diagnosis.overlay_tables import index_tables
from skeleton_service.reading import fetching
from skeleton_service.reading.fetching import uncompressed
from skeleton_service.reading.overlay import read_overlays
from tests.unit.running import RunningExporter, until

BRIDGE, TUNNEL, PORT, VLAN, SHARED = 2, 3, 4, 5, 6
DEVICES = {
    BRIDGE: Device("br0"),
    TUNNEL: Device("vx100", is_tunnel=True, vni=100, bridge=BRIDGE),
    PORT: Device("veth0", bridge=BRIDGE),
    VLAN: Device("vlan10", upon=BRIDGE),
    SHARED: Device("vxe", is_tunnel=True),
}
LOCAL_PORT = OverlayPort(name="veth0", container="worker-0", address="172.16.0.1")
NOW = 1000.0


def found(ways: list[Way], neighbours: list[Neighbour], *ports: OverlayPort) -> Forwarding:
    return forwarding(Tables(DEVICES, ways, neighbours), "h", ports, NOW)


def seen(forwarded: Forwarding) -> list[tuple[int, str, str | None, bool | None, float]]:
    return [(entry.vni, entry.dst, entry.next, entry.offloaded, entry.time) for entry in forwarded.entries]


@pytest.mark.parametrize("device", [TUNNEL, BRIDGE, VLAN])
def test_an_entry_is_an_address_its_mac_and_the_way_of_that(device: int) -> None:
    """Neighbours are where ARP is answered: the tunnel, its bridge, or the gateway's interface upon that."""
    ways = [Way(TUNNEL, "0a:00:00:00:00:02", "192.0.2.12", seconds=30.0), Way(TUNNEL, "00:00:00:00:00:00", "192.0.2.9")]
    forwarded = found(ways, [Neighbour(device, "172.16.0.2", "0a:00:00:00:00:02", seconds=90.0)])
    assert seen(forwarded) == [(100, "172.16.0.2", "192.0.2.12", None, 970.0)]
    assert not forwarded.unresolved


def test_neighbours_of_another_device_are_none_of_the_tunnels() -> None:
    ways = [Way(TUNNEL, "0a:00:00:00:00:02", "192.0.2.12")]
    forwarded = found(ways, [Neighbour(99, "172.16.0.2", "0a:00:00:00:00:02")])
    assert not forwarded.entries
    assert not forwarded.unresolved


def test_a_tunnel_of_many_networks_has_the_number_in_each_entry() -> None:
    ways = [Way(SHARED, "0a:00:00:00:00:02", "2001:db8::12", vni=555)]
    assert seen(found(ways, [Neighbour(SHARED, "172.16.0.2", "0a:00:00:00:00:02")])) == [
        (555, "172.16.0.2", "2001:db8::12", None, NOW)
    ]


def test_offloading_is_told_where_the_driver_tells_it_of_any() -> None:
    ways = [
        Way(TUNNEL, "0a:00:00:00:00:02", "192.0.2.12", offloaded=True),
        Way(TUNNEL, "0a:00:00:00:00:03", "192.0.2.13"),
    ]
    neighbours = [Neighbour(TUNNEL, f"172.16.0.{n}", f"0a:00:00:00:00:0{n}") for n in (2, 3)]
    forwarded = found(ways, neighbours)
    assert [entry.offloaded for entry in forwarded.entries] == [True, False]
    assert inconsistencies(forwarded, frozenset({"192.0.2.12"})) == {
        "missing-entry": 0.0, "unknown-vtep": 1.0, "not-offloaded": 1.0
    }  # fmt: skip
    state = with_snapshots("h", forwarded.entries, NOW, complete=True)
    assert [(snapshot.table, snapshot.time) for snapshot in state.snapshots] == [("vswitch", NOW), ("rnic", NOW)]
    assert [(entry.dst, entry.offloaded) for entry in state.entries if entry.table == "rnic"] == [("172.16.0.2", None)]


def test_what_nobody_tells_is_not_zero() -> None:
    forwarded = found(
        [Way(TUNNEL, "0a:00:00:00:00:02", "192.0.2.12")], [Neighbour(TUNNEL, "172.16.0.2", "0a:00:00:00:00:02")]
    )
    counted = inconsistencies(forwarded, None)
    assert counted["missing-entry"] == 0
    assert math.isnan(counted["unknown-vtep"])
    assert math.isnan(counted["not-offloaded"])
    assert [snapshot.table for snapshot in with_snapshots("h", forwarded.entries, NOW, complete=True).snapshots] == [
        "vswitch"
    ]


def test_an_address_without_a_way_is_missing_unless_it_is_behind_the_bridge() -> None:
    neighbours = [
        Neighbour(TUNNEL, "172.16.0.7", "0a:00:00:00:00:07"),
        Neighbour(BRIDGE, "172.16.0.8", "0a:00:00:00:00:08"),
    ]
    forwarded = found([Way(PORT, "0a:00:00:00:00:08", by_bridge=True)], neighbours)
    assert forwarded.unresolved == [(100, "172.16.0.7")]
    assert inconsistencies(forwarded, None)["missing-entry"] == 1


def test_a_named_port_of_the_bridge_delivers_to_its_container() -> None:
    ways = [
        Way(PORT, "5e:63:42:db:c2:12", by_bridge=True, own=True),
        Way(PORT, "0a:00:00:00:00:01", by_bridge=True),
    ]
    neighbour = Neighbour(BRIDGE, "172.16.0.1", "0a:00:00:00:00:01")
    (entry,) = found(ways, [neighbour], LOCAL_PORT).entries
    assert (entry.vni, entry.dst, entry.dst_mac, entry.next) == (
        100, "172.16.0.1", "0a:00:00:00:00:01", "local:worker-0"
    )  # fmt: skip
    gone = OverlayPort(name="veth9", container="worker-9", address="172.16.0.9")
    assert not found(ways, [], gone).entries


def test_the_same_address_at_another_tenant_is_another_one() -> None:
    devices = DEVICES | {12: Device("br1"), 13: Device("vx200", is_tunnel=True, vni=200, bridge=12)}
    ways, neighbours = [Way(13, "0a:00:00:00:00:77", "192.0.2.17")], [Neighbour(13, "172.16.0.1", "0a:00:00:00:00:77")]
    forwarded = forwarding(Tables(devices, ways, neighbours), "h", [LOCAL_PORT], NOW)
    assert {(entry.vni, entry.next) for entry in forwarded.entries} == {(100, "local:worker-0"), (200, "192.0.2.17")}


OWN = Way(PORT, "0a:00:00:00:00:01", by_bridge=True)
STATIC = [Way(TUNNEL, "0a:00:00:00:00:02", "192.0.2.12"), OWN]
KNOWN = [Neighbour(TUNNEL, "172.16.0.2", "0a:00:00:00:00:02")]
TWO = {index: device for index, device in DEVICES.items() if index != SHARED}


def complete(
    ways: list[Way], neighbours: list[Neighbour], *ports: OverlayPort, devices: dict[int, Device] = TWO
) -> bool:
    return forwarding(Tables(devices, ways, neighbours), "h", ports, NOW).complete


def test_a_table_is_complete_where_a_controller_fills_it_and_every_entry_has_an_address() -> None:
    """Else what is absent is unknown: its host would be blamed for a peer that is silent, or that has no name."""
    assert complete(STATIC, KNOWN, LOCAL_PORT)
    assert not complete(STATIC, KNOWN)  # nobody says what is local
    learnt = replace(STATIC[0], managed=False)
    assert not complete([learnt, OWN], KNOWN, LOCAL_PORT)
    assert not complete(STATIC, [replace(KNOWN[0], managed=False)], LOCAL_PORT)
    assert not complete([*STATIC, Way(TUNNEL, "0a:00:00:00:00:03", "192.0.2.13")], KNOWN, LOCAL_PORT)
    assert not complete([*STATIC, Way(TUNNEL, "0a:00:00:00:00:03", None)], KNOWN, LOCAL_PORT)  # a group of next hops
    assert not complete(STATIC, KNOWN, LOCAL_PORT, devices=DEVICES)  # a tunnel of many networks
    assert not complete([], [], LOCAL_PORT)


def test_a_bridge_of_several_tunnels_has_no_number_but_the_ports() -> None:
    devices = TWO | {13: Device("vx200", is_tunnel=True, vni=200, bridge=BRIDGE)}
    tables = Tables(devices, [*STATIC, OWN], [*KNOWN, Neighbour(BRIDGE, "172.16.0.4", "0a:00:00:00:00:02")])
    assert seen(forwarding(tables, "h", [LOCAL_PORT], NOW)) == [(100, "172.16.0.2", "192.0.2.12", None, NOW)]
    named = forwarding(tables, "h", [replace_port(LOCAL_PORT, vni=200)], NOW)
    assert [(entry.vni, entry.next) for entry in named.entries if entry.container] == [(200, "local:worker-0")]
    assert not named.complete


def replace_port(port: OverlayPort, *, vni: int) -> OverlayPort:
    return msgspec.structs.replace(port, vni=vni)


def test_what_has_just_changed_says_so_whichever_part_of_it_did() -> None:
    ways = [replace(STATIC[0], seconds=600.0)]
    assert seen(found(ways, [replace(KNOWN[0], seconds=1.0)]))[0][-1] == NOW - 1
    assert seen(found([replace(STATIC[0], seconds=2.0)], [replace(KNOWN[0], seconds=600.0)]))[0][-1] == NOW - 2


def test_neighbours_that_were_learnt_are_not_missed() -> None:
    forwarded = found([], [Neighbour(TUNNEL, "172.16.0.7", "0a:00:00:00:00:07", managed=False)])
    assert not forwarded.unresolved


MATCH = (
    "ufid:6a43063c-6388-43a0-b80f-d0ed20dd1d9f, skb_priority(0/0){tunnel},skb_mark(0/0),recirc_id(0),dp_hash(0/0),"
    "in_port({port}),packet_type(ns=0,id=0),eth(src=0a:00:00:00:00:01/00:00:00:00:00:00,dst={mac}),eth_type(0x0800),"
    "{ip},udp(src=1000/0,dst=4791/0), packets:3, bytes:318, used:0.427s, {about}, actions:{actions}"
)
KEY = ",tunnel(tun_id=0x64,src=192.0.2.12,dst=192.0.2.11,ttl=64/0,tp_src=50000/0,tp_dst=4789/0,flags(-df-csum+key))"
PUSH = (
    "tnl_push(tnl_port(vxlan_sys_4789),header(size=50,type=4,eth(dst=aa:55:aa:55:00:12,src=0a:9f:97:df:49:4a,"
    "dl_type=0x0800),ipv4(src=192.0.2.11,dst=192.0.2.12,proto=17,tos=0,ttl=64,frag=0x4000),udp(src=0,dst=4789,"
    "csum=0x0),vxlan(flags=0x8000000,vni=0x64)),out_port(br-ul)),p0, dp-extra-info:miniflow_bits(4,2)"
)
SET = "set(tunnel(tun_id=0x64,src=192.0.2.11,dst=192.0.2.12,ttl=64,tp_dst=4789,flags(df|key))),vxlan_sys_4789"


def flow(
    actions: str,
    *,
    ip: str = "ipv4(src=172.16.0.1/0.0.0.0,dst=172.16.0.2,proto=17/0,tos=0/0x3,ttl=64/0,frag=no)",
    port: str = "veth0",
    mac: str = "0a:00:00:00:00:02/00:00:00:00:00:00",
    tunnel: str = "",
    about: str = "dp:ovs",
) -> str:
    return MATCH.format(actions=actions, ip=ip, port=port, mac=mac, tunnel=tunnel, about=about)


def of_flow(line: str) -> list[tuple[object, ...]]:
    return [
        (entry.vni, entry.dst, entry.next, entry.in_port, entry.dst_mac, entry.offloaded)
        for entry in entries([line], "h", [LOCAL_PORT], NOW)
    ]


def test_a_flow_that_encapsulates_is_an_entry() -> None:
    """In user space as a header that is pushed, in the kernel as a tunnel that is set."""
    expected = [(100, "172.16.0.2", "192.0.2.12", "veth0", None, False)]
    assert of_flow(flow(PUSH)) == expected
    assert of_flow(flow(SET)) == expected
    assert of_flow(flow(SET, about="offloaded:yes, dp:tc", mac="0a:00:00:00:00:02")) == [
        (100, "172.16.0.2", "192.0.2.12", "veth0", "0a:00:00:00:00:02", True)
    ]
    six = "ipv6(src=::/::,dst=2001:db8::2,label=0/0,proto=17/0,tclass=0/0,hlimit=0/0,frag=no)"
    assert of_flow(flow(SET, ip=six))[0][1] == "2001:db8::2"
    assert of_flow(flow(SET.replace("dst=192.0.2.12", "ipv6_dst=2001:db8::12")))[0][2] == "2001:db8::12"


def test_a_mirror_is_no_way_and_takes_none_away() -> None:
    mirror = "set(tunnel(tun_id=0x9,src=192.0.2.11,dst=198.51.100.9,flags(df|key))),gre_sys,"
    assert of_flow(flow(mirror + SET)) == []
    own = "ipv4(src=172.16.0.2/0.0.0.0,dst=172.16.0.1,proto=17/0,tos=0/0,ttl=64/0,frag=no)"
    assert of_flow(flow("veth0,span0", ip=own, port="vxlan_sys_4789", tunnel=KEY))[0][2] == "local:worker-0"


def test_a_flow_out_of_a_tunnel_delivers_to_the_container_of_its_port() -> None:
    own = "ipv4(src=172.16.0.2/0.0.0.0,dst=172.16.0.1,proto=17/0,tos=0/0,ttl=64/0,frag=no)"
    assert of_flow(flow("veth0", ip=own, port="vxlan_sys_4789", tunnel=KEY)) == [
        (100, "172.16.0.1", "local:worker-0", "vxlan_sys_4789", None, False)
    ]
    assert of_flow(flow("veth7", ip=own, port="vxlan_sys_4789", tunnel=KEY)) == []


@pytest.mark.parametrize(
    "line",
    [
        "",
        "flow-dump from pmd on cpu core: 0",
        flow(SET, ip="ipv4(src=172.16.0.1/0.0.0.0,dst=172.16.0.9/255.255.255.248,frag=no)"),  # for several
        flow("drop"),
        flow("veth1"),  # within the host
        flow("tnl_pop(vxlan_sys_4789), dp-extra-info:miniflow_bits(5,3)", port="p0"),
        flow(SET)[:200],
        flow(SET).replace("dst=172.16.0.2", "dst=nonsense"),
        flow(SET).replace("dst=192.0.2.12", "dst=nonsense"),
        "a)b(c, packets:1, actions:drop",
    ],
)
def test_other_flows_are_no_entries(line: str) -> None:
    assert of_flow(line) == []


def test_a_switch_that_is_not_there_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no control socket of ovs-vswitchd") as caught:
        OpenVSwitch(tmp_path).count()
    assert caught.value.filename == str(tmp_path)


def settings(openvswitch: Path | None = None) -> OverlaySettings:
    switch = None if openvswitch is None else str(openvswitch)
    return OverlaySettings(host="h", period_seconds=60, ports=(), openvswitch=switch, vteps=None)


def test_dumps_are_made_no_oftener_than_they_may_be(tmp_path: Path) -> None:
    """Who asks meanwhile gets the last ones; the answer obeys the contract."""
    dumps = Dumps(settings(), 3600.0)
    first = dumps.answer()
    assert dumps.answer() == first
    assert dumps.made == 1
    (tmp_path / "state.json").write_bytes(first)
    state = read_overlay(tmp_path / "state.json")
    assert [(snapshot.host, snapshot.table) for snapshot in state.snapshots] == [("h", "vswitch")]
    often = Dumps(settings(), 0.0)
    times = [len(json.loads(often.answer())["snapshots"]) for _ in range(4)]
    assert times == [1, 2, 3, 3]


def test_successive_states_keep_their_entries_apart() -> None:
    """A time of change before the first snapshot would put an entry of the second into the first (the contract)."""
    entry = next(entries([flow(SET)], "h", [LOCAL_PORT], 5.0))
    states = [with_snapshots("h", [entry], now, complete=False) for now in (10.0, 20.0)]
    first, second = told(states[0], None), told(states[1], 10.0)
    whole = msgspec.json.decode(
        b'{"version":1,"snapshots":[%b,%b],"entries":[%b,%b]}'
        % (first.snapshots, second.snapshots, first.entries, second.entries),
        type=OverlayState,
    )
    assert [each.time for each in whole.entries] == [5.0, 20.0]
    table = index_tables(whole)["h", "vswitch"]
    assert [len(reading) for reading in table.history((100, "172.16.0.2"))] == [1, 1]


def test_a_reading_that_takes_long_is_not_begun_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks meanwhile gets what is there."""
    dumps = Dumps(settings(), 0.0)
    first, began, go = dumps.answer(), threading.Event(), threading.Event()
    run = dumps._one.run

    def slow(order: bytes) -> bytes:
        began.set()
        assert go.wait(10)
        return run(order)

    monkeypatch.setattr(dumps._one, "run", slow)
    asking = threading.Thread(target=dumps.answer)
    asking.start()
    assert began.wait(10)
    assert dumps.answer() == first
    go.set()
    asking.join(10)
    assert dumps.made == 2
    assert len(json.loads(dumps.answer())["snapshots"]) == 3


@pytest.mark.parametrize("complete", [True, False])
def test_what_an_incomplete_table_lacks_is_unknown(complete: bool) -> None:
    """Of flows that came by lately, that of a dead path is not there: its host is not to blame."""
    entry = next(entries([flow(SET)], "h", [LOCAL_PORT], 5.0))
    table = index_tables(with_snapshots("h", [entry], 10.0, complete=complete))["h", "vswitch"]
    there, absent = table.fact((100, "172.16.0.2")), table.fact((100, "172.16.0.1"))
    assert there is not None
    assert (absent is not None) == complete
    assert absent is None or not absent.entries


def test_a_dump_that_fails_says_why_and_is_not_tried_again_at_once(tmp_path: Path) -> None:
    dumps = Dumps(settings(tmp_path), 3600.0)
    for _ in range(2):
        with pytest.raises(OneShotError, match=f"cannot read overlay tables: no control socket.*: {tmp_path}"):
            dumps.answer()
    assert dumps.made == 1


def test_ports_have_addresses_and_are_there_once(tmp_path: Path) -> None:
    def config(*ports: dict[str, str]) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(json.dumps({"host": "h", "overlay": {"ports": ports}}))
        return path

    port = {"name": "veth0", "container": "c", "address": "2001:DB8::1"}
    overlay = read_config(config(port)).overlay
    assert overlay is not None
    assert overlay.ports[0].address == "2001:db8::1"
    with pytest.raises(ContractError, match=r"'veth0' with 2001:db8::1 appears twice"):
        read_config(config(port, port))
    with pytest.raises(ContractError, match=r"overlay.ports\[0\].address.*give an IP address"):
        read_config(config(port | {"address": "x"}))


def test_an_empty_state_is_a_table_that_was_read() -> None:
    state = with_snapshots("h", [], NOW, complete=False)
    assert state == OverlayState(version=1, snapshots=state.snapshots, entries=())
    assert b'"vswitch"' in encode(state)


def test_exporters_tell_their_tables_to_the_diagnosis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of several hosts are one state; a host that does not answer is left out, and said to be."""
    remote = entries([flow(SET)], "h2", [LOCAL_PORT], 5.0)
    file = tmp_path / "overlay-state.json"
    file.write_bytes(encode(with_snapshots("h2", list(remote), 5.0, complete=False)))
    exporter = RunningExporter(tmp_path / "exporter", "overlay: {dump_seconds: 3600}\n", address="")
    try:
        url = f"http://127.0.0.1:{exporter.http}/v1/overlay-state"
        silent = "http://127.0.0.1:1/v1/overlay-state"
        whole = read_overlays([str(file), url, silent])
        assert [snapshot.host for snapshot in whole.snapshots] == ["h2", "host-"]
        assert [entry.host for entry in whole.entries if entry.dst == "172.16.0.2"] == ["h2"]
        assert f"left out: {silent}: cannot be fetched: " in capsys.readouterr().err
        with pytest.raises(ContractError, match="cannot be fetched"):
            read_overlays([silent])
        until(lambda: 'fabric_overlay_entries{host="host-",table="kernel"}' in exporter.get("/metrics"))
        assert "\nfabric_overlay_dumps_total 1\n" in exporter.get("/metrics")
    finally:
        exporter.stop()


def test_an_answer_may_be_compressed_and_is_not_believed_beyond_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(b"{}" * 1000)
    assert uncompressed(packed, "u") == b"{}" * 1000
    assert uncompressed(b"{}", "u") == b"{}"
    for wrong in (packed[:-20], packed[:5] + b"x" + packed[20:]):
        with pytest.raises(ContractError, match="u: is not valid gzip"):
            uncompressed(wrong, "u")
    monkeypatch.setattr(fetching, "MAX_ANSWER_BYTES", 100)
    with pytest.raises(ContractError, match="more than 1 GiB"):
        uncompressed(packed, "u")


def test_an_exporter_without_the_section_says_so(tmp_path: Path) -> None:
    exporter = RunningExporter(tmp_path / "exporter", "", address="")
    try:
        with pytest.raises(HTTPError, match="404"):
            exporter.get("/v1/overlay-state")
    finally:
        exporter.stop()


@pytest.mark.parametrize(
    ("port", "problem"),
    [
        (
            OverlayPort(name="vteh0", container="c", address="172.16.0.9"),
            "port vteh0: there is no such device in a bridge",
        ),
        (OverlayPort(name="veth0", container="c", address="172.16.0.9", vni=7), "port veth0: vni 7 is of no tunnel"),
    ],
)
def test_a_port_that_is_not_there_is_named_and_the_table_claims_nothing(port: OverlayPort, problem: str) -> None:
    forwarded = forwarding(Tables(TWO, STATIC, KNOWN), "h", [LOCAL_PORT, port], NOW)
    (told_of,) = forwarded.problems
    assert told_of.startswith(problem)
    assert not forwarded.complete
    assert [entry.dst for entry in forwarded.entries if entry.container] == ["172.16.0.1"]


def test_what_is_wrong_is_named_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    neighbours = [Neighbour(TUNNEL, f"172.16.0.{last}", f"0a:00:00:00:00:{last:02x}") for last in range(20, 27)]
    now = Tables(TWO, STATIC, [*KNOWN, *neighbours])
    monkeypatch.setattr(process, "read_tables", lambda: now)
    own = msgspec.structs.replace(settings(), vteps=frozenset({"192.0.2.99"}))
    reader = process.OverlayReader(own, Store(overlay_tables()))
    reader.read()
    reader.read()
    told_of = capsys.readouterr().err
    assert told_of.count("\n") == 1
    assert told_of.startswith("overlay table of kernel: vni 100: no way to 172.16.0.20, vni 100: no way to 172.16.0.21")
    assert told_of.endswith(", and 3 more\n")
    now = Tables(TWO, [], [])
    reader.read()
    assert capsys.readouterr().err == "overlay table of kernel: all is well\n"
