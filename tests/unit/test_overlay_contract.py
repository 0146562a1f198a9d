"""The overlay state as a file: what is refused, each with its line, and in what spelling it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter.contracts import overlay
from exporter.contracts.codec import ContractError, encode
from exporter.contracts.overlay import read_overlay

ENTRY: dict[str, Any] = {
    "host": "h0",
    "table": "vswitch",
    "vni": 100,
    "dst": "172.16.0.2",
    "next": "192.0.2.12",
    "time": 1.5,
}
SNAPSHOT: dict[str, Any] = {"host": "h0", "table": "rnic", "time": 1.5}


def written(directory: Path, *entries: dict[str, Any], snapshots: tuple[dict[str, Any], ...] = ()) -> Path:
    path = directory / "overlay.json"
    path.write_bytes(encode({"version": 1, "snapshots": snapshots, "entries": [{**ENTRY, **each} for each in entries]}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dst": "worker-0"},
            "field 'entries[0].dst': 'worker-0' does not appear to be an IPv4 or IPv6 address (give an IP address)",
        ),
        (
            {"dst": "172.16.0.2/32"},
            "field 'entries[0].dst': '172.16.0.2/32' does not appear to be an IPv4 or IPv6 address "
            "(give an IP address)",
        ),
        (
            {"next": "Local:worker-0"},
            "field 'entries[0].next': 'Local:worker-0' does not appear to be an IPv4 or IPv6 address "
            "(give an IP address, local:<container> or null)",
        ),
        (
            {"next": "fe80::1%eth0"},
            "field 'entries[0].next': 'fe80::1%eth0' has a zone, which no other host knows "
            "(give an IP address, local:<container> or null)",
        ),
        ({"next": "local:"}, "field 'entries[0].next': names no container (name it, or give null)"),
        ({"host": ""}, "field 'entries[0].host': Expected `str` of length >= 1"),
        ({"host": "x" * 301}, "field 'entries[0].host': Expected `str` of length <= 300"),
        ({"table": "fdb"}, "field 'entries[0].table': 'fdb' is none of vswitch, rnic"),
        ({"vni": -1}, "field 'entries[0].vni': Expected `int` >= 0"),
        ({"vni": 1 << 24}, "field 'entries[0].vni': Expected `int` <= 16777215"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, changes)
    with pytest.raises(ContractError) as refusal:
        read_overlay(path)
    assert str(refusal.value) == f"{path}: {message}"


@pytest.mark.parametrize("where", ["entries", "snapshots"])
@pytest.mark.parametrize("time", [".nan", ".inf"])
def test_a_time_that_is_none_is_refused(where: str, time: str, tmp_path: Path) -> None:
    """JSON has no such number, YAML has."""
    path = tmp_path / "overlay.yaml"
    times = {"entries": "1.5", "snapshots": "1.5", where: time}
    path.write_text(
        "version: 1\n"
        f"snapshots: [{{host: h0, table: rnic, time: {times['snapshots']}}}]\n"
        f"entries: [{{host: h0, table: rnic, vni: 1, dst: 172.16.0.2, next: null, time: {times['entries']}}}]\n"
    )
    with pytest.raises(ContractError) as refusal:
        read_overlay(path)
    assert str(refusal.value) == f"{path}: field '{where}[0].time': {time.strip('.')} is no time (give seconds)"


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "MAX_ENTRIES", 2)
    assert len(read_overlay(written(tmp_path, {}, {})).entries) == 2
    path = written(tmp_path, {}, {}, {})
    with pytest.raises(ContractError) as refusal:
        read_overlay(path)
    assert str(refusal.value) == f"{path}: holds 3 entries, more than 2 (leave out other jobs' hosts)"


def test_addresses_are_read_in_one_spelling_and_the_rest_as_it_was_written(tmp_path: Path) -> None:
    state = read_overlay(
        written(
            tmp_path,
            {"dst": "FD00:0::0002", "next": "fd00:ffff::00A0"},
            {"dst": "::ffff:172.16.0.3", "next": "local:training/Worker-0", "offloaded": False, "in_port": "vf0"},
            {"next": None},
            {"next": "0.0.0.0"},  # wrong, and what a diagnosis has to find
            snapshots=(SNAPSHOT,),
        )
    )
    assert [(entry.dst, entry.next) for entry in state.entries] == [
        ("fd00::2", "fd00:ffff::a0"),
        ("172.16.0.3", "local:training/Worker-0"),
        ("172.16.0.2", None),
        ("172.16.0.2", "0.0.0.0"),
    ]
    assert (state.entries[1].offloaded, state.entries[1].in_port) == (False, "vf0")
    assert [entry.container for entry in state.entries] == [None, "training/Worker-0", None, None]
    assert [(each.host, each.table, each.time) for each in state.snapshots] == [("h0", "rnic", 1.5)]
