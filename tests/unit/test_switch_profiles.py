"""Profiles: the pages of recorded walks, and what each error of an operator's own profile says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from exporter.contracts.codec import ContractError
from exporter.switches import process
from exporter.switches.process import Poller, _Report
from exporter.switches.profile import Profile, bind, choose, named, read_profiles, tables_of
from lab.switches.walk import Walk
from tests.unit.polled import EPOCH, PERIOD, RECORDED, SYNTHETIC, Switch

GOLDEN = Path(__file__).parent / "golden" / "switches"
OURS = (
    "arista_eos", "broadcom_fastpath", "cisco_ios", "cisco_nxos", "dell_dnos", "dell_os9", "fs_com", "generic",
    "h3c_comware", "huawei_ce", "juniper_junos", "linux_frr", "nvidia_cumulus", "nvidia_onyx", "sonic",
)  # fmt: skip
WALKS = {
    "sonic_t0": (SYNTHETIC / "SYNTHETIC_sonic_t0.snmprec", "sonic"),
    "sonic_t30": (SYNTHETIC / "SYNTHETIC_sonic_t30.snmprec", "sonic"),
    "arista_7280r": (RECORDED / "arista_eos_7280r.snmprec", "arista_eos"),
    "arista_7150s": (RECORDED / "arista-dcs-7150s-52-cl.snmprec", "arista_eos"),
    "cisco_n3k": (RECORDED / "nxos_n3k-3064pq.snmprec", "cisco_nxos"),
    "cumulus": (RECORDED / "cumulus_bgp.snmprec", "nvidia_cumulus"),
    "cisco_c9500x": (RECORDED / "iosxe_c9500x.trim.snmprec", "cisco_ios"),
    "vyos": (RECORDED / "vyos_bgp.snmprec", "linux_frr"),
    "ocnos": (RECORDED / "ocnos_s9510.trim.snmprec", "generic"),
}
SHOWN = 3  # of the series of each metric, in a golden file
walks = pytest.mark.parametrize("walk", WALKS)


def page_of(walk: str, monkeypatch: pytest.MonkeyPatch) -> str:
    path, profile = WALKS[walk]
    if not path.exists():
        pytest.skip(f"{path.name} is not in ../shared/data/snmprec")
    monkeypatch.setattr(process, "time", SimpleNamespace(time=lambda: EPOCH, monotonic=lambda: 0.0))
    with Switch(Walk.from_snmprec(path)) as switch:
        report = _Report({table: switch.store.writer(table) for table in process._REPORTED}, "leaf-1")
        said: list[str] = []
        poller = Poller(switch.device, report, lambda *_: switch.session, said.append, PERIOD)
        report.begin(late=False)
        turn = switch.poll_all()
        switch.run(poller._neighbors(switch.session))
        poller._tell(turn)
        assert said == []
        assert switch.device.profile is not None
        assert switch.device.profile.name == profile
        return switch.page()


def shortened(page: str) -> str:
    """The first few series of each metric, and how many more there are: a page of a real switch has thousands."""
    lines = []
    seen: Counter[str] = Counter()
    for line in page.splitlines():
        name = re.split(r"[{ ]", line)[0]
        seen[name] += not line.startswith("#")
        if line.startswith("#") or seen[name] <= SHOWN or "coverage" in name:
            lines.append(line)
    more = [f"# {name}: {count} series" for name, count in seen.items() if count]
    return "\n".join([*lines, *more, ""])


@walks
def test_the_page_of_each_recorded_switch_is_its_golden_file(walk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """UPDATE_GOLDEN=1 writes it afresh; read the difference before you commit it."""
    text = shortened(page_of(walk, monkeypatch))
    golden = GOLDEN / f"{walk}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH (apt: prometheus)")
@walks
def test_promtool_finds_nothing_to_say(walk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(walk, monkeypatch)
    run = subprocess.run(["promtool", "check", "metrics"], input=page, text=True, capture_output=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize("name", OURS)
def test_each_profile_is_what_it_should_be(name: str) -> None:
    profile = named(read_profiles(), name)
    tables = tables_of(profile)
    assert profile.name == name
    assert len({table.name for table in tables}) == len(tables) > 3
    for table in tables:
        assert bind(table) or table.reader != "columns", table.name
        assert table.signals
    assert profile.match or name == "generic"
    re.compile(profile.port_pattern)


def test_there_are_no_other_profiles() -> None:
    assert sorted(profile.name for profile in read_profiles()) == list(OURS)


@pytest.mark.parametrize(
    ("object_id", "description", "name"),
    [
        ("1.3.6.1.4.1.8072.3.2.10", "SONiC Software Version: SONiC.202505", "sonic"),
        ("1.3.6.1.4.1.6027.1.5", "Dell SONiC Software Version", "sonic"),
        ("1.3.6.1.4.1.30065.1.3011", "Arista Networks EOS", "arista_eos"),
        ("1.3.6.1.4.1.9.12.3.1.3.1", "Cisco NX-OS(tm) n9000", "cisco_nxos"),
        ("1.3.6.1.4.1.9.1.3155", "Cisco IOS Software [IOSXE]", "cisco_ios"),
        ("1.3.6.1.4.1.8072.3.2.10", "Cumulus-Linux 5.9.2", "nvidia_cumulus"),
        ("1.3.6.1.4.1.8072.3.2.10", "Linux host 6.1", "linux_frr"),
        ("1.3.6.1.4.1.33049.1.1.1", "Mellanox SN4600", "nvidia_onyx"),
        ("1.3.6.1.4.1.2636.1.1.1.4", "Juniper", "juniper_junos"),
        ("1.3.6.1.4.1.2011.2.239", "Huawei", "huawei_ce"),
        ("1.3.6.1.4.1.25506.1", "H3C Comware", "h3c_comware"),
        ("1.3.6.1.4.1.6027.1.3", "Dell Networking OS", "dell_os9"),
        ("1.3.6.1.4.1.674.10895.3060", "Dell N3132PX-ON", "dell_dnos"),
        ("1.3.6.1.4.1.4413.1.1.1.2", "FASTPATH", "broadcom_fastpath"),
        ("1.3.6.1.4.1.52642.1.458.0", "FS N8560-32C", "fs_com"),
        ("1.3.6.1.4.1.6027.13", "no one below 6027.1", "generic"),
        ("", "", "generic"),
    ],
)
def test_the_profile_that_says_most_exactly_that_it_is_for_a_device_is_taken(
    object_id: str, description: str, name: str
) -> None:
    assert choose(read_profiles(), object_id, description).name == name


# ---- an operator's own

OWN = """
version: 1
name: {name}
vendor: ours
tested: hardware
match: [{{object_id: 1.3.6.1.4.1.30065.1}}]
include: [interfaces]
tables:
- name: pfc
  signals: [pfc]
  index: [port, priority]
  columns: [{{oid: 1.3.6.1.4.1.5.1, metric: fabric_switch_port_pfc_receive_frames_total}}]
"""


def own(directory: Path, name: str = "arista_eos", **replaced: str) -> tuple[Profile, ...]:
    """Read with one of our own, of which some text is replaced."""
    text = OWN.format(name=name)
    for old, new in replaced.items():
        text = text.replace(old, new)
    (directory / "own.yaml").write_text(text)
    return read_profiles(directory)


def test_an_operators_profile_replaces_ours_of_its_name(tmp_path: Path) -> None:
    profiles = own(tmp_path)
    assert sorted(profile.name for profile in profiles) == list(OURS)
    chosen = choose(profiles, "1.3.6.1.4.1.30065.1.7", "Arista Networks EOS")
    assert (chosen.name, chosen.vendor) == ("arista_eos", "ours")
    assert [table.name for table in tables_of(chosen)] == ["pfc", "interfaces"]


def test_an_operators_profile_of_another_name_comes_before_ours(tmp_path: Path) -> None:
    profiles = own(tmp_path, "arista_at_home")
    assert choose(profiles, "1.3.6.1.4.1.30065.1.7", "Arista Networks EOS").name == "arista_at_home"
    assert named(profiles, "arista_eos").vendor == "Arista"


def test_an_included_table_is_replaced_by_one_of_its_name(tmp_path: Path) -> None:
    profiles = own(tmp_path, **{"name: pfc": "name: interfaces"})
    assert [(table.name, table.signals) for table in tables_of(profiles[0])] == [("interfaces", ("pfc",))]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("vendor: ours", "vendor: ours\nvendr: x", r"unknown key 'vendr' \(did you mean 'vendor'\?\)$"),
        ("signals: [pfc]", "signls: [pfc]", r"unknown key 'tables\[0\]\.signls' \(did you mean 'signals'\?\)$"),
        ("signals: [pfc]", "signals: [pfcs]", r"table 'pfc': unknown signal 'pfcs' \(one of ports, mac_errors, pfc, "),
        (
            "pfc_receive_frames_total",
            "pfc_frames",
            r"column 1\.3\.6\.1\.4\.1\.5\.1: no metric 'fabric_switch_port_pfc_f",
        ),
        (
            "index: [port, priority]",
            "index: [port]",
            r"has the labels switch_port, priority, the index gives switch_port \(correct the index or the metric\)$",
        ),
        ("index: [port, priority]", "index: [port, prio]", "'prio' is none of |index"),
        ("object_id: 1.3", "description: '(', object_id: 1.3", r"field 'match\[0\]\.description': missing \)"),
        (
            "include: [interfaces]",
            "include: [interface]",
            r"field 'include': no table 'interface' \(one of interf",
        ),
        ("version: 1", "version: 2", "'version'"),
        ("oid: 1.3.6.1.4.1.5.1", "oid: .1.3.6", "oid"),
        ("name: arista_eos", "name: [x]", r"Expected `str`, got `array` \(at 'name'\)"),
        ("tested: hardware", "tested: yes", "'tested'"),
        ("tables:", "port_pattern: '('\ntables:", r"field 'port_pattern': missing \), unterminated subpattern"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said(tmp_path: Path, old: str, new: str, problem: str) -> None:
    with pytest.raises(ContractError, match=problem) as refused:
        own(tmp_path, **{old: new})
    assert str(refused.value).startswith(str(tmp_path / "own.yaml") + ": ")
    assert "\n" not in str(refused.value)


def test_two_tables_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"table 'pfc' appears twice \(give each its own name\)$"):
        own(tmp_path, **{"tables:\n": "tables:\n- {name: pfc, signals: [pfc]}\n"})
