"""From suspects to components as files name them, each with its probability.

Some suspects have several names, because no probe can tell what they name apart: an RNIC, its cable and the port at
the other end of it. Which comes first is a matter of what usually does what the probes saw; device counters may know
better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import exp
from typing import NamedTuple

import numpy as np

from exporter.contracts.diagnosis import Component, ComponentKind, Layer, Symptom
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import split_link
from skeleton_service.diagnosis.circles import members
from skeleton_service.diagnosis.paths import BETWEEN
from skeleton_service.diagnosis.suspects import ANY, Suspect, prior_of

_DIRECT: Mapping[str, ComponentKind] = {
    "link": "link", "switch": "switch", "linecard": "linecard", "breakout_group": "breakout_group", "lag": "lag",
    "host": "host", "container": "container", "vswitch": "vswitch",
}  # fmt: skip
_LAYERS: Mapping[ComponentKind, Layer] = {
    "rnic": "rnic", "host": "host", "container": "host", "config": "host", "vswitch": "overlay", "agent": "service",
    "resolver": "service",
}  # fmt: skip
_SOFTNESS = 1.5
"""The likelihoods take probes for independent, which they are not quite: differences count for so much less."""
_SOME_FLOWS = 3.0
_ALIKE = 0.01
_AS_LIKELY = 0.5
"""Of the weight of the likeliest."""
_NO_OVERLAY = 1.0
_LOSSY_HOST = 2.0
"""Hosts and containers are there or not; what comes and goes, or loses some, is a cable."""
_HOST_SLOW = 1.5
"""Slow memory or PCIe makes all of a host slow; of a container nothing but its tables does, which may be looked at."""
_CABLE: Mapping[Symptom, tuple[tuple[ComponentKind, float], ...]] = {
    "unreachable": (("rnic", 0.85), ("link", 0.15)),
    "loss": (("link", 0.83), ("rnic", 0.1), ("port", 0.07)),
    "congestion": (("rnic", 0.85), ("link", 0.08), ("port", 0.07)),
    "flap": (("link", 0.83), ("rnic", 0.1), ("port", 0.07)),
}
"""How an RNIC and its cable share the blame, by symptom, where nothing but probes tells.

Of the simulator's failures the first is right nearly always (benchmarks.diagnosis, the table of confidence): a site's
own history may say otherwise.
"""


class Name(NamedTuple):
    kind: ComponentKind
    name: str


class Ranked(NamedTuple):
    name: Name
    probability: float


def layer_of(kind: ComponentKind) -> Layer:
    return _LAYERS.get(kind, "underlay")


def names_of(
    suspect: Suspect, symptom: Symptom, fabric: Fabric, *, one_of_several: bool = False
) -> list[tuple[Name, float]]:
    """What a suspect may be called, with the share of its probability that each name has.

    ``one_of_several``: others do as well, and each should be named once.
    """
    host = fabric.hosts.get(suspect.name.partition(":")[0])
    alone = suspect.kind == "host" or (suspect.kind == "cable" and host is not None and len(host.rnics) == 1)
    if alone and suspect.filter.overlay is False and symptom != "latency":
        # What the overlay lives by, the underlay's wires, is sound: whoever should answer on the host is not there.
        return [(Name("agent", suspect.name.partition(":")[0]), 1.0)]
    if suspect.kind == "cable":
        shares = _CABLE.get(symptom, (("rnic", 0.8), ("link", 0.2)))
        if suspect.filter.rdma is not None or symptom == "latency":
            return [(Name("rnic", suspect.name), 1.0)]
        link, port = fabric.link_of(suspect.name), fabric.far_end(suspect.name)
        named = {"rnic": suspect.name, "link": link, "port": port}
        return [(Name(kind, name), share) for kind, share in shares if (name := named[kind]) is not None]
    if symptom == "latency" and suspect.kind == "link" and suspect.way:
        # A queue that stands full is that of the port which sends.
        names = (Name("port", suspect.way), 0.7), (Name("link", suspect.name), 0.3)
        return [(Name("link", suspect.name), 1.0)] if one_of_several else list(names)
    if suspect.kind == "circle":
        # Whichever of them is drained opens the circle: each is right.
        return [(Name("switch", each), 1.0) for each in members(suspect.name)]
    if suspect.kind in _DIRECT:
        return [(Name(_DIRECT[suspect.kind], suspect.name), 1.0)]
    # Between two RNICs or hosts, and nothing that other paths cross: one end or the other.
    first, _, second = suspect.name.partition(BETWEEN)
    kind: ComponentKind = "rnic" if suspect.kind == "pair" else "vswitch" if suspect.filter.overlay else "host"
    return [(Name(kind, first), 0.5), (Name(kind, second), 0.5)]


def rank(
    scores: Sequence[tuple[Suspect, float]],
    symptom: Symptom,
    fabric: Fabric,
    *,
    some_flows: bool = False,
    now_and_then: bool = False,
    overlay: bool = True,
    softness: float = 1.0,
) -> list[Ranked]:
    """Names with their probabilities: the likeliest suspect's first, then likeliest first.

    They add up to 1 at most, but for the switches of a circle, each of which is right if the circle is.

    A component that is suspected in several ways (one way, both ways, for RDMA alone) has the best of these scores.
    ``overlay`` says whether overlay paths are among those that fail: there a container has addresses of its own.
    ``now_and_then`` says that paths are slow and quick in turn, as where flows are offloaded again and again.
    ``some_flows`` says that only some of a suspect's flows are slow: by a virtual switch rather than a container.
    """
    hosts = {suspect: score for suspect, score in scores if suspect.kind == "host"}
    best: dict[tuple[str, str], tuple[Suspect, float]] = {}
    for suspect, score in scores:
        worth = score
        if symptom == "latency" and suspect.kind == "host":
            worth += softness * _HOST_SLOW
        if symptom in ("loss", "flap") and suspect.kind in ("host", "container"):
            worth -= softness * _LOSSY_HOST
        if not overlay and suspect.kind == "container":
            worth -= softness * _NO_OVERLAY
        if now_and_then and suspect.kind == "vswitch":
            worth += softness * _SOME_FLOWS
        elif some_flows and symptom == "latency" and suspect.kind == "vswitch":
            # Only where the underlay of its host is seen to be sound: where it is not probed, the two are one.
            host = hosts.get(suspect._replace(kind="host"))
            lead = softness * float(np.subtract(*prior_of([suspect._replace(kind="host"), suspect])))
            if host is None or host < score + lead - _ALIKE:
                worth += softness * _SOME_FLOWS
        agent = names_of(suspect, symptom, fabric)[0][0].kind == "agent"
        key = (suspect.kind + (" agent" if agent else ""), suspect.name)
        if key not in best or worth > best[key][1]:
            best[key] = suspect, worth
    highest = max(score for _, score in best.values())
    weight = {key: exp((score - highest) / (_SOFTNESS * softness)) for key, (_, score) in best.items()}
    total = sum(weight.values())
    several = sum(weight[key] >= _AS_LIKELY for key, (suspect, _) in best.items() if suspect.kind == "link") > 1
    shares: dict[Name, float] = {}
    for key, (suspect, _) in best.items():
        names = names_of(suspect, symptom, fabric, one_of_several=several)
        if suspect.kind == "host" and suspect.filter == ANY and symptom == "unreachable" and not overlay:
            # No probe but the agents' own crosses its RNICs: none can tell a dead host from a dead agent.
            names = [(Name("host", suspect.name), 0.6), (Name("agent", suspect.name), 0.4)]
        for name, share in names:
            shares[name] = shares.get(name, 0.0) + share * weight[key] / total
    likeliest, _ = best[max(weight, key=lambda key: weight[key])]
    names = names_of(likeliest, symptom, fabric, one_of_several=several)
    # Of a circle's switches, the one that most of the circles have which do as well.
    first = max(names, key=lambda each: each[1] * shares[each[0]])[0] if likeliest.kind == "circle" else names[0][0]
    ranked = sorted(shares.items(), key=lambda item: (item[0] != first, -item[1], item[0]))
    return [Ranked(name, share) for name, share in ranked]


def component(name: Name, fabric: Fabric) -> Component:
    return Component(kind=name.kind, name=name.name, location=", ".join(_places(name, fabric)) or None)


def _places(name: Name, fabric: Fabric) -> Iterator[str]:
    """Where to walk to: rack, pod and zone of a host, tiers of switches."""
    ends = split_link(name.name) if name.kind == "link" else (name.name,)
    for end in ends:
        node = end.partition(":")[0]
        host = fabric.hosts.get(node)
        if host is not None:
            if host.location:
                yield host.location
        elif node in fabric.switches:
            yield f"{fabric.switches[node].tier} {node}"
