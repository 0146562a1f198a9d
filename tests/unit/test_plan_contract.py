"""The plan contract: what an exporter would refuse, each with its line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from exporter.contracts.codec import ContractError, encode
from exporter.contracts.plan import Plan, Target, read_plan

TARGET = Target(
    path="p",
    source="a/0",
    destination="b/0",
    probe="udp",
    source_address="10.0.0.1",
    destination_address="10.0.0.2",
    source_ports=(49152,),
    traffic_class=106,
    payload_bytes=64,
    period_seconds=1.0,
    active=True,
)
PLAN = Plan(version=1, job="j", job_uid=None, phase="skeleton", generation=1, expires=2e9, targets=(TARGET,))


def written(directory: Path, *targets: dict[str, object]) -> Path:
    path = directory / "plan.json"
    document = msgspec.to_builtins(PLAN)
    document["targets"] = [{**msgspec.to_builtins(TARGET), **changes} for changes in targets]
    path.write_bytes(encode(document))
    return path


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_plan(written(tmp_path, {})) == PLAN


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_ports": []}, "field 'targets[0]': source_ports is empty"),
        ({"source": "a"}, "field 'targets[0]': endpoint 'a' is not written container/rnic"),
        ({"destination": "b/"}, "field 'targets[0]': endpoint 'b/' is not written container/rnic"),
        (
            {"source_address": "host-1"},
            "field 'targets[0]': 'host-1' does not appear to be an IPv4 or IPv6 address",
        ),
        ({"destination_address": "239.1.1.1"}, "field 'targets[0]': 239.1.1.1 is not a unicast address"),
        ({"destination_address": "0.0.0.0"}, "field 'targets[0]': 0.0.0.0 is not a unicast address"),
        ({"destination_address": "255.255.255.255"}, "field 'targets[0]': 255.255.255.255 is not a unicast address"),
        ({"destination_address": "::"}, "field 'targets[0]': :: is not a unicast address"),
        ({"destination_address": "FF02::1"}, "field 'targets[0]': FF02::1 is not a unicast address"),
        ({"destination_address": "::ffff:239.1.1.1"}, "field 'targets[0]': ::ffff:239.1.1.1 is not a unicast address"),
        (
            {"destination_address": "fe80::1%eth0"},
            "field 'targets[0]': 'fe80::1%eth0' has a zone, which no other host knows",
        ),
        ({"path": ""}, "field 'targets[0].path': Expected `str` of length >= 1"),
        ({"path": "x" * 301}, "field 'targets[0].path': Expected `str` of length <= 300"),
        ({"probe": "icmp"}, "field 'targets[0].probe': 'icmp' is none of rdma, tcp, udp, mtu, dns, trace"),
        ({"source_ports": [1023]}, "field 'targets[0].source_ports[0]': Expected `int` >= 1024"),
        ({"traffic_class": 256}, "field 'targets[0].traffic_class': Expected `int` <= 255"),
        ({"payload_bytes": 65508}, "field 'targets[0].payload_bytes': Expected `int` <= 65507"),
        ({"period_seconds": 0.001}, "field 'targets[0].period_seconds': Expected `float` >= 0.01"),
        ({"destination_port": 0}, "field 'targets[0].destination_port': Expected `int` >= 1"),
    ],
)
def test_a_wrong_target_is_refused_with_its_line(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, changes)
    with pytest.raises(ContractError) as refusal:
        read_plan(path)
    assert str(refusal.value) == f"{path}: {message}"


def test_addresses_are_read_in_one_spelling(tmp_path: Path) -> None:
    """They are compared with those that packets come from, which the kernel writes."""
    path = written(
        tmp_path,
        {"source_address": "FD00:0::0001", "destination_address": "fd00::00a0:2"},
        {"path": "mapped", "source_address": "::ffff:10.0.0.1", "destination_address": "::FFFF:0a00:0002"},
    )
    plain, mapped = read_plan(path).targets
    assert (plain.source_address, plain.destination_address) == ("fd00::1", "fd00::a0:2")
    assert (mapped.source_address, mapped.destination_address) == ("10.0.0.1", "10.0.0.2")


def test_a_path_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"field 'targets\[1\]': path 'p' appears twice$"):
        read_plan(written(tmp_path, {}, {"probe": "tcp"}))
