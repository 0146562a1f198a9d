"""What is amiss while failures are followed: files, clocks and answers of no use are named once and end nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from exporter.contracts.codec import ContractError, read
from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.fabric import Fabric
from skeleton_service.following.follow import Following
from tests.unit.fabrics import leaf_spine
from tests.unit.followed import BEGIN, BROKEN, HOSTS, World, play


def test_a_verdict_that_cannot_be_written_is_told_of_once_and_written_when_it_can_be(
    following: Callable[..., Following], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "full.json"
    output.symlink_to("/dev/full")
    own = following(output=output)
    play(own, world, 80, step=20)
    told = capsys.readouterr()
    assert told.out.count(" found: ") == 1
    (line,) = told.err.splitlines()
    assert line.startswith(f"{output}: cannot be written: No space left on device (make room)")
    output.unlink()
    play(own, world, 10)
    assert capsys.readouterr().err == f"written again: {output}\n"
    assert read(output, Diagnosis).failures


def test_a_directory_that_is_missing_is_named_and_used_once_it_is_there(
    following: Callable[..., Following], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "no" / "diagnosis.json"
    own = following(output=output)
    play(own, world, 10)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{output}: cannot be written: No such file or directory (create its directory)")
    output.parent.mkdir()
    play(own, world, 5)
    assert read(output, Diagnosis).failures == ()


def test_bad_answers_that_come_later_are_named_once_and_end_nothing(
    following: Callable[..., Following], world: World, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = following()
    play(own, world, 10)
    assert capsys.readouterr().err == ""
    world.strange = {HOSTS[0]}
    play(own, world, 15)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"that the topology does not have: x-{HOSTS[0]}:mlx5_0 (from {url}/{HOSTS[0]})")
    world.strange = set(HOSTS)
    play(own, world, 10)
    (line,) = capsys.readouterr().err.splitlines()
    assert all(f"{url}/{host}" in line for host in HOSTS[1:4])
    assert f"{url}/{HOSTS[0]}" not in line
    assert line.endswith(" and 2 more)")


def test_a_clock_that_is_ahead_is_told_of_once_and_costs_the_others_nothing(
    following: Callable[..., Following], world: World, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.hasty, world.resolver_dead = {HOSTS[-1]: 61.0}, BEGIN + 40
    play(following(), world, 80)
    out, err = capsys.readouterr()
    assert err == (
        f"clock ahead of this one: {url}/{HOSTS[-1]} ({HOSTS[-1]}) by 61 s: what is yet to come waits: is it right?\n"
    )
    resolver, link = sorted(read(tmp_path / "diagnosis.json", Diagnosis).failures, key=lambda each: each.start)
    assert (link.component.name, link.end, resolver.component.name, resolver.end) == (BROKEN, None, "resolver-1", None)
    assert link.start == pytest.approx(world.broken, abs=2)
    assert (out.count(" found: "), out.count(" ended: ")) == (2, 0)


def test_counter_samples_of_times_to_come_wait(
    following: Callable[..., Following], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{BEGIN + 5 * at},fabric_switch_port_up_ratio,spine-0,Ethernet0,{int(at < 9)}" for at in range(20)]
    (tmp_path / "ports.csv").write_text("\n".join(["time,metric,node,port,value", *rows]))
    own = following(counters=[str(tmp_path / "ports.csv")])
    play(own, world, 30)
    assert "ports.csv (spine-0) by 90 s" in capsys.readouterr().err
    assert read(tmp_path / "diagnosis.json", Diagnosis).failures == ()


def test_a_host_whose_clock_is_slow_is_told_of(
    following: Callable[..., Following], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.ahead = -60.0
    own = following()
    play(own, world, 200, step=20)
    told = [line for line in capsys.readouterr().err.splitlines() if "is its clock right?" in line]
    assert len(told) == len(HOSTS)
    assert "its newest record is 61 s old" in told[0]


def test_an_answer_that_was_long_on_its_way_says_nothing_of_its_clock(
    following: Callable[..., Following], world: World, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = following()
    play(own, world, 10)
    name = f"{url}/{HOSTS[0]}"
    late = own._probes.fetch(BEGIN, 10.0)[name]
    own._probes._silent.add(name)
    own._probes._begun[name] = 0.0
    world.now += 60
    own._probes._answers.put((name, late))
    own.round()
    assert capsys.readouterr().err == f"back: {name}\n"


def test_records_of_another_fabric_end_it(following: Callable[..., Following], world: World) -> None:
    topology = leaf_spine(pods=1, rails=1, spines=1, hosts_per_pod=1)
    strange = Fabric(
        msgspec.structs.replace(topology, hosts=(msgspec.structs.replace(topology.hosts[0], name="x"),), links=())
    )
    with pytest.raises(ContractError, match="probe records are of RNICs that the topology does not have"):
        play(following(fabric=strange), world, 20)


def test_an_overlay_file_that_breaks_is_told_of_and_the_one_before_kept(
    following: Callable[..., Following], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "overlay.json"
    overlay.write_text('{"version": 1, "entries": []}')
    own = following(overlay=overlay)
    play(own, world, 10)
    assert capsys.readouterr().err == ""
    overlay.write_text("{")
    play(own, world, 10)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"overlay: {overlay}: ")
    assert line.endswith("the one before is used on")
