"""The plan file as an exporter takes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from exporter.contracts.codec import encode, write
from exporter.contracts.plan import Target
from exporter.planfile import PlanFile, own_part, split
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
    plan, _ = own_part(msgspec.structs.replace(PLAN, targets=(ours, theirs)), {"10.0.0.1"}, now=0, limit=10)
    assert [(target.path, target.source_ports) for target in plan.targets] == [
        ("ours#49152", (49152,)),
        ("ours#49153", (49153,)),
    ]


def test_a_single_port_keeps_its_name() -> None:
    assert own_part(PLAN, {"10.0.0.1"}, now=0, limit=10)[0].targets == (TARGET,)


def test_an_expired_plan_is_empty() -> None:
    assert own_part(PLAN, {"10.0.0.1"}, now=PLAN.expires, limit=10)[0].targets == ()


def test_a_plan_over_the_limit_is_cut_and_said() -> None:
    many = tuple(msgspec.structs.replace(TARGET, path=f"p{n}") for n in range(50))
    plan, left_out = own_part(msgspec.structs.replace(PLAN, targets=many), {"10.0.0.1"}, now=0, limit=30)
    kept = [int(target.path[1:]) for target in plan.targets]
    assert len(set(kept)) == 30
    assert left_out == 20
    assert max(kept) > 40  # cut over the whole plan, not its tail


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
    rest, own = split(msgspec.structs.replace(PLAN, targets=targets), {"10.0.0.1", "fd00::1"})
    assert [target.path for target in own.targets] == ["ipv4", "ipv6"]
    assert [target.path for target in rest.targets] == [TARGET.path, "mixed", "link-local", "second address"]
