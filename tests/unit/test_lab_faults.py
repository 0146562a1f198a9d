"""Kinds of faults: their command lines, and what is refused before anything is broken."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from lab import faults
from lab.cli import parser
from lab.errors import LabError
from lab.faults import Faults
from lab.network import transit
from lab.network.design import draw
from lab.sandbox.processes import started


@pytest.mark.parametrize("kind", list(faults.kinds()), ids=lambda kind: kind.name)
def test_every_kind_explains_itself(kind: faults.Kind, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["fault", kind.name, "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert kind.help in shown
    assert all(parameter.help in shown for parameter in kind.parameters)


@pytest.mark.parametrize("kind", list(faults.kinds()), ids=lambda kind: kind.name)
def test_values_come_from_the_command_line_whole(kind: faults.Kind) -> None:
    given = [f"value{number}" for number, _ in enumerate(kind.parameters)]
    arguments = vars(parser().parse_args(["fault", kind.name, "target", *given]))
    assert arguments["target"] == "target"
    assert [arguments[name] for name in given] == given


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("no-such-kind", "x"), "no kind of fault"),
        (("silent-loss", "{link}"), "needs percent"),
        (("silent-loss", "{link}", "101"), "percent cannot be 101 %"),
        (("silent-loss", "{link}", "nan"), "percent cannot be nan %"),
        (("silent-loss", "{link}", "5", "both", "more"), "takes percent, toward"),
        (("link-down", "{link}x"), "perhaps"),
        (("rnic-slow", "{rnic}", "5", "sideways"), "one of all, vxlan, flows"),
        (("rnic-flap", "{rnic}", "2", "3"), "down must be shorter"),
        (("rnic-down", "{port}"), "no RNIC"),
        (("fdb-loop", "{container}", "all"), "a loop has two hosts"),
        (("fdb-missing", "{container}", "{own}"), "is on"),
        (("host-off", "nobody"), "no host"),
        (("gid-change", "{rnic}", "26.5"), "a whole number"),
    ],
)
def test_nonsense_is_refused_and_nothing_is_recorded(tmp_path: Path, words: tuple[str, ...], complaint: str) -> None:
    design = draw(1)
    container = design.containers[0]
    link = design.links[0]
    names = {
        "link": link.id,
        "rnic": design.rnic_end(f"{design.hosts[0].name}:mlx5_0").id,
        "port": next(
            end.id for each in design.links for end in each.ends if end.node in {s.name for s in design.leaves}
        ),
        "container": container.name,
        "own": container.host,
    }
    broken = Faults(design, tmp_path)
    with pytest.raises(LabError) as refused:
        broken.inflict(*(word.format(**names) for word in words))
    assert complaint in str(refused.value)
    assert broken.active() == ()


def test_a_lab_name_may_follow_the_kind() -> None:
    words = ["fault", "link-down", "target"]
    assert parser().parse_args([*words, "--name", "other"]).name == "other"
    assert parser().parse_args(["fault", "--name", "other", *words[1:]]).name == "other"
    assert parser().parse_args(words).name == "lab"


@pytest.mark.parametrize("words", [("fdb-wrong",), ("offload-stale",), ("fdb-loop", "{other}")])
def test_a_fault_that_needs_a_third_host_says_so(tmp_path: Path, words: tuple[str, ...]) -> None:
    design = draw(1, pods=1, hosts_per_pod=2)
    kind, *values = (word.format(other=design.hosts[1].name) for word in words)
    target = next(container.name for container in design.containers if container.host == design.hosts[0].name)
    with pytest.raises(LabError, match="third host"):
        Faults(design, tmp_path).inflict(kind, target, *values)


def test_a_lab_of_one_host_and_one_without_tenants_refuse_faults_of_the_overlay(tmp_path: Path) -> None:
    alone, without = draw(1, pods=1, hosts_per_pod=1), draw(1, tenants=0)
    with pytest.raises(LabError, match="no other host has tables"):
        Faults(alone, tmp_path).inflict("fdb-missing", alone.containers[0].name)
    with pytest.raises(LabError, match="it has none at all"):
        Faults(without, tmp_path).inflict("fdb-missing", "x")
    with pytest.raises(LabError, match="lab up --tenants 1"):
        Faults(without, tmp_path).inflict("vlan-loss", without.leaves[0].name, "x")


def _names() -> dict[str, str]:
    leaf = DESIGN.leaves[0]
    uplink, spine_port = next(DESIGN.peers(leaf.name))
    downlink = next(end for end in leaf.ports if DESIGN.far_end(end).node in {host.name for host in DESIGN.hosts})
    rnic = DESIGN.far_end(downlink)
    return {
        "leaf": leaf.name,
        "uplink": uplink.id,
        "spine_port": spine_port.id,
        "card": f"{spine_port.node}:{spine_port.linecard}",
        "link": f"{uplink.id} -- {spine_port.id}",
        "rnic": rnic.id,
        "host": rnic.node,
        "container": DESIGN.containers[0].name,
        "sibling": next(c.name for c in DESIGN.tenants[0].containers if c.host != DESIGN.containers[0].host),
    }


DESIGN = draw(1)
DISTURBED = [
    ("link-down {link}", ("port-down", "{spine_port}")),
    ("switch-offline {leaf}", ("port-flap", "{uplink}")),
    ("drain {leaf}", ("switch-offline", "{leaf}")),
    ("linecard-mtu {card}", ("port-mtu", "{spine_port}")),
    ("congestion {uplink}", ("incast", "{uplink}")),
    ("congestion {spine_port}", ("bgp-starvation", "{uplink}")),
    ("host-off {host}", ("rnic-down", "{rnic}")),
    ("rnic-flap {rnic}", ("bond-error", "{rnic}")),
    ("rnic-slow {rnic}", ("host-slow", "{host}")),
    ("offload-missing {container}", ("offload-missing", "{sibling}")),
    ("fdb-missing {container}", ("offload-stale", "{container}")),
]


@pytest.mark.parametrize(("there", "refused"), DISTURBED, ids=lambda each: str(each).split()[0])
def test_two_faults_may_not_change_the_same_thing(tmp_path: Path, there: str, refused: tuple[str, ...]) -> None:
    """Healing one would heal both, and what is recorded as broken would be whole."""
    kind, _, target = there.format(**_names()).partition(" ")
    values = {each.name: each.default for each in faults.kind(kind).parameters if each.default is not None}
    (tmp_path / "faults.json").write_bytes(msgspec.json.encode([faults.Fault(kind, target, values)]))
    broken = Faults(DESIGN, tmp_path)
    with pytest.raises(LabError, match="heal that first"):
        broken.inflict(*(word.format(**_names()) for word in refused))
    assert len(broken.active()) == 1


def test_a_fault_that_cannot_be_healed_does_not_keep_the_others(tmp_path: Path) -> None:
    """There is no lab here: nothing can be done on a node, but a resolver's burst is only a process."""
    design = transit.add(draw(1))
    assert design.transit is not None
    burst = faults.Fault("resolver-burst", design.transit.services, {"endpoints": 1.0, "pause": 1.0})
    hopeless = faults.Fault("link-down", design.links[0].id)
    (tmp_path / "faults.json").write_bytes(msgspec.json.encode([burst, hopeless]))
    broken = Faults(design, tmp_path)
    with pytest.raises(LabError, match="not healed: link-down"):
        broken.heal()
    assert broken.active() == (hopeless,)


def test_a_fault_whose_process_has_died_is_found_out_and_its_processes_are_ended(tmp_path: Path) -> None:
    site = faults.Site(DESIGN, tmp_path)
    lasting, dying = (faults.Fault("resolver-burst", name) for name in ("one", "other"))
    site.spawn(lasting, ["sleep", "60"])
    site.spawn(dying, ["true"])
    site.until(lambda: site.has_ended(dying), "true ends")
    assert not site.has_ended(lasting)
    (record,) = msgspec.json.decode(next((tmp_path / "fault-processes").glob("*one")).read_bytes())
    for fault in (lasting, dying):
        site.stop(fault)
    assert started(record["pid"]) != record["started"]
    assert not site.has_ended(dying)
