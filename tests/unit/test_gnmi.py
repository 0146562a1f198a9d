"""Switches over gNMI: what their messages say, how a session survives them, and a whole exporter that reads one."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path as File
from typing import Any

import pytest

pytest.importorskip("grpc", reason="gRPC is not installed: the extra gnmi")

import grpc
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import read_config
from exporter.contracts.codec import ContractError
from exporter.contracts.metric import Metric, Table
from exporter.contracts.switch_counters import (
    BGP_ENABLED,
    BGP_ESTABLISHED,
    BGP_STATE,
    BGP_TRANSITIONS,
    BGP_UPDATES_IN,
    PFC_PAUSED,
    PFC_RECEIVED,
    PFC_SENT,
    PORT_ENABLED,
    PORT_FRAME_TOO_LONGS,
    PORT_LAST_CHANGE,
    PORT_MTU,
    PORT_PAUSE_RECEIVED,
    PORT_RECEIVE,
    PORT_SPEED,
    PORT_TRANSMIT,
    PORT_UP,
    PRIORITY_LOSSLESS,
    QUEUE_BYTES,
    QUEUE_DEPTH,
    QUEUE_DROPPED,
    QUEUE_DROPPED_BYTES,
    QUEUE_ECN_ENABLED,
    QUEUE_ECN_HIGH,
    QUEUE_ECN_LOW,
    QUEUE_ECN_MARKED,
    QUEUE_PACKETS,
    QUEUE_PEAK,
    SIGNALS,
    SWITCH,
    SWITCH_BGP,
    SWITCH_COVERAGE_TABLE,
    SWITCH_DSCP_PRIORITY,
    SWITCH_DSCP_TABLE,
    SWITCH_INFO_TABLE,
    SWITCH_POLL_FAILURES,
    SWITCH_POLL_TIME,
    SWITCH_POLLS,
    SWITCH_PORT,
    SWITCH_PRIORITY,
    SWITCH_QUEUE,
    SWITCH_REACHABLE,
    WATCHDOG_DROPPED,
    WATCHDOG_RECOVERED,
    WATCHDOG_SHUT,
    WATCHDOG_STUCK,
)
from exporter.gnmi import proto, session
from exporter.gnmi.messages import MessageError, encodings_of, request_of, response_of
from exporter.gnmi.openconfig import OPENCONFIG
from exporter.gnmi.rows import SwitchRows, writers
from exporter.gnmi.session import follow
from exporter.gnmi.settings import MOST_ROWS, GnmiTarget, TargetSettings, gnmi_tables, target_settings
from exporter.gnmi.sonic import SONIC as SONIC_DIALECT
from exporter.gnmi.tree import Change, Dialect, Element, Names, Notification, Path, Rows, Tree, Wanted
from exporter.store import Store
from tests.unit.gnmitarget import SONIC, Certificates, FakeTarget, RefusedError, Script, samples, update
from tests.unit.running import RunningExporter, until

SHAPES = File(__file__).parents[2] / "../shared/data/gnmi_sonic"
recorded = pytest.mark.skipif(not SHAPES.exists(), reason="the recorded shapes are not in ../shared/data/gnmi_sonic")
NAMES = Names("leaf-0", {})


def change(target: str, path: str, value: object) -> Change:
    return Change(Path(target, tuple(Element(name) for name in path.split("/"))), value)


def decode(dialect: Dialect, *changes: Change, names: Names = NAMES) -> Rows:
    tree = Tree()
    tree.apply(dialect, Notification(changes), math.inf)
    return dialect.rows(tree.values(0.0), names)


def configured(tables: dict[str, dict[str, object]]) -> list[Change]:
    """SONiC's changes of whole tables, by path."""
    databases = {wanted.path: wanted.target for wanted in SONIC_DIALECT.subscriptions(10.0)}
    return [change(databases[tuple(path.split("/"))], path, table) for path, table in tables.items()]


# ---- what SONiC says


@recorded
def test_recorded_counters_of_a_port() -> None:
    told = json.loads((SHAPES / "COUNTERS_Ethernet68.txt").read_text())
    rows = decode(SONIC_DIALECT, change("COUNTERS_DB", "COUNTERS/Ethernet*", {"Ethernet68/1": told}))
    port = rows[SWITCH_PORT]["leaf-0", "Ethernet68/1"]
    assert port[PORT_RECEIVE] == port[PORT_TRANSMIT] == port[PORT_FRAME_TOO_LONGS] == 0
    assert len(rows[SWITCH_PRIORITY]) == 8
    assert rows[SWITCH_PRIORITY]["leaf-0", "Ethernet68/1", "7"] == {PFC_RECEIVED: 2, PFC_SENT: 0}
    single = decode(SONIC_DIALECT, change("COUNTERS_DB", "COUNTERS/Ethernet68", told))
    assert single[SWITCH_PRIORITY]["leaf-0", "Ethernet68", "7"] == {PFC_RECEIVED: 2, PFC_SENT: 0}


@recorded
def test_recorded_counters_of_queues() -> None:
    told = json.loads((SHAPES / "COUNTERS_Ethernet68_Queues.txt").read_text())
    rows = decode(SONIC_DIALECT, change("COUNTERS_DB", "COUNTERS/Ethernet*/Queues", told))
    assert {labels[2] for labels in rows[SWITCH_QUEUE]} == {"1", "3", "4"}  # the others are not counted
    assert rows[SWITCH_QUEUE]["leaf-0", "Ethernet68", "1"] == {
        QUEUE_PACKETS: 0, QUEUE_BYTES: 0, QUEUE_DROPPED: 0, QUEUE_DROPPED_BYTES: 0, QUEUE_PEAK: 64,
    }  # fmt: skip


@recorded
def test_recorded_counters_of_the_watchdog() -> None:
    told = json.loads((SHAPES / "COUNTERS_Ethernet68_Pfcwd.txt").read_text())
    rows = decode(SONIC_DIALECT, change("COUNTERS_DB", "COUNTERS/Ethernet*/Pfcwd", told))
    assert rows[SWITCH_QUEUE].keys() == {("leaf-0", "Ethernet68", "3"), ("leaf-0", "Ethernet68", "4")}
    queue = rows[SWITCH_QUEUE]["leaf-0", "Ethernet68", "3"]
    assert (queue[WATCHDOG_STUCK], queue[WATCHDOG_RECOVERED], queue[WATCHDOG_SHUT]) == (0, 0, 0)
    assert queue[QUEUE_DEPTH] == 0
    assert WATCHDOG_DROPPED not in queue


def test_sonic_whole() -> None:
    rows = decode(SONIC_DIALECT, *configured(SONIC))
    port = rows[SWITCH_PORT]["leaf-0", "Ethernet0"]
    assert port == {
        PORT_RECEIVE: 1000, PORT_TRANSMIT: 2000, PORT_MTU: 9100, PORT_ENABLED: 1, PORT_UP: 1, PORT_SPEED: 50e9,
    }  # fmt: skip
    assert rows[SWITCH_PRIORITY]["leaf-0", "Ethernet0", "3"] == {
        PFC_RECEIVED: 7, PFC_SENT: 8, PFC_PAUSED: 2.5, PRIORITY_LOSSLESS: 1,
    }  # fmt: skip
    assert rows[SWITCH_PRIORITY]["leaf-0", "Ethernet0", "5"] == {PRIORITY_LOSSLESS: 0}
    assert rows[SWITCH_QUEUE]["leaf-0", "Ethernet0", "3"] == {
        QUEUE_PACKETS: 50, QUEUE_ECN_MARKED: 12, QUEUE_ECN_ENABLED: 1, QUEUE_ECN_LOW: 250000, QUEUE_ECN_HIGH: 2097152,
        WATCHDOG_STUCK: 2, WATCHDOG_RECOVERED: 1, WATCHDOG_DROPPED: 34, WATCHDOG_SHUT: 1,
    }  # fmt: skip
    assert rows[SWITCH_QUEUE]["leaf-0", "Ethernet0", "0"] == {QUEUE_ECN_ENABLED: 0}
    assert rows[SWITCH_DSCP_TABLE]["leaf-0", "26"] == {SWITCH_DSCP_PRIORITY: 3}
    assert rows[SWITCH_BGP]["leaf-0", "10.0.0.1"] == {BGP_STATE: 6, BGP_ESTABLISHED: 1}


@pytest.mark.parametrize(
    ("names", "expected"),
    [({}, "Ethernet0"), ({"Ethernet1/1": "swp1"}, "swp1"), ({"Ethernet0": "swp1"}, "swp1")],
    ids=["without a topology", "by the alias", "by SONiC's own name"],
)
def test_a_port_has_one_name_whichever_of_its_two_a_database_uses(names: dict[str, str], expected: str) -> None:
    rows = decode(SONIC_DIALECT, *configured(SONIC), names=Names("leaf-0", names))
    assert {labels[1] for table in (SWITCH_PORT, SWITCH_PRIORITY, SWITCH_QUEUE) for labels in rows[table]} == {expected}


def test_leaf_by_leaf_is_the_same_as_whole_tables() -> None:
    whole = configured(SONIC)
    leaves = []
    for each in whole:
        path = "/".join(element.name for element in each.path.elements)
        assert isinstance(each.value, dict)
        for key, fields in each.value.items():
            for field, value in fields.items():
                elements = (*each.path.elements, Element(key), Element(field))
                if path.startswith("COUNTERS"):  # with a port in place of the wildcard
                    view = each.path.elements[2:]
                    elements = (Element("COUNTERS"), Element(key.partition(":")[0]), *view)
                    elements += (*((Element(key),) if view else ()), Element(field))
                leaves.append(Change(Path(each.path.target, elements), value))
    assert decode(SONIC_DIALECT, *leaves) == decode(SONIC_DIALECT, *whole)


def test_a_key_may_come_in_parts_and_a_profile_as_a_reference() -> None:
    profile = change("CONFIG_DB", "WRED_PROFILE", SONIC["WRED_PROFILE"])
    parts = change("CONFIG_DB", "QUEUE/Ethernet0/3", {"wred_profile": "[WRED_PROFILE|AZURE_LOSSLESS]"})
    assert decode(SONIC_DIALECT, profile, parts)[SWITCH_QUEUE]["leaf-0", "Ethernet0", "3"][QUEUE_ECN_ENABLED] == 1


def test_keys_that_stand_for_several() -> None:
    queues = change("CONFIG_DB", "QUEUE", {"Ethernet0,Ethernet4|3-4": {"scheduler": "s"}, "Ethernet8|0-99999": {}})
    rows = decode(SONIC_DIALECT, queues)
    assert {labels[1:] for labels in rows[SWITCH_QUEUE]} == {
        ("Ethernet0", "3"), ("Ethernet0", "4"), ("Ethernet4", "3"), ("Ethernet4", "4"),
    }  # fmt: skip
    maps = change("CONFIG_DB", "PORT_QOS_MAP", {"Ethernet0,Ethernet4": {"pfc_enable": "3"}, "global": {"x": "y"}})
    rows = decode(SONIC_DIALECT, maps)
    assert {labels[1] for labels, told in rows[SWITCH_PRIORITY].items() if told[PRIORITY_LOSSLESS]} == {
        "Ethernet0", "Ethernet4",
    }  # fmt: skip
    every = [f"Ethernet{4 * number}" for number in range(64)]
    rows = decode(SONIC_DIALECT, change("CONFIG_DB", "PORT_QOS_MAP", {",".join(every): {"pfc_enable": "3"}}))
    assert {labels[1] for labels, told in rows[SWITCH_PRIORITY].items() if told[PRIORITY_LOSSLESS]} == set(every)


def test_lists_of_ports_are_taken_apart_no_further_than_a_switch_has_queues() -> None:
    wide = {f"{','.join(f'p{n}{m}' for m in range(300))}|0-63": {"wred_profile": "W"} for n in range(100, 150)}
    tables = {"QUEUE": wide, "WRED_PROFILE": {"W": {"ecn": "ecn_all"}}}
    rows = decode(SONIC_DIALECT, *configured(tables))
    assert len(rows[SWITCH_QUEUE]) <= 65_536


def test_ports_whose_maps_disagree_have_no_priority_for_a_dscp() -> None:
    tables: dict[str, dict[str, object]] = {
        "DSCP_TO_TC_MAP": {"A": {"3": "3", "8": "0"}, "B": {"3": "4", "8": "0"}, "unused": {"8": "7"}},
        "PORT_QOS_MAP": {"Ethernet0": {"dscp_to_tc_map": "A"}, "Ethernet4": {"dscp_to_tc_map": "[DSCP_TO_TC_MAP|B]"}},
    }
    assert decode(SONIC_DIALECT, *configured(tables))[SWITCH_DSCP_TABLE] == {("leaf-0", "8"): {SWITCH_DSCP_PRIORITY: 0}}


@pytest.mark.parametrize(
    "value",
    ["-1", "1e999", "nan", "inf", "", "N/A", " 1", "٣", "9" * 50, "1.2.3", -1, 1e300, None, True, [], {}, ["1"]],
)
def test_what_is_no_count_is_absent(value: object) -> None:
    rows = decode(
        SONIC_DIALECT,
        change("COUNTERS_DB", "COUNTERS/Ethernet*", {"Ethernet0": {"SAI_PORT_STAT_IF_IN_OCTETS": value}}),
    )
    assert rows == {}


@pytest.mark.parametrize("name", ["", "x" * 65, 'Ether"net\n0', "Ethernet\u2028", "\x00", "Éthernet0"])
def test_what_is_no_name_is_no_label(name: str) -> None:
    told = {"SAI_PORT_STAT_IF_IN_OCTETS": "1", "SAI_QUEUE_STAT_PACKETS": "1"}
    changes = [
        change("COUNTERS_DB", "COUNTERS/Ethernet*", {name: told}),
        change("COUNTERS_DB", "COUNTERS/Ethernet*/Queues", {f"{name}:3": told}),
        change("STATE_DB", "NEIGH_STATE_TABLE", {name: {"state": "Established"}}),
    ]
    assert decode(SONIC_DIALECT, *changes) == {} or name == ""  # ":3" is a port's name by its letters
    assert SWITCH_QUEUE not in decode(SONIC_DIALECT, changes[1])


def test_deletions() -> None:
    tree = Tree()
    tree.apply(SONIC_DIALECT, Notification(tuple(configured(SONIC))), math.inf)

    def deleted(target: str, path: str) -> Rows:
        elements = tuple(Element(name) for name in path.split("/"))
        tree.apply(SONIC_DIALECT, Notification(deleted=(Path(target, elements),)), math.inf)
        return SONIC_DIALECT.rows(tree.values(0.0), NAMES)

    queue = ("leaf-0", "Ethernet0", "3")
    assert WATCHDOG_STUCK not in deleted("COUNTERS_DB", "COUNTERS/Ethernet*/Pfcwd")[SWITCH_QUEUE][queue]
    assert QUEUE_ECN_ENABLED not in deleted("CONFIG_DB", "QUEUE/Ethernet0|3-4")[SWITCH_QUEUE][queue]
    assert SWITCH_BGP not in deleted("STATE_DB", "NEIGH_STATE_TABLE")
    assert PORT_RECEIVE not in deleted("COUNTERS_DB", "COUNTERS/Ethernet*")[SWITCH_PORT]["leaf-0", "Ethernet0"]


def test_a_value_that_no_longer_comes_is_gone() -> None:
    tree = Tree()
    first, second = (change("COUNTERS_DB", f"COUNTERS/{port}/SAI_PORT_STAT_IF_IN_OCTETS", "1") for port in "ab")
    tree.apply(SONIC_DIALECT, Notification((first, second)), 30.0)
    tree.apply(SONIC_DIALECT, Notification((second,)), 40.0)
    assert len(tree.values(29.0)) == 2
    assert SONIC_DIALECT.rows(tree.values(35.0), NAMES)[SWITCH_PORT].keys() == {("leaf-0", "b")}


def test_leaves_are_bounded() -> None:
    tree = Tree(most=3)
    told = {f"Ethernet{number}": {"SAI_PORT_STAT_IF_IN_OCTETS": "1"} for number in range(10)}
    tree.apply(SONIC_DIALECT, Notification((change("COUNTERS_DB", "COUNTERS/Ethernet*", told),)), 1.0)
    assert (len(tree), tree.refused) == (3, 7)


def test_coverage_tells_what_is_switched_off() -> None:
    tables = {**SONIC, "FLEX_COUNTER_TABLE": {"PORT": {"FLEX_COUNTER_STATUS": "enable"}}, "PFC_WD": {}}
    tree = Tree()
    tree.apply(SONIC_DIALECT, Notification(tuple(configured(tables))), math.inf)
    leaves = tree.values(0.0)
    assert SONIC_DIALECT.disabled(leaves, {"FLEX_COUNTER_TABLE", "PFC_WD"}) == {"ecn", "pfc_watchdog"}
    assert SONIC_DIALECT.disabled(leaves, {"ports"}) == set()


_SONIC_KEYS = [
    "Ethernet0",
    "Ethernet0|3-4",
    "a,,b|0-7",
    "global",
    "host|asic0|a|3",
    "|",
    "a|",
    "|3",
    "a|-3",
    "a|9-1",
    ":3",
]
_SONIC_FIELDS = [
    "SAI_PORT_STAT_IF_IN_OCTETS", "SAI_PORT_STAT_PFC_3_RX_PAUSE_DURATION_US", "SAI_QUEUE_STAT_PACKETS", "PFC_WD_STATUS",
    "mtu", "alias", "speed", "oper_status", "pfc_enable", "dscp_to_tc_map", "3", "ecn", "wred_profile", "state",
    "action",
]  # fmt: skip
_SCALARS = st.one_of(
    st.sampled_from(["A", "[T|A]", "3,4", "up", "ecn_all", "stormed", "Established", "", "1e9", "9" * 30]),
    st.integers(-5, 2**70), st.floats(), st.booleans(), st.none(), st.lists(st.text(), max_size=2),
)  # fmt: skip
_NAMES_OF_A_STRANGER = st.one_of(
    st.sampled_from([*_SONIC_KEYS, *_SONIC_FIELDS, "Queues", "Pfcwd", "Ethernet*", "Ethernet0:3"]), st.text(max_size=80)
)
_TABLES = st.sampled_from([wanted.path[0] for wanted in SONIC_DIALECT.subscriptions(10.0)])
_VALUES = st.recursive(_SCALARS, lambda below: st.dictionaries(_NAMES_OF_A_STRANGER, below, max_size=3), max_leaves=8)
_PATHS = st.builds(
    lambda table, rest: Path("", tuple(map(Element, (table, *rest)))),
    _TABLES,
    st.lists(_NAMES_OF_A_STRANGER, max_size=4),
)


@given(st.lists(st.builds(Change, _PATHS, _VALUES), max_size=20), st.lists(_PATHS, max_size=1))
def test_whatever_a_stranger_says_rows_are_sound(changes: list[Change], deleted: list[Path]) -> None:
    tree = Tree()
    tree.apply(SONIC_DIALECT, Notification(tuple(changes)), math.inf)
    tree.apply(SONIC_DIALECT, Notification(deleted=tuple(deleted)), math.inf)
    for table, rows in SONIC_DIALECT.rows(tree.values(0.0), NAMES).items():
        for labels, values in rows.items():
            assert len(labels) == len(table.labels)
            assert all(0 < len(label) <= 64 and label.isascii() and label.isprintable() for label in labels)
            assert values.keys() <= set(table.metrics)
            assert all(math.isfinite(value) and value >= 0 for value in values.values())


# ---- what OpenConfig says

OPENCONFIG_LEAVES: dict[str, object] = {
    "interfaces/interface[name=Ethernet1]/state/oper-status": "UP",
    "interfaces/interface[name=Ethernet1]/state/admin-status": "DOWN",
    "interfaces/interface[name=Ethernet1]/state/mtu": 9214,
    "interfaces/interface[name=Ethernet1]/state/last-change": "1700000000000000000",
    "interfaces/interface[name=Ethernet1]/state/counters/in-octets": "123456789012",
    "interfaces/interface[name=Ethernet1]/ethernet/state/counters/in-mac-pause-frames": "5",
    "qos/interfaces/interface[interface-id=Ethernet1]/output/queues/queue[name=3]/state/ecn-marked-pkts": "9",
    "network-instances/network-instance[name=default]/protocols/protocol[identifier=BGP][name=BGP]/bgp/neighbors/"
    "neighbor[neighbor-address=10.0.0.1]/state/session-state": "ESTABLISHED",
    "network-instances/network-instance[name=default]/protocols/protocol[identifier=BGP][name=BGP]/bgp/neighbors/"
    "neighbor[neighbor-address=10.0.0.1]/state/enabled": True,
    "network-instances/network-instance[name=default]/protocols/protocol[identifier=BGP][name=BGP]/bgp/neighbors/"
    "neighbor[neighbor-address=10.0.0.1]/state/established-transitions": "4",
    "network-instances/network-instance[name=blue]/protocols/protocol[identifier=BGP][name=BGP]/bgp/neighbors/"
    "neighbor[neighbor-address=10.0.0.1]/state/messages/received/UPDATE": "11",
}
OPENCONFIG_ROWS: Rows = {
    SWITCH_PORT: {
        ("leaf-0", "swp1"): {
            PORT_UP: 1, PORT_ENABLED: 0, PORT_MTU: 9214, PORT_LAST_CHANGE: 1.7e9, PORT_RECEIVE: 123456789012,
            PORT_PAUSE_RECEIVED: 5,
        }
    },
    SWITCH_QUEUE: {("leaf-0", "swp1", "3"): {QUEUE_ECN_MARKED: 9}},
    SWITCH_BGP: {
        ("leaf-0", "10.0.0.1"): {BGP_STATE: 6, BGP_ESTABLISHED: 1, BGP_ENABLED: 1, BGP_TRANSITIONS: 4},
        ("leaf-0", "blue/10.0.0.1"): {BGP_UPDATES_IN: 11},
    },
}  # fmt: skip
OPENCONFIG_NAMES = Names("leaf-0", {"Ethernet1": "swp1"})


def xpath(text: str) -> Any:
    """A message of a path that is written as people write it."""
    elements = []
    for part in text.split("/"):
        name, *keys = part.replace("]", "").split("[")
        elements.append(proto.PathElem(name=name, key=dict(key.split("=", 1) for key in keys)))
    return proto.Path(elem=elements)


def typed(value: object) -> Any:
    """A scalar as encoding PROTO has it."""
    if isinstance(value, bool):
        return proto.TypedValue(bool_val=value)
    if isinstance(value, str) and not value.isdigit():
        return proto.TypedValue(string_val=value)
    return proto.TypedValue(uint_val=int(str(value)))


def notification(*updates: Any, deleted: tuple[str, ...] = ()) -> bytes:
    message = proto.Notification(update=updates, delete=[xpath(path) for path in deleted])
    return bytes(proto.SubscribeResponse(update=message).SerializeToString())


def openconfig_rows(*messages: bytes) -> Rows:
    tree = Tree()
    for message in messages:
        told = response_of(message, "")
        assert told is not None
        tree.apply(OPENCONFIG, told, math.inf)
    return OPENCONFIG.rows(tree.values(0.0), OPENCONFIG_NAMES)


def test_openconfig_leaf_by_leaf_with_scalars() -> None:
    messages = [
        notification(proto.Update(path=xpath(path), val=typed(value))) for path, value in OPENCONFIG_LEAVES.items()
    ]
    assert openconfig_rows(*messages) == OPENCONFIG_ROWS


def test_openconfig_as_json_of_subtrees() -> None:
    neighbor = {"session-state": "openconfig-bgp-types:ESTABLISHED", "enabled": True, "established-transitions": "4"}

    def instance(name: str, state: dict[str, object]) -> dict[str, object]:
        neighbors = {"neighbor": [{"neighbor-address": "10.0.0.1", "state": state}]}
        protocol = {"identifier": "openconfig-policy-types:BGP", "name": "BGP", "bgp": {"neighbors": neighbors}}
        return {"name": name, "protocols": {"protocol": [protocol]}}

    trees: dict[str, object] = {
        "interfaces": {
            "openconfig-interfaces:interface": [
                {
                    "name": "Ethernet1",
                    "state": {
                        "oper-status": "UP", "admin-status": "DOWN", "mtu": 9214, "last-change": "1700000000000000000",
                        "counters": {"in-octets": "123456789012"},
                    },
                    "openconfig-if-ethernet:ethernet": {"state": {"counters": {"in-mac-pause-frames": "5"}}},
                }
            ]
        },
        "qos/interfaces/interface[interface-id=Ethernet1]/output": {
            "queues": {"queue": [{"name": "3", "state": {"ecn-marked-pkts": "9"}}]}
        },
        "network-instances": {
            "network-instance": [
                instance("default", dict(neighbor)), instance("blue", {"messages": {"received": {"UPDATE": "11"}}}),
            ]
        },
    }  # fmt: skip
    messages = [
        notification(proto.Update(path=xpath(path), val=proto.TypedValue(json_ietf_val=json.dumps(value).encode())))
        for path, value in trees.items()
    ]
    assert openconfig_rows(*messages) == OPENCONFIG_ROWS


def test_openconfig_deletions_and_what_is_nobodys() -> None:
    messages = [
        notification(proto.Update(path=xpath(path), val=typed(value))) for path, value in OPENCONFIG_LEAVES.items()
    ]
    gone = notification(deleted=("interfaces/interface[name=Ethernet1]/state/counters", "qos", "network-instances"))
    rows = openconfig_rows(*messages, gone)
    assert rows.keys() == {SWITCH_PORT}
    assert PORT_RECEIVE not in rows[SWITCH_PORT]["leaf-0", "swp1"]
    assert PORT_PAUSE_RECEIVED in rows[SWITCH_PORT]["leaf-0", "swp1"]
    assert openconfig_rows(notification(proto.Update(path=xpath("interfaces/interface/state/mtu"), val=typed(1)))) == {}


# ---- messages


def test_the_wire_is_that_of_gnmi() -> None:
    """Bytes by hand, from the field numbers of proto/gnmi/gnmi.proto."""
    path = b"\x1a\x05\n\x03abc"  # Path.elem = 3, PathElem.name = 1
    wanted = Wanted("abc", "DB", ("abc",), 1.0)
    subscription = b"\n\x07" + path + b"\x10\x02" + b"\x18\x80\x94\xeb\xdc\x03"  # path, mode SAMPLE, 10^9 ns
    listed = b"\n\x04" + b'"\x02DB' + b"\x12\x11" + subscription + b"\x40\x04"  # prefix, subscription, JSON_IETF
    assert request_of(wanted, proto.JSON_IETF).SerializeToString() == b"\n" + bytes([len(listed)]) + listed
    update_message = b"\n\x07" + path + b"\x1a\x02\x18\x2a"  # path = 1, val = 3, uint_val = 3
    told = b"\x08\x01" + b'"' + bytes([len(update_message)]) + update_message + b"*\x07" + path  # update 4, delete 5
    response = b"\n" + bytes([len(told)]) + told
    assert response_of(response, "DB") == Notification(
        (Change(Path("DB", (Element("abc"),)), 42),), (Path("DB", (Element("abc"),)),)
    )
    assert response_of(b"\x18\x01", "DB") is None  # sync_response = 3
    assert encodings_of(b"\x12\x02\x04\x02\x1a\x050.7.0") == ({proto.JSON_IETF, proto.PROTO}, "0.7.0")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xff\xff\xff", "none of gNMI's"),
        (update("a", 1).SerializeToString()[:-1], "none of gNMI's"),
        (notification(proto.Update(val=proto.TypedValue(json_val=b"{"))), "no JSON"),
        (notification(proto.Update(val=proto.TypedValue(json_val=b"[" * 100_000))), "no JSON"),
        (b'"\x06\x08\x05\x12\x02no', "error 5: no"),
    ],
)
def test_messages_of_a_stranger_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(MessageError, match=problem):
        response_of(data, "")


@pytest.mark.parametrize("dialect", [SONIC_DIALECT, OPENCONFIG])
def test_deep_values_are_refused(dialect: Dialect) -> None:
    deep: object = "1"
    for _ in range(50):
        deep = {"COUNTERS": deep}
    with pytest.raises(ValueError, match="deep"):
        decode(dialect, change("", "COUNTERS", deep))


# ---- the section of the configuration


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("dialect: cisco", "dialect"),
        ("interval_seconds: 0.5", "interval_seconds"),
        ("pasword_file: x", "did you mean 'password_file'"),
        ("username_file: word", "'username_file' and 'password_file' belong together"),
        ("certificate_file: word", "'certificate_file' and 'key_file' belong together"),
        ("username_file: word, password_file: missing", "missing: No such file"),
        ("username_file: word, password_file: empty", "holds no secret"),
        ("username_file: word, password_file: strange", "line 1 is not visible ASCII"),
        ("ca_file: word", "no PEM certificates"),
        ("ca_file: missing", "missing: No such file"),
        ("insecure: true, ca_file: word", "'ca_file' is of no use"),
        ("address: ''", "has no address"),
    ],
)
def test_what_is_wrong_with_the_section(tmp_path: File, target: str, problem: str) -> None:
    (tmp_path / "word").write_text("hunter2-word\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "strange").write_text("hunter2-\x07\n")
    config = tmp_path / "config.yaml"
    fields = {"name": "leaf-0", "address": "127.0.0.1", "dialect": "sonic"}
    given = [field for field in fields if f"{field}:" in target]
    basis = ", ".join(f"{name}: {value}" for name, value in fields.items() if name not in given)
    config.write_text(f"gnmi: {{targets: [{{{basis}, {target}}}]}}\n")
    with pytest.raises(ContractError, match=problem) as error:
        read_config(config)
    assert "hunter2" not in str(error.value)


def test_a_switch_has_one_source(tmp_path: File) -> None:
    (tmp_path / "community").write_text("public\n")
    config = tmp_path / "config.yaml"
    target = "{name: leaf-0, address: 127.0.0.1, dialect: sonic}"
    config.write_text(
        "switches: {targets: [{name: leaf-0, address: 127.0.0.1, community_file: community}]}\n"
        f"gnmi: {{targets: [{target}]}}\n"
    )
    with pytest.raises(ContractError, match=r"'leaf-0' is one of 'switches.targets' too"):
        read_config(config)
    config.write_text(f"gnmi: {{targets: [{target}, {target}]}}\n")
    with pytest.raises(ContractError, match="'leaf-0' appears twice"):
        read_config(config)


def test_without_grpc_the_section_says_what_to_install(tmp_path: File, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("gnmi: {targets: [{name: s, address: 127.0.0.1, dialect: sonic}]}\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ContractError, match=r"install fabric-skeleton\[gnmi\]"):
        read_config(tmp_path / "config.yaml")


def test_files_go_to_the_process_as_their_contents(tmp_path: File, certificates: Certificates) -> None:
    (tmp_path / "user").write_text("admin\n")
    (tmp_path / "password").write_text("hunter2\nnot this\n")
    (tmp_path / "config.yaml").write_text(
        "gnmi:\n  targets:\n  - {name: s, address: '::1', dialect: openconfig, username_file: user, "
        f"password_file: password, ca_file: {certificates.ca}, certificate_file: {certificates.client_certificate}, "
        f"key_file: {certificates.client_key}}}\n"
    )
    gnmi = read_config(tmp_path / "config.yaml").gnmi
    assert gnmi is not None
    settings = target_settings(gnmi.targets[0], {})
    assert (settings.username, settings.password, settings.endpoint) == ("admin", "hunter2", "[::1]:9339")
    assert (settings.ca, settings.key) == (certificates.ca.read_bytes(), certificates.client_key.read_bytes())


# ---- a session with a switch

INTERVAL = 0.3


class Followed:
    """Switches that are followed in this process, and what the store holds of them."""

    def __init__(self, *targets: TargetSettings) -> None:
        self.store = Store(gnmi_tables(len(targets)))
        self._targets = targets

    def run(self, *steps: Callable[[], object], seconds: float = 8.0) -> None:
        """Follow until each step has come true, one after the other."""
        asyncio.run(self._run(steps, seconds))

    async def _run(self, steps: tuple[Callable[[], object], ...], seconds: float) -> None:
        shared = writers(self.store)
        tasks = [
            asyncio.create_task(follow(target, SwitchRows(shared, target.name), lambda s: asyncio.sleep(s / 20)))
            for target in self._targets
        ]
        try:
            async with asyncio.timeout(seconds):
                for step in steps:
                    while not step():
                        for task in tasks:
                            if task.done():
                                task.result()
                        await asyncio.sleep(0.02)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def value(self, table: Table, metric: Metric, *labels: str) -> float | None:
        """None where there is no row or no value."""
        column = table.metrics.index(metric)
        values = [row.values[column] for row in self.store.read(table) if row.labels == labels]
        return values[0] if values and not math.isnan(values[0]) else None

    def labels(self, table: Table) -> set[tuple[str, ...]]:
        return {row.labels for row in self.store.read(table)}

    def reachable(self, switch: str = "leaf-0") -> float | None:
        return self.value(SWITCH, SWITCH_REACHABLE, switch)

    def received(self) -> float | None:
        return self.value(SWITCH_PORT, PORT_RECEIVE, "leaf-0", "Ethernet0")

    def coverage(self, signal: str) -> str | None:
        states = [labels[2] for labels in self.labels(SWITCH_COVERAGE_TABLE) if labels[1] == signal]
        assert len(states) <= 1, states
        return states[0] if states else None


@pytest.fixture
def serve(certificates: Certificates) -> Iterator[Callable[..., FakeTarget]]:
    made: list[FakeTarget] = []

    def start(script: Script, **options: Any) -> FakeTarget:
        made.append(FakeTarget(script, certificates, **options))
        return made[-1]

    yield start
    for target in made:
        target.stop()


def settings(target: FakeTarget, certificates: Certificates, **changes: Any) -> TargetSettings:
    basis: dict[str, Any] = {
        "name": "leaf-0", "address": "127.0.0.1", "port": target.port, "dialect": "sonic",
        "interval_seconds": INTERVAL, "ports": {}, "ca": certificates.ca.read_bytes(),
    }  # fmt: skip
    return TargetSettings(**{**basis, **changes})


Serve = Callable[..., FakeTarget]


def test_a_switch_is_followed_over_tls(serve: Serve, certificates: Certificates) -> None:
    tables = json.loads(json.dumps(SONIC))
    target = serve(samples(tables), login=("admin", "hunter2"), client_certificate=True)
    own = {"key": certificates.client_key.read_bytes(), "certificate": certificates.client_certificate.read_bytes()}
    followed = Followed(settings(target, certificates, username="admin", password="hunter2", **own))

    def counted_on() -> bool:
        tables["COUNTERS/Ethernet*"]["Ethernet1/1"]["SAI_PORT_STAT_IF_IN_OCTETS"] = "1234"
        return followed.received() == 1234

    followed.run(lambda: followed.received() == 1000, counted_on)
    assert followed.value(SWITCH_QUEUE, WATCHDOG_STUCK, "leaf-0", "Ethernet0", "3") == 2
    assert followed.value(SWITCH_QUEUE, QUEUE_ECN_MARKED, "leaf-0", "Ethernet0", "3") == 12
    assert followed.value(SWITCH_DSCP_TABLE, SWITCH_DSCP_PRIORITY, "leaf-0", "26") == 3
    assert followed.labels(SWITCH_INFO_TABLE) == {("leaf-0", "sonic", "", "gNMI 0.7.0", "gnmi")}
    assert len(followed.labels(SWITCH_COVERAGE_TABLE)) == len(SIGNALS)
    assert {followed.coverage(signal) for signal in ("ports", "pfc", "pfc_watchdog", "ecn")} == {"supported"}
    assert followed.coverage("optics") == "absent"
    assert followed.value(SWITCH, SWITCH_POLLS, "leaf-0") == 1
    assert followed.value(SWITCH, SWITCH_POLL_FAILURES, "leaf-0") == 0
    assert time.time() - (followed.value(SWITCH, SWITCH_POLL_TIME, "leaf-0") or 0) < 5


def test_openconfig_is_followed_with_scalars(serve: Serve, certificates: Certificates) -> None:
    async def script(path: str, interval: float) -> AsyncIterator[Any]:
        while True:
            for leaf, value in OPENCONFIG_LEAVES.items():
                if xpath(leaf).elem[0].name == path.split("/", maxsplit=1)[0]:
                    yield notification(proto.Update(path=xpath(leaf), val=typed(value)))
            yield proto.SubscribeResponse(sync_response=True)
            await asyncio.sleep(interval)

    target = serve(script)
    target.encodings = [proto.PROTO]
    followed = Followed(settings(target, certificates, dialect="openconfig", ports={"Ethernet1": "swp1"}))
    followed.run(lambda: followed.value(SWITCH_BGP, BGP_ESTABLISHED, "leaf-0", "10.0.0.1") == 1)
    assert followed.value(SWITCH_PORT, PORT_MTU, "leaf-0", "swp1") == 9214
    assert (followed.coverage("bgp"), followed.coverage("pfc")) == ("supported", "absent")


def test_a_switch_that_ends_its_streams_is_stale_until_it_is_back(serve: Serve, certificates: Certificates) -> None:
    down = threading.Event()

    async def script(path: str, interval: float) -> AsyncIterator[Any]:
        async for response in samples(SONIC)(path, interval):
            if down.is_set():
                raise RefusedError(grpc.StatusCode.UNAVAILABLE, "going down")
            yield response

    followed = Followed(settings(serve(script), certificates))

    def gone() -> bool:
        down.set()
        return followed.reachable() == 0 and followed.received() is None

    def stale() -> bool:
        return followed.coverage("pfc_watchdog") == "stale"

    def back() -> bool:
        down.clear()
        return followed.coverage("pfc_watchdog") == "supported"

    followed.run(back, gone, stale, back)
    assert (followed.reachable(), followed.received()) == (1, 1000)
    assert (followed.value(SWITCH, SWITCH_POLL_FAILURES, "leaf-0") or 0) >= 1


def test_a_switch_that_takes_subscriptions_and_says_nothing_is_connected_to_anew(
    serve: Serve, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    async def silence(_path: str, _interval: float) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield b""

    target = serve(silence)
    followed = Followed(settings(target, certificates))
    followed.run(lambda: (followed.value(SWITCH, SWITCH_POLLS, "leaf-0") or 0) >= 2)
    assert followed.reachable() == 0
    assert "said nothing for 0.9 s" in capsys.readouterr().err


def test_a_stream_that_sends_the_first_sample_alone_is_asked_for_anew(serve: Serve, certificates: Certificates) -> None:
    """SONiC's issue 22201: no value may go meanwhile, and the connection stays."""
    count = iter(range(1000, 10_000))

    async def once(path: str, interval: float) -> AsyncIterator[Any]:
        told = {"Ethernet1/1": {"SAI_PORT_STAT_IF_IN_OCTETS": str(next(count))}}
        if path != "COUNTERS/Ethernet*":
            async for response in samples(SONIC)(path, interval):
                yield response
        yield update(path, told)
        yield proto.SubscribeResponse(sync_response=True)
        await asyncio.Event().wait()

    target = serve(once)
    followed = Followed(settings(target, certificates))
    seen: set[float | None] = set()

    def three_values() -> bool:
        seen.add(followed.received())
        return len(seen - {None}) >= 3

    followed.run(followed.received, three_values)
    assert None not in seen
    assert followed.value(SWITCH, SWITCH_POLLS, "leaf-0") == 1


def test_a_refused_path_is_absent_and_the_others_are_served(
    serve: Serve, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    served = {path: table for path, table in SONIC.items() if not path.endswith("Queues") and path != "QUEUE"}
    target = serve(samples(served))
    followed = Followed(settings(target, certificates))
    followed.run(followed.received)
    assert (followed.coverage("queues"), followed.coverage("pfc")) == ("absent", "supported")
    assert "refuses COUNTERS/Ethernet*/Queues: gRPC status NOT_FOUND" in capsys.readouterr().err


def test_the_path_of_the_watchdog_is_not_asked_for_where_it_is_off(serve: Serve, certificates: Certificates) -> None:
    """sonic-gnmi takes the first of no watched queues, which ends its process."""
    target = serve(samples({**SONIC, "PFC_WD": {}}))
    followed = Followed(settings(target, certificates))
    ends = time.monotonic() + 4 * INTERVAL
    followed.run(followed.received, lambda: time.monotonic() > ends)
    assert "COUNTERS/Ethernet*/Pfcwd" not in target.subscribed
    assert followed.coverage("pfc_watchdog") == "disabled"


def test_wrong_credentials_are_told_without_the_secrets(
    serve: Serve, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    target = serve(samples(SONIC), login=("admin", "right"))
    target.refusal = "no such user admin-7 with password hunter2"
    followed = Followed(settings(target, certificates, username="admin-7", password="hunter2"))
    followed.run(lambda: followed.reachable() == 0)
    said = capsys.readouterr().err
    assert "gRPC status UNAUTHENTICATED: no such user *** with password ***" in said
    assert "hunter2" not in said
    assert target.subscribed == []


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (b"\xff\xff\xff\xff", "sent a message that is none of gNMI's"),
        (update("COUNTERS/Ethernet*", "x" * (session.MOST_MESSAGE_BYTES + 1)), "RESOURCE_EXHAUSTED"),
        (notification(proto.Update(val=proto.TypedValue(json_ietf_val=b"}"))), "sent a value that is no JSON"),
    ],
    ids=["garbage", "huge", "no JSON"],
)
def test_a_hostile_switch_is_left(
    serve: Serve, certificates: Certificates, capsys: pytest.CaptureFixture[str], message: Any, problem: str
) -> None:
    async def hostile(path: str, _interval: float) -> AsyncIterator[Any]:
        yield update(path, SONIC[path])
        yield proto.SubscribeResponse(sync_response=True)
        if path == "COUNTERS/Ethernet*":
            await asyncio.sleep(INTERVAL)
            yield message
        await asyncio.Event().wait()

    followed = Followed(settings(serve(hostile), certificates))
    followed.run(followed.received, lambda: followed.reachable() == 0)
    assert followed.labels(SWITCH_PORT) == set()
    assert problem in capsys.readouterr().err


def test_a_flood_is_left(
    serve: Serve, certificates: Certificates, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_MOST_MESSAGES_A_SECOND", 200)

    async def flood(path: str, _interval: float) -> AsyncIterator[Any]:
        while True:
            yield update(path, SONIC[path])

    followed = Followed(settings(serve(flood), certificates))
    followed.run(lambda: (followed.value(SWITCH, SWITCH_POLL_FAILURES, "leaf-0") or 0) >= 1)
    assert "sends more than is read of one switch" in capsys.readouterr().err


def test_a_flood_of_deletions_is_left(
    serve: Serve, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    async def flood(path: str, _interval: float) -> AsyncIterator[Any]:
        yield update(path, SONIC[path])
        yield proto.SubscribeResponse(sync_response=True)
        await asyncio.sleep(INTERVAL)
        yield notification(deleted=("COUNTERS/Ethernet9",) * 10_000)
        await asyncio.Event().wait()

    # On a busy machine the switch may be silent for too long first; it is followed anew, and floods once more.
    followed = Followed(settings(serve(flood), certificates))
    followed.run(followed.received, lambda: "sends more than is read of one switch" in capsys.readouterr().err)


def test_more_ports_than_there_is_room_for(
    serve: Serve, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = {f"Ethernet{number}": {"SAI_PORT_STAT_IF_IN_OCTETS": "1"} for number in range(2000)}
    followed = Followed(settings(serve(samples({**SONIC, "COUNTERS/Ethernet*": dict(ports)})), certificates))
    followed.run(lambda: len(followed.labels(SWITCH_PORT)) == MOST_ROWS[SWITCH_PORT])
    assert "tells more than there is room for" in capsys.readouterr().err


def test_a_dead_switch_delays_no_other(serve: Serve, certificates: Certificates) -> None:
    target = serve(samples(SONIC))
    living = settings(target, certificates)
    dead = settings(target, certificates, name="leaf-1", port=1)
    stranger = settings(target, certificates, name="leaf-2", ca=certificates.client_certificate.read_bytes())
    followed = Followed(dead, stranger, living)
    followed.run(followed.received, lambda: followed.reachable("leaf-1") == followed.reachable("leaf-2") == 0)
    assert followed.reachable() == 1
    stale = {labels[2] for labels in followed.labels(SWITCH_COVERAGE_TABLE) if labels[:2] == ("leaf-1", "pfc")}
    assert stale == {"stale"}


def test_without_tls_only_when_it_is_said(certificates: Certificates) -> None:
    target = FakeTarget(samples(SONIC))
    try:
        followed = Followed(settings(target, certificates))
        followed.run(lambda: followed.reachable() == 0)
        followed = Followed(settings(target, certificates, insecure=True, ca=None))
        followed.run(followed.received)
    finally:
        target.stop()


def test_the_section_defaults_to_tls() -> None:
    assert not GnmiTarget(name="s", address="a", dialect="sonic").insecure


# ---- a whole exporter


def test_an_exporter_tells_what_the_watchdog_and_ecn_counted(
    tmp_path: File, serve: Serve, certificates: Certificates
) -> None:
    target = serve(samples(SONIC), login=("admin", "hunter2"))
    directory = tmp_path / "exporter"
    directory.mkdir()
    (directory / "user").write_text("admin\n")
    (directory / "password").write_text("hunter2\n")
    (directory / "topology.yaml").write_text(
        "version: 1\nhosts: []\nlinks: []\n"
        "switches: [{name: leaf-0, tier: leaf, state: drained, ports: [{name: swp1, aliases: [Ethernet1/1]}]}]\n"
    )
    section = (
        "topology: topology.yaml\ngnmi:\n  targets:\n"
        f"  - {{name: leaf-0, address: 127.0.0.1, port: {target.port}, dialect: sonic, interval_seconds: 1, "
        f"ca_file: {certificates.ca}, username_file: user, password_file: password}}\n"
    )
    exporter = RunningExporter(directory, section, address="")
    try:
        queue = {"switch": "leaf-0", "switch_port": "swp1", "queue": "3"}
        until(lambda: exporter.value("fabric_switch_port_pfc_watchdog_stuck_total", **queue) == 2)
        assert exporter.value("fabric_switch_port_queue_ecn_marked_packets_total", **queue) == 12
        assert exporter.value("fabric_switch_port_pfc_watchdog_shut", **queue) == 1
        assert exporter.value("fabric_switch_reachable", switch="leaf-0") == 1
        assert exporter.value("fabric_switch_info", switch="leaf-0", source="gnmi", profile="sonic") == 1
        assert exporter.value("fabric_switch_drained", switch="leaf-0") == 1
        assert exporter.value("fabric_switch_port_info", switch="leaf-0", switch_port="swp1") == 1
        assert set(exporter.children()) == {"exporter.gnmi.process"}
        page = exporter.get("/metrics")
        target.stop_serving()
        until(lambda: exporter.value("fabric_switch_reachable", switch="leaf-0") == 0)
        assert exporter.value("fabric_switch_port_pfc_watchdog_stuck_total", **queue) is None
        assert exporter.value("fabric_switch_coverage", switch="leaf-0", signal="ecn", state="stale") == 1
    finally:
        assert exporter.stop() == 0
    assert "hunter2" not in page + exporter.log
