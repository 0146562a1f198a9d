"""What happens to probes: loss and delay on directions of links or on chosen flows, and the healthy rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.simulator.failures.flows import LOSSLESS_DSCP, RDMA, Flows
from lab.simulator.failures.routing import Routes
from lab.simulator.failures.wiring import Booleans, Floats, Integers

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that packets feel, in the ``windows`` (s since the epoch).

    Packets of the flows ``there`` (requests, (P,)) and ``back`` (replies) feel it where they cross one of ``links``
    (directions), or everywhere when ``links`` is None. Of them a ratio ``loss`` dies; a ratio ``share`` of the
    others waits ``delay`` us, log-normally spread by ``spread``. Round trips grow, evenly, by the ratio ``growth``
    until the last window ends. ``failure``: the number of the failure whose doing it is, None for what is none.
    ``traced``: whether traces, which the kernel sends, meet its losses too. ``error``: what a lost probe's writer says,
    where it is not a matter of direction.
    """

    windows: tuple[Interval, ...]
    there: Booleans
    back: Booleans
    links: Integers | None = None
    loss: float = 0.0
    delay: float = 0.0
    spread: float = 0.1
    share: float = 1.0
    growth: float = 0.0
    failure: int | None = None
    traced: bool = True
    error: str | None = None

    def felt(self, routes: Routes) -> tuple[Booleans, Booleans]:
        """Which flows' requests and replies feel it on these routes."""
        if self.links is None:
            return self.there, self.back
        there, back = routes.crossing(self.links)
        return there & self.there, back & self.back

    def active(self, time: Floats) -> Booleans:
        edges = np.array(self.windows).ravel()
        inside: Booleans = np.searchsorted(edges, time, side="right") % 2 == 1
        return inside


@dataclass(frozen=True, slots=True)
class Health:
    """The fabric and the hosts when nothing is wrong; times in us.

    ``bases`` by task: a round trip within a leaf. ``per_link`` (links,): one way over it. ``queue`` (directions,):
    the usual wait in an all-reduce. ``stalls`` (RNICs,): the share of an endpoint's probes that its host delays.
    """

    bases: Floats
    sigmas: Floats
    per_link: Floats
    overlay: float
    full: float
    own: Floats  # (P,) factor of each flow
    queue: Floats
    stalls: Floats
    background_loss: float
    period: float
    duty: float
    iterations: Floats  # when each begins
    load: float  # of the all-reduces, beside the usual


def draw_health(
    draw: np.random.Generator, flows: Flows, links: int, rnics: int, period: float, begin: float, end: float,
    *, load: float = 1.0,
) -> Health:  # fmt: skip
    kernel = draw.uniform(26.0, 45.0)
    count = int((end - begin) / period * 1.5) + 4
    lengths = period * np.clip(draw.normal(1.0, 0.02, count), 0.8, 1.3)
    return Health(
        bases=np.array([kernel, draw.uniform(9.0, 16.0), kernel * draw.uniform(1.1, 1.5)]),
        sigmas=np.array([draw.uniform(0.06, 0.2), draw.uniform(0.02, 0.08), draw.uniform(0.1, 0.25)]),
        per_link=draw.uniform(0.3, 0.7, links),
        overlay=draw.uniform(1.0, 4.0),
        full=draw.uniform(1.5, 4.0),
        own=np.exp(draw.normal(0.0, 0.03, flows.number)),
        queue=load * draw.uniform(1.0, 12.0) * np.exp(draw.normal(0.0, 0.7, 2 * links)),
        stalls=np.exp(draw.uniform(np.log(2e-5), np.log(3e-3), rnics)),
        background_loss=float(draw.choice([0.0, 10 ** draw.uniform(-6, -4)])),
        period=period,
        duty=draw.uniform(0.1, 0.4),
        iterations=begin - period * draw.random() + np.concatenate([[0.0], np.cumsum(lengths)]),
        load=load,
    )


@dataclass(frozen=True, slots=True)
class Probes:
    """One row each (N,), in order of ``time`` (s since the epoch); ``latency`` in us, of lost ones too.

    ``epoch``: which routes were in use. ``error`` indexes ``errors``, None for what direction alone tells. ``felt``
    {failure: which probes it killed or delayed}.
    """

    time: Floats
    path: Integers
    epoch: Integers
    latency: Floats
    lost: Booleans
    reply_lost: Booleans
    starved: Booleans
    error: Integers
    errors: list[str | None]
    felt: dict[int, Booleans]


def schedule(
    draw: np.random.Generator, flows: Flows, begin: float, end: float, absent: list[tuple[Booleans, Interval]]
) -> tuple[Floats, Integers]:
    """Times and paths of all probes that are sent: each flow's rhythm, but for the ``absent`` (flows, interval)."""
    counts = np.ceil((end - begin - flows.phase) / flows.period).astype(np.int64)
    path = np.repeat(np.arange(flows.number), counts)
    index = np.arange(path.size) - np.repeat(np.cumsum(counts) - counts, counts)
    time = begin + flows.phase[path] + index * flows.period[path] + draw.uniform(0.0, 0.02, path.size)
    keep = time < end
    for silent, (since, until) in absent:
        keep &= ~(silent[path] & (time >= since) & (time < until))
    time, path = time[keep], path[keep]
    order = np.argsort(time, kind="stable")
    return time[order], path[order]


def at_change(routes: list[tuple[float, Routes]], time: Floats) -> Integers:
    """Which of the routes, each with the moment from which it holds, is in use at each time."""
    moments = np.array([moment for moment, _ in routes])
    number: Integers = np.maximum(np.searchsorted(moments, time, side="right") - 1, 0)
    return number


def send(
    draw: np.random.Generator, flows: Flows, routes: list[tuple[float, Routes]], health: Health,
    effects: list[Effect], time: Floats, path: Integers,
) -> Probes:  # fmt: skip
    """Send probes at ``time`` on ``path`` (N,) and see what becomes of each. O(N x effects)."""
    epoch = at_change(routes, time)
    latency, starved = _healthy(draw, flows, routes, health, time, path, epoch)
    lost = draw.random(time.size) < health.background_loss
    reply_lost = lost & (draw.random(time.size) < 0.5)
    none_said = np.zeros(time.size, np.int64)
    probes = Probes(time, path, epoch, latency, lost, reply_lost, starved, none_said, [None], {})
    for effect in effects:
        _apply(draw, effect, routes, probes)
    return probes


def _healthy(
    draw: np.random.Generator, flows: Flows, routes: list[tuple[float, Routes]], health: Health,
    time: Floats, path: Integers, epoch: Integers,
) -> tuple[Floats, Booleans]:  # fmt: skip
    """Round trips (N,) in us, and which probers were short of CPU."""
    number = time.size
    wire = np.append(np.repeat(health.per_link, 2), 0.0)  # NOWHERE costs nothing
    queue = np.append(health.queue, 0.0)
    base = np.stack([
        health.bases[flows.task] * health.own + wire[each.there].sum(axis=1) + wire[each.back].sum(axis=1)
        + health.overlay * flows.overlay + health.full * flows.full
        for _, each in routes
    ])  # fmt: skip
    weight = np.where(flows.dscp == LOSSLESS_DSCP, 1.0, 0.15)
    waits = np.stack([(queue[each.there].sum(axis=1) + queue[each.back].sum(axis=1)) * weight for _, each in routes])
    latency = base[epoch, path] * np.exp(health.sigmas[flows.task][path] * draw.standard_normal(number))

    iteration = np.maximum(np.searchsorted(health.iterations, time, side="right") - 1, 0)
    into = time - health.iterations[iteration]
    burst = np.flatnonzero((into < health.duty * health.period) & (draw.random(number) < 0.7))
    latency[burst] += np.minimum(waits[epoch[burst], path[burst]] * draw.lognormal(-0.5, 1.0, burst.size), 600.0)

    # Spikes come from a host that was busy: more of them where the kernel answers.
    likely = health.stalls[flows.source[path]] * np.where(flows.task == RDMA, 0.3, 1.0)[path]
    spikes = np.flatnonzero(draw.random(number) < likely)
    hungry = draw.random(spikes.size) < 0.15  # for CPU: over 5 ms late
    waited = np.where(hungry, draw.uniform(5e3, 6e4, spikes.size), draw.pareto(1.3, spikes.size) * 150.0 + 100.0)
    latency[spikes] += np.minimum(waited, 80_000.0)
    starved = np.zeros(number, bool)
    starved[spikes] = hungry
    return latency, starved


def _apply(draw: np.random.Generator, effect: Effect, routes: list[tuple[float, Routes]], probes: Probes) -> None:
    felt = [effect.felt(each) for _, each in routes]
    there, back = np.stack([each[0] for each in felt]), np.stack([each[1] for each in felt])
    either = (there | back)[probes.epoch, probes.path]
    at = np.flatnonzero(either)
    at = at[effect.active(probes.time[at])]
    requests, replies = there[probes.epoch[at], probes.path[at]], back[probes.epoch[at], probes.path[at]]
    hit = np.zeros(at.size, bool)
    if effect.loss > 0:
        request_dies = requests & (draw.random(at.size) < effect.loss)
        reply_dies = replies & ~request_dies & (draw.random(at.size) < effect.loss)
        hit = request_dies | reply_dies
        probes.reply_lost[at] = np.where(request_dies, False, probes.reply_lost[at] | reply_dies)
        if effect.error is not None:
            if effect.error not in probes.errors:
                probes.errors.append(effect.error)
            fresh = at[hit & ~probes.lost[at]]
            probes.error[fresh] = probes.errors.index(effect.error)
        probes.lost[at] |= hit
    if effect.delay > 0:
        for way in (requests, replies):
            waits = way & (draw.random(at.size) < effect.share)
            wait = effect.delay * np.exp(effect.spread * draw.standard_normal(at.size))
            probes.latency[at] += np.where(waits, wait, 0.0)
            hit |= waits & ~probes.lost[at]
    if effect.growth > 0:
        since, until = effect.windows[0][0], effect.windows[-1][1]
        probes.latency[at] *= 1.0 + effect.growth * (probes.time[at] - since) / (until - since)
        hit |= ~probes.lost[at]
    if effect.failure is not None:
        felt_before = probes.felt.setdefault(effect.failure, np.zeros(probes.time.size, bool))
        felt_before[at] |= hit
