"""Failures of the overlay: of virtual switches, of their tables, and of what they offload."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from exporter.contracts.overlay import Entry
from lab.simulator.failures.blame import Name, Redraw
from lab.simulator.failures.catalogue import failure
from lab.simulator.failures.flows import Kinds
from lab.simulator.failures.overlay import Edit, replaced
from lab.simulator.failures.scene import Scene
from lab.simulator.failures.wiring import Booleans

OVERLAY = Kinds(overlay=True)


def to_containers(scene: Scene, rnics: Collection[int]) -> tuple[Booleans, Booleans]:
    """The overlay's flows whose (requests, replies) go to one of the RNICs' containers."""
    wanted = list(rnics)
    return (
        scene.flows.overlay & np.isin(scene.flows.destination, wanted),
        scene.flows.overlay & np.isin(scene.flows.source, wanted),
    )


def from_host(scene: Scene, host: str, rnics: Collection[int]) -> tuple[Booleans, Booleans]:
    """The overlay's flows whose (requests, replies) a host's virtual switch sends to the RNICs' containers."""
    own = scene.wiring.hosts[host]
    there, back = to_containers(scene, rnics)
    return there & np.isin(scene.flows.source, own), back & np.isin(scene.flows.destination, own)


def peers_of(scene: Scene, host: str) -> list[int]:
    """RNICs on other hosts that the overlay's flows join with a host."""
    own = scene.wiring.hosts[host]
    there, back = np.isin(scene.flows.source, own), np.isin(scene.flows.destination, own)
    inside = scene.flows.overlay & (there ^ back)
    return sorted(set(np.where(there, scene.flows.destination, scene.flows.source)[inside].tolist()) - set(own))


def changing(addresses: Collection[str], **fields: object) -> Edit:
    """Entries to the addresses get other fields; they go missing where none are given. Local ones stay."""
    wanted = set(addresses)

    def change(entry: Entry) -> Entry | None:
        if entry.dst not in wanted or (entry.next or "").startswith("local:"):
            return entry
        return replaced(entry, **fields) if fields else None

    return change


def own_rnics(scene: Scene, host: str) -> tuple[Name, ...]:
    return tuple(("rnic", scene.wiring.rnics[rnic]) for rnic in scene.wiring.hosts[host])


@failure("not-using-rdma", "a container's flows fall back from the RNIC to software", row=14, symptom="latency",
         slow=True, kinds=OVERLAY)  # fmt: skip
def not_using_rdma(scene: Scene) -> None:
    """Every host sends to the container through software: no RNIC holds its flows."""
    container = scene.container()
    owned = scene.owned(container)
    delay = scene.microseconds(60.0, 800.0)
    scene.delay_flows(*to_containers(scene, owned), delay, spread=0.3)
    home = scene.wiring.rnics[owned[0]].partition(":")[0]
    addresses = [scene.job.overlay[rnic] for rnic in owned]
    admitted = scene.draw.random() < 0.5  # the virtual switch may know
    for host in scene.wiring.hosts:
        if host != home:
            scene.tables.edit(host, "rnic", changing(addresses))
            if admitted:
                scene.tables.edit(host, "vswitch", changing(addresses, offloaded=False))
    scene.blame("latency", "overlay", "container", container, f"flows to {container} wait {delay:.0f} us in software",
                right=(("vswitch", home),))  # fmt: skip


@failure("repetitive-flow-offloading", "a host's offloaded flows are invalidated again and again", row=15,
         symptom="latency", slow=True, kinds=OVERLAY)  # fmt: skip
def repetitive_offloading(scene: Scene) -> None:
    """The case of the paper's Figure 18: about 16 us become 120 us now and then, with next to no loss."""
    host = scene.host()
    peers = peers_of(scene, host)
    if len(peers) < 2:
        raise Redraw
    number = int(scene.draw.integers(1, min(4, len(peers)) + 1))
    containers = {scene.job.container[rnic] for rnic in scene.draw.choice(peers, number, replace=False).tolist()}
    targets = [rnic for container in sorted(containers) for rnic in scene.owned(container)]
    period = float(scene.draw.uniform(2.0, 8.0))
    windows = scene.flapping(period, period * float(scene.draw.uniform(0.3, 0.7)))
    delay = scene.microseconds(80.0, 140.0)
    scene.delay_flows(*from_host(scene, host, targets), delay, windows=windows, spread=0.4, loss=5e-4)
    addresses = [scene.job.overlay[rnic] for rnic in targets]
    gone = [address for address in addresses if scene.draw.random() < 0.7] or addresses[:1]
    scene.tables.edit(host, "rnic", changing(gone))
    scene.blame("latency", "overlay", "vswitch", host,
                f"{host} loses its flows to {', '.join(sorted(containers))} every {period:.1f} s",
                right=own_rnics(scene, host))  # fmt: skip


@failure("suboptimal-flow-offloading", "a host offloads some flows and leaves others to software", row=16,
         symptom="latency", slow=True, kinds=OVERLAY)  # fmt: skip
def suboptimal_offloading(scene: Scene) -> None:
    host = scene.host()
    peers = peers_of(scene, host)
    if len(peers) < 2:
        raise Redraw
    number = int(scene.draw.integers(1, max(2, len(peers) // 2 + 1)))
    targets = scene.draw.choice(peers, number, replace=False).tolist()
    delay = scene.microseconds(60.0, 600.0)
    scene.delay_flows(*from_host(scene, host, targets), delay, spread=0.3)
    addresses = [scene.job.overlay[rnic] for rnic in targets]
    scene.tables.edit(host, "rnic", changing(addresses))
    if scene.draw.random() < 0.5:
        scene.tables.edit(host, "vswitch", changing(addresses, offloaded=False))
    scene.blame("latency", "overlay", "vswitch", host, f"{host} sends {number} of its flows through software",
                right=own_rnics(scene, host))  # fmt: skip


def wrong_entry(scene: Scene, what: str) -> None:
    """A host's tables are wrong for some destinations: what it sends there is lost."""
    host = scene.host()
    peers = peers_of(scene, host)
    if not peers:
        raise Redraw
    number = int(scene.draw.integers(1, len(peers) + 1))
    targets = scene.draw.choice(peers, number, replace=False).tolist()
    scene.lose_flows(*from_host(scene, host, targets))
    addresses = [scene.job.overlay[rnic] for rnic in targets]
    fields: dict[str, object] = {}
    if what == "is a drop":
        fields["next"] = None
    elif what == "leads to the wrong host":
        behind = {scene.wiring.rnics[rnic].partition(":")[0] for rnic in targets} | {host}
        others = [rnic for name, rnics in scene.wiring.hosts.items() if name not in behind for rnic in rnics]
        if not others:
            raise Redraw
        fields["next"] = scene.address(int(scene.draw.choice(others)))
    for table in ("vswitch", "rnic"):
        scene.tables.edit(host, table, changing(addresses, **fields))
    scene.blame("unreachable", "overlay", "vswitch", host, f"the entry of {host} for {', '.join(addresses)} {what}")


@failure("overlay-broken-link", "a host's overlay entries lead nowhere", symptom="unreachable", kinds=OVERLAY)
def broken_link(scene: Scene) -> None:
    wrong_entry(scene, "is a drop")


@failure("overlay-missing-entry", "a host's overlay tables lack entries", symptom="unreachable", kinds=OVERLAY)
def missing_entry(scene: Scene) -> None:
    wrong_entry(scene, "is missing")


@failure(
    "overlay-wrong-next-hop", "a host's overlay entries lead to the wrong host", symptom="unreachable", kinds=OVERLAY
)
def wrong_next_hop(scene: Scene) -> None:
    wrong_entry(scene, "leads to the wrong host")


@failure("overlay-loop", "a host sends what arrives for its own container back", symptom="unreachable", kinds=OVERLAY)
def loop(scene: Scene) -> None:
    """Instead of handing packets to its container the host sends them to another, which sends them here again."""
    container = scene.container()
    owned = scene.owned(container)
    host = scene.wiring.rnics[owned[0]].partition(":")[0]
    targets = scene.draw.choice(owned, int(scene.draw.integers(1, len(owned) + 1)), replace=False).tolist()
    peers = peers_of(scene, host)
    if not peers:
        raise Redraw
    away = scene.address(int(scene.draw.choice(peers)))
    scene.lose_flows(*to_containers(scene, targets))
    addresses = {scene.job.overlay[rnic] for rnic in targets}

    def back(entry: Entry) -> Entry:
        return replaced(entry, next=away, in_port=None) if entry.dst in addresses else entry

    for table in ("vswitch", "rnic"):
        scene.tables.edit(host, table, back)
    scene.blame("unreachable", "overlay", "vswitch", host, f"{host} sends what is for {container} on to {away}")
