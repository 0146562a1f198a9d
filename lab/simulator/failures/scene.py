"""The stage of a case: what a failure class may draw from, break, tell of and blame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from exporter.contracts.catalogue import RNIC_UP
from exporter.contracts.counters import BGP_ESTABLISHED, BGP_TRANSITIONS, QUEUE_DROPPED, STATUS_CHANGES
from exporter.contracts.diagnosis import ComponentKind, Layer, Symptom
from exporter.contracts.switch_counters import SWITCH_REACHABLE
from lab.simulator.failures.blame import Blame, Name, Redraw
from lab.simulator.failures.clock import Clock
from lab.simulator.failures.crossings import Crossings
from lab.simulator.failures.effects import Effect, Interval
from lab.simulator.failures.flows import RDMA, Flows, Job
from lab.simulator.failures.lookups import Lookups
from lab.simulator.failures.overlay import Tables
from lab.simulator.failures.routing import Hashing, Routes, route
from lab.simulator.failures.story import LOSSLESS, SWITCH_UP, TRANSMIT_DISCARDS, Event, Story
from lab.simulator.failures.wiring import CARRIER, Booleans, Integers, Wiring, both_ways

MOST_TWINS = 2
TRACE_SECONDS = 30.0


@dataclass(slots=True)
class Scene:
    """Choices come from ``draw``. What a class does is collected: routes, effects, counters' story, overlay tables."""

    draw: np.random.Generator
    wiring: Wiring
    job: Job
    flows: Flows
    hashing: Hashing
    clock: Clock
    counted: bool  # whether the case has counters
    told: bool  # whether lost probes say which way they were lost
    tables: Tables
    seen: Booleans  # (P,): flows whose routes are traced
    routes: list[tuple[float, Routes]] = field(init=False)
    crossings: Crossings = field(init=False)
    effects: list[Effect] = field(default_factory=list)
    absent: list[tuple[Booleans, Interval]] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)  # switches that answer no trace
    answering: float = 1.0  # the chance that another one does
    story: Story = field(default_factory=Story)
    blames: list[Blame] = field(default_factory=list)
    load: float = 1.0
    stray: float | None = None  # background loss; None: as in any case
    lookups: Lookups | None = None
    affected_lookups: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    drained: set[str] = field(default_factory=set)  # switches and hosts that the topology calls drained

    def __post_init__(self) -> None:
        self.routes = [(self.clock.begin - 3600.0, self.way())]
        self.crossings = Crossings(self.wiring, self.flows, self.first, self.seen)

    def way(self, dead: Sequence[int] = (), *, carrier: int = 0, hashing: Hashing | None = None) -> Routes:
        """Where routing sends all flows while the links ``dead`` are down; ``carrier``: the one in use, by number."""
        carriers = self.wiring.tier(CARRIER)
        used = carriers[carrier] if carriers else ""
        return route(self.wiring, self.flows, hashing or self.hashing, dead, carrier=used)

    # ---- choices

    @property
    def first(self) -> Routes:
        return self.routes[0][1]

    def all_flows(self) -> Booleans:
        return np.ones(self.flows.number, bool)

    def rnic(self) -> int:
        """An RNIC that is probed."""
        return int(self.draw.choice(np.unique(self.flows.source)))

    def host(self) -> str:
        return str(self.draw.choice(sorted(self.wiring.hosts)))

    def container(self) -> str:
        return str(self.draw.choice(sorted(set(self.job.container))))

    def fabric_links(self, least: int = 3) -> list[int]:
        """Links between switches on the traced routes of at least so many pairs of RNICs."""
        counts = self.crossings.pairs_of_links()
        return [link for link in np.flatnonzero(counts >= least).tolist() if link not in self.crossings.cables]

    def fabric_link(self, least: int = 3) -> int:
        """One of those of which no three others look the same."""
        links = [link for link in self.fabric_links(least) if len(self.twins(both_ways([link]))) <= MOST_TWINS]
        if not links:
            raise Redraw
        return int(self.draw.choice(links))

    def directions(self, least: int = 3) -> list[int]:
        """Directions of links between switches that are traced for so many pairs, with few that look the same."""
        counts = self.crossings.pairs()
        return [
            each
            for each in np.flatnonzero(counts >= least).tolist()
            if each // 2 not in self.crossings.cables and len(self.twins(np.array([each]))) <= MOST_TWINS
        ]

    def direction(self, least: int = 3) -> int:
        options = self.directions(least)
        if not options:
            raise Redraw
        return int(self.draw.choice(options))

    # ---- what looks alike

    def twins(self, directions: Integers, flows: Booleans | None = None) -> list[int]:
        """Links that the probes cannot tell from ``directions`` (crossings.Crossings.twins)."""
        return self.crossings.twins(directions, flows)

    def alike(
        self, directions: Integers, flows: Booleans | None = None, *, parts: bool = False, dead: bool = False
    ) -> tuple[Name, ...]:
        """The names of those links, an RNIC's for its cable; with ``parts`` also line cards and breakout groups.

        A part looks like a link of it where the probes see no other. What is ``dead`` for so long that every flow is
        traced meanwhile looks like no link elsewhere on its flows' ways: their traces end there.
        """
        told = dead and self.clock.over - self.clock.injected >= TRACE_SECONDS
        links = () if told else tuple(self.link_name(link) for link in self.twins(directions, flows))
        if not parts:
            return links
        own, mine = self.crossings.requests(directions), set((directions // 2).tolist())
        return links + tuple(
            part
            for part, theirs in self.wiring.parts.items()
            if mine <= set(theirs) and np.array_equal(own, self.crossings.requests(both_ways(theirs)))
        )

    def distinct(self, directions: Integers) -> None:
        """Make sure that no single link looks like all of ``directions``: the probes see more than one."""
        links = set((directions // 2).tolist())
        own = self.crossings.requests(directions)
        if self.twins(directions) or any(
            np.array_equal(own, self.crossings.requests(both_ways([link]))) for link in links
        ):
            raise Redraw

    def hide(self, flows: Booleans) -> None:
        """The routes of these flows are not traced."""
        self.seen = self.seen & ~flows
        self.crossings = Crossings(self.wiring, self.flows, self.first, self.seen)

    def link_name(self, link: int) -> Name:
        if link in set(self.wiring.cables.tolist()):
            return "rnic", self.wiring.ends[link][0]
        return "link", self.wiring.links[link]

    # ---- what breaks

    def lose(
        self,
        directions: Integers | Sequence[int],
        loss: float,
        *,
        windows: tuple[Interval, ...] | None = None,
        flows: Booleans | None = None,
        failure: int | None = 0,
        traced: bool = True,
    ) -> None:
        """Packets that cross ``directions`` die with probability ``loss``."""
        mask = self.all_flows() if flows is None else flows
        during = self.clock.during if windows is None else windows
        self.effects.append(
            Effect(during, mask, mask, np.asarray(directions), loss=loss, failure=failure, traced=traced)
        )

    def delay(
        self, directions: Integers | Sequence[int], microseconds: float, *, windows: tuple[Interval, ...] | None = None,
        flows: Booleans | None = None, spread: float = 0.1, share: float = 1.0, failure: int | None = 0,
    ) -> None:  # fmt: skip
        """Packets that cross ``directions`` wait, a ratio ``share`` of them."""
        mask = self.all_flows() if flows is None else flows
        self.effects.append(
            Effect(self.clock.during if windows is None else windows, mask, mask, np.asarray(directions),
                   delay=microseconds, spread=spread, share=share, failure=failure)
        )  # fmt: skip

    def delay_flows(
        self, there: Booleans, back: Booleans, microseconds: float, *, windows: tuple[Interval, ...] | None = None,
        spread: float = 0.1, share: float = 1.0, loss: float = 0.0, failure: int | None = 0,
    ) -> None:  # fmt: skip
        """Requests of the flows ``there`` and replies of the flows ``back`` wait, wherever they go."""
        self.effects.append(
            Effect(self.clock.during if windows is None else windows, there, back, delay=microseconds, spread=spread,
                   share=share, loss=loss, failure=failure)
        )  # fmt: skip

    def grow(self, directions: Integers, growth: float, *, failure: int = 0) -> None:
        """Round trips over ``directions`` get longer, evenly up to a ratio ``growth`` at the end."""
        mask = self.all_flows()
        self.effects.append(Effect(self.clock.during, mask, mask, directions, growth=growth, failure=failure))

    def lose_flows(
        self, there: Booleans, back: Booleans, loss: float = 1.0, *, windows: tuple[Interval, ...] | None = None,
        failure: int | None = 0, error: str | None = None,
    ) -> None:  # fmt: skip
        self.effects.append(
            Effect(
                self.clock.during if windows is None else windows, there, back, loss=loss, failure=failure, error=error
            )
        )

    def dead(self, links: list[int], moment: float, *, failure: int | None = 0, until: float | None = None) -> None:
        """``links`` carry nothing from ``moment`` until ``until``, when the old routes come back.

        Routing goes round them 0.2 to 2 s later, where there is a way round.
        """
        moved = moment + self.draw.uniform(0.2, 2.0)
        self.lose(
            both_ways(links), 1.0, windows=((moment, self.clock.end if until is None else until),), failure=failure
        )
        cables = set(self.wiring.cables.tolist())
        around = [link for link in links if link not in cables]
        if around:
            self.routes.append((moved, self.way(around)))
        if until is not None:
            self.routes.append((until + self.draw.uniform(0.5, 5.0), self.first))

    def flapping(self, period: float, down: float) -> tuple[Interval, ...]:
        """Down for ``down`` seconds every ``period`` or so."""
        moments = self.clock.injected + np.cumsum(np.append(0.0, self.draw.uniform(0.9, 1.1, 40) * period))
        return tuple((float(m), min(float(m) + down, self.clock.over)) for m in moments if m < self.clock.over)

    # ---- what counters tell

    def count(self, metric: str, port: str, **event: object) -> None:
        """An event of one series of ``port`` (``node:port``, or a device alone), during the failure unless said."""
        node, _, name = port.partition(":")
        settings: dict[str, object] = {"windows": self.clock.during} | event
        self.story.events.append(Event(metric, node, name, **settings))  # type: ignore[arg-type]

    def drop(
        self, port: str, rate: float, *, vlan: int | None = None, windows: tuple[Interval, ...] | None = None
    ) -> None:
        """The lossless queue of a port drops ``rate`` packets a second, of one VLAN where it is named."""
        during = self.clock.during if windows is None else windows
        self.count(QUEUE_DROPPED, port, rate=rate, queue=LOSSLESS, windows=during)
        self.count(TRANSMIT_DISCARDS, port, rate=rate, windows=during)
        if vlan is not None:
            self.count(QUEUE_DROPPED, port, rate=rate, queue=LOSSLESS, vlan=vlan, windows=during)

    def down(self, links: Sequence[int], windows: tuple[Interval, ...]) -> None:
        """Both ends of links say that they have no carrier, and how often that changed; BGP over them ends."""
        for link in links:
            for port, far in (self.wiring.ends[link], self.wiring.ends[link][::-1]):
                self.story.frozen += [(port, window) for window in windows]
                if port not in self.wiring.ports:
                    self.count(RNIC_UP.name, port, windows=windows, level=0.0)
                    continue
                self.count(SWITCH_UP, port, windows=windows, level=0.0)
                for moment in {moment for window in windows for moment in window if moment < self.clock.end}:
                    self.count(STATUS_CHANGES, port, windows=((moment, moment + 1.0),), rate=1.0)
                if far in self.wiring.ports:
                    self.session(port, far, tuple((since, until + 3.0) for since, until in windows))

    def session(self, port: str, far: str, windows: tuple[Interval, ...]) -> None:
        """The BGP session of ``port``'s switch with the one behind it is down in the windows, and back after each."""
        switch, peer = port.partition(":")[0], self.wiring.ports[far].addresses[0]
        self.count(BGP_ESTABLISHED, switch, windows=windows, level=0.0, peer=peer)
        for _, until in windows:
            if until < self.clock.end:
                self.count(BGP_TRANSITIONS, switch, windows=((until, until + 1.0),), rate=1.0, peer=peer)

    def off(self, switch: str) -> None:
        """A switch is dead to SNMP and to those it is wired to."""
        self.story.silent.append((switch, "", self.clock.during[0]))
        self.count(SWITCH_REACHABLE.name, switch, level=0.0)
        self.down(sorted({int(each) // 2 for each in self.wiring.directions_at(switch)}), self.clock.during)

    def vanish(self, rnic: str) -> None:
        """The host no longer has the device."""
        host, _, name = rnic.partition(":")
        self.story.silent.append((host, name, self.clock.during[0]))

    def stop_traffic(self, rnic: str) -> None:
        """No bytes move at an RNIC, nor at its leaf's port."""
        port = self.wiring.ends[self.wiring.link_at(rnic)][1]
        self.story.frozen += [(rnic, self.clock.during[0]), (port, self.clock.during[0])]

    def microseconds(self, least: float = 30.0, most: float = 2000.0) -> float:
        """A delay, log-uniform: from what statistics just find to what anybody sees."""
        return float(np.exp(self.draw.uniform(np.log(least), np.log(most))))

    # ---- masks

    def into(self, rnics: Sequence[int]) -> Integers:
        return np.array([2 * self.wiring.cables[rnic] + 1 for rnic in rnics])

    def out_of(self, rnics: Sequence[int]) -> Integers:
        return np.array([2 * self.wiring.cables[rnic] for rnic in rnics])

    def cables(self, rnics: Sequence[int]) -> Integers:
        return both_ways([int(self.wiring.cables[rnic]) for rnic in rnics])

    def address(self, rnic: int) -> str:
        """An RNIC's address of the underlay."""
        host, _, name = self.wiring.rnics[rnic].partition(":")
        return next(card.ip for each in self.wiring.topology.hosts if each.name == host
                    for card in each.rnics if card.name == name)  # fmt: skip

    def owned(self, container: str) -> list[int]:
        return [number for number, owner in enumerate(self.job.container) if owner == container]

    def rdma(self) -> Booleans:
        wanted: Booleans = self.flows.task == RDMA
        return wanted

    # ---- who is to blame

    def blame(self, symptom: Symptom, layer: Layer, kind: ComponentKind, name: str, description: str, *,
              right: Sequence[Name] = (), alike: Sequence[Name] = ()) -> None:  # fmt: skip
        named = tuple(each for each in dict.fromkeys(alike) if each not in right and each != (kind, name))
        if len(named) > MOST_TWINS:
            raise Redraw
        self.blames.append(Blame(symptom, layer, kind, name, description, tuple(right), () if self.counted else named))
