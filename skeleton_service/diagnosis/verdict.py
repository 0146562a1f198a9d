"""The verdict: what probes accuse, what device counters and overlay tables add, as failures that a person can check."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import exp, inf, isnan

from exporter.contracts.diagnosis import Alternative, Component, Failure, Layer, Symptom
from exporter.contracts.fabric import Fabric
from skeleton_service.diagnosis.accusations import Accusation, accused_host
from skeleton_service.diagnosis.causes import causes_alone, is_around, renamed
from skeleton_service.diagnosis.circles import members
from skeleton_service.diagnosis.corroboration import Corroboration, symptom_of
from skeleton_service.diagnosis.geometry import Geometry
from skeleton_service.diagnosis.likelihood import softness_of
from skeleton_service.diagnosis.naming import Name, Ranked, component, layer_of, rank
from skeleton_service.diagnosis.observations import Egresses
from skeleton_service.diagnosis.offloading import hosts_to_validate, inconsistencies
from skeleton_service.diagnosis.overlay import Overlay
from skeleton_service.diagnosis.overlay_findings import OverlayFinding
from skeleton_service.diagnosis.paths import PathIndex
from skeleton_service.diagnosis.refusals import WINDOW_SECONDS, Refusal
from skeleton_service.diagnosis.resolvers import WINDOW_SECONDS as LOOKUP_SECONDS
from skeleton_service.diagnosis.resolvers import Slowness
from skeleton_service.diagnosis.suspects import Suspect

MOST_ALTERNATIVES = 2
"""Beside the component: three names at most are an answer, more are a list."""
LEAST_PROBABILITY = 0.01
_SHARED = 0.5
_AS_WELL, _FAR_WORSE = 0.7, 7.0
"""Differences of scores: twice as likely, and a thousand times."""
_MOST_COUNTER_LINES = 4
_READ_SECONDS = 20.0
"""After so long, two readings of a counter are of the time since something began."""
_CARRIERS = frozenset({"carrier", "provider", "transit"})
"""Tiers of switches that are somebody else's."""
_MOVED_SECONDS = 65.0
_LEAST_MOVED = 2
_MOVED_SHARE = 0.3
_LEAST_TABLED = 0.3
_TABLED, _DOUBT = (0.9, 0.05, 0.02), 0.05
"""Probability of what tables name and of what may be to blame in its place; and what is left for what probes accuse."""
_AT_HOME = 0.2
"""Who is to deliver a packet and sends it on is wrong, rather than who sends it to where it belongs."""
_BETWEEN = 0.6
"""What tables that are wrong between two hosts count for a flow that they do not name, beside one that they do."""
_SECOND = 0.9
"""What a table that may be to blame as well counts, beside one that is held to be."""
_NEXT = {
    "cable": "RNIC {}, or its cable,",
    "pair": "what is between {} alone",
    "hosts": "what is between the hosts {} alone",
}


def _shown(suspect: Suspect) -> str:
    """A suspect in a sentence."""
    if suspect.kind == "circle":
        *most, last = members(suspect.name)
        return f"the links among {', '.join(most)} and {last}"
    return _NEXT[suspect.kind].format(suspect.name) if suspect.kind in _NEXT else f"{suspect.kind} {suspect.name}"


def _next(scores: Sequence[tuple[Suspect, float]], softness: float) -> Iterator[str]:
    """How much worse the next component explains what probes saw; ``scores`` are best first."""
    first, best = scores[0]
    for other, score in scores[1:]:
        if (other.kind, other.name) != (first.kind, first.name):
            named = _shown(other)
            yield f"next: {named} {_worse((best - score) / softness)}"
            return


def _worse(difference: float) -> str:
    """A difference of log-likelihoods in words."""
    if difference < _AS_WELL:
        return "explains it as well: these probes cannot tell the two apart"
    if difference < _FAR_WORSE:
        return f"explains it {exp(difference):.0f} times worse"
    return "explains it far worse"


@dataclass(slots=True)
class Court:
    """Hears what probes say, then counters and tables, and gives the verdicts."""

    fabric: Fabric
    job: str
    """Of failures that no path tells of."""
    geometry: Geometry
    corroboration: Corroboration
    overlay: Overlay | None = None
    _heard: set[int] = field(default_factory=set)
    """Anomalies (by identity) that belong to a failure."""

    def verdicts(self, accusations: Sequence[Accusation], refusals: Sequence[Refusal] = ()) -> list[Failure]:
        """Failures by time; slow paths of a component that loses probes are no failure of their own."""
        made: list[Failure] = []
        doubtful: list[tuple[Accusation, OverlayFinding]] = []
        losing = [each for each in accusations if each.symptom != "latency"]
        for each in accusations:
            if any(_refused(each, refusal) for refusal in refusals):
                continue
            if each.symptom == "latency" and any(_same(each, other) for other in losing):
                continue
            tabled = self._tables(each)
            if not each.tentative:
                made += self._verdict(each, tabled)
            elif tabled is not None:
                doubtful.append((each, tabled))
        for each, tabled in doubtful:
            known = {failure.job for failure in made if _told(tabled, each, failure)}
            made += [failure for failure in self._verdict(each, tabled) if failure.job not in known]
        made += self._from_counters(made)
        return sorted(made, key=lambda failure: (failure.start, failure.id))

    def _verdict(self, accused: Accusation, tabled: OverlayFinding | None) -> list[Failure]:
        near = self.corroboration.during(accused.start, accused.end)
        softness = softness_of(max(0.0, accused.scores[0][1]))
        scores = [
            (suspect, score + softness * self.corroboration.weight(suspect, near)) for suspect, score in accused.scores
        ]
        scores.sort(key=lambda item: -item[1])
        suspect = scores[0][0]
        overlay = any(path.flow.overlay for path in accused.paths)
        ranked = rank(
            scores,
            accused.symptom,
            self.fabric,
            some_flows=accused.some_flows,
            now_and_then=accused.now_and_then,
            overlay=overlay,
            softness=softness,
        )
        moved = self._moved(accused)
        if moved is not None and accused.symptom in ("loss", "congestion"):
            ranked = [Ranked(moved, max(0.8, ranked[0].probability)), *(each for each in ranked if each.name != moved)]
        shown = _shown(suspect) if suspect.kind == "circle" else ranked[0].name.name
        first, *others = accused.lines  # only the first has room for a name, and names may hold anything
        evidence = [first.replace("{}", shown, 1), *others, *_next(scores, softness)]
        layer: Layer | None = "unknown" if suspect.kind in ("pair", "hosts") else None
        symptom: Symptom = accused.symptom
        if ranked[0].name == moved:
            symptom = "path_change"
            evidence.append(f"routes moved to {ranked[0].name.name} as the losses began")
        if tabled is not None:
            found = [Name(each.kind, each.name) for each in (tabled.component, *tabled.alternatives)]
            told = [Ranked(name, share) for name, share in zip(found, _TABLED, strict=False)]
            ranked = [
                *told,
                *(Ranked(each.name, _DOUBT * each.probability) for each in ranked if each.name not in found),
            ]
            evidence += tabled.evidence
            layer = "overlay" if found[0].kind in ("vswitch", "container") else None
        concerning = self.corroboration.concerning(suspect, near)
        if overlay:
            # A host whose overlay is silent too is not missing its agent alone.
            concerning = [each for each in concerning if each.kind != "agent_silent"]
        self._heard |= {id(each) for each in near if each in concerning or is_around(each, suspect, self.fabric)}
        if tabled is None and self._agent_alone(accused, suspect):
            agent = Name("agent", accused_host(suspect, accused))
            rest = [Ranked(each.name, 0.1 * each.probability) for each in ranked]
            ranked = [Ranked(agent, 0.9), *rest]
            evidence.append(f"{agent.name} moves the job's traffic all the while: its agent is silent, not the network")
        elif tabled is None:
            ranked, named_by = renamed(ranked, suspect, concerning)
            if named_by is not None and named_by.kind in ("bgp_flapping", "bgp_down", "ecn_absent"):
                symptom = symptom_of(named_by)
        evidence += [each.evidence for each in concerning[:_MOST_COUNTER_LINES]]
        if layer is None and suspect.filter.rdma and ranked[0].name.kind == "rnic":
            layer = "rnic"
        return self._failures(accused, symptom, ranked, layer, evidence, any_of=suspect.kind == "circle")

    def _agent_alone(self, accused: Accusation, suspect: Suspect) -> bool:
        """Whether nothing but the agent of a host is gone: its RNICs move traffic while no probe is answered."""
        if accused.symptom != "unreachable" or any(path.flow.overlay for path in accused.paths):
            return False
        host = accused_host(suspect, accused)
        described = self.fabric.hosts.get(host)
        if described is None or suspect.kind not in ("host", "container", "cable"):
            return False
        if suspect.kind == "cable" and len(described.rnics) > 1:
            return False
        if suspect.kind == "container":
            best = accused.scores[0][1]
            near = [other for other, score in accused.scores if score >= best - softness_of(best)]
            if not any(other.kind == "host" and other.name == host for other in near):
                return False
        return self.corroboration.moves(host, accused.start + _READ_SECONDS, accused.end or inf) is True

    def _moved(self, accused: Accusation) -> Name | None:
        """The switch that losing paths all go through since they began to lose, and did not before."""
        entered: Counter[str] = Counter()
        for flow in {path.flow for path in accused.paths}:
            change = self.geometry.changed(flow, accused.start - _MOVED_SECONDS, accused.start + _MOVED_SECONDS)
            if change is not None:
                _, old, new = change
                entered.update(_switches(new) - _switches(old))
        flows = len({path.flow for path in accused.paths})
        for switch, count in sorted(entered.items(), key=lambda item: (-item[1], item[0])):
            if self.fabric.switches[switch].tier in _CARRIERS and count >= max(_LEAST_MOVED, _MOVED_SHARE * flows):
                return Name("provider", switch)
        return None

    def _tables(self, accused: Accusation) -> OverlayFinding | None:
        """What overlay tables say of paths that fail in the overlay alone."""
        paths = [path for path in accused.paths if path.overlay_destination]
        if self.overlay is None or len(paths) < len(accused.paths):
            return None
        if accused.suspect.kind in ("link", "linecard", "switch") and accused.suspect.filter.overlay is None:
            return None
        flows = {(*path.hosts, path.overlay_destination or "", path.containers) for path in paths}
        found: dict[tuple[str, str], list[tuple[OverlayFinding, float]]] = defaultdict(list)
        if accused.symptom != "latency":
            for source, home, address, (sender, receiver) in sorted(flows):
                finding = self.overlay.replay(source, address, receiver, source_container=sender)
                if finding is None:
                    continue
                for place, each in enumerate((finding.component, *finding.alternatives)):
                    worth = 1.0 if place == 0 else _SECOND
                    worth += _AT_HOME * (finding.kind == "loop" and each.name == home)
                    found[each.kind, each.name].append((finding, worth))
        if not found:
            # Both layers look clean so far: now the RNICs' tables are worth what it costs to read them.
            hosts = hosts_to_validate([path.hosts for path in paths])
            named, beside = Counter[tuple[str, str]](), Counter[frozenset[str]]()
            for source, home, address, _ in flows:
                named[source, address] += 1
                beside[frozenset((source, home))] += 1
            for finding in inconsistencies(self.overlay, hosts):
                # A round trip is late by the tables of either end, and what is to blame sends to more than one.
                between = {frozenset((host, home)) for host, to in finding.flows for home in self.overlay.homes(to)}
                exact = sum(named[flow] for flow in set(finding.flows))
                near = sum(beside[pair] for pair in between)
                own = found[finding.component.kind, finding.component.name]
                own += [(finding, 1.0)] * exact + [(finding, _BETWEEN)] * max(0, near - exact)
        found = {key: told for key, told in found.items() if told}
        if not found:
            return None
        key = max(found, key=lambda each: (sum(worth for _, worth in found[each]), each))
        told = found[key]
        if sum(worth for _, worth in told) < _LEAST_TABLED * len(flows):
            return None
        first = (finding for finding, _ in told if (finding.component.kind, finding.component.name) == key)
        return next(first, told[0][0])

    def _from_counters(self, failures: Sequence[Failure]) -> Iterator[Failure]:
        """Failures that nothing but counters tell of."""
        left = [each for each in self.corroboration.anomalies if id(each) not in self._heard]
        for cause in causes_alone(left, failures, self.fabric):
            accused = Accusation(
                cause.anomaly.start,
                cause.anomaly.proven,
                cause.anomaly.end,
                symptom_of(cause.anomaly),
                Suspect("link", cause.link or cause.name.name),
                (),
                (),
                (),
            )
            others = [] if cause.link in (None, cause.name.name) else [Ranked(Name("link", str(cause.link)), 0.2)]
            yield from self._failures(accused, accused.symptom, [Ranked(cause.name, 0.75), *others], None, cause.lines)

    def _failures(
        self,
        accused: Accusation,
        symptom: Symptom,
        ranked: Sequence[Ranked],
        layer: Layer | None,
        evidence: Sequence[str],
        *,
        any_of: bool = False,
    ) -> list[Failure]:
        """One for each job whose paths are concerned. ``any_of``: the names do not exclude each other."""
        first, *others = ranked
        others.sort(key=lambda each: -each.probability)
        beside = sum(each.probability for each in others)
        scale = min(1.0, (1 - first.probability) / beside) if beside and not any_of else 1.0
        others = [Ranked(each.name, min(1.0, scale * each.probability)) for each in others]
        named = component(first.name, self.fabric)
        by_job: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for path in accused.paths:
            by_job[path.job].add(path.ends)
        return [
            Failure(
                id=identity(job, symptom, named),
                job=job,
                start=accused.start,
                detected_at=accused.detected_at,
                end=accused.end,
                symptom=symptom,
                layer=layer or layer_of(first.name.kind),
                component=named,
                alternatives=tuple(
                    Alternative(kind=other.name.kind, name=other.name.name, score=round(other.probability, 3))
                    for other in others[:MOST_ALTERNATIVES]
                    if other.probability >= LEAST_PROBABILITY
                ),
                confidence=round(min(1.0, first.probability), 3),
                paths=tuple(sorted(ends)),
                evidence=tuple(evidence),
            )
            for job, ends in sorted((by_job or {self.job: set()}).items())
        ]


def _told(tabled: OverlayFinding, accused: Accusation, failure: Failure) -> bool:
    """Whether a failure tells already, of the same time, what tables say of doubtful paths."""
    own = (tabled.component, *tabled.alternatives)
    same = any(each.kind == failure.component.kind and each.name == failure.component.name for each in own)
    return same and accused.start <= (failure.end or inf) and (accused.end or inf) >= failure.start


def _refused(accused: Accusation, refusal: Refusal) -> bool:
    """Whether what is lost, besides, is what a host without its responder does not answer."""
    return (
        all(refusal.host in path.hosts for path in accused.paths)
        and abs(accused.start - refusal.start) <= WINDOW_SECONDS
        and accused.suspect.kind in ("host", "cable", "container", "pair", "hosts")
    )


def of_refusal(refusal: Refusal, index: PathIndex) -> list[Failure]:
    """A failure of each job that probes a host which refuses."""
    named = Component(kind="agent", name=refusal.host)
    paths = [index.paths[number] for number in sorted(refusal.paths)]
    return [
        Failure(
            id=identity(job, "unreachable", named),
            job=job,
            start=refusal.start,
            detected_at=refusal.detected_at,
            end=refusal.end,
            symptom="unreachable",
            layer="service",
            component=named,
            alternatives=(),
            confidence=0.99,
            paths=tuple(sorted({path.ends for path in paths if path.job == job})),
            evidence=(f"{refusal.host} answers {len(paths)} path(s) with a refusal: the network carries the probes",),
        )
        for job in sorted({path.job for path in paths})
    ]


def of_resolver(slow: Slowness, job: str) -> Failure:
    named = Component(kind="resolver", name=slow.resolver)
    took = "no answer came" if isnan(slow.median) else f"answers took {slow.median / 1000:.1f} ms in the median"
    line = (
        f"{slow.failed} of {slow.queries} queries to {slow.resolver} failed within {LOOKUP_SECONDS:.0f} s, {took} "
        f"({slow.usual / 1000:.1f} ms before); asked by {slow.hosts} host(s)"
    )
    return Failure(
        id=identity(job, "resolution", named),
        job=job,
        start=slow.start,
        detected_at=slow.detected_at,
        end=slow.end,
        symptom="resolution",
        layer="service",
        component=named,
        alternatives=(),
        confidence=0.95,
        paths=(),
        evidence=(line,),
    )


def _switches(route: Egresses) -> set[str]:
    """The switches that forward along a route."""
    return {end.partition(":")[0] for end in route[1:]}


def _same(slow: Accusation, losing: Accusation) -> bool:
    """Whether paths are slow where, and when, they lose probes anyway."""
    if losing.end is not None and slow.start > losing.end + 30:
        return False
    common = Counter(path.ends for path in slow.paths) & Counter(path.ends for path in losing.paths)
    return common.total() >= _SHARED * len(slow.paths) and slow.detected_at >= losing.start - 30


def identity(job: str, symptom: str, named: Component) -> str:
    """Stable over repeated diagnoses of the same failure."""
    return sha256("\0".join((job, symptom, named.kind, named.name)).encode()).hexdigest()[:16]
