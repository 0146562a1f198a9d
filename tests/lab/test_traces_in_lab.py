"""Traces in a real fabric: a flow's own way over UDP and TCP, and what a failing one shows."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable

import pytest

from exporter.contracts.fabric import Fabric
from lab.network.design import Design, Host
from lab.running import Running
from tests.lab.agent import LOST, PORTS, Agent, until
from tests.lab.test_icmp import counters

UNSENT = "fabric_path_probes_unsent_total"
REFUSED = "fabric_path_probes_refused_total"
CEILING = 5.0
"""Packets a second: less than sixteen flows want that are traced every two seconds."""

Start = Callable[..., list[Agent]]
Hosts = tuple[Host, Host]


@pytest.fixture
def tracing(start: Start, hosts: Hosts) -> tuple[Agent, Agent]:
    """Agents on two hosts of two pods; the first traces every second, the second answers only."""
    near, far = start(*hosts, trace_period_seconds=1.0, ceilings={"trace_packets_per_second_per_switch": 60})
    return near, far


def by_path(agent: Agent, name: str) -> dict[str, float]:
    return {dict(labels)["path"]: value for labels, value in agent.metrics()[name].items()}


def last_hops(agent: Agent) -> dict[str, tuple[str, str]]:
    """{failing path: (hop, outcome)}."""
    found = (dict(labels) for labels in agent.metrics()["fabric_path_trace_last_hop_info"])
    return {labels["path"]: (labels["hop"], labels["outcome"]) for labels in found}


def silent(agent: Agent) -> set[str]:
    """Failing paths whose trace ended where nobody answered."""
    return {path for path, (_, outcome) in last_hops(agent).items() if outcome == "silent"}


@pytest.mark.parametrize("period", [1.0, 0.1])
def test_a_tcp_path_is_traced_on_its_own_flow_between_its_probes(
    tracing: tuple[Agent, Agent], whole: Running, design: Design, period: float
) -> None:
    near, far = tracing
    near.probe(far.host, far.rnic, 1, "tcp", period)
    until(lambda: len(near.links()) == len(PORTS))
    before = [near.total(name) for name in (LOST, REFUSED, UNSENT)]  # a far end that came up later has refused some
    until(lambda: near.total("fabric_exporter_traces_total") > 3 * len(PORTS))
    *same, unsent = [near.total(name) for name in (LOST, REFUSED, UNSENT)]
    assert same == before[:2]
    assert unsent - before[2] < 3 * len(PORTS), "traces take no probes' places; a stall leaves out some of each flow"
    model = Fabric(design.topology())
    ends = f"{near.host.name}:{near.rnic.name}", f"{far.host.name}:{far.rnic.name}"
    links = near.links()
    assert all(len(crossed) == 4 for crossed in links.values())
    assert set().union(*links.values()) == model.possible_links(*ends)
    # The proof that it is the flow's own way: what crosses a link that drops everything answers no more.
    link = sorted(set().union(*links.values()) - set.intersection(*links.values()))[0]
    crossing = {path for path, crossed in links.items() if link in crossed}
    whole.fault("silent-loss", link, "100")
    time.sleep(2)
    replies = by_path(near, "fabric_path_last_reply_timestamp_seconds")
    time.sleep(2)
    after = by_path(near, "fabric_path_last_reply_timestamp_seconds")
    assert {path for path in after if after[path] == replies[path]} >= crossing
    assert {path for path, crossed in near.links().items() if link in crossed} == crossing, "the route is frozen"


def test_a_failing_path_says_where_its_trace_ends_and_keeps_its_route(
    agents: tuple[Agent, Agent], whole: Running, design: Design
) -> None:
    """UDP one way and TCP the other. Each flow is traced once an hour: what is seen here, losses have brought about."""
    udp, tcp = agents
    udp.probe(tcp.host, tcp.rnic, 1, "udp", 0.7)
    tcp.probe(udp.host, udp.rnic, 1, "tcp", 0.7)
    until(lambda: all(len(agent.links()) == len(PORTS) for agent in agents))
    assert [last_hops(agent) for agent in agents] == [{}, {}]
    links = [agent.links() for agent in agents]
    hashes = [by_path(agent, "fabric_path_route_hash") for agent in agents]

    def crossing_of(link: str) -> list[set[str]]:
        return [{path for path, crossed in each.items() if link in crossed} for each in links]

    # Flows whose replies cross the link fail too, and the few that are traced may all be of those where few cross it
    # on their way out: so the link that the most of either agent do.
    sometimes = set().union(*links[0].values()) - set.intersection(*links[0].values())
    link = max(sorted(sometimes), key=lambda link: min(map(len, crossing_of(link))))
    crossing = crossing_of(link)
    assert all(crossing)
    traces = [agent.total("fabric_exporter_traces_total") for agent in agents]
    began = time.monotonic()
    whole.fault("silent-loss", link, "100")
    until(lambda: all(silent(agent) & paths for agent, paths in zip(agents, crossing, strict=True)), 60)
    time.sleep(4)
    few = 4 + math.ceil((time.monotonic() - began) / 7.5)  # four of a destination at once, then one each 7.5 s
    ends = [end.partition(":")[0] for end in link.split(" -- ")]
    for number, agent in enumerate(agents):
        cable = design.link_at(design.rnic_end(f"{agent.host.name}:{agent.rnic.name}"))
        leaf = next(end.node for end in (cable.a, cable.b) if end.node != agent.host.name)
        before = leaf if leaf in ends else next(end for end in ends if end in {spine.name for spine in design.spines})
        found = last_hops(agent)
        assert {found[path][0].partition(":")[0] for path in found.keys() & crossing[number]} == {before}
        assert len(found) <= few, "a few of a destination's flows stand for all"
        assert agent.total("fabric_exporter_traces_total") - traces[number] <= few + 1
        assert agent.links() == links[number]
        assert by_path(agent, "fabric_path_route_hash") == hashes[number]
    whole.act("heal", "all")
    until(lambda: all(last_hops(agent) == {} for agent in agents), 40)


def test_a_change_and_a_change_back_show_in_the_hash(tracing: tuple[Agent, Agent], whole: Running) -> None:
    near, far = tracing
    near.probe(far.host, far.rnic, 1, "udp", 5)  # few are lost as routes change: each would freeze its flow's
    until(lambda: len(near.links()) == len(PORTS))
    hashes, links = by_path(near, "fabric_path_route_hash"), near.links()
    link = sorted(set().union(*links.values()) - set.intersection(*links.values()))[0]
    crossing = {path for path, crossed in links.items() if link in crossed}
    whole.fault("link-down", link)
    until(lambda: not any(link in crossed for crossed in near.links().values()), 60)
    now, changes = by_path(near, "fabric_path_route_hash"), by_path(near, "fabric_path_route_changes_total")
    assert all(now[path] != hashes[path] and changes[path] >= 1 for path in crossing)
    assert all(now[path] == hashes[path] for path in hashes.keys() - crossing if not changes[path])
    whole.act("heal", "all")
    until(lambda: by_path(near, "fabric_path_route_hash") == hashes, 60)
    assert near.links() == links


def test_no_switch_is_asked_more_often_than_the_ceiling_says(
    start: Start, hosts: Hosts, whole: Running, design: Design
) -> None:
    """By the switches' own counters of the ICMP errors that they sent and policed."""
    near, far = start(*hosts, trace_period_seconds=2.0, ceilings={"trace_packets_per_second_per_switch": CEILING})
    near.probe(far.host, far.rnic, 1, "udp", 0.5)
    switches = [switch.name for switch in design.switches]

    def answered() -> dict[str, int]:
        counts = {switch: counters(whole, switch) for switch in switches}
        return {switch: counts[switch]["errors_sent"] + counts[switch]["errors_policed"] for switch in switches}

    before, began = answered(), time.monotonic()
    time.sleep(10)
    rates = {switch: (count - before[switch]) / (time.monotonic() - began) for switch, count in answered().items()}
    assert max(rates.values()) <= CEILING * 1.05
    assert max(rates.values()) >= CEILING * 0.7, "the leaf's turns are all used"
    assert near.total("fabric_exporter_traces_delayed_total") > 10


def test_ecmp_enumeration_finds_every_spine_and_the_share_of_each(
    tracing: tuple[Agent, Agent], whole: Running, design: Design
) -> None:
    near, far = tracing
    options = ["--source", near.rnic.address, "--type", "trace", "--ecmp", "--key-file", str(near.key)]
    argv = [sys.executable, "-m", "exporter.cli", "probe", far.rnic.address, *options]
    found = json.loads(whole.run(near.host.name, [*argv, "--json"], check=False).stdout)
    print(whole.run(near.host.name, argv, check=False).stdout)
    assert found["conclusive"]
    assert found["reached"] == found["flows"] >= 11
    assert len(found["routes"]) == len(design.spines)
    second = [hop for hop in found["hops"] if hop["hop"] == 2]
    assert sum(hop["share_ratio"] for hop in second) == pytest.approx(1, abs=0.001)
    assert all(hop["rtt_seconds"]["min"] > 0 for hop in found["hops"])
    for route in found["routes"]:  # and each port goes that way when it is traced alone
        single = [
            *argv[:-3],
            "--key-file",
            str(near.key),
            "--source-port",
            str(route["source_ports"][0]),
            "-c",
            "2",
            "--json",
        ]
        (path,) = json.loads(whole.run(near.host.name, single, check=False).stdout)["paths"]
        assert [next(iter(hop["addresses"])) for hop in path["hops"]] == route["hops"]
