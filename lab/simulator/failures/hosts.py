"""Failures of hosts and containers."""

from __future__ import annotations

import numpy as np

from exporter.contracts.overlay import Entry
from lab.simulator.failures.catalogue import failure
from lab.simulator.failures.flows import Kinds
from lab.simulator.failures.rnics import slow_receiver
from lab.simulator.failures.scene import Scene


@failure("container-crash", "a container dies", row=17, symptom="unreachable", kinds=Kinds(overlay=True))
def container_crash(scene: Scene) -> None:
    """Its overlay addresses are silent and it probes no more; the host's underlay lives."""
    container = scene.container()
    owned = scene.owned(container)
    inside = scene.flows.overlay
    here, there = np.isin(scene.flows.source, owned), np.isin(scene.flows.destination, owned)
    scene.lose_flows(inside & there & ~here, np.zeros_like(inside))
    scene.absent.append((inside & here, scene.clock.during[0]))
    host = scene.wiring.rnics[owned[0]].partition(":")[0]

    def unplugged(entry: Entry) -> Entry | None:
        return None if entry.next == f"local:{container}" else entry

    scene.tables.edit(host, "rnic", unplugged)
    for rnic in owned:
        scene.stop_traffic(scene.wiring.rnics[rnic])
    scene.blame("unreachable", "host", "container", container, f"{container} on {host} is gone")


@failure("hugepage-misconfiguration", "a host's memory pages are not what its RNICs expect", row=18, symptom="latency",
         slow=True)  # fmt: skip
def hugepages(scene: Scene) -> None:
    """What arrives at the host waits, whichever RNIC it came by."""
    host = scene.host()
    own = scene.wiring.hosts[host]
    delay = scene.microseconds()
    scene.delay(scene.into(own), delay, spread=0.3)
    scene.distinct(scene.into(own))
    for rnic in own:
        slow_receiver(scene, rnic, float(scene.draw.uniform(0.02, 0.2)))
    scene.blame("latency", "host", "host", host, f"what arrives at {host} waits {delay:.0f} us, on every rail",
                right=(("config", host),))  # fmt: skip


@failure("host-power-loss", "a host loses power", symptom="unreachable")
def host_power_loss(scene: Scene) -> None:
    """All its RNICs die with whoever probed from them."""
    host = scene.host()
    own = scene.wiring.hosts[host]
    here = np.isin(scene.flows.source, own)
    scene.lose(scene.cables(own), 1.0, flows=~here)
    scene.absent.append((here, scene.clock.during[0]))
    scene.distinct(scene.cables(own))
    for rnic in own:
        name = scene.wiring.rnics[rnic]
        scene.stop_traffic(name)
        scene.vanish(name)
    scene.down([int(scene.wiring.cables[rnic]) for rnic in own], scene.clock.during)
    scene.tables.gone.add(host)
    scene.blame("unreachable", "host", "host", host, f"{host} has no power",
                alike=() if scene.flows.overlay.any() else (("agent", host),))  # fmt: skip


@failure("agent-crash", "a host's agent crashes; its network is fine", symptom="unreachable")
def agent_crash(scene: Scene) -> None:
    """Nobody probes from the host nor answers any more; the job's bytes move on, and so do containers' probes."""
    host = scene.host()
    own = scene.wiring.hosts[host]
    here, there = np.isin(scene.flows.source, own), np.isin(scene.flows.destination, own)
    probed = ~scene.flows.overlay
    refused = scene.told and scene.draw.random() < 0.6
    answered = probed & there & ~here
    if refused:  # the kernel says that nobody listens; RDMA's queue pairs are gone without a word
        scene.lose_flows(answered & ~scene.rdma(), np.zeros_like(here), error="refused")
        scene.lose_flows(answered & scene.rdma(), np.zeros_like(here))
    else:
        scene.lose_flows(answered, np.zeros_like(here))
    scene.absent.append((probed & here, scene.clock.during[0]))
    seen = bool((scene.flows.overlay & (here | there)).any())
    said = refused and bool((answered & ~scene.rdma()).any())
    scene.blame("unreachable", "service", "agent", host, f"the agent of {host} is gone",
                alike=() if seen or said else (("host", host),))  # fmt: skip
