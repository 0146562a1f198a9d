"""The five incidents that the project was founded on."""

from __future__ import annotations

from lab.counters import effects
from lab.counters.timeline import Event
from lab.network import resolver
from lab.scenarios.catalogue import Act, Truth, scenario
from lab.scenarios.scene import Scene

STUCK_TOO_LONG = 40.0  # frames per second that a 1500-byte port turns away


@scenario(
    "line-card-mtu",
    "a 1500-byte port in a 9000-byte path, after a line card was swapped",
    alerts=("FabricLinkMtuMismatch", "FabricSwitchPortMtuLow", "FabricLinecardMtu"),
)
def line_card_mtu(scene: Scene) -> Act:
    """The line card's ports go down and come back, one of them with the vendor's default MTU."""
    link = scene.spine_link()
    port = link.b  # a spine's: spines have line cards
    card = [end for end in scene.design.switch(port.node).ports if end.linecard == port.linecard]

    def inject() -> None:
        for end in card:
            scene.lab.run(end.node, ["ip", "link", "set", "dev", end.netdev, "down"])
        for end in card:
            scene.lab.run(end.node, ["ip", "link", "set", "dev", end.netdev, "up"])
        scene.faults.inflict("port-mtu", port.id, 1500)
        scene.story("line-card", [Event(end.node, end.port, "reset") for end in card])
        scene.story("line-card", effects.too_long(scene.design, port.id, STUCK_TOO_LONG))

    return Act(
        f"line card {port.linecard} of {port.node} was swapped; {port.port} came back with MTU 1500",
        Truth("mtu", "underlay", "port", port.id, (("link", link.id), ("linecard", f"{port.node}:{port.linecard}"))),
        inject,
        lambda: scene.across(link, size=8972, count=20),
        lambda before, during: before == 0 and during == 100,
        during=30,
    )


@scenario(
    "pfc-deadlock",
    "a PFC deadlock: ports pause each other, CNPs surge, one VLAN loses packets",
    alerts=("FabricPfcDeadlock",),
)
def pfc_deadlock(scene: Scene) -> Act:
    """Two leaves and a spine between them pause each other in a circle (Guo et al., SIGCOMM 2016, 4.2).

    The circle is the counters' story. What packets feel is the loss on the tenant's VLAN at the leaf where it began.
    """
    link = scene.spine_link()
    leaf, spine = link.a.node, link.b.node
    other = scene.draw.choice([each for each in scene.design.links if each.b.node == spine and each.a.node != leaf])
    job = scene.tenant
    container = next(c for c in job.containers if scene.leaf_of(c, 0) == leaf or scene.leaf_of(c, 1) == leaf)
    rail = next(i.rail for i in container.interfaces if scene.leaf_of(container, i.rail) == leaf)
    senders = [f"{w.host}:{w.nics[rail].name}" for w in scene.job.workers if w.host != container.host]
    receiver = f"{container.host}:{container.interfaces[rail].rnic}"
    percent = scene.draw.uniform(15, 30)
    peer = next(each for each in scene.draw.sample(job.containers, len(job.containers)) if each.host != container.host)

    def inject() -> None:
        scene.faults.inflict("vlan-loss", leaf, job.name, percent)
        stuck = [
            Event(end.node, end.port, "watchdog_stuck", 3, rate=0.5, delay=0.2) for end in (link.a, link.b, other.b)
        ]
        for end in (link.a, link.b, other.a, other.b):
            scene.story("deadlock", effects.pause(scene.design, end.id, 1.0))
        scene.story("deadlock", stuck)
        scene.story("deadlock", effects.incast(scene.design, receiver, senders, marked_per_second=20_000))
        dropped = effects.queue_drops(scene.design, link.a.id, 200, sender=senders[0], receiver=receiver)
        scene.story("deadlock", dropped)

    return Act(
        f"{leaf}, {spine} and {other.a.node} pause each other; {leaf} drops {percent:.0f} % on VLAN {job.vlan}",
        Truth("congestion", "underlay", "vlan", f"{leaf}:{job.vlan}", (("switch", leaf), ("link", link.id))),
        inject,
        lambda: scene.inner(peer, container, rail, count=300, interval=0.005),
        lambda before, during: before < 2 and 100 * (1 - (1 - percent / 100) ** 2) / 2 < during < 90,
        during=30,
    )


@scenario(
    "lossy-carrier",
    "a route moves to a transit carrier that loses 5 to 8 %",
    transit=True,
    alerts=("FabricTransitPathDegraded",),
)
def lossy_carrier(scene: Scene) -> Act:
    """BGP prefers the second carrier at both borders; the store is farther away and packets are lost."""
    transit = scene.design.transit
    assert transit is not None  # noqa: S101 - asked for above
    carrier = transit.carriers[1].switch
    store = scene.design.service_host(transit.store)
    host = scene.host()
    return Act(
        f"traffic between the sites goes through {carrier}",
        Truth("path_change", "underlay", "provider", carrier, (("switch", carrier),)),
        lambda: scene.faults.inflict("route-change", carrier),
        lambda: scene.ping(host.name, host.rnics[0].address, store.rnics[0].address, count=500, interval=0.004),
        lambda before, during: before < 1 and 5 < during < 22,  # 5 to 8 % each way
        during=30,
    )


@scenario(
    "dns-burst",
    "a resolver is overwhelmed by 500 endpoints that register at once",
    transit=True,
    alerts=("FabricResolverFailing", "FabricResolverSlow"),
)
def dns_burst(scene: Scene) -> Act:
    """Jobs of 500 endpoints start one after the other; each registers itself and resolves its peers."""
    plan = resolver.plan(scene.design)
    host = scene.host()
    return Act(
        f"500 endpoints at a time register and resolve at {plan.host}",
        Truth("resolution", "service", "resolver", plan.host, (("resolver", plan.address),)),
        lambda: scene.faults.inflict("resolver-burst", plan.host, 500, 0),
        lambda: scene.dig(host),
        lambda before, during: during > 3 * before,
        during=30,
    )


@scenario(
    "bgp-incast", "BGP sessions flap because an all-reduce's incast starves keepalives", alerts=("FabricBgpStarved",)
)
def bgp_incast(scene: Scene) -> Act:
    """What exceeds the port's rate is dropped, keepalives with it, until the hold timer expires; links stay up."""
    link = scene.spine_link()
    port, far = link.a, link.b

    def inject() -> None:
        scene.faults.inflict("bgp-starvation", port.id)
        scene.story(
            "incast",
            [
                Event(far.node, far.port, "ecn_marked", 3, rate=5000),
                Event(far.node, far.port, "queue_dropped_packets", 3, rate=2000),
            ],
        )

    return Act(
        f"load on {port.id} starves the session of {port.node} with {far.node}",
        Truth(
            "flap",
            "underlay",
            "bgp_session",
            f"{port.node}:{far.address}",
            (("bgp_session", f"{far.node}:{port.address}"), ("link", link.id), ("port", port.id)),
        ),
        inject,
        lambda: scene.flaps(port.node, far.address, 25),
        lambda before, during: before == 0 and during >= 1,
        during=40,
    )
