"""The exporter in a real fabric: what it counts is what the fabric did to its packets."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

import pytest

from exporter.contracts.fabric import Fabric
from lab.errors import LabError
from lab.network.design import Design
from lab.running import Running
from tests.lab.agent import LOST, PORTS, SENT, Agent, until

SYN_RETRANSMITS, RETRANSMITS = "fabric_path_tcp_syn_retransmits_total", "fabric_path_tcp_retransmits_total"


def traced(agent: Agent) -> bool:
    return agent.total("fabric_exporter_traces_total") >= len(PORTS)


@pytest.mark.usefixtures("whole")
def test_traced_links_are_a_shortest_path_of_the_design(agents: tuple[Agent, Agent], design: Design) -> None:
    near, far = agents
    near.probe(far.host, far.rnic, 1)
    until(lambda: traced(near))
    model = Fabric(design.topology())
    ends = f"{near.host.name}:{near.rnic.name}", f"{far.host.name}:{far.rnic.name}"
    possible = model.possible_links(*ends)
    found = near.links()
    assert len(found) == len(PORTS)
    assert all(len(links) == 4 and links <= possible for links in found.values())
    assert set().union(*found.values()) == possible  # sixteen ports cross every spine


def test_the_exporter_counts_each_packet_that_the_fabric_dropped(agents: tuple[Agent, Agent], whole: Running) -> None:
    """One side probes, so every drop is a probe or a reply of it, and each costs one lost probe at most one."""
    near, far = agents
    near.probe(far.host, far.rnic, 1)
    until(lambda: traced(near))
    shared = set.intersection(*near.links().values())
    spine_link = sorted(set().union(*near.links().values()) - shared)[0]
    assert near.total(LOST) == 0
    traces = near.total("fabric_exporter_traces_total")
    whole.fault("silent-loss", spine_link, "20")
    time.sleep(6)
    # The prober stands still while the far host answers what is under way; then nothing more can be dropped.
    os.kill(near.prober(), signal.SIGSTOP)
    time.sleep(0.3)
    dropped = json.loads(whole.act("dropped"))[f"silent-loss {spine_link}"]
    whole.act("heal", "all")
    os.kill(near.prober(), signal.SIGCONT)
    time.sleep(1.5)
    assert dropped > 50
    # What the standstill outlived by its timeout is unjudged: the prober cannot know that the fabric did it.
    unjudged = near.total("fabric_exporter_prober_unjudged_probes_total")
    # The rest are packets of the traces that losses brought about: three hops lie behind the link, asked twice at most,
    # and four traces may still be under way.
    traces = near.total("fabric_exporter_traces_total") - traces
    assert 0 <= dropped - near.total(LOST) - unjudged <= 6 * (traces + 4)
    assert near.total(LOST) > dropped * 0.8
    crossing = {path for path, links in near.links().items() if spine_link in links}
    returned = near.metrics()["fabric_path_probes_lost_return_total"]
    for labels, lost in near.metrics()[LOST].items():
        if dict(labels)["path"] not in crossing:
            # Such a path can only lose its replies on that link. One whose last probe stayed unjudged does not say on
            # which way the losses just before it were: five in a row are one in three thousand.
            assert lost - (4 if unjudged else 0) <= returned[labels] <= lost


def test_probing_by_hand_shows_the_hops_of_each_flow_and_a_port_that_drops_full_size_packets(
    agents: tuple[Agent, Agent], whole: Running, design: Design
) -> None:
    near, far = agents

    def probed(kind: str) -> dict[int, dict[str, Any]]:
        addresses = [far.rnic.address, "--source", near.rnic.address, "--source-port", f"{PORTS[0]}-{PORTS[-1]}"]
        options = ["--type", kind, "--key-file", str(near.key), "-c", "4", "-i", "0.2", "--json"]
        argv = [sys.executable, "-m", "exporter.cli", "probe", *addresses, *options]
        paths = json.loads(whole.run(near.host.name, argv, check=False).stdout)["paths"]
        return {path["source_port"]: path for path in paths}

    model = Fabric(design.topology())
    ends = f"{near.host.name}:{near.rnic.name}", f"{far.host.name}:{far.rnic.name}"
    spine_ports = [port for link in model.possible_links(*ends) for port in link.split(" -- ") if "spine" in port]
    hops = {port: [next(iter(hop["addresses"])) for hop in path["hops"]] for port, path in probed("trace").items()}
    assert {len(addresses) for addresses in hops.values()} == {4}
    assert {addresses[-1] for addresses in hops.values()} == {far.rnic.address}
    assert len({tuple(addresses) for addresses in hops.values()}) == len(design.spines)
    whole.fault("port-mtu", spine_ports[0], "1500")
    dead = {port for port, path in probed("mtu").items() if not path["answered"]}
    by_spine = {spine: {port for port in hops if hops[port][1] == spine} for spine in {a[1] for a in hops.values()}}
    assert dead in by_spine.values()  # the flows over one spine, and no other


def test_routers_that_send_no_icmp_leave_traces_incomplete_and_make_no_links(
    agents: tuple[Agent, Agent], whole: Running, design: Design
) -> None:
    near, far = agents
    rules = "add table ip silent; add chain ip silent out { type filter hook output priority 0; };"
    rules += "add rule ip silent out icmp type time-exceeded drop"
    try:
        for spine in design.spines:
            whole.run(spine.name, ["nft", rules])
        near.probe(far.host, far.rnic, 1)
        until(lambda: near.total("fabric_exporter_traces_incomplete_total") >= len(PORTS))
        assert near.total("fabric_exporter_traces_total") == near.total("fabric_exporter_traces_incomplete_total")
        assert near.links() == {}
        assert near.total(LOST) == 0  # probes live: a router's silence is not loss
        assert near.total(SENT) > 0
    finally:
        for spine in design.spines:
            whole.run(spine.name, ["nft", "delete table ip silent"], check=False)


def test_an_agent_that_hangs_answers_nobody_while_its_host_lives(agents: tuple[Agent, Agent], whole: Running) -> None:
    near, far = agents
    near.probe(far.host, far.rnic, 1)
    until(lambda: near.total(SENT) > 100)
    assert near.total(LOST) == 0
    whole.fault("agent-stop", far.host.name)
    until(lambda: near.total(LOST) > 50)
    ping = f"ping -q -c 20 -i 0.02 -W 1 -I {near.rnic.address} {far.rnic.address}".split()
    assert " 0% packet loss" in whole.run(near.host.name, ping).stdout, "the host itself lives"
    whole.act("heal", "all")
    time.sleep(1)  # what was sent meanwhile is lost half a second later
    before = near.metrics()
    time.sleep(2)
    after = near.metrics()
    assert sum(after[SENT].values()) - sum(before[SENT].values()) > 100
    assert sum(after[LOST].values()) - sum(before[LOST].values()) == 0


def test_a_host_without_an_agent_cannot_lose_it(fabric: Running, design: Design) -> None:
    with pytest.raises(LabError, match="no exporter runs"):
        fabric.fault("agent-stop", design.hosts[-1].name)
    fabric.act("heal", "all")


def test_syns_and_segments_that_a_link_drops_are_sent_again_and_counted_apart_from_loss(
    agents: tuple[Agent, Agent], whole: Running, design: Design
) -> None:
    """A link that drops a fifth each way loses over a third of the handshakes' first SYNs, and few handshakes."""
    near, far = agents
    ports = range(PORTS.start, PORTS.start + 32)
    near.follow((near.target(far.host, far.rnic, port, "tcp", 0.5) for port in ports), 1)
    until(lambda: near.total(SENT) >= 2 * len(ports))
    assert near.total(LOST) == near.total(SYN_RETRANSMITS) == near.total(RETRANSMITS) == 0
    echoes = near.metrics()["fabric_path_tcp_echo_rtt_seconds"]
    assert len(echoes) == len(ports)
    assert all(0 < seconds < 0.1 for seconds in echoes.values())
    before = near.total(SENT)
    cable = Fabric(design.topology()).link_of(f"{far.host.name}:{far.rnic.name}")
    assert cable is not None
    whole.fault("silent-loss", cable, "20")
    time.sleep(6)
    whole.act("heal", "all")
    time.sleep(2)
    sent, lost = near.total(SENT) - before, near.total(LOST)
    again = near.total(SYN_RETRANSMITS)
    assert near.total("fabric_path_probes_unsent_total") == 0, "a handshake under way is not the host's trouble"
    assert 0.15 * sent < again < 0.6 * sent  # 1 - 0.8 * 0.8 = 0.36
    assert 0 < lost < 0.6 * again
    assert near.total(RETRANSMITS) > 0
    assert near.total("fabric_path_tcp_resets_total") == 0
