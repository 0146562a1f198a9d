"""The failure classes of the SkeletonHunter paper (SIGCOMM 2025, Table 1), by the number of their row.

What a lab without RDMA cannot have, it stands for with the nearest thing that packets can feel; each
scenario's docstring says with what.
"""

from __future__ import annotations

from collections.abc import Callable

from exporter.contracts.diagnosis import ComponentKind
from lab.counters import effects
from lab.counters.timeline import Event
from lab.faults.flows import LOSSLESS_DSCP
from lab.scenarios.catalogue import Act, Truth, scenario
from lab.scenarios.scene import Scene


def lost(before: float, during: float) -> bool:
    """Everything is lost, and nothing was."""
    return before == 0 and during == 100


def some_lost(before: float, during: float) -> bool:
    return before == 0 and 5 < during < 100


def slower_by(milliseconds: float) -> Callable[[float, float], bool]:
    """The round trip grows by at least so much, and something still comes back."""
    return lambda before, during: before + milliseconds <= during < float("inf")


@scenario("crc-error", "a link corrupts packets, the longer the likelier", row=1)
def crc_error(scene: Scene) -> Act:
    """Bit errors at one end of a link; its MAC counts them."""
    link = scene.spine_link()
    end = scene.draw.choice(link.ends)
    rate = scene.draw.uniform(1.5e-6, 4e-6)  # bit errors; a full-size packet dies with 10 to 25 %

    def inject() -> None:
        scene.faults.inflict("crc-errors", end.id, rate)
        scene.story("crc-errors", effects.dirty_link(scene.design, end.id, 20))

    return Act(
        f"bit error rate {rate:.1e} where packets arrive at {end.id}",
        Truth("loss", "underlay", "link", link.id, (("port", end.id),)),
        inject,
        lambda: scene.across(link, size=8972, count=200, interval=0.025),
        lambda before, during: before < 1 and 4 < during < 60,
        during=30,
    )


@scenario("switch-port-flapping", "a switch port goes down again and again", row=3)
def switch_port_flapping(scene: Scene) -> Act:
    """The way to a host: its other rails live, the rail of this port comes and goes."""
    rnic = scene.rnic()
    port = scene.design.far_end(scene.design.rnic_end(rnic))
    period = scene.draw.uniform(3, 5)
    return Act(
        f"{port.id} goes down every {period:.1f} s",
        Truth("flap", "underlay", "port", port.id, (("link", _cable(scene, rnic)), ("rnic", rnic))),
        lambda: scene.faults.inflict("port-flap", port.id, period, period / 4),
        lambda: scene.between(rnic, count=100, interval=0.06),
        some_lost,
        during=24,
    )


@scenario("switch-offline", "a switch crashes", row=4, alerts=("FabricSwitchDown",))
def switch_offline(scene: Scene) -> Act:
    """A leaf: the hosts behind it lose one rail. (A spine's traffic would go round it.)"""
    leaf = scene.leaf()
    rnic = next(end for end in (scene.design.far_end(port) for port in leaf.ports) if end.node.startswith("host-"))
    return Act(
        f"{leaf.name} is off",
        Truth("unreachable", "underlay", "switch", leaf.name),
        lambda: scene.faults.inflict("switch-offline", leaf.name),
        lambda: scene.between(rnic.id, count=10),
        lost,
        during=25,
    )


@scenario("switch-port-down", "a port of a switch has no carrier", row=2)
def switch_port_down(scene: Scene) -> Act:
    """A spine port goes down: routing goes round it, ports and BGP say so."""
    link = scene.spine_link()
    return Act(
        f"no carrier on {link.id}",
        Truth("unreachable", "underlay", "link", link.id, (("port", link.a.id), ("port", link.b.id))),
        lambda: scene.faults.inflict("link-down", link.id),
        lambda: scene.carrier(link.a.id),
        lambda before, during: (before, during) == (1, 0),
    )


@scenario("rnic-hardware-failure", "an RNIC is dead: light on, no packet, gone from the host", row=5)
def rnic_hardware_failure(scene: Scene) -> Act:
    """Every packet is dropped at both ends of its cable, and the device vanishes from sysfs."""
    rnic = scene.rnic()
    return Act(
        f"{rnic} passes nothing",
        Truth("unreachable", "rnic", "rnic", rnic),
        lambda: scene.faults.inflict("rnic-dead", rnic),
        lambda: scene.between(rnic, count=10),
        lost,
    )


@scenario("rnic-firmware-not-responding", "an RNIC's firmware handles some flows late", row=6)
def rnic_firmware(scene: Scene) -> Act:
    """One flow in four, by hash, waits; its answers are another flow. ICMP has no ports and never waits."""
    rnic = scene.rnic()
    delay = scene.draw.uniform(400, 900)
    return Act(
        f"one flow in four of {rnic}, either way, is {delay:.0f} us late",
        Truth("latency", "rnic", "rnic", rnic),
        lambda: scene.faults.inflict("rnic-slow", rnic, delay, "flows"),
        lambda: scene.slowest_flow(rnic),
        slower_by(delay / 1000 * 0.9),
    )


@scenario("rnic-port-down", "an RNIC's port goes down and stays down", row=7)
def rnic_port_down(scene: Scene) -> Act:
    rnic = scene.rnic()
    return Act(
        f"{rnic} has no carrier",
        Truth("unreachable", "rnic", "rnic", rnic, (("link", _cable(scene, rnic)),)),
        lambda: scene.faults.inflict("rnic-down", rnic),
        lambda: scene.between(rnic, count=10),
        lost,
    )


@scenario("rnic-port-flapping", "an RNIC's port goes down again and again", row=8)
def rnic_port_flapping(scene: Scene) -> Act:
    rnic = scene.rnic()
    period = scene.draw.uniform(3, 5)

    def inject() -> None:
        scene.faults.inflict("rnic-flap", rnic, period, period / 4)
        host, name = rnic.split(":")
        scene.story("rnic-flap", [Event(host, name, "link_down_events_phy", rate=1 / period)])

    return Act(
        f"{rnic} loses carrier every {period:.1f} s",
        Truth("flap", "rnic", "rnic", rnic, (("link", _cable(scene, rnic)),)),
        inject,
        lambda: scene.between(rnic, count=100, interval=0.06),
        some_lost,
        during=24,
    )


@scenario("offloading-failure", "an RNIC cannot encapsulate in hardware", row=9)
def offloading_failure(scene: Scene) -> Act:
    """Its VXLAN packets wait in and out; others do not."""
    rnic = scene.rnic()
    delay = scene.draw.uniform(300, 800)
    host, device = scene.rail_of(rnic)
    broken, other = scene.container_on(host.name), scene.container_on(scene.host_elsewhere(host.name).name)
    return Act(
        f"the overlay's packets of {rnic} are {2 * delay:.0f} us late",
        Truth("latency", "rnic", "rnic", rnic),
        lambda: scene.faults.inflict("rnic-slow", rnic, delay, "vxlan"),
        lambda: scene.inner(other, broken, device.rail, what="rtt"),
        slower_by(2 * delay / 1000 * 0.9),
    )


@scenario("bond-error", "the two ports of an RNIC do not bond", row=10)
def bond_error(scene: Scene) -> Act:
    """The device keeps carrier and loses its address; there is no bonding driver under it."""
    rnic = scene.rnic()
    return Act(
        f"{rnic} has carrier and no address",
        Truth("unreachable", "rnic", "rnic", rnic),
        lambda: scene.faults.inflict("bond-error", rnic),
        lambda: scene.between(rnic, count=10),
        lost,
    )


@scenario("rnic-gid-change", "an RNIC's GIDs move when the network service restarts", row=11)
def rnic_gid_change(scene: Scene) -> Act:
    """UDP in the lossless class, where RoCE lives, is dropped at the RNIC; TCP and ping live."""
    rnic = scene.rnic()
    return Act(
        f"the GID of {rnic} moved: lossless UDP dies there",
        Truth("unreachable", "rnic", "rnic", rnic),
        lambda: scene.faults.inflict("gid-change", rnic),
        lambda: scene.udp(rnic, dscp=LOSSLESS_DSCP),
        lost,
    )


@scenario("pcie-nic-error", "PCIe holds an RNIC back", row=12)
def pcie_nic_error(scene: Scene) -> Act:
    """Its packets wait both ways, it pauses its leaf, and its PCIe counters stall."""
    rnic = scene.rnic()
    delay = scene.draw.uniform(300, 800)

    def inject() -> None:
        scene.faults.inflict("rnic-slow", rnic, delay)
        scene.story("pcie", effects.slow_receiver(scene.design, rnic))

    return Act(
        f"{rnic} is {2 * delay:.0f} us late and pauses its leaf",
        Truth("latency", "host", "rnic", rnic, (("host", rnic.split(":")[0]),)),
        inject,
        lambda: scene.between(rnic, what="rtt"),
        slower_by(2 * delay / 1000 * 0.9),
    )


@scenario("gpudirect-rdma-error", "data reach the GPU by a detour through host memory", row=13)
def gpudirect(scene: Scene) -> Act:
    """What arrives waits, what leaves does not; reads over PCIe stall."""
    rnic = scene.rnic()
    delay = scene.draw.uniform(400, 900)
    host, device = rnic.split(":")

    def inject() -> None:
        scene.faults.inflict("rnic-slow", rnic, delay, "all", "in")
        scene.story(
            "gpudirect",
            [
                *effects.pause(scene.design, rnic, 0.15),
                Event(host, device, "outbound_pci_stalled_rd", level=effects.STALLED_PERCENT),
                Event(host, device, "outbound_pci_stalled_rd_events", rate=50),
            ],
        )

    return Act(
        f"what arrives at {rnic} waits {delay:.0f} us",
        Truth("latency", "host", "rnic", rnic, (("host", host),)),
        inject,
        lambda: scene.between(rnic, what="rtt"),
        slower_by(delay / 1000 * 0.9),
    )


@scenario("not-using-rdma", "a container's flows fall back from the RNIC to software", row=14)
def not_using_rdma(scene: Scene) -> Act:
    """All flows to a container take every host's slow path, for good."""
    container = scene.container()
    delay = scene.draw.uniform(200, 500)
    peer = scene.peer_of(container)
    return Act(
        f"every host sends to {container.name} through software",
        Truth("latency", "overlay", "container", container.name, (("vswitch", container.host),)),
        lambda: scene.faults.inflict("offload-missing", container.name, "all", delay),
        lambda: scene.inner(peer, container, what="rtt"),
        slower_by(delay / 1000 * 0.9),
    )


@scenario("repetitive-flow-offloading", "a host's offloaded flows are invalidated again and again", row=15)
def repetitive_offloading(scene: Scene) -> Act:
    """The case of the paper's Figure 18: about 16 us become 120 us now and then, with next to no loss."""
    container = scene.container()
    peer = scene.peer_of(container)
    return Act(
        f"{peer.host} loses and renews its flows to {container.name} every 4 s",
        Truth("latency", "overlay", "vswitch", peer.host, _rnics(scene, peer.host)),
        lambda: scene.faults.inflict("offload-repeated", container.name, peer.host, 500, 4),
        lambda: scene.inner(peer, container, what="rtt", count=250),
        slower_by(0.2),
        during=30,
    )


@scenario("suboptimal-flow-offloading", "a host offloads some flows and leaves others to software", row=16)
def suboptimal_offloading(scene: Scene) -> Act:
    container = scene.container()
    peer = scene.peer_of(container)
    delay = scene.draw.uniform(200, 500)
    return Act(
        f"{peer.host} sends some flows to {container.name} through software",
        Truth("latency", "overlay", "vswitch", peer.host, _rnics(scene, peer.host)),
        lambda: scene.faults.inflict("offload-missing", container.name, peer.host, delay, "some"),
        lambda: scene.inner(peer, container, what="rtt"),
        slower_by(delay / 1000 * 0.9),
    )


@scenario("container-crash", "a container dies", row=17)
def container_crash(scene: Scene) -> Act:
    container = scene.container()
    peer = scene.peer_of(container)
    return Act(
        f"{container.name} on {container.host} is gone",
        Truth("unreachable", "host", "container", container.name),
        lambda: scene.faults.inflict("container-kill", container.name),
        lambda: scene.inner(peer, container, count=10),
        lost,
    )


@scenario("hugepage-misconfiguration", "a host's memory pages are not what its RNICs expect", row=18)
def hugepages(scene: Scene) -> Act:
    """Every packet that arrives at the host waits, whichever RNIC it came by."""
    host = scene.host()
    delay = scene.draw.uniform(300, 700)
    rnic = f"{host.name}:{host.rnics[0].name}"

    def inject() -> None:
        scene.faults.inflict("host-slow", host.name, delay)
        for each in host.rnics:
            scene.story("hugepages", effects.slow_receiver(scene.design, f"{host.name}:{each.name}", 0.1))

    return Act(
        f"what arrives at {host.name} waits {delay:.0f} us, on every rail",
        Truth("latency", "host", "host", host.name, (("config", host.name),)),
        inject,
        lambda: scene.between(rnic, what="rtt"),
        slower_by(delay / 1000 * 0.9),
    )


@scenario("congestion-control-issue", "congestion control is off on one queue of a switch", row=19)
def congestion_control(scene: Scene) -> Act:
    """The queue of a port to a host stays full; nothing is marked, nobody slows down, and the leaf pauses senders."""
    rnic = scene.rnic()
    port = scene.design.far_end(scene.design.rnic_end(rnic))
    milliseconds = scene.draw.uniform(5, 15)

    def inject() -> None:
        scene.faults.inflict("congestion", port.id, milliseconds)
        senders = [f"{w.host}:{rnic.split(':')[1]}" for w in scene.job.workers if w.host != rnic.split(":")[0]]
        told = effects.incast(scene.design, rnic, senders, marked_per_second=1, pause_share=0.4, notifies=False)
        scene.story("congestion", [event for event in told if not event.counter.endswith("marked")])

    return Act(
        f"the queue of {port.id} is {milliseconds:.0f} ms long and marks nothing",
        Truth("congestion", "underlay", "port", port.id, (("config", port.id), ("switch", port.node), ("rnic", rnic))),
        inject,
        lambda: scene.between(rnic, what="rtt", count=150),
        slower_by(milliseconds / 2),
    )


def _cable(scene: Scene, rnic: str) -> str:
    return scene.design.link_at(scene.design.rnic_end(rnic)).id


def _rnics(scene: Scene, host: str) -> tuple[tuple[ComponentKind, str], ...]:
    return tuple(("rnic", f"{host}:{rnic.name}") for rnic in scene.design.host(host).rnics)
