"""A running Alertmanager: every cause silences its consequences, and nothing that merely looks like them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.contract.alertmanager import (
    MISSING,
    REASON,
    Alertmanager,
    Listener,
    alert,
    at_speed,
    quiet,
)
from tests.contract.test_alertmanager_static import INHIBITIONS, named
from tests.unit.running import until

pytestmark = pytest.mark.skipif(bool(MISSING), reason=REASON)

LINK, OTHER = "leaf-0:E4 -- spine-1:E0", "leaf-7:E4 -- spine-1:E7"
CABLE = "h1:mlx5_0 -- leaf-0:E9"
JOB = {"training_job": "llm"}
ON_LINK = {"component": LINK, "suspect": LINK}
RNIC = {"host": "h1", "rnic": "mlx5_0", "component": "h1:mlx5_0", "suspect": CABLE}
PORT = {"switch": "leaf-0", "switch_port": "E4", "component": "leaf-0:E4", "suspect": LINK}
SWITCH = {"switch": "leaf-0", "component": "leaf-0", "suspect": "leaf-0"}
SESSION = {"switch": "leaf-0", "component": "leaf-0:10.9.0.1", "suspect": LINK}
PAIR = {"src_host": "h1", "dst_host": "h2", "suspect": "rdma connections"}
RESOLVER = {"resolver": "10.0.0.53", "component": "10.0.0.53", "suspect": "10.0.0.53"}
DEAF = {"host": "h1", "resolver": "10.0.0.53", "component": "h1", "suspect": "h1"}
GROUP = {"switch": "leaf-0", "component": "leaf-0:1", "suspect": "leaf-0"}
CARD = {"switch": "leaf-0", "component": "leaf-0:lc1", "suspect": "leaf-0"}
MTU = {**JOB, "kind": "frag_needed", "hop": "leaf-0:E9", "component": "leaf-0", "suspect": "leaf-0"}


@dataclass(frozen=True)
class Pair:
    """A cause and what it silences; with one of the labels in ``near`` changed in the cause, it does not."""

    cause: dict[str, str]
    silenced: tuple[dict[str, str], ...]
    near: dict[str, str] = field(default_factory=dict)


def many(names: str, **labels: str) -> tuple[dict[str, str], ...]:
    return tuple(alert(name, **labels) for name in names.split())


PAIRS = [
    # PFC: cluster-wide, whatever the suspect.
    Pair(
        alert("FabricPfcDeadlock", component="leaf-9", suspect="pfc deadlock", switch="leaf-9"),
        many("FabricPfcCongestion FabricEcnThresholdHigh", **SWITCH)
        + many("FabricLosslessDrops FabricPathCongested", **PORT)
        + many("FabricLinkLoss FabricLinkSlow", **JOB, **ON_LINK)
        + many("FabricPathLoss FabricPathSlow FabricRdmaOnlyLoss", **JOB, path="p1")
        + many("FabricRdmaRetriesExhausted FabricRdmaNotConnected FabricRdmaRetransmits", **PAIR)
        + many("FabricCnpSurge FabricRnicLoss FabricRnicRetriesExceeded FabricRnicAckTimeouts", **RNIC),
    ),
    Pair(
        alert("FabricPfcStorm", **RNIC),
        many("FabricPfcCongestion FabricEcnThresholdHigh", **SWITCH)
        + many("FabricLosslessDrops FabricPathCongested", **PORT)
        + many("FabricCnpSurge", host="h8", component="h8:r0", suspect="h8:r0")
        + many("FabricLinkSlow", **JOB, **ON_LINK)
        + many("FabricPathSlow FabricPathLoss", **JOB, path="p1"),
    ),
    Pair(alert("FabricPfcCongestion", **SWITCH), many("FabricCnpSurge", **RNIC)),
    Pair(
        alert("FabricEcnThresholdHigh", **SWITCH),
        many("FabricPfcCongestion", **SWITCH),
        {"suspect": "leaf-7"},
    ),
    Pair(
        alert("FabricTransitPathDegraded", component="carrier-a", suspect="carrier-a", role="storage"),
        many("FabricPathLoss FabricPathSlow", **JOB, path="p1", role="storage")
        + many("FabricPathLoss", **JOB, path="p2", role="external"),
    ),
    Pair(
        alert("FabricTransitPathDegraded", component="carrier-a", suspect="carrier-a"),
        [alert("FabricResolverSlow", component="192.0.2.53", suspect="192.0.2.53")],
    ),
    Pair(
        alert("FabricBgpStarved", **SESSION),
        many(
            "FabricBgpSessionDown FabricBgpSessionFlapping",
            switch="spine-1",
            component="spine-1:10.9.0.0",
            suspect=LINK,
        )
        + many("FabricLinkLoss FabricLinkSlow", **JOB, **ON_LINK)
        + many("FabricLosslessDrops", **PORT),
        {"suspect": OTHER},
    ),
    Pair(
        alert("FabricBgpStarved", **SESSION),
        many("FabricControlPlaneDrops FabricPfcCongestion FabricEcnThresholdHigh", **SWITCH),
        {"switch": "leaf-7"},
    ),
    Pair(alert("FabricBgpStarved", **SESSION), many("FabricCnpSurge", host="h8", component="h8:r0", suspect="h8:r0")),
    *(
        Pair(alert(cause, **labels), many("FabricPathLoss FabricPathSlow", **JOB, path="p1"))
        for cause, labels in (("FabricBgpStarved", SESSION), ("FabricSwitchDown", SWITCH))
    ),
    # MTU
    Pair(alert("FabricLinecardMtu", **CARD), many("FabricBreakoutGroupMtu", **GROUP), {"switch": "leaf-7"}),
    *(
        Pair(alert(cause, **labels), many("FabricSwitchPortMtuLow", **PORT), {"switch": "leaf-7"})
        for cause, labels in (("FabricLinecardMtu", CARD), ("FabricBreakoutGroupMtu", GROUP))
    ),
    *(
        Pair(
            alert(cause, **labels),
            many("FabricLinkMtuMismatch", **JOB, **ON_LINK)
            + many("FabricSwitchPortMtuMismatch", **ON_LINK)
            + many("FabricPathMtuBelowPromise FabricPathMtuBelowRoce", **MTU),
        )
        for cause, labels in (
            ("FabricSwitchMtuLow", SWITCH),
            ("FabricLinecardMtu", CARD),
            ("FabricBreakoutGroupMtu", GROUP),
        )
    ),
    Pair(
        alert("FabricSwitchPortMtuLow", **PORT),
        many("FabricSwitchPortMtuMismatch", **ON_LINK),
        {"suspect": OTHER},
    ),
    Pair(
        alert("FabricSwitchPortMtuLow", **PORT),
        many("FabricPathMtuBelowPromise FabricPathMtuBelowRoce", **MTU),
    ),
    Pair(
        alert("FabricLinkMtuMismatch", **JOB, component=LINK),
        many("FabricSwitchPortMtuMismatch", **ON_LINK),
        {"component": OTHER},
    ),
    Pair(
        alert("FabricLinkMtuMismatch", **JOB, **ON_LINK),
        many("FabricPathMtuBelowPromise FabricPathMtuBelowRoce", **MTU),
        {"training_job": "other"},
    ),
    Pair(alert("FabricPathMtuBelowRoce", **MTU), many("FabricPathMtuBelowPromise", **MTU), {"hop": "leaf-7"}),
    Pair(alert("FabricPathMtuBelowRoce", **MTU), many("FabricPathMtuBelowPromise", **MTU), {"kind": "local"}),
    Pair(
        alert("FabricPathMtuBelowRoce", **JOB, kind="black_hole"),
        many("FabricPathMtuBelowPromise", **JOB, kind="black_hole"),
        {"training_job": "other"},
    ),
    # Components over paths
    *(
        Pair(
            alert(cause, **JOB, component=LINK),
            many("FabricPathLoss", **JOB, path="p1", component=LINK),
            {"component": OTHER},
        )
        for cause in ("FabricLinkLoss", "FabricLinkMtuMismatch")
    ),
    *(
        Pair(alert(cause, **JOB, **ON_LINK), many("FabricPathLoss", **JOB, path="p1"), {"training_job": "other"})
        for cause in ("FabricLinkLoss", "FabricLinkMtuMismatch")
    ),
    Pair(
        alert("FabricLinkSlow", **JOB, component=LINK),
        many("FabricPathSlow", **JOB, path="p1", component=LINK),
        {"component": OTHER},
    ),
    *(
        Pair(alert(cause, **JOB, **labels), many("FabricPathSlow", **JOB, path="p1"), {"training_job": "other"})
        for cause, labels in (("FabricLinkSlow", ON_LINK), ("FabricPathCongested", PORT))
    ),
    # What is paged for over what else is seen at the same place: by an alert that the rule does not name.
    Pair(
        alert("FabricResolverFailing", suspect=LINK, component="10.0.0.53"),
        many(
            "FabricPathLoss FabricPathSlow FabricPathCongested FabricPfcCongestion FabricCnpSurge FabricRnicErrors "
            "FabricRnicFlapping FabricRnicLoss FabricSwitchPortDown FabricSwitchPortFlapping FabricSwitchPortErrors "
            "FabricBgpSessionDown FabricBgpSessionFlapping",
            **ON_LINK,
        ),
        {"suspect": OTHER},
    ),
    # RDMA
    *(
        Pair(
            alert(cause, **labels),
            many("FabricRdmaRetriesExhausted FabricRdmaNotConnected FabricRdmaRetransmits", **PAIR)
            + many(
                "FabricRnicLoss FabricRnicRetriesExceeded FabricRnicAckTimeouts",
                host="h8",
                component="h8:r0",
                suspect="h8:r0",
            ),
        )
        for cause, labels in (
            ("FabricSwitchDown", SWITCH),
            ("FabricBgpStarved", SESSION),
            ("FabricLinkLoss", {**JOB, **ON_LINK}),
            ("FabricLinkMtuMismatch", {**JOB, **ON_LINK}),
            ("FabricSwitchMtuLow", SWITCH),
            ("FabricLinecardMtu", CARD),
            ("FabricBreakoutGroupMtu", GROUP),
            ("FabricSwitchPortMtuLow", PORT),
            ("FabricPfcStorm", RNIC),
        )
    ),
    *(
        Pair(
            alert("FabricRdmaRetriesExhausted", **PAIR),
            many("FabricRdmaNotConnected FabricRdmaRetransmits", **PAIR),
            {end: "h9"},
        )
        for end in ("src_host", "dst_host")
    ),
    Pair(
        alert("FabricRnicDown", **RNIC),
        many("FabricRdmaDown", **RNIC | {"suspect": "h1:mlx5_0"}),
        {"component": "h1:mlx5_1"},
    ),
    *(
        Pair(
            alert(cause, **RNIC),
            many(
                "FabricRdmaUnstable FabricRnicFlapping FabricRnicErrors FabricRnicNotReady FabricRnicGidChanged "
                "FabricRnicCountersStale FabricRnicLoss FabricRnicRetriesExceeded FabricRnicAckTimeouts "
                "FabricSlowReceiver FabricPcieStalled FabricCnpIgnored FabricCnpNotSent",
                **RNIC | {"suspect": "h1:mlx5_0"},
            ),
            {"component": "h1:mlx5_1"},
        )
        for cause in ("FabricRnicDown", "FabricRdmaDown")
    ),
    # Switches and telemetry. A switch that is down, by its cables: those to RNICs, and those to other switches.
    Pair(
        alert("FabricSwitchDownCable", switch="leaf-0", link=CABLE, component=CABLE, suspect=CABLE),
        many("FabricRnicDown FabricRdmaDown FabricRnicFlapping", **RNIC),
        {"suspect": "h1:mlx5_0 -- leaf-7:E9"},
    ),
    Pair(
        alert("FabricSwitchDownCable", switch="leaf-0", link=LINK, **ON_LINK),
        many("FabricSwitchPortDown FabricSwitchPortFlapping", switch="spine-1", switch_port="E0", **ON_LINK)
        + many("FabricLinkLoss FabricLinkSlow", **JOB, **ON_LINK)
        + many("FabricPathLoss FabricPathSlow", **JOB, path="p1", **ON_LINK)
        + many("FabricBgpSessionDown FabricBgpSessionFlapping", switch="spine-1", component="spine-1:b", suspect=LINK),
        {"suspect": OTHER},
    ),
    Pair(
        alert("FabricSwitchDown", **SWITCH),
        many("FabricSwitchUnreachable FabricSwitchSignalStale FabricHostsSilent", **SWITCH),
        {"switch": "leaf-7"},
    ),
    Pair(
        alert("FabricSwitchUnreachable", **SWITCH),
        many("FabricSwitchPortDown FabricSwitchPortFlapping FabricSwitchPortErrors", **PORT)
        + many("FabricSwitchSignalStale FabricControlPlaneDrops", **SWITCH)
        + many("FabricBgpSessionDown FabricBgpSessionFlapping", **SESSION),
        {"switch": "leaf-7"},
    ),
    Pair(
        alert("FabricTelemetryDown"),
        many("FabricHostsSilent FabricSwitchUnreachable FabricSwitchSignalStale", **SWITCH)
        + many("FabricSwitchesSilent FabricCollectorSilent"),
    ),
    Pair(alert("FabricProbingAbsent"), many("FabricHostsSilent", **SWITCH) + many("FabricCollectorSilent")),
    Pair(alert("FabricSwitchesSilent"), many("FabricSwitchUnreachable FabricSwitchSignalStale", **SWITCH)),
    # DNS
    Pair(
        alert("FabricResolverFailing", **RESOLVER),
        many("FabricResolverSlow FabricResolverTcpFailing", **RESOLVER),
        {"component": "10.0.0.54"},
    ),
    Pair(
        alert("FabricResolverFailing", **RESOLVER),
        many("FabricHostResolutionFailing", **DEAF),
        {"resolver": "10.0.0.54"},
    ),
    Pair(
        alert("FabricNodeLocalDnsDown", host="h1", component="h1", suspect="h1"),
        many("FabricHostResolutionFailing", **DEAF),
        {"host": "h2"},
    ),
    Pair(
        alert("FabricClusterDnsOverloaded", component="10.0.0.10", resolver="10.0.0.10", suspect="10.0.0.10"),
        many("FabricResolverFailing FabricResolverSlow FabricResolverTcpFailing", **RESOLVER)
        + many("FabricHostResolutionFailing", **DEAF),
    ),
    Pair(
        alert("FabricClusterDnsOverloaded", component="10.0.0.10", resolver="10.0.0.10", suspect="10.0.0.10"),
        many("FabricClusterDnsThrottled", component="10.0.0.10", resolver="10.0.0.10", suspect="10.0.0.10"),
        {"suspect": "10.0.0.11"},
    ),
]
BYSTANDERS = [
    # (what fires, what is told all the same)
    (alert("FabricPfcDeadlock", **SWITCH), alert("FabricPfcStorm", **RNIC)),
    (alert("FabricPfcDeadlock", **SWITCH), alert("FabricSwitchPortDown", **PORT)),
    (alert("FabricPfcDeadlock", **SWITCH), alert("FabricSlowReceiver", **RNIC)),
    (alert("FabricPfcStorm", **RNIC), alert("FabricLinkLoss", **JOB, **ON_LINK)),
    (alert("FabricPfcStorm", **RNIC), alert("FabricPcieStalled", **RNIC)),
    (
        alert("FabricTransitPathDegraded", component="carrier-a", suspect="carrier-a"),
        alert("FabricPathLoss", **JOB, path="p1", role="dp"),
    ),
    (
        alert("FabricTransitPathDegraded", component="carrier-a", suspect="carrier-a"),
        alert("FabricResolverFailing", component="192.0.2.53", suspect="192.0.2.53"),
    ),
    # A link of the fabric is no carrier's, and paths that moved have no vote on it.
    (
        alert("FabricTransitPathDegraded", component="carrier-a", suspect="carrier-a"),
        alert("FabricLinkLoss", **JOB, **ON_LINK),
    ),
    # A link of another switch; an RNIC that is down behind it, but whose cable is not known; what is not of its cables.
    (alert("FabricSwitchDown", **SWITCH), alert("FabricLinkLoss", **JOB, component=OTHER, suspect=OTHER)),
    (alert("FabricSwitchDown", **SWITCH), alert("FabricRnicDown", **RNIC | {"suspect": "h1:mlx5_0"})),
    (alert("FabricSwitchDown", **SWITCH), alert("FabricResolverFailing", **RESOLVER)),
    (alert("FabricSwitchDownCable", suspect=CABLE), alert("FabricSlowReceiver", **RNIC)),
    # A host's alerts and those of its RNICs are of different places: no alert on a host explains an RNIC.
    (
        alert("FabricNodeLocalDnsDown", host="h1", component="h1", suspect="h1"),
        alert("FabricRnicDown", **RNIC),
    ),
    (alert("FabricBgpStarved", **SESSION), alert("FabricPathLoss", **JOB, path="p1", component=OTHER, suspect=OTHER)),
    (alert("FabricLinkLoss", **JOB, **ON_LINK), alert("FabricSwitchPortMtuMismatch", **ON_LINK)),
    (alert("FabricLinkLoss", **JOB, **ON_LINK), alert("FabricSwitchPortMtuLow", **PORT)),
    # Paths of one job, and connections, are no place: what is one's is not the other's.
    (
        alert("FabricRdmaOnlyLoss", **JOB, path="p1", suspect="paths of llm"),
        alert("FabricPathLoss", **JOB, path="p2", suspect="paths of llm"),
    ),
    (alert("FabricPathCongested", **JOB, **PORT), alert("FabricPathSlow", **JOB, path="p1", component=OTHER)),
    (alert("FabricClusterDnsOverloaded", **RESOLVER), alert("FabricLinkLoss", **JOB, **ON_LINK)),
    (alert("FabricSwitchUnreachable", **SWITCH), alert("FabricHostsSilent", **SWITCH)),
    # Without the label that they would have to share, these share nothing.
    (alert("FabricLinkLoss", component=LINK), alert("FabricPathLoss", path="p1")),
    (alert("FabricSwitchUnreachable"), alert("FabricSwitchPortDown")),
    (alert("FabricLinkLoss", training_job="a"), alert("FabricSwitchPortDown")),
]


CASES = [(number, position) for number, pair in enumerate(PAIRS) for position in range(len(pair.silenced))]
"""Each consequence for itself: some silence others."""


def identity(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f"{name}={value}" for name, value in sorted(labels.items())) + "}"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """What a receiver was told of, every case in a cluster of its own: all of them at once."""
    listener = Listener()
    # All in one group, to one receiver: it is not the routes that are looked at here.
    alertmanager = Alertmanager(
        tmp_path_factory.mktemp("alertmanager"),
        listener,
        lambda document: (
            at_speed(document) | {"route": {"receiver": "fabric-page", "group_wait": "2s", "group_interval": "1s"}}
        ),
    )
    causes, targets = [], []
    for number, position in CASES:
        pair, name = PAIRS[number], f"{number}.{position}"
        causes.append({**pair.cause, "cluster": name})
        causes.append({**pair.cause, "cluster": "elsewhere"})
        causes += [{**pair.cause, label: value, "cluster": f"{name}-{label}"} for label, value in pair.near.items()]
        clusters = (name, f"{name}-alone", *(f"{name}-{label}" for label in pair.near))
        targets += [{**pair.silenced[position], "cluster": cluster} for cluster in clusters]
    for number, (cause, bystander) in enumerate(BYSTANDERS):
        causes.append({**cause, "cluster": f"bystander-{number}"})
        targets.append({**bystander, "cluster": f"bystander-{number}"})
    alertmanager.post(causes)
    alertmanager.post(targets)
    try:
        until(lambda: listener.calls, 20)
        yield {identity(each["labels"]) for call in quiet(listener, 2) for each in call.body["alerts"]}
    finally:
        alertmanager.stop()
        listener.close()


@pytest.mark.parametrize(
    ("number", "position"),
    CASES,
    ids=[f"{n}-{PAIRS[n].cause['alertname']}-{PAIRS[n].silenced[p]['alertname']}" for n, p in CASES],
)
def test_a_cause_silences_what_it_causes_and_no_more(told: set[str], number: int, position: int) -> None:
    pair, name = PAIRS[number], f"{number}.{position}"
    silenced = pair.silenced[position]
    assert identity({**silenced, "cluster": name}) not in told, "it is told"
    assert identity({**pair.cause, "cluster": name}) in told, "the cause is silenced as well"
    assert identity({**silenced, "cluster": f"{name}-alone"}) in told, "a cause of another cluster silences it"
    for label in pair.near:
        assert identity({**silenced, "cluster": f"{name}-{label}"}) in told, f"a cause of another {label} silences it"


@pytest.mark.parametrize("number", range(len(BYSTANDERS)))
def test_what_no_cause_explains_is_told(told: set[str], number: int) -> None:
    for labels in BYSTANDERS[number]:
        assert identity({**labels, "cluster": f"bystander-{number}"}) in told, labels


def test_every_rule_and_every_name_in_it_is_tried() -> None:
    tried = {(pair.cause["alertname"], each["alertname"]) for pair in PAIRS for each in pair.silenced}
    for each in INHIBITIONS:
        sources = {name for m in each.source if m.label == "alertname" for name in m.value.split("|")}
        for cause, silenced in itertools.product(sources, named(each) - sources):
            assert (cause, silenced) in tried, f"{cause} silences {silenced}: no test"
