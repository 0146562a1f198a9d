"""Failures of RNICs, their ports and their cables."""

from __future__ import annotations

import numpy as np

from exporter.contracts.catalogue import RNIC_UP
from exporter.contracts.counters import (
    PFC_PAUSED,
    PFC_RECEIVED,
    PFC_SENT,
    RNIC_LINK_DOWNS,
    RNIC_PFC_PAUSING,
    RNIC_PFC_SENT,
    RNIC_STALLED_READ_RATIO,
    RNIC_STALLED_READS,
    RNIC_STALLED_WRITE_RATIO,
    RNIC_STALLED_WRITES,
    RNIC_STORM_WARNINGS,
    WATCHDOG_STUCK,
)
from exporter.contracts.overlay import Entry
from lab.simulator.failures.blame import Name, Redraw
from lab.simulator.failures.catalogue import failure
from lab.simulator.failures.flows import LOSSLESS_DSCP, Kinds
from lab.simulator.failures.scene import Scene
from lab.simulator.failures.story import LOSSLESS
from lab.simulator.failures.wiring import Booleans


def cable_of(scene: Scene, rnic: int) -> Name:
    return "link", scene.wiring.links[int(scene.wiring.cables[rnic])]


def dead_rnic(scene: Scene, rnic: int) -> tuple[Name, ...]:
    """Nothing passes an RNIC and none of its bytes move; what looks the same without counters."""
    scene.lose(scene.cables([rnic]), 1.0)
    scene.stop_traffic(scene.wiring.rnics[rnic])
    return (cable_of(scene, rnic), *scene.alike(scene.cables([rnic]), parts=True, dead=True))


@failure(
    "rnic-hardware-failure", "an RNIC is dead: light on, no packet, gone from the host", row=5, symptom="unreachable"
)
def rnic_hardware_failure(scene: Scene) -> None:
    rnic = scene.rnic()
    name = scene.wiring.rnics[rnic]
    alike = dead_rnic(scene, rnic)
    scene.vanish(name)
    scene.blame("unreachable", "rnic", "rnic", name, f"{name} passes nothing and is gone from its host", alike=alike)


@failure(
    "rnic-firmware-not-responding", "an RNIC's firmware handles some flows late", row=6, symptom="latency", slow=True
)
def rnic_firmware(scene: Scene) -> None:
    rnic = scene.rnic()
    name = scene.wiring.rnics[rnic]
    directions = scene.cables([rnic])
    late = scene.draw.random(scene.flows.number) < scene.draw.uniform(0.2, 0.5)
    touched = late & scene.flows.touching([rnic])
    peers = np.unique(np.concatenate([scene.flows.source[touched], scene.flows.destination[touched]]))
    if peers.size < 3 or scene.twins(directions, touched):
        raise Redraw
    delay = scene.microseconds()
    scene.delay(directions, delay, flows=late, spread=0.2)
    scene.blame("latency", "rnic", "rnic", name, f"some flows of {name} wait {delay:.0f} us")


@failure("rnic-port-down", "an RNIC's port goes down and stays down", row=7, symptom="unreachable")
def rnic_port_down(scene: Scene) -> None:
    rnic = scene.rnic()
    name = scene.wiring.rnics[rnic]
    alike = dead_rnic(scene, rnic)
    scene.down([int(scene.wiring.cables[rnic])], scene.clock.during)
    scene.count(RNIC_LINK_DOWNS, name, rate=1.0, windows=((scene.clock.injected, scene.clock.injected + 1.0),))
    scene.blame("unreachable", "rnic", "rnic", name, f"{name} has no carrier",
                right=(cable_of(scene, rnic), ("port", name)), alike=alike)  # fmt: skip


@failure("rnic-port-flapping", "an RNIC's port goes down again and again", row=8, symptom="flap")
def rnic_port_flapping(scene: Scene) -> None:
    rnic = scene.rnic()
    name = scene.wiring.rnics[rnic]
    period = float(scene.draw.uniform(4.0, 12.0))
    windows = scene.flapping(period, period * float(scene.draw.uniform(0.15, 0.35)))
    scene.lose(scene.cables([rnic]), 1.0, windows=windows)
    scene.down([int(scene.wiring.cables[rnic])], windows)
    scene.count(RNIC_LINK_DOWNS, name, rate=1.0, windows=tuple((since, since + 1.0) for since, _ in windows))
    alike = scene.alike(scene.cables([rnic]))
    alike = (("port", scene.wiring.receiver(2 * int(scene.wiring.cables[rnic]))), *alike)
    scene.blame("flap", "rnic", "rnic", name, f"{name} loses carrier every {period:.1f} s",
                right=(cable_of(scene, rnic), ("port", name)), alike=alike)  # fmt: skip


@failure("offloading-failure", "an RNIC cannot encapsulate in hardware", row=9, symptom="latency", slow=True,
         kinds=Kinds(overlay=True))  # fmt: skip
def offloading_failure(scene: Scene) -> None:
    """The overlay's packets wait in and out, the underlay's do not; the RNIC holds none of its rail's entries."""
    rnic = scene.rnic()
    name = scene.wiring.rnics[rnic]
    delay = scene.microseconds()
    scene.delay(scene.cables([rnic]), delay, flows=scene.flows.overlay, spread=0.25)
    host = name.partition(":")[0]
    rails = len(scene.wiring.hosts[host])
    lost = {scene.job.overlay[other] for other in range(len(scene.wiring.rnics)) if other % rails == rnic % rails}

    def forgotten(entry: Entry) -> Entry | None:
        return None if entry.dst in lost and not (entry.next or "").startswith("local:") else entry

    scene.tables.edit(host, "rnic", forgotten)
    scene.blame("latency", "rnic", "rnic", name, f"the overlay's packets of {name} wait {delay:.0f} us each way")


@failure("bond-error", "the two ports of an RNIC do not bond", row=10, symptom="unreachable")
def bond_error(scene: Scene) -> None:
    """Carrier stays, and the device with all its counters; no address, so no packet."""
    rnic = scene.rnic()
    name = scene.wiring.rnics[rnic]
    alike = dead_rnic(scene, rnic)
    scene.count(RNIC_UP.name, name, level=1.0)
    scene.blame("unreachable", "rnic", "rnic", name, f"{name} has carrier and no address", alike=alike)


def lives(scene: Scene, rnic: int, flows: Booleans) -> None:
    """Make sure that some of ``flows`` are at an RNIC, for the contrast that tells one failure from another."""
    if not (scene.flows.touching([rnic]) & flows).any():
        raise Redraw


@failure("rnic-gid-change", "an RNIC's GIDs move when the network service restarts", row=11, symptom="unreachable",
         kinds=Kinds(rdma=True))  # fmt: skip
def rnic_gid_change(scene: Scene) -> None:
    rnic = scene.rnic()
    name = scene.wiring.rnics[rnic]
    lives(scene, rnic, ~scene.rdma() & ~scene.flows.full)
    scene.lose(scene.cables([rnic]), 1.0, flows=scene.rdma(), traced=False)
    scene.blame("unreachable", "rnic", "rnic", name, f"the GIDs of {name} moved: RDMA dies there, UDP and TCP live",
                right=(("config", name),))  # fmt: skip


def slow_receiver(scene: Scene, rnic: int, share: float) -> None:
    """An RNIC that cannot take what arrives pauses its leaf for ``share`` of the time."""
    name = scene.wiring.rnics[rnic]
    leaf_port = scene.wiring.receiver(2 * int(scene.wiring.cables[rnic]))
    scene.count(RNIC_PFC_SENT, name, rate=2000.0 * share, priority=LOSSLESS)
    scene.count(RNIC_PFC_PAUSING, name, rate=share, priority=LOSSLESS)
    scene.count(PFC_RECEIVED, leaf_port, rate=2000.0 * share, priority=LOSSLESS)
    scene.count(PFC_PAUSED, leaf_port, rate=share, priority=LOSSLESS)


@failure("pcie-nic-error", "PCIe holds an RNIC back", row=12, symptom="latency", slow=True)
def pcie_nic_error(scene: Scene) -> None:
    rnic = scene.rnic()
    name = scene.wiring.rnics[rnic]
    delay = scene.microseconds()
    scene.delay(scene.cables([rnic]), delay, spread=0.3)
    slow_receiver(scene, rnic, float(scene.draw.uniform(0.05, 0.5)))
    for metric in (RNIC_STALLED_WRITE_RATIO, RNIC_STALLED_READ_RATIO):
        scene.count(metric, name, level=round(float(scene.draw.uniform(0.4, 0.9)), 2))
    scene.count(RNIC_STALLED_WRITES, name, rate=1.0)
    alike = (cable_of(scene, rnic), *scene.alike(scene.cables([rnic])))
    scene.blame(
        "latency",
        "host",
        "rnic",
        name,
        f"what passes {name} waits {delay:.0f} us for PCIe",
        right=(("host", name.partition(":")[0]),),
        alike=alike,
    )


@failure(
    "gpudirect-rdma-error",
    "data reach the GPU by a detour through host memory",
    row=13,
    symptom="latency",
    slow=True,
    kinds=Kinds(rdma=True),
)
def gpudirect(scene: Scene) -> None:
    """RDMA that arrives waits; what leaves does not, and UDP does not."""
    rnic = scene.rnic()
    name = scene.wiring.rnics[rnic]
    lives(scene, rnic, ~scene.rdma() & ~scene.flows.full)
    delay = scene.microseconds()
    scene.delay(scene.into([rnic]), delay, flows=scene.rdma(), spread=0.3)
    slow_receiver(scene, rnic, float(scene.draw.uniform(0.02, 0.2)))
    scene.count(RNIC_STALLED_READ_RATIO, name, level=round(float(scene.draw.uniform(0.3, 0.8)), 2))
    scene.count(RNIC_STALLED_READS, name, rate=1.0)
    scene.blame(
        "latency",
        "host",
        "rnic",
        name,
        f"RDMA that arrives at {name} waits {delay:.0f} us",
        right=(("host", name.partition(":")[0]),),
    )


@failure("pfc-storm", "a broken RNIC pauses its leaf without end", symptom="congestion")
def pfc_storm(scene: Scene) -> None:
    """Guo et al. (SIGCOMM 2016): over 2,000 frames a second. A watchdog drops what waits; without it, others wait."""
    rnic = scene.rnic()
    name = scene.wiring.rnics[rnic]
    inward, leaf_port = scene.into([rnic]), scene.wiring.receiver(2 * int(scene.wiring.cables[rnic]))
    lossless = scene.flows.dscp == LOSSLESS_DSCP
    scene.lose(inward, float(scene.draw.uniform(0.4, 1.0)), flows=lossless)
    scene.delay(inward, scene.microseconds(500.0, 5000.0), flows=lossless, spread=0.8)
    scene.count(RNIC_PFC_SENT, name, rate=float(scene.draw.uniform(2000.0, 12_000.0)), priority=LOSSLESS)
    scene.count(RNIC_PFC_PAUSING, name, rate=1.0, priority=LOSSLESS)
    scene.count(RNIC_STORM_WARNINGS, name, rate=0.1)
    scene.count(PFC_RECEIVED, leaf_port, rate=float(scene.draw.uniform(2000.0, 12_000.0)), priority=LOSSLESS)
    scene.count(PFC_PAUSED, leaf_port, rate=1.0, priority=LOSSLESS)
    if scene.draw.random() < 0.6:
        scene.count(WATCHDOG_STUCK, leaf_port, rate=0.3, queue=LOSSLESS)
        scene.drop(leaf_port, 2000.0)
    else:
        leaf = leaf_port.partition(":")[0]
        downward = [2 * link + 1 for link in scene.wiring.upward[leaf]]
        scene.delay(downward, scene.microseconds(20.0, 150.0), flows=lossless, spread=0.8, share=0.3)
        for link in scene.wiring.upward[leaf]:
            scene.count(PFC_SENT, scene.wiring.ends[link][0], rate=800.0, priority=LOSSLESS)
            scene.count(PFC_RECEIVED, scene.wiring.ends[link][1], rate=800.0, priority=LOSSLESS)
    alike = (("port", leaf_port), cable_of(scene, rnic), *scene.alike(inward, lossless))
    scene.blame("congestion", "rnic", "rnic", name, f"{name} pauses {leaf_port} all the time", alike=alike)


@failure("slow-degradation", "an RNIC's round trips creep up over two hours", symptom="latency", drift=True)
def slow_degradation(scene: Scene) -> None:
    rnic = scene.rnic()
    name = scene.wiring.rnics[rnic]
    growth = float(scene.draw.uniform(0.1, 0.5))
    scene.grow(scene.cables([rnic]), growth)
    alike = (cable_of(scene, rnic), *scene.alike(scene.cables([rnic])))
    scene.blame("latency", "rnic", "rnic", name, f"round trips of {name} grow by {100 * growth:.0f} %", alike=alike)
