"""The plan file as an exporter takes it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from exporter.contracts.codec import encode, write
from exporter.contracts.plan import Target
from exporter.contracts.topology import Host, Rnic, Topology
from exporter.planfile import MOST_PLANS, Destinations, JobPath, PlanFile, PlanFiles, own_part, split
from tests.unit.test_plan_contract import PLAN, TARGET


def test_a_plan_is_taken_once_and_a_bad_one_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    file = PlanFile(str(path))
    assert not file.changed()
    write(path, encode(PLAN))
    assert file.changed()
    assert not file.changed()
    path.write_text("{")
    assert not file.changed()
    assert not file.changed()
    assert (file.plan, file.rejected) == (PLAN, 1)
    assert capsys.readouterr().err.startswith(f"plan refused: {path}: is not valid JSON")
    os.unlink(path)
    assert not file.changed()
    assert file.plan == PLAN
    write(path, encode(msgspec.structs.replace(PLAN, generation=2)))
    assert file.changed()
    assert file.plan.generation == 2


def test_only_what_starts_here_is_taken_one_path_a_port() -> None:
    ours = msgspec.structs.replace(TARGET, path="ours", source_ports=(49152, 49153))
    theirs = msgspec.structs.replace(TARGET, path="theirs", source_address="10.0.0.9")
    work = own_part([msgspec.structs.replace(PLAN, targets=(ours, theirs))], {"10.0.0.1"}, limit=10)
    assert [(target.path, target.source_ports) for target in work.targets] == [
        ("ours#49152", (49152,)),
        ("ours#49153", (49153,)),
    ]
    assert set(work.jobs) == {"ours#49152", "ours#49153"}


def test_only_addresses_of_the_topology_and_named_networks_are_probed() -> None:
    hosts = (
        Host(name="a", vteps=("192.0.2.9",), rnics=(Rnic(name="r", ip="10.0.0.2", ips=("2001:db8:0::1",)),)),
    )  # fmt: skip
    allowed = Destinations(Topology(version=1, hosts=hosts, switches=(), links=()), ["198.51.100.0/24"])
    near = ["10.0.0.2", "192.0.2.9", "2001:db8::1", "2001:db8:0:0::1", "::ffff:10.0.0.2", "198.51.100.7"]
    far = ["10.0.0.3", "8.8.8.8", "2001:db8::2", "198.51.101.1"]
    targets = [msgspec.structs.replace(TARGET, path=each, destination_address=each) for each in near + far]
    plan = msgspec.structs.replace(PLAN, targets=tuple(targets))
    work = own_part([plan], {"10.0.0.1"}, 100, allowed)
    assert [target.path for target in work.targets] == near
    assert set(work.jobs) == set(near)
    assert work.elsewhere == len(far)
    assert own_part([plan], {"10.0.0.1"}, 100).elsewhere == 0


def test_a_single_port_keeps_its_name() -> None:
    work = own_part([PLAN], {"10.0.0.1"}, limit=10)
    assert work.targets == (TARGET,)
    assert work.jobs == {TARGET.path: (JobPath("j", TARGET.role, TARGET.probe, "26"),)}


def test_a_plan_over_the_limit_is_cut_and_said() -> None:
    many = tuple(msgspec.structs.replace(TARGET, path=f"p{n}") for n in range(50))
    work = own_part([msgspec.structs.replace(PLAN, targets=many)], {"10.0.0.1"}, limit=30)
    kept = [int(target.path[1:]) for target in work.targets]
    assert len(set(kept)) == 30
    assert work.over_limit == 20
    assert max(kept) > 40  # cut over the whole plan, not its tail
    assert {f"p{n}" for n in kept} == set(work.jobs)


def test_a_path_of_two_jobs_is_probed_once_as_often_as_either_wants() -> None:
    slow = msgspec.structs.replace(TARGET, period_seconds=5.0, active=False)
    fast = msgspec.structs.replace(TARGET, period_seconds=1.0, active=True, role="pp")
    plans = [msgspec.structs.replace(PLAN, job=job, targets=(each,)) for job, each in (("a", slow), ("b", fast))]
    work = own_part(plans, {"10.0.0.1"}, limit=10)
    (target,) = work.targets
    assert (target.period_seconds, target.active) == (1.0, True)
    assert [(each.job, each.role) for each in work.jobs[TARGET.path]] == [("a", slow.role), ("b", "pp")]
    twice = own_part([PLAN, PLAN], {"10.0.0.1"}, limit=10)
    assert (len(twice.targets), len(twice.jobs[TARGET.path])) == (1, 1)


class Plans:
    """A directory of plan files and who follows them; all expire at PLAN.expires but those told otherwise."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "plans"
        self.directory.mkdir()
        self.files = PlanFiles(str(self.directory))

    def put(self, job: str, generation: int = 1, expires: float = PLAN.expires) -> None:
        plan = msgspec.structs.replace(PLAN, job=job, generation=generation, expires=expires)
        write(self.directory / f"{job}.json", encode(plan))

    @property
    def jobs(self) -> list[str]:
        return [plan.job for plan in self.files.valid]


def test_a_directory_holds_a_plan_for_each_job(tmp_path: Path) -> None:
    plans = Plans(tmp_path)
    now = PLAN.expires - 100
    assert not plans.files.follow(now)
    assert math.isnan(plans.files.generation)
    plans.put("b", generation=7)
    plans.put("a", expires=PLAN.expires + 50)
    (plans.directory / ".a.json.half").write_text("{")
    (plans.directory / "README").write_text("what the service wrote")
    assert plans.files.follow(now)
    assert plans.jobs == ["a", "b"]
    assert (plans.files.generation, plans.files.expires) == (7, PLAN.expires)
    assert not plans.files.follow(now)
    plans.put("a", generation=9, expires=PLAN.expires + 50)
    assert plans.files.follow(now)
    assert plans.files.generation == 9


def test_a_plan_that_is_taken_out_of_the_directory_ends_at_once(tmp_path: Path) -> None:
    plans = Plans(tmp_path)
    plans.put("a")
    plans.put("b")
    plans.files.follow(0)
    (plans.directory / "a.json").unlink()
    assert plans.files.follow(0)
    assert plans.jobs == ["b"]


def test_without_the_directory_its_plans_last_until_they_expire(tmp_path: Path) -> None:
    plans = Plans(tmp_path)
    plans.put("a")
    plans.files.follow(0)
    plans.directory.rename(tmp_path / "elsewhere")
    assert not plans.files.follow(1)
    assert plans.jobs == ["a"]
    assert plans.files.follow(PLAN.expires)
    assert plans.jobs == []
    assert math.isnan(plans.files.expires)


def test_one_job_expires_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = Plans(tmp_path)
    plans.put("a")
    plans.put("b", expires=PLAN.expires + 50)
    plans.files.follow(0)
    assert plans.files.follow(PLAN.expires + 1)
    assert plans.jobs == ["b"]
    assert plans.files.expires == PLAN.expires, "its file is there: somebody should renew it"
    assert capsys.readouterr().err == "plan of job a has expired: its paths are not probed\n"


def test_a_bad_file_of_the_directory_spoils_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = Plans(tmp_path)
    plans.put("a")
    (plans.directory / "b.json").write_text("{")
    assert plans.files.follow(0)
    assert (plans.jobs, plans.files.rejected, plans.files.refused) == (["a"], 1, True)
    assert "b.json: is not valid JSON" in capsys.readouterr().err
    (plans.directory / "b.json").unlink()
    assert not plans.files.follow(0)
    assert (plans.files.rejected, plans.files.refused) == (1, False)


def test_a_flood_of_files_is_cut_and_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = Plans(tmp_path)
    for number in range(MOST_PLANS + 5):
        plans.put(f"j{number:03}")
    plans.files.follow(0)
    plans.files.follow(0)
    assert len(plans.jobs) == MOST_PLANS
    assert capsys.readouterr().err.count(f"holds {MOST_PLANS + 5} files: {MOST_PLANS} are read") == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(b'"job": "j"', b'"job": "\xff"'),
        lambda text: text.replace(b'"generation": 1', b'"generation": 1180591620717411303424'),
        lambda text: text.replace(
            b'"probe": "udp"',
            b'"probe": "udp", "responder": {"queue_pair": 1, "boot_epoch": 1180591620717411303424}',
        ),
    ],
    ids=["not UTF-8", "generation", "boot epoch"],
)
def test_a_plan_with_bytes_or_numbers_beyond_its_types_is_refused_in_one_line(
    spoil: Callable[[bytes], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a plan used to end the exporter with a traceback."""
    good = encode(PLAN)
    assert spoil(good) != good
    for name in ("plan.json", "plan.yaml"):
        path = tmp_path / name
        path.write_bytes(spoil(good))
        file = PlanFile(str(path))
        assert not file.changed()
        assert (file.plan, file.refused, file.rejected) == (None, True, 1)
        error = capsys.readouterr().err
        assert error.startswith(f"plan refused: {path}: ")
        assert error.count("\n") == 1


def test_rdma_probes_go_between_addresses_of_one_kind_from_those_that_can() -> None:
    def rdma(path: str, source: str, destination: str) -> Target:
        return msgspec.structs.replace(
            TARGET, path=path, probe="rdma", source_address=source, destination_address=destination
        )

    targets = (
        TARGET,
        rdma("ipv4", "10.0.0.1", "10.0.0.2"),
        rdma("ipv6", "fd00::1", "fd00::2"),
        rdma("mixed", "10.0.0.1", "fd00::2"),
        rdma("link-local", "fd00::1", "fe80::2"),
        rdma("second address", "10.0.1.1", "10.0.0.2"),
    )
    rest, own = split(targets, {"10.0.0.1", "fd00::1"})
    assert [target.path for target in own] == ["ipv4", "ipv6"]
    assert [target.path for target in rest] == [TARGET.path, "mixed", "link-local", "second address"]
