"""What Prometheus and Alertmanager made of a scenario, judged against its truth. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lab.demo.monitoring import UNTOLD, Series
from lab.demo.notifications import Notification

Name = tuple[str, str]
"""Kind and name of a component."""
_HIDDEN = frozenset({"__name__", "alertname", "alertstate", "cluster"})


@dataclass(frozen=True)
class Alert:
    """One alert of Prometheus in one state, while it lasted; Unix times."""

    name: str
    state: str
    """``pending`` or ``firing``."""
    labels: Mapping[str, str]
    first: float
    last: float

    @property
    def component(self) -> Name:
        return self.labels.get("component_kind", ""), self.labels.get("component", "")


@dataclass(frozen=True)
class Group:
    """What Alertmanager told together."""

    key: str
    first: float
    """When its first message arrived, Unix time."""
    messages: int
    """Those with something that fires."""
    firing: tuple[Notification, ...]
    """Each alert when it was told first."""
    resolved: float | None
    """When the last of its alerts was told to be over; None while one is not."""


@dataclass(frozen=True)
class Verdict:
    own: str
    """The scenario's own alert that was told first; empty when none was."""
    component: Name
    """Of that alert."""
    right: bool
    """Whether that component is the truth's, or one that would be right too."""
    groups: int
    """Groups that were told of anything."""
    seconds: float | None
    """From the injection to the own alert's notification."""
    resolved: bool

    @property
    def good(self) -> bool:
        return bool(self.own) and self.right and self.groups == 1


def alerts(series: Iterable[Series]) -> list[Alert]:
    """The alerts of a range query for ALERTS, by when they began."""
    found = [
        Alert(
            labels["alertname"],
            labels["alertstate"],
            {name: value for name, value in labels.items() if name not in _HIDDEN},
            values[0][0],
            values[-1][0],
        )
        for labels, values in series
        if values and labels.get("severity") not in UNTOLD
    ]
    return sorted(found, key=lambda each: (each.first, each.name, each.state, sorted(each.labels.items())))


def groups(notifications: Sequence[Notification]) -> list[Group]:
    """Alertmanager's groups, by when each was told first; without what only shows that it tells at all."""
    told = [each for each in notifications if each.labels.get("severity") not in UNTOLD]
    keys = list(dict.fromkeys(each.group for each in told if each.status == "firing"))
    return [_group(key, [each for each in told if each.group == key]) for key in keys]


def _group(key: str, told: Sequence[Notification]) -> Group:
    first: dict[tuple[tuple[str, str], ...], Notification] = {}
    last: dict[tuple[tuple[str, str], ...], Notification] = {}
    for each in told:
        labels = tuple(sorted(each.labels.items()))
        if each.status == "firing":
            first.setdefault(labels, each)
        last[labels] = each
    over = all(each.status == "resolved" for each in last.values())
    return Group(
        key=key,
        first=told[0].received,
        messages=len({each.received for each in told if each.status == "firing"}),
        firing=tuple(first.values()),
        resolved=max(each.received for each in last.values()) if over else None,
    )


def judge(own: Sequence[str], right: Iterable[Name], told: Sequence[Group], injected: float) -> Verdict:
    """Compare what was told with the names of the scenario's ``own`` alerts and the components that are ``right``.

    Of several own alerts the first one that names a right component counts.
    """
    correct = set(right)
    mine = [each for group in told for each in group.firing if each.name in own]
    mine.sort(key=lambda each: each.received)
    named = [each for each in mine if _component(each) in correct]
    chosen = next(iter(named or mine), None)
    return Verdict(
        own=chosen.name if chosen else "",
        component=_component(chosen) if chosen else ("", ""),
        right=bool(named),
        groups=len(told),
        seconds=chosen.received - injected if chosen else None,
        resolved=bool(told) and all(group.resolved is not None for group in told),
    )


def _component(notification: Notification) -> Name:
    return notification.labels.get("component_kind", ""), notification.component
