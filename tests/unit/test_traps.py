"""Traps and informs, sent by net-snmp's own programs: what is counted, what is refused, and who is answered."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.contracts.codec import ContractError
from exporter.contracts.switch_counters import NOTIFICATIONS_REFUSED_TABLE, SWITCH_NOTIFICATION
from exporter.contracts.topology import Port, Switch, Topology
from exporter.messages import send_message
from exporter.store import Store
from exporter.traps.ber import MalformedError, Reader, element, integer, oid
from exporter.traps.meaning import read_entries
from exporter.traps.message import TRAP_OID, SecuredMessage, find_pdu, read_message, read_notification
from exporter.traps.process import serve
from exporter.traps.receiver import Receiver
from exporter.traps.settings import (
    LABEL_SETS_PER_SWITCH,
    Traps,
    TrapSettings,
    TrapSource,
    TrapUser,
    UserKeys,
    bind,
    bind_problem,
    require_port,
    trap_settings,
    trap_tables,
)
from exporter.traps.usm import SecurityModel, User
from tests.unit.running import RunningExporter, free_port, until

HERE, SPINE, STRANGER = "127.0.0.1", "127.0.0.4", "127.0.0.9"
COMMUNITY, AUTHENTICATION, PRIVACY = "c0mmunity", "auth-passphrase", "priv-passphrase"
ENGINE = "80001f8804736f6d652d656e67696e65"
OURS = bytes.fromhex("80004fb805") + b"receiver"
LINK_DOWN = ("1.3.6.1.6.3.1.1.5.3", "1.3.6.1.2.1.2.2.1.1.17", "i", "17", "1.3.6.1.2.1.2.2.1.8.17", "i", "2")

needs_net_snmp = pytest.mark.skipif(
    shutil.which("snmptrap") is None or shutil.which("snmpinform") is None,
    reason="no snmptrap and snmpinform: Debian package snmp",
)


def keys(name: str, authentication: str, privacy: str | None, engine: bytes | None = None) -> UserKeys:
    document = {
        "name": name,
        "authentication": authentication,
        "authentication_key": AUTHENTICATION.encode(),
        "privacy": privacy,
        "privacy_key": PRIVACY.encode() if privacy else b"",
        "engine_id": engine,
    }
    return msgspec.convert(document, UserKeys)


USERS = (
    keys("strong", "sha256", "aes"),
    keys("pinned", "sha256", "aes", bytes.fromhex(ENGINE)),
    keys("plain", "sha512", None),
    keys("md5-des", "md5", "des"),
    keys("sha-aes256", "sha", "aes256"),
    keys("sha224-aes192", "sha224", "aes192"),
    keys("sha384-aes", "sha384", "aes"),
)
PROTOCOLS = {
    "strong": ("SHA-256", "AES"),
    "pinned": ("SHA-256", "AES"),
    "plain": ("SHA-512", None),
    "md5-des": ("MD5", "DES"),
    "sha-aes256": ("SHA", "AES-256"),
    "sha224-aes192": ("SHA-224", "AES-192"),
    "sha384-aes": ("SHA-384", "AES"),
}
SETTINGS = TrapSettings(
    address=HERE,
    port=1,
    community=COMMUNITY.encode(),
    users=USERS,
    engine_id=OURS,
    sources={HERE: "leaf-0", SPINE: "spine-0"},
    ports={"leaf-0": {17: "Ethernet17"}, "spine-0": {}},
    aliases={"leaf-0": {"Eth1/18": "Ethernet18"}, "spine-0": {}},
    notifications_per_second=500,
)
Labels = tuple[str, str, str, str]


class Desk:
    """A receiver, what it counted, and a clock to turn. With a socket it takes what real senders send."""

    def __init__(self, told: TrapSettings = SETTINGS, boots: int = 7) -> None:
        self.store = Store(trap_tables(told.switches))
        self.security = SecurityModel(told.users, OURS, boots, started=0.0)
        self.receiver = Receiver(
            told,
            self.security,
            self.store.writer(SWITCH_NOTIFICATION),
            self.store.writer(NOTIFICATIONS_REFUSED_TABLE),
        )
        self.now = 1000.0
        self.taken: list[bytes] = []

    def receive(self, datagram: bytes, address: str = HERE) -> bytes | None:
        self.taken.append(datagram)
        return self.receiver.receive(datagram, address, self.now, 1.7e9 + self.now)

    def counted(self, switch: str = "leaf-0") -> dict[Labels, int]:
        rows = self.store.read(SWITCH_NOTIFICATION)
        return {row.labels[1:]: int(row.values[0]) for row in rows if row.labels[0] == switch}  # type: ignore[misc]

    def refused(self) -> dict[str, int]:
        rows = self.store.read(NOTIFICATIONS_REFUSED_TABLE)
        return {row.labels[0]: int(row.values[0]) for row in rows if row.values[0]}

    @property
    def total(self) -> int:
        return sum(self.counted().values()) + sum(self.refused().values())


class OpenDesk(Desk):
    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HERE, 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while datagram := self._socket.recvfrom(65535):
            data, sender = datagram
            if not data:
                return
            reply = self.receive(data, sender[0])
            if reply is not None:
                self._socket.sendto(reply, sender)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (HERE, self.port))
        self._thread.join()
        self._socket.close()


@pytest.fixture(scope="module")
def open_desk() -> Iterator[OpenDesk]:
    desk = OpenDesk()
    yield desk
    desk.close()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def by_community(community: str = COMMUNITY) -> list[str]:
    return ["-v2c", "-c", community]


def by_user(user: str, *, auth: str = AUTHENTICATION, priv: str = PRIVACY, known_as: str | None = None) -> list[str]:
    digest, cipher = PROTOCOLS[user]
    options = ["-v3", "-u", known_as or user, "-a", digest, "-A", auth, "-l", "authPriv" if cipher else "authNoPriv"]
    return options + (["-x", cipher, "-X", priv] if cipher else [])


def send(program: str, options: list[str], port: int, notification: tuple[str, ...] = LINK_DOWN) -> bool:
    """Whether the program was content: an inform that nobody acknowledges is not."""
    argv = [program, *options, "-r", "0", "-t", "0.4", f"{HERE}:{port}", "", *notification]
    with tempfile.TemporaryDirectory() as own:  # what it keeps of engines, which runs at the same time would share
        environment = {**os.environ, "MIBS": "", "SNMP_PERSISTENT_DIR": own, "SNMPCONFPATH": own}
        return subprocess.run(argv, env=environment, capture_output=True, check=False).returncode == 0


def recorded(options: list[str], notification: tuple[str, ...] = LINK_DOWN, program: str = "snmptrap") -> bytes:
    """The datagram that a sender makes of it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind((HERE, 0))
        sink.settimeout(5)
        send(program, options, sink.getsockname()[1], notification)
        return sink.recv(65535)


def booked(desk: OpenDesk, act: Callable[[], object]) -> tuple[dict[Labels, int], dict[str, int]]:
    """What an act added to the counts of leaf-0, and to those of refusals."""
    counted, refused, total = desk.counted(), desk.refused(), desk.total
    act()
    until(lambda: desk.total > total, 3.0)
    return (
        {key: value - counted.get(key, 0) for key, value in desk.counted().items() if value != counted.get(key)},
        {key: value - refused.get(key, 0) for key, value in desk.refused().items() if value != refused.get(key)},
    )


IF_INDEX, IF_NAME, IF_DESCR = "1.3.6.1.2.1.2.2.1.1", "1.3.6.1.2.1.31.1.1.1.1", "1.3.6.1.2.1.2.2.1.2"
BGP_ERROR, BGP_ADDRESS, BGP_STATE = "1.3.6.1.2.1.15.3.1.14", "1.3.6.1.2.1.15.3.1.7", "1.3.6.1.2.1.15.3.1.2"
CISCO_PEER, H3C, HUAWEI = "1.3.6.1.4.1.9.9.187.1.2.5.1.17", "1.3.6.1.4.1.25506.2.40", "1.3.6.1.4.1.2011.5.25.32.4.1.11"
V6 = ".".join(str(byte) for byte in socket.inet_pton(socket.AF_INET6, "fd00::12"))
SAYINGS: list[tuple[str, tuple[str, ...], Labels]] = [
    ("1.3.6.1.6.3.1.1.5.1", (), ("restart", "", "", "")),
    ("1.3.6.1.6.3.1.1.5.2", (), ("restart", "", "", "")),
    ("1.3.6.1.6.3.1.1.5.3", LINK_DOWN[1:], ("link_down", "Ethernet17", "", "")),
    ("1.3.6.1.6.3.1.1.5.3", (f"{IF_INDEX}.99", "i", "99"), ("link_down", "ifindex-99", "", "")),
    ("1.3.6.1.6.3.1.1.5.3", (f"{IF_NAME}.99", "s", "Eth1/18"), ("link_down", "Ethernet18", "", "")),
    ("1.3.6.1.6.3.1.1.5.3", (f"{IF_DESCR}.99", "s", "a\nb"), ("link_down", "ifindex-99", "", "")),
    ("1.3.6.1.6.3.1.1.5.4", (f"{IF_INDEX}.17", "i", "17"), ("link_up", "Ethernet17", "", "")),
    ("1.3.6.1.6.3.1.1.5.5", (), ("authentication_failure", "", "", "")),
    ("1.3.6.1.2.1.15.0.1", (f"{BGP_ADDRESS}.10.0.0.2", "a", "10.0.0.2"), ("bgp_established", "", "", "10.0.0.2")),
    ("1.3.6.1.2.1.15.0.2", (f"{BGP_ERROR}.10.0.0.2", "x", "0400"), ("bgp_backward", "", "", "10.0.0.2")),
    ("1.3.6.1.2.1.15.7.1", (f"{BGP_STATE}.10.0.0.2", "i", "6"), ("bgp_established", "", "", "10.0.0.2")),
    ("1.3.6.1.2.1.15.7.2", (f"{BGP_ERROR}.10.0.0.3", "x", "0400"), ("bgp_backward", "", "", "10.0.0.3")),
    (
        "1.3.6.1.4.1.9.9.187.0.5",
        (f"{CISCO_PEER}.1.4.10.0.0.2", "x", "0000"),
        ("bgp_established", "", "", "10.0.0.2"),
    ),
    ("1.3.6.1.4.1.9.9.187.0.6", (f"{CISCO_PEER}.2.16.{V6}", "x", "0400"), ("bgp_backward", "", "", "fd00::12")),
    (
        f"{H3C}.3.0.7",
        (f"{IF_INDEX}.17", "i", "17", f"{H3C}.2.2.5.1.1.17.4", "i", "4"),
        ("pfc_threshold", "Ethernet17", "3", ""),
    ),
    (f"{H3C}.3.0.8", (f"{H3C}.2.2.5.1.2.17.6", "u", "900"), ("pfc_threshold", "Ethernet17", "5", "")),
    (
        f"{H3C}.3.0.73",
        (f"{IF_DESCR}.40", "s", "FourHundredGigE1/0/1", f"{H3C}.2.2.5.1.1.40.4", "i", "4"),
        ("pfc_deadlock", "FourHundredGigE1/0/1", "3", ""),
    ),
    (f"{H3C}.3.0.74", (f"{IF_INDEX}.17", "i", "17"), ("pfc_deadlock_cleared", "Ethernet17", "", "")),
    (f"{H3C}.3.0.75", (f"{IF_INDEX}.17", "i", "17"), ("pfc_storm_control", "Ethernet17", "", "")),
    (f"{HUAWEI}.75", (f"{IF_NAME}.17", "s", "400GE1/0/1"), ("pfc_deadlock", "Ethernet17", "", "")),
    (f"{HUAWEI}.76", (f"{IF_INDEX}.17", "i", "17"), ("pfc_deadlock_cleared", "Ethernet17", "", "")),
    (f"{HUAWEI}.73", (f"{IF_INDEX}.17", "i", "17"), ("pfc_storm_control", "Ethernet17", "", "")),
    ("1.3.6.1.4.1.8072.2.3.0.1", (f"{IF_INDEX}.17", "i", "17"), ("other", "", "", "")),
]


@needs_net_snmp
@pytest.mark.parametrize(("kind", "variables", "labels"), SAYINGS, ids=[f"{each[2][0]}-{each[0]}" for each in SAYINGS])
def test_a_trap_is_counted_by_what_it_says(
    open_desk: OpenDesk, kind: str, variables: tuple[str, ...], labels: Labels
) -> None:
    assert booked(open_desk, lambda: send("snmptrap", by_community(), open_desk.port, (kind, *variables))) == (
        {labels: 1},
        {},
    )


def test_the_table_knows_every_kind_but_other_and_claims_no_hardware() -> None:
    entries = read_entries().values()
    tested = {tuple(int(number) for number in kind.split(".")) for kind, _, _ in SAYINGS}
    assert set(read_entries()) <= tested, "each entry has a trap above"
    assert not any(entry.tested for entry in entries), "none was seen on a switch yet"


@needs_net_snmp
@pytest.mark.parametrize("user", PROTOCOLS)
def test_users_of_v3_send_traps_and_informs(open_desk: OpenDesk, user: str) -> None:
    expected = ({("link_down", "Ethernet17", "", ""): 1}, {})
    engine = ENGINE if user == "pinned" else f"80001f8804{user.encode().hex()}"
    trap = [*by_user(user), "-e", engine, "-Z", "1,1"]
    assert booked(open_desk, lambda: send("snmptrap", trap, open_desk.port)) == expected
    answers: list[bool] = []
    assert booked(open_desk, lambda: answers.append(send("snmpinform", by_user(user), open_desk.port))) == expected
    assert answers == [True]


@needs_net_snmp
def test_an_inform_by_community_is_acknowledged_and_so_is_its_repetition_which_is_not_counted() -> None:
    desk = Desk()
    inform = recorded(by_community(), program="snmpinform")
    first, second = desk.receive(inform), desk.receive(inform)
    assert first is not None
    assert first == second
    request, reply = Reader(inform).take(0x30), Reader(first).take(0x30)
    assert (request.integer(), request.octets()) == (reply.integer(), reply.octets())
    assert request.next()[1].contents() == reply.take(0xA2).contents(), "the same variables, as a response"
    assert desk.counted() == {("link_down", "Ethernet17", "", ""): 1}
    desk.now += 200
    assert desk.receive(inform) is not None
    assert desk.counted() == {("link_down", "Ethernet17", "", ""): 2}, "remembered no longer than senders repeat"


REFUSED: list[tuple[str, list[str]]] = [
    ("community", by_community("wrong")),
    ("longer community", by_community(COMMUNITY + "x")),
    ("digest", by_user("strong", auth="another-passphrase")),
    ("user", by_user("strong", known_as="nobody")),
    ("no digest", ["-v3", "-u", "strong", "-l", "noAuthNoPriv"]),
    ("no cipher", [*by_user("plain", known_as="strong")[:-2], "-l", "authNoPriv", "-a", "SHA-256"]),
    ("cipher without key", [*by_user("plain")[:-2], "-l", "authPriv", "-x", "AES", "-X", PRIVACY]),
]


@needs_net_snmp
@pytest.mark.parametrize(("wrong", "options"), REFUSED, ids=[each[0] for each in REFUSED])
def test_what_is_not_proven_is_refused_and_never_acknowledged(
    open_desk: OpenDesk, wrong: str, options: list[str]
) -> None:
    trap = [*options, "-e", "80001f8804" + wrong.encode().hex()] if "-v3" in options else options
    assert booked(open_desk, lambda: send("snmptrap", trap, open_desk.port)) == ({}, {"authentication": 1})
    answers: list[bool] = []
    counted, refused = booked(open_desk, lambda: answers.append(send("snmpinform", options, open_desk.port)))
    assert (counted, answers) == ({}, [False])
    assert set(refused) == {"authentication"}


@needs_net_snmp
def test_a_wrong_cipher_key_is_malformed_since_the_digest_was_right(open_desk: OpenDesk) -> None:
    options = [*by_user("sha384-aes", priv="another-passphrase"), "-e", "80001f880477726f6e67"]
    assert booked(open_desk, lambda: send("snmptrap", options, open_desk.port)) == ({}, {"malformed": 1})


@needs_net_snmp
def test_a_user_of_one_engine_is_not_believed_from_another(open_desk: OpenDesk) -> None:
    options = [*by_user("pinned"), "-e", "80001f88046f74686572"]
    assert booked(open_desk, lambda: send("snmptrap", options, open_desk.port)) == ({}, {"authentication": 1})


@needs_net_snmp
def test_v1_is_malformed(open_desk: OpenDesk) -> None:
    argv = ["snmptrap", "-v1", "-c", COMMUNITY, f"{HERE}:{open_desk.port}", "1.3.6.1.4.1.9", HERE, "2", "0", ""]
    assert booked(open_desk, lambda: subprocess.run(argv, check=True)) == ({}, {"malformed": 1})


@needs_net_snmp
def test_a_stranger_is_counted_named_now_and_then_and_not_looked_into(capsys: pytest.CaptureFixture[str]) -> None:
    desk = Desk()
    good = recorded(by_community())
    for _ in range(1000):
        assert desk.receive(good, STRANGER) is None
    assert (desk.counted(), desk.refused()) == ({}, {"unknown_source": 1000})
    desk.now += 3601
    desk.receive(good, STRANGER)
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"traps: refused as unknown_source: {STRANGER} is of no switch"
    assert second == first + "; 999 more for that reason since the last such line"
    assert desk.receive(good) is None
    assert desk.counted() == {("link_down", "Ethernet17", "", ""): 1}, "strangers take nothing from the switches"


@needs_net_snmp
def test_a_flood_of_one_switch_is_cut_off_and_leaves_room_for_the_others() -> None:
    desk = Desk()
    good = recorded(by_community())
    for _ in range(3000):
        desk.receive(good)
    assert (sum(desk.counted().values()), desk.refused()) == (250, {"limit": 2750})
    desk.receive(good, SPINE)
    assert desk.counted("spine-0") == {("link_down", "ifindex-17", "", ""): 1}
    desk.now += 0.1
    desk.receive(good)
    assert sum(desk.counted().values()) == 251, "it is heard again as soon as it sends less"


@needs_net_snmp
def test_more_label_sets_than_are_kept_are_refused_and_an_inform_of_them_is_not_acknowledged() -> None:
    desk = Desk()
    for number in range(LABEL_SETS_PER_SWITCH + 44):
        desk.now += 1
        variable = element(0x30, oid((1, 3, 6, 1, 2, 1, 2, 2, 1, 1, 100 + number)), integer(100 + number))
        kind = element(0x30, oid(TRAP_OID), oid((1, 3, 6, 1, 6, 3, 1, 1, 5, 3)))
        pdu = element(0xA6, integer(number), integer(0), integer(0), element(0x30, kind, variable))
        reply = desk.receive(element(0x30, integer(1), element(0x04, COMMUNITY.encode()), pdu))
        assert (reply is not None) == (number < LABEL_SETS_PER_SWITCH)
    assert (len(desk.counted()), desk.refused()) == (LABEL_SETS_PER_SWITCH, {"limit": 44})


@needs_net_snmp
def test_a_flood_by_who_has_no_secret_crowds_out_nobody_who_has() -> None:
    desk = Desk()
    good, bad = recorded(by_community()), recorded(by_community("wrong"))
    for _ in range(2400):
        desk.receive(bad)
    desk.receive(good)
    assert (sum(desk.counted().values()), desk.refused()) == (1, {"authentication": 2400})
    for _ in range(1000):
        desk.receive(bad)
    assert desk.refused() == {"authentication": 2499, "limit": 901}, "nor does it take the processor"


# ---- replays
def trap_at(boots: int, seconds: int, engine: str = ENGINE) -> bytes:
    return recorded([*by_user("strong"), "-e", engine, "-Z", f"{boots},{seconds}"])


@needs_net_snmp
def test_a_trap_of_v3_that_was_recorded_is_refused() -> None:
    desk = Desk()
    old, recent, newest = trap_at(3, 100), trap_at(3, 400), trap_at(3, 540)
    desk.receive(recent)
    assert desk.refused() == {}
    desk.receive(recent)
    assert desk.refused() == {"authentication": 1}, "the same again"
    desk.receive(old)
    assert desk.refused() == {"authentication": 2}, "older than 150 s by what was heard"
    desk.receive(newest)
    desk.receive(trap_at(3, 395))
    assert sum(desk.counted().values()) == 3, "packets may overtake each other by as much"
    desk.now += 200
    desk.receive(trap_at(3, 541))
    assert desk.refused() == {"authentication": 3}, "time goes on for the sender too"
    desk.receive(trap_at(4, 1))
    desk.receive(trap_at(3, 10_000))
    assert (sum(desk.counted().values()), desk.refused()) == (4, {"authentication": 4}), "boots never go back"


@needs_net_snmp
def test_the_engine_of_one_switch_is_not_believed_from_another() -> None:
    desk = Desk()
    desk.receive(trap_at(3, 100))
    desk.receive(trap_at(3, 101), SPINE)
    assert (desk.counted("spine-0"), desk.refused()) == ({}, {"authentication": 1})


@needs_net_snmp
def test_a_digest_that_is_wrong_moves_no_clock() -> None:
    desk = Desk()
    desk.receive(recorded([*by_user("strong", auth="another-passphrase"), "-e", ENGINE, "-Z", "99,1"]))
    desk.receive(trap_at(3, 100))
    assert (sum(desk.counted().values()), desk.refused()) == (1, {"authentication": 1})


@needs_net_snmp
def test_an_inform_of_v3_that_was_recorded_is_worth_nothing_after_the_window(open_desk: OpenDesk) -> None:
    open_desk.taken.clear()
    assert send("snmpinform", by_user("strong"), open_desk.port)
    inform = open_desk.taken[-1]
    desk = Desk()
    assert desk.receive(inform) is not None
    assert desk.receive(inform) is not None, "repeated for want of an answer"
    assert sum(desk.counted().values()) == 1
    desk.now += 151
    reply = desk.receive(inform)
    assert desk.refused() == {"authentication": 1}
    assert reply is not None
    report = read_message(reply)
    assert isinstance(report, SecuredMessage)
    assert report.flags == 1, "a report with a digest, not an acknowledgement"
    restarted = Desk(boots=8)
    assert restarted.receive(inform) is not None
    assert (restarted.counted(), restarted.refused()) == ({}, {"authentication": 1})


@needs_net_snmp
def test_senders_find_the_engine_id_without_it_being_a_refusal() -> None:
    desk = OpenDesk()
    try:
        assert send("snmpinform", by_user("strong"), desk.port)
        assert len(desk.taken) >= 2
        assert desk.refused() == {}
    finally:
        desk.close()


# ---- garbage
@given(datagram=st.binary(max_size=300))
@example(b"")
@example(b"\x30\x80\x02\x01\x01\x00\x00")
@example(b"\x30\x84\xff\xff\xff\xff")
@settings(max_examples=300, deadline=None)
def test_garbage_is_malformed(datagram: bytes) -> None:
    desk = Desk(FEW_KEYS)
    assert desk.receive(datagram) is None
    assert desk.refused() == {"malformed": 1}


FEW_KEYS = msgspec.structs.replace(SETTINGS, users=())


def pdu_of(*variables: bytes) -> bytes:
    return element(0xA7, integer(1), integer(0), integer(0), element(0x30, *variables))


PLAIN = element(
    0x30,
    integer(1),
    element(0x04, COMMUNITY.encode()),
    pdu_of(
        element(0x30, oid(TRAP_OID), oid((1, 3, 6, 1, 2, 1, 15, 0, 2))),
        element(0x30, oid((1, 3, 6, 1, 2, 1, 15, 3, 1, 14, 10, 0, 0, 1)), element(0x04, b"\x04\x00")),
    ),
)


@given(changes=st.lists(st.tuples(st.integers(0, len(PLAIN) - 1), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=500, deadline=None)
def test_a_trap_with_some_bytes_changed_ends_nothing(changes: list[tuple[int, int]]) -> None:
    data = bytearray(PLAIN)
    for at, byte in changes:
        data[at] = byte
    desk = Desk(FEW_KEYS)
    desk.receive(bytes(data))
    assert desk.total == 1


@given(scoped=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_what_a_wrong_cipher_key_makes_of_a_trap_ends_nothing(scoped: bytes) -> None:
    for look in (find_pdu, lambda data: read_notification(data, 0)):
        try:
            look(scoped)
        except MalformedError:
            continue
        raise AssertionError(f"random bytes were taken: {scoped!r}")


@needs_net_snmp
def test_a_trap_of_v3_with_any_byte_changed_is_refused() -> None:
    trap = trap_at(3, 100)
    desk = Desk(msgspec.structs.replace(SETTINGS, users=USERS[:1], notifications_per_second=100_000))
    for at in range(len(trap)):
        desk.receive(trap[:at] + bytes((trap[at] ^ 0x01,)) + trap[at + 1 :])
        desk.receive(trap[:at])
    assert desk.counted() == {}
    assert sum(desk.refused().values()) == 2 * len(trap)
    desk.receive(trap)
    assert sum(desk.counted().values()) == 1, "and none of them moved a clock"


def test_a_cipher_text_that_no_cipher_makes_is_malformed() -> None:
    for name, salt, payload in (("strong", b"seven!!", b"x" * 40), ("md5-des", b"8 bytes!", b"x" * 41)):
        user = next(User(each) for each in USERS if each.name == name)
        security = element(
            0x30,
            element(0x04, bytes.fromhex(ENGINE)),
            integer(1),
            integer(1),
            element(0x04, name.encode()),
            element(0x04, bytes(user.digest_bytes)),
            element(0x04, salt),
        )
        header = element(0x30, integer(1), integer(65507), element(0x04, b"\x03"), integer(3))
        data = element(0x30, integer(3), header, element(0x04, security), element(0x04, payload))
        made = read_message(data)
        assert isinstance(made, SecuredMessage)
        desk = Desk()
        desk.receive(data[: made.digest_at] + user.digest(made) + data[made.digest_at + user.digest_bytes :])
        assert desk.refused() == {"malformed": 1}


@given(numbers=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20), number=st.integers(0, 2**63))
def test_numbers_and_identifiers_are_read_as_they_were_written(numbers: list[int], number: int) -> None:
    name = (1, 3, *numbers)
    reader = Reader(oid(name) + integer(number))
    assert (reader.oid(), reader.integer()) == (name, number)


# ---- settings
TOPOLOGY = Topology(
    version=1,
    hosts=(),
    switches=(
        Switch(
            name="leaf-0",
            tier="leaf",
            management="10.0.0.1",
            addresses=("10.1.0.1",),
            ports=(Port(name="Ethernet17", ifindex=17, aliases=("Eth1/17",), addresses=("10.2.0.1",)),),
        ),
        Switch(name="leaf-1", tier="leaf", management="leaf-1.example"),
    ),
    links=(),
)


@pytest.fixture
def section(tmp_path: Path) -> Traps:
    (tmp_path / "community").write_text(COMMUNITY + "\n")
    (tmp_path / "auth").write_text(AUTHENTICATION + "\n")
    user = TrapUser(name="watcher", authentication_key_file="auth", engine_id="0x" + ENGINE)
    return Traps(community_file="community", users=(user,)).resolve(tmp_path)


def test_sources_and_names_of_ports_come_from_the_topology(section: Traps) -> None:
    told = trap_settings(section, {"leaf-0": ["10.0.0.1"], "spine-0": ["fd00:0::9"]}, TOPOLOGY)
    assert told.sources == {
        "10.0.0.1": "leaf-0", "10.1.0.1": "leaf-0", "10.2.0.1": "leaf-0", "fd00::9": "spine-0",
    }  # fmt: skip
    assert (told.ports, told.aliases) == ({"leaf-0": {17: "Ethernet17"}}, {"leaf-0": {"Eth1/17": "Ethernet17"}})
    assert (told.community, told.users[0].engine_id) == (COMMUNITY.encode(), bytes.fromhex(ENGINE))
    listed = msgspec.structs.replace(section, sources=(TrapSource(name="leaf-0", addresses=("10.9.0.1",)),))
    assert trap_settings(listed, {"spine-0": ["10.0.0.9"]}, TOPOLOGY).sources == {"10.9.0.1": "leaf-0"}
    shown = repr(told) + repr(told.users)
    assert not any(secret in shown for secret in (COMMUNITY, AUTHENTICATION))


@pytest.mark.parametrize(
    ("polled", "topology", "problem"),
    [
        ({}, None, "no address of any switch is known"),
        ({"leaf-9": ["leaf-9.example"]}, None, "no IP address of leaf-9 is known .list it in traps.sources"),
        ({"spine-0": ["10.0.0.1"]}, TOPOLOGY, "'10.0.0.1' is of 'spine-0' and of 'leaf-0'"),
    ],
)
def test_switches_that_cannot_be_told_apart_are_an_error(
    section: Traps, polled: dict[str, list[str]], topology: Topology | None, problem: str
) -> None:
    with pytest.raises(ContractError, match=problem):
        trap_settings(section, polled, topology)


# ---- the port, and the whole
def test_a_port_without_the_capability_says_which_and_how_to_do_without() -> None:
    problem, remedy = bind_problem(OSError(errno.EACCES, "Permission denied"), 162)
    assert "CAP_NET_BIND_SERVICE" in problem
    assert "--dport 162 -j REDIRECT" in remedy


def test_a_port_that_is_taken_is_told_at_the_start_and_by_the_process(section: Traps) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((HERE, 0))
        taken = msgspec.structs.replace(section, address=HERE, port=other.getsockname()[1])
        with pytest.raises(ContractError, match="another process listens there"):
            require_port(taken)
        told = trap_settings(taken, {"leaf-0": [HERE]}, None)
        store = Store(trap_tables(told.switches))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            send_message(ours, msgspec.msgpack.encode(told))
            ended = subprocess.run(
                [sys.executable, "-m", "exporter.traps.process", str(store.descriptor), str(theirs.fileno())],
                pass_fds=(store.descriptor, theirs.fileno()),
                capture_output=True,
                text=True,
                check=False,
                timeout=20,
            )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"traps: {HERE}:{taken.port}/udp: another process listens there: stop it")


@needs_net_snmp
@pytest.mark.parametrize(
    ("listening", "family", "asked", "spelt"),
    [
        ("0.0.0.0", socket.AF_INET, "127.0.0.5", HERE),
        ("::", socket.AF_INET, "127.0.0.5", HERE),
        ("::", socket.AF_INET6, "::1", "::1"),
    ],
)
def test_an_inform_is_answered_from_the_address_it_was_sent_to(
    listening: str, family: socket.AddressFamily, asked: str, spelt: str
) -> None:
    """A sender takes no answer from elsewhere, and a host has many addresses."""
    if ":" in listening and not has_ipv6():
        pytest.skip("no IPv6 here")
    inform = recorded(by_community(), program="snmpinform")
    told = msgspec.structs.replace(SETTINGS, sources={spelt: "leaf-0"})
    store = Store(trap_tables(told.switches))
    ours, theirs = socket.socketpair()
    with ours, theirs, bind(listening, 0) as receiving, socket.socket(family, socket.SOCK_DGRAM) as sender:
        port = receiving.getsockname()[1]
        serving = threading.Thread(target=serve, args=(told, store, theirs, receiving))
        serving.start()
        try:
            sender.bind((spelt, 0))
            sender.connect((asked, port))  # the kernel gives it datagrams from there alone
            sender.settimeout(5)
            sender.send(inform)
            assert Reader(sender.recv(65535)).take(0x30).integer() == 1
        finally:
            ours.close()
            serving.join(5)
    assert not serving.is_alive(), "it ends with the pipe"


@needs_net_snmp
def test_a_running_exporter_shows_what_switches_sent_and_tells_no_secret(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM, HERE)
    for name, text in (("community", COMMUNITY), ("auth", AUTHENTICATION), ("priv", PRIVACY)):
        (tmp_path / name).write_text(text + "\n")
    exporter = RunningExporter(
        tmp_path,
        f"traps: {{address: 0.0.0.0, port: {port}, community_file: community,\n"
        "  users: [{name: strong, authentication_key_file: auth, privacy: aes, privacy_key_file: priv}],\n"
        f"  sources: [{{name: leaf-0, addresses: [{HERE}]}}]}}\n",
        address="",
    )
    try:
        until(lambda: exporter.value("fabric_exporter_notifications_refused_total", reason="malformed") == 0)
        assert send("snmpinform", by_community(), port)
        assert send("snmpinform", by_user("strong"), port)
        send("snmptrap", by_community("wrong"), port)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind((STRANGER, 0))
            stranger.sendto(recorded(by_community()), (HERE, port))
            stranger.sendto(struct.pack("!Q", 0), (HERE, port))
        down = {"switch": "leaf-0", "notification": "link_down", "switch_port": "ifindex-17"}
        until(lambda: exporter.value("fabric_switch_notifications_total", **down) == 2)
        until(lambda: exporter.value("fabric_exporter_notifications_refused_total", reason="unknown_source") == 2)
        assert exporter.value("fabric_exporter_notifications_refused_total", reason="authentication") == 1
        seen = exporter.value("fabric_switch_notification_timestamp_seconds", **down)
        assert seen is not None
        assert abs(seen - time.time()) < 60
        page = exporter.get("/metrics")
        assert "traps" in {
            dict(labels)["process"] for labels in exporter.metrics()["fabric_exporter_process_restarts_total"]
        }
        second = subprocess.run(
            [sys.executable, "-m", "exporter.cli", "run", "--config", str(exporter.config)],
            capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
        assert second.returncode != 0
        assert "another process listens there" in second.stderr
    finally:
        exporter.stop()
    told = page + exporter.log + second.stderr
    assert f"{STRANGER} is of no switch" in exporter.log
    assert not any(secret in told for secret in (COMMUNITY, AUTHENTICATION, PRIVACY))
