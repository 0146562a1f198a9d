"""Who may be to blame: the components that failing paths have in common, and which rows cross each.

A component is broken as a whole or in part: a link one way or both, all links of a switch, a line card, a breakout
group or a LAG, an RNIC with its cable, all RNICs of a host, all endpoints of a container, what the virtual switch of a
host encapsulates, or, if nothing else, what is between two RNICs. Each may be broken for all probes, or for those of
one type, one traffic class, or the overlay alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from exporter.contracts.fabric import Fabric
from exporter.contracts.names import link_id
from skeleton_service.diagnosis.circles import circles
from skeleton_service.diagnosis.geometry import Geometry
from skeleton_service.diagnosis.likelihood import RATIOS, Columns, Rows, evidence_of, fit
from skeleton_service.diagnosis.paths import Kind, PathIndex

SuspectKind = Literal[
    "link",
    "cable",
    "switch",
    "linecard",
    "breakout_group",
    "lag",
    "circle",
    "host",
    "container",
    "vswitch",
    "pair",
    "hosts",
]
"""``cable`` is an RNIC with its cable, which no probe can tell apart; ``hosts`` what is between two hosts; ``circle``
four switches and the links among them (see ``circles``)."""

_PRIOR: dict[SuspectKind, float] = {
    "link": 0.0, "cable": 0.0, "switch": -1.8, "linecard": -0.6, "breakout_group": -2.2, "lag": -2.2, "host": -1.0,
    "circle": -2.0, "container": -0.5, "vswitch": -2.0, "pair": -5.0, "hosts": -5.0,
}  # fmt: skip
"""Log of how credible a broken component of each kind is before any probe, a link's being 0."""
_ONE_WAY = -0.7
_FILTERED = -2.0
_AGENT = -0.5
"""A host that answers nothing on the underlay while its overlay lives has lost its agent, which is common."""
_LEAST_SHARE = 0.04
"""Of its replies that must be able to cross a link for a failing path to make a suspect of it."""
_MOST_ENDS = 400
_HOPELESS = -20.0
"""No suspect whose gain is lower has a probability that anyone would be told of."""
_MOST_FILTERED = 24
_SAMPLE = 400
"""Paths that lose something, and others, that are looked at for how replies come back."""
_LEAST_EVIDENCE = 8.0
_MIRROR_LEAD, _MIRROR_SURE = 6.0, 100.0
_GROUPS: tuple[SuspectKind, ...] = ("linecard", "breakout_group", "lag")


class Filter(NamedTuple):
    """The paths that a partial fault hurts: None says any."""

    rdma: bool | None = None
    overlay: bool | None = None
    dscp: int | None = None
    large: bool | None = None
    """Full-size probes."""

    def takes(self, kind: Kind) -> bool:
        return (
            (self.rdma is None or self.rdma == kind.rdma)
            and (self.overlay is None or self.overlay == kind.overlay)
            and (self.dscp is None or self.dscp == kind.dscp)
            and (self.large is None or self.large == kind.large)
        )


ANY = Filter()
_UNDERLAY = Filter(overlay=False)


class Suspect(NamedTuple):
    """A component, and which of its traffic would be hurt."""

    kind: SuspectKind
    name: str
    way: str = ""
    """Where a link is broken one way: the end where hurt packets leave."""
    filter: Filter = ANY


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of paths, each over one way: arrays of one length. Of a path over two ways there are two."""

    path: NDArray[np.int64]
    way: NDArray[np.int64]
    """Number of the way there, or ``SHARES``."""
    sent: NDArray[np.float64]
    there: NDArray[np.float64]
    """Lost on the way to the responder."""
    back: NDArray[np.float64]
    untold: NDArray[np.float64]
    """Lost, and nobody says where."""
    unanswered: NDArray[np.float64]
    """Of those said to be lost there, the ones after the last answer: their replies may have been lost as well."""


@dataclass(frozen=True, slots=True)
class Case:
    """Rows, columns, and who the columns are: all that ``likelihood.select`` asks for."""

    rows: Rows
    path: NDArray[np.int64]
    """(rows,) number of the path."""
    suspects: tuple[Suspect, ...]
    columns: Columns
    prior: NDArray[np.float64]
    tried: int
    """Suspects that there were before those without hope were left out."""


def build(seen: Seen, index: PathIndex, *, background: float, spraying: bool = False) -> Case:
    """Rows of what was seen, and a column for each component that failing rows have in common."""
    rows, path, crossing = _rows(seen, index, spraying, background)
    failing = np.flatnonzero(rows.failed)
    crossed, columns = _crossed(_ends(crossing, rows, failing), crossing, index.geometry)
    at_ends, own = _at_ends(path, failing, index)
    suspects = (*crossed, *at_ends)
    return Case(
        rows, path, suspects, _columns(sparse.hstack([columns, own], format="csc")), prior_of(suspects), len(suspects)
    )


def of_flags(
    paths: NDArray[np.int64], flagged: NDArray[np.bool_], weight: NDArray[np.float64], now: float, index: PathIndex
) -> Seen:
    """What these paths saw over their routes of now, each ``flagged`` as too slow or not, worth ``weight`` probes."""
    none = np.zeros(len(paths))
    ways = index.way_at(paths, np.full(len(paths), now))
    return Seen(paths, ways, weight, none, none, np.where(flagged, weight, 0.0), none)


def case_of(
    seen: Seen,
    index: PathIndex,
    *,
    background: float,
    spraying: bool = False,
    ratios: NDArray[np.float64] = RATIOS,
    mirrors: bool = True,
) -> Case:
    """The rows of what was seen, and the suspects that have a hope of explaining them.

    With ``mirrors``, make up one's mind first whether replies come back over the links of their requests.
    """
    if mirrors and not spraying and not index.mirrors_sure:
        case = _look_for_mirrors(seen, index, background, ratios)
        if case is not None:
            return case
    return _hopeful(seen, index, background, spraying, ratios)


def _hopeful(seen: Seen, index: PathIndex, background: float, spraying: bool, ratios: NDArray[np.float64]) -> Case:
    case = build(seen, index, background=background, spraying=spraying)
    if not len(case.columns):
        return case
    return narrowed(case, index, fit(case.rows, case.columns, ratios).gain)


def _look_for_mirrors(seen: Seen, index: PathIndex, background: float, ratios: NDArray[np.float64]) -> Case | None:
    """Take replies to come back over the links of their requests, as with symmetric hashing, or not to.

    Nobody traces replies. Some fabrics hash both directions of a flow alike, others do not: whichever explains a part
    of what was seen better is taken, and kept until the other one does. A reply's links are then known, not shares.
    Gives the case that explains it, if it has all that was seen.
    """
    sample = _sample(seen)
    believed, cases, weight = index.mirrored, {}, {}
    for index.mirrored in (False, True):
        case = cases[index.mirrored] = _hopeful(sample, index, background, False, ratios)
        weight[index.mirrored] = _weight(case, ratios)
    lead = weight[True] - weight[False]
    index.mirrored = lead > 0 if abs(lead) > _MIRROR_LEAD else believed
    index.mirrors_sure = abs(lead) > _MIRROR_SURE
    return cases[index.mirrored] if sample is seen else None


def wiser(
    case: Case,
    strongest: int,
    seen: Seen,
    index: PathIndex,
    *,
    background: float,
    ratios: NDArray[np.float64] = RATIOS,
) -> Case | None:
    """The case where some replies come back otherwise than most, if that explains better what took several failures.

    Switches that hash both directions of a flow alike have each its own order of next hops: between some leaves replies
    come back over the links of their requests, between others over other ones, which then seem to fail for themselves.
    ``strongest`` is the suspect that explains most, by its number.
    """
    if not index.mirrored:
        return None
    apart = case.rows.failed > 0
    apart[case.columns.column(strongest)[0]] = False
    fresh = np.setdiff1d(index.leaves(case.path[apart]), index.astray)
    if not len(fresh):
        return None
    sample, believed = _sample(seen), index.astray
    before = _weight(_hopeful(sample, index, background, False, ratios), ratios)
    index.astray = np.union1d(believed, fresh)
    if _weight(_hopeful(sample, index, background, False, ratios), ratios) - before > _MIRROR_LEAD:
        return _hopeful(seen, index, background, False, ratios)
    index.astray = believed
    return None


def _weight(case: Case, ratios: NDArray[np.float64]) -> float:
    return evidence_of(case.rows, case.columns, case.prior, _LEAST_EVIDENCE, ratios)


def _sample(seen: Seen) -> Seen:
    """What was seen of some paths that lose something, and of some others."""
    lost = seen.back + seen.untold + seen.there > 0
    some = np.sort(np.concatenate([_some(np.flatnonzero(lost)), _some(np.flatnonzero(~lost))]))
    return seen if len(some) == len(lost) else Seen(*(getattr(seen, each.name)[some] for each in fields(Seen)))


def _some(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """These, or ``_SAMPLE`` of them, evenly chosen."""
    if len(numbers) <= _SAMPLE:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, _SAMPLE).astype(np.int64)]


def narrowed(case: Case, index: PathIndex, gains: NDArray[np.float64]) -> Case:
    """Without suspects that gain nothing; and with those that gain most, broken for some kinds of probes alone.

    What is found takes failures from all others, so that none ever gains more than it does by itself.
    """
    kept = np.flatnonzero(gains > _HOPELESS)
    columns = [case.columns.column(number) for number in kept.tolist()]
    suspects = [case.suspects[number] for number in kept.tolist()]
    kinds = index.kind[case.path]
    filters = _filters(index.kinds[kind] for kind in np.unique(kinds).tolist())
    masks = [np.array([each.takes(kind) for kind in index.kinds], bool)[kinds] for each in filters]
    best = np.argsort(-(gains + case.prior)[kept], kind="stable")[:_MOST_FILTERED]
    for number in best.tolist():
        rows, weight = columns[number]
        for only, mask in zip(filters, masks, strict=True):
            inside = mask[rows]
            if inside.any() and not inside.all():
                suspects.append(suspects[number]._replace(filter=only))
                columns.append((rows[inside], weight[inside]))
    gain_of = {
        case.suspects[number].name: float(gains[number])
        for number in kept.tolist()
        if case.suspects[number].kind == "link" and not case.suspects[number].way and gains[number] > 0
    }
    number_of = {
        case.suspects[number].name: number
        for number in kept.tolist()
        if case.suspects[number].kind == "link" and not case.suspects[number].way
    }
    # Pauses are of one traffic class: of the one that is hurt, where others are probed beside it.
    classes = [(only, mask) for only, mask in zip(filters, masks, strict=True) if _is_class(only)]
    for name, links in circles(gain_of):
        rows, weight = _any_of([[case.columns.column(number_of[link]) for link in own] for own in links])
        for only, mask in classes or [(ANY, np.ones(len(kinds), bool))]:
            inside = mask[rows]
            if inside.any():
                suspects.append(Suspect("circle", name, filter=only))
                columns.append((rows[inside], weight[inside]))
    tried = case.tried + len(suspects) - len(kept)
    whole = [each.kind == "circle" for each in suspects]  # who waits for one another sends nothing of the class
    return Case(case.rows, case.path, tuple(suspects), Columns.of(columns, whole), prior_of(suspects), tried)


def _is_class(only: Filter) -> bool:
    """Whether a filter takes the probes of one traffic class, all of them."""
    return only == Filter(dscp=only.dscp) and only != ANY


def _any_of(
    groups: Sequence[Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows that cross any of these columns, with the probability to; those of a group exclude each other."""
    columns = [column for group in groups for column in group]
    rows, place = np.unique(np.concatenate([own for own, _ in columns]), return_inverse=True)
    missed, begin = np.ones(len(rows)), 0
    for group in groups:
        weights = np.concatenate([weight for _, weight in group])
        own = place[begin : begin + len(weights)]
        missed *= 1 - np.minimum(np.bincount(own, weights, minlength=len(rows)), 1.0)
        begin += len(weights)
    return rows, 1 - missed


def prior_of(suspects: Sequence[Suspect]) -> NDArray[np.float64]:
    # Nearly all have no filter, and they are many.
    return np.array(
        [
            _PRIOR[each.kind] + (_ONE_WAY if each.way else 0.0) + (0 if each.filter is ANY else _prior_of_filter(each))
            for each in suspects
        ]
    )


def _prior_of_filter(suspect: Suspect) -> float:
    if suspect.filter == _UNDERLAY and suspect.kind == "host":
        return _AGENT
    return sum(_FILTERED for value in suspect.filter if value is not None)


def _filters(present: Iterable[Kind]) -> list[Filter]:
    """Kinds of probes of which there are several, each alone."""
    kinds = set(present)
    rdma, overlay, dscp, large = ({kind[place] for kind in kinds} for place in range(4))
    filters = [Filter(dscp=each) for each in sorted(d for d in dscp if d is not None)] if len(dscp) > 1 else []
    if len(large) > 1:
        filters.append(Filter(large=True))
    if len(rdma) > 1:
        filters += [Filter(rdma=True), Filter(rdma=False)]
    if len(overlay) > 1:
        filters += [Filter(overlay=True), Filter(overlay=False)]
    if len(rdma) > 1 and len(dscp) > 1:
        filters += [Filter(rdma=True, dscp=each) for each in sorted(d for d in dscp if d is not None)]
    return filters


def _rows(
    seen: Seen, index: PathIndex, spraying: bool, background: float
) -> tuple[Rows, NDArray[np.int64], sparse.csc_matrix]:
    """Rows, which path each is of, and (rows, egress ends) the probability that its packets leave by an end.

    Of a path whose losses were told apart there are three rows: there, back, and what may be either.
    """
    untold = seen.untold > 0
    apart = ~untold & ((seen.there > 0) | (seen.back > 0))
    none = np.zeros(len(seen.path))
    sent = np.stack([np.where(apart, seen.sent - seen.unanswered, seen.sent), seen.sent - seen.there, seen.unanswered])
    lost = np.where(untold, seen.there + seen.back + seen.untold, np.where(apart, seen.there - seen.unanswered, none))
    failed = np.stack([lost, seen.back, seen.unanswered])
    there = np.stack([np.ones(len(none), bool), np.zeros(len(none), bool), np.ones(len(none), bool)])
    back = np.stack([~apart, np.ones(len(none), bool), np.ones(len(none), bool)])
    known = sent > 0
    known[1:] &= apart
    which, part = np.nonzero(known.T)
    path, way = seen.path[which], seen.way[which]
    sprayed = index.spread(path, way) if spraying else np.zeros(len(which), bool)
    rows = Rows(sent[part, which], failed[part, which], np.full(len(which), background), sprayed)
    return rows, path, index.crossing(path, way, there[part, which], back[part, which]).tocsc()


def _ends(crossing: sparse.csc_matrix, rows: Rows, failing: NDArray[np.int64]) -> NDArray[np.int64]:
    """Egress ends that failing rows may leave by; where there are very many, those whose rows fail most."""
    own = crossing[failing]
    likely = np.asarray((own >= _LEAST_SHARE).sum(axis=0)).ravel() > 0
    ends = np.flatnonzero(likely)
    if len(ends) > _MOST_ENDS:
        crossed = crossing[:, ends]
        failed, sent = crossed.T @ rows.failed, crossed.T @ rows.sent
        share = np.clip(failed / np.maximum(sent, 1e-9), 1e-9, 1 - 1e-9)
        mean = rows.failed.sum() / rows.sent.sum()
        gain = failed * np.log(share / mean)
        ends = np.sort(ends[np.argsort(-gain, kind="stable")[:_MOST_ENDS]])
    return ends


def _crossed(
    ends: NDArray[np.int64], crossing: sparse.csc_matrix, geometry: Geometry
) -> tuple[list[Suspect], sparse.csc_matrix]:
    """Links, RNICs with their cables, switches and parts of switches that these ends belong to; and their columns."""
    fabric, names = geometry.fabric, geometry.ends
    pairs: set[tuple[str, str]] = set()
    groups: set[Suspect] = set()
    for end in [names[number] for number in ends.tolist()]:
        far = fabric.far_end(end)
        if far is not None:
            one, other = sorted((end, far), key=str.encode)
            pairs.add((one, other))
            groups.update(group for port in (end, far) for group in _groups_of(port, fabric))
    ordered = sorted(groups, key=lambda each: each[:2])
    links = [[[geometry.number(pair[side])] for pair in sorted(pairs)] for side in (0, 1)]
    ports = [[geometry.number(port) for port in _ports_of(group, fabric)] for group in ordered]
    into = [
        [geometry.number(far) for port in _ports_of(group, fabric) if (far := fabric.far_end(port)) is not None]
        for group in ordered
    ]
    crossing.resize(crossing.shape[0], len(names))
    one_way, other_way, inward, outward = (_leaving(crossing, each) for each in (*links, into, ports))
    suspects, order = [], []
    count = len(pairs)
    for place, (one, other) in enumerate(sorted(pairs)):
        cable = next((end for end in (one, other) if end in fabric.interfaces), None)
        whole = Suspect("link", link_id(one, other)) if cable is None else Suspect("cable", cable)
        for suspect, number, way in (
            (whole, place, None),
            (whole._replace(way=one), count + place, one_way),
            (whole._replace(way=other), 2 * count + place, other_way),
        ):
            if way is None or way.indptr[place + 1] > way.indptr[place]:
                suspects.append(suspect)
                order.append(number)
    for place, group in enumerate(ordered):
        suspects.append(group)
        order.append(3 * count + place + (0 if group.kind == "switch" else len(ordered)))
    either = _either(one_way, other_way), one_way, other_way, inward, _either(inward, outward)
    return suspects, sparse.hstack(either, format="csc")[:, order]


def _at_ends(
    path: NDArray[np.int64], failing: NDArray[np.int64], index: PathIndex
) -> tuple[list[Suspect], sparse.csc_matrix]:
    """The components that failing rows begin or end at, and whose rows are all that do."""
    keys = np.unique(index.keys[path[failing]])
    keys = np.array(sorted(keys[keys >= 0].tolist(), key=index.names.__getitem__), np.int64)
    column = np.full(len(index.names) + 1, -1)  # the last one is for no key
    column[keys] = np.arange(len(keys))
    own = column[index.keys[path]]
    # Host agents may give a container's name to what they send on the underlay: it is not in there.
    inside = np.unique(index.keys[index.overlay])
    overlaid = keys[np.isin(keys, inside)]
    overlaid = column[[key for key in overlaid.tolist() if index.names[key][0] == "container"]]
    own[~index.overlay[path]] = np.where(np.isin(own[~index.overlay[path]], overlaid), -1, own[~index.overlay[path]])
    row, place = np.nonzero(own >= 0)
    entries = np.ones(len(row)), (row, own[row, place])
    suspects = [Suspect(*index.names[key]) for key in keys.tolist()]
    return suspects, sparse.csc_matrix(entries, shape=(len(path), len(keys)))


def _columns(matrix: sparse.csc_matrix) -> Columns:
    matrix.sort_indices()
    return Columns(matrix.indptr.astype(np.int64), matrix.indices, matrix.data)


def _groups_of(port: str, fabric: Fabric) -> Iterator[Suspect]:
    """The switch of a port, and the parts of it that the port belongs to."""
    switch = port.partition(":")[0]
    if port in fabric.interfaces or switch not in fabric.switches:
        return
    yield Suspect("switch", switch)
    known = fabric.port(port)
    for kind in _GROUPS if known is not None else ():
        name = getattr(known, kind)
        if name:
            yield Suspect(kind, f"{switch}:{name}")


def _ports_of(group: Suspect, fabric: Fabric) -> list[str]:
    switch, _, name = group.name.partition(":")
    ports = fabric.ports_of(switch)
    if group.kind == "switch":
        return ports
    return [port for port in ports if (known := fabric.port(port)) and getattr(known, group.kind) == name]


def _leaving(crossing: sparse.csc_matrix, groups: Sequence[Sequence[int]]) -> sparse.csc_matrix:
    """(rows, groups) probability to leave by any end of a group, which one packet leaves by one of at most."""
    group = np.repeat(np.arange(len(groups)), [len(each) for each in groups])
    end = np.array([number for each in groups for number in each], np.int64)
    chosen = sparse.csc_matrix((np.ones(len(end)), (end, group)), shape=(crossing.shape[1], len(groups)))
    summed = (crossing @ chosen).tocsc()
    summed.data = np.minimum(summed.data, 1.0)
    return summed


def _either(one: sparse.csc_matrix, other: sparse.csc_matrix) -> sparse.csc_matrix:
    """To cross one or the other, by chance or for sure."""
    return (one + other - one.multiply(other)).tocsc()
