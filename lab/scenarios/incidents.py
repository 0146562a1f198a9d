"""The five incidents that the project was founded on."""

from __future__ import annotations

from lab.counters import effects
from lab.counters.timeline import Event
from lab.scenarios.catalogue import Act, Truth, scenario
from lab.scenarios.scene import Scene

STUCK_TOO_LONG = 40.0  # frames per second that a 1500-byte port turns away


@scenario("line-card-mtu", "a 1500-byte port in a 9000-byte path, after a line card was swapped")
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
