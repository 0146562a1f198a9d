"""Classes, coverage and spraying in a real fabric: a switch that sprays packet by packet, and a queue that drops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from exporter.contracts.codec import encode, read
from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.fabric import Fabric
from exporter.contracts.plan import read_plan
from exporter.contracts.skeleton import Edge
from lab.network.design import Design, Host, Switch
from lab.running import Running
from skeleton_service.cli import main
from skeleton_service.planning.preload import unobserved
from tests.lab.agent import LOST, PORTS, Agent, until

SPRAYED = "fabric_exporter_sprayed_flows"
FIRST_TABLE = 9000

Start = Callable[..., list[Agent]]


@contextmanager
def spraying(lab: Running, design: Design, leaf: Switch) -> Iterator[None]:
    """The leaf sends each packet of its hosts over a spine of its own choice (nftables' numgen, one table a spine)."""
    up = [(own, far) for own, far in design.peers(leaf.name)]
    down = ", ".join(port.netdev for port in leaf.ports if port not in [own for own, _ in up])
    ways = ", ".join(f"{number}: {number + 1}" for number in range(len(up)))
    rules = (
        "add table ip spray; add chain ip spray in { type filter hook prerouting priority mangle; };"
        f"add rule ip spray in iifname {{ {down} }} meta mark set numgen random mod {len(up)} map {{ {ways} }}"
    )
    try:
        for number, (own, far) in enumerate(up, start=1):
            table = str(FIRST_TABLE + number)
            lab.run(leaf.name, ["ip", "route", "add", "default", "via", far.address, "dev", own.netdev, "table", table])
            lab.run(leaf.name, ["ip", "rule", "add", "fwmark", str(number), "lookup", table, "priority", table])
        lab.run(leaf.name, ["nft", rules])
        yield
    finally:
        lab.run(leaf.name, ["nft", "delete table ip spray"], check=False)
        for number in range(1, len(up) + 1):
            table = str(FIRST_TABLE + number)
            lab.run(leaf.name, ["ip", "rule", "del", "priority", table], check=False)
            lab.run(leaf.name, ["ip", "route", "flush", "table", table], check=False)


def leaf_of(design: Design, host: Host) -> Switch:
    name = Fabric(design.topology()).leaf_of(f"{host.name}:{host.rnics[0].name}")
    return next(switch for switch in design.switches if switch.name == name)


def shares(agent: Agent) -> list[dict[str, float]]:
    """{link: value} of ``fabric_path_link_info``, path by path."""
    found: dict[str, dict[str, float]] = {}
    for labels, value in agent.metrics()["fabric_path_link_info"].items():
        named = dict(labels)
        found.setdefault(named["path"], {})[named["link"]] = value
    return list(found.values())


@pytest.mark.parametrize("told", [False, True], ids=["found out", "told"])
def test_a_switch_that_sprays_gives_each_link_its_share(
    told: bool, start: Start, whole: Running, design: Design, hosts: tuple[Host, Host]
) -> None:
    near, far = hosts
    expected = Fabric(design.topology()).link_shares(
        f"{near.name}:{near.rnics[0].name}", f"{far.name}:{far.rnics[0].name}"
    )
    start(far)
    often = {"trace_period_seconds": 0.5, "ceilings": {"trace_packets_per_second_per_switch": 60}}
    (agent,) = start(near, **({"spraying": True} if told else often))
    with spraying(whole, design, leaf_of(design, near)):
        agent.probe(far, far.rnics[0], 1)
        until(lambda: agent.total(SPRAYED) == len(PORTS), 60)
        until(lambda: len(shares(agent)) == len(PORTS))
        assert all(each == pytest.approx(expected) for each in shares(agent))
        assert agent.total("fabric_rnic_links_covered") == agent.total("fabric_rnic_links_possible") == len(expected)
        assert agent.total(LOST) == 0
        if told:
            assert agent.total("fabric_exporter_traces_total") == 0
        before = agent.metrics()
        uplink = next(link for link, share in expected.items() if share < 1 and leaf_of(design, near).name in link)
        whole.fault("silent-loss", uplink, "40")
        time.sleep(5)
        after = agent.metrics()
        whole.act("heal", "all")
        lost = [after[LOST][labels] - before[LOST][labels] for labels in before[LOST]]
        assert min(lost) > 0  # each flow sends some packets over that link, whatever its ports
        assert agent.total(SPRAYED) == len(PORTS)


def test_a_queue_that_drops_one_class_is_told_from_a_cable(
    start: Start, whole: Running, design: Design, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    topology, skeleton, plan = (tmp_path / f"{name}.json" for name in ("topology", "skeleton", "plan"))
    agents = start(*hosts)
    bare = unobserved("j", design.topology(), [host.name for host in hosts])
    edges = (Edge(a=bare.endpoints[0].id, b=bare.endpoints[len(bare.endpoints) // 2].id, role="pp"),)
    skeleton.write_bytes(encode(msgspec.structs.replace(bare, edges=edges)))
    options = ["--skeleton", str(skeleton), "--topology", str(topology), "--exploration", "0"]
    assert main(["plan", *options, "--output", str(plan)]) == 0
    # Four times as often as planned: what half a minute would show is there in eight seconds.
    planned = read_plan(plan)
    targets = [msgspec.structs.replace(each, period_seconds=each.period_seconds / 4) for each in planned.targets]
    for agent in agents:
        agent.obey(msgspec.structs.replace(planned, targets=tuple(targets)))
    near = agents[0]
    pair = {each.path for each in targets if each.role == "pp"}
    own = [each.path for each in targets if each.source_host == near.host.name]
    until(lambda: len(shares(near)) == len(own), 40)
    metrics = near.metrics()
    classes = {dict(labels)["dscp"] for labels in metrics["fabric_path_info"]}
    assert classes == {"26", "0"}
    assert len(metrics["fabric_path_info"]) == near.total("fabric_exporter_paths")
    ways = [dict(labels) for labels in metrics["fabric_path_link_info"]]
    (rnic,) = {each["path"].partition(">")[0] for each in ways if "/udp/2/" in each["path"] and each["path"] in pair}
    crossed = {way["link"] for way in ways if way["path"].startswith(f"{rnic}>")}
    of_rnic = (("host", near.host.name), ("rnic", rnic.partition(":")[2]))
    covered, possible = (metrics[f"fabric_rnic_links_{name}"][of_rnic] for name in ("covered", "possible"))
    assert covered == len(crossed) <= possible
    control = {way["link"] for way in ways if "/udp/2/" in way["path"] and way["path"] in pair}
    spines = {spine.name for spine in design.spines}
    fault = next(link.id for link in design.links if link.id in control and {link.a.node, link.b.node} & spines)
    since = time.time()
    whole.fault("class-loss", fault, "50")
    time.sleep(8)
    records = [tmp_path / f"{agent.host.name}.csv" for agent in agents]
    for file, agent in zip(records, agents, strict=True):
        file.write_text(agent.get(f"/v1/probe-records?since={since}"))
    whole.act("heal", "all")
    words = ["--probes", *map(str, records), "--topology", str(topology), "--skeleton", str(skeleton)]
    assert main(["diagnose", *words, "--output", str(tmp_path / "diagnosis.json")]) == 0
    (failure,) = [each for each in read(tmp_path / "diagnosis.json", Diagnosis).failures if each.layer == "underlay"]
    assert "other probes over the same are unharmed: look at what is special to DSCP 26" in failure.evidence, failure
    assert failure.component.name == fault or fault in {each.name for each in failure.alternatives}
