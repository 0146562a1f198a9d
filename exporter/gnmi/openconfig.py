"""What switches tell by gNMI in the models of OpenConfig (github.com/openconfig/public). Pure.

The models hold no PFC and no watchdog: ``in-mac-pause-frames`` counts pauses of 802.3x. Values come leaf by leaf with
scalars (encoding PROTO), or as JSON of whole subtrees, whose lists hold their keys among their members.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from exporter.contracts.metric import Metric, Table
from exporter.contracts.switch_counters import (
    BGP_AS,
    BGP_ENABLED,
    BGP_ESTABLISHED,
    BGP_STATE,
    BGP_TRANSITIONS,
    BGP_UPDATES_IN,
    BGP_UPDATES_OUT,
    PORT_ENABLED,
    PORT_FCS_ERRORS,
    PORT_FRAME_TOO_LONGS,
    PORT_LAST_CHANGE,
    PORT_MTU,
    PORT_PAUSE_RECEIVED,
    PORT_PAUSE_SENT,
    PORT_RECEIVE,
    PORT_RECEIVE_DISCARDS,
    PORT_RECEIVE_ERRORS,
    PORT_RECEIVE_PACKETS,
    PORT_STATUS_CHANGES,
    PORT_SYMBOL_ERRORS,
    PORT_TRANSMIT,
    PORT_TRANSMIT_DISCARDS,
    PORT_TRANSMIT_ERRORS,
    PORT_TRANSMIT_PACKETS,
    PORT_UP,
    QUEUE_BYTES,
    QUEUE_DROPPED,
    QUEUE_DROPPED_BYTES,
    QUEUE_ECN_MARKED,
    QUEUE_PACKETS,
    QUEUE_PEAK,
    SWITCH_BGP,
    SWITCH_PORT,
    SWITCH_QUEUE,
)
from exporter.gnmi.states import BGP_STATES
from exporter.gnmi.tree import (
    MOST_JSON_DEPTH,
    Change,
    Dialect,
    Keys,
    Names,
    Path,
    Place,
    Rows,
    Scalar,
    Wanted,
    is_name,
    number,
    put,
    scalar,
)

_INTERFACE = ("interfaces", "interface", "state")
_ETHERNET = ("interfaces", "interface", "ethernet", "state", "counters")
_QUEUE = ("qos", "interfaces", "interface", "output", "queues", "queue", "state")
_BGP = ("network-instances", "network-instance", "protocols", "protocol", "bgp", "neighbors", "neighbor", "state")
_SUBSCRIPTIONS = {"interfaces": _INTERFACE, "ethernet": _ETHERNET, "queues": _QUEUE, "bgp": _BGP}
# Members of a list's entries that are its keys.
_KEYS = {
    "interface": ("name", "interface-id"),
    "queue": ("name",),
    "network-instance": ("name",),
    "protocol": ("identifier", "name"),
    "neighbor": ("neighbor-address",),
}
_YES = {"UP": 1.0, "DOWN": 0.0, "TESTING": 0.0, "DORMANT": 0.0, "NOT_PRESENT": 0.0, "LOWER_LAYER_DOWN": 0.0}
_TRUTH = {"true": 1.0, "false": 0.0}

# Leaf: metric, and its factor or the numbers of its words. Of two leaves of one metric the later one is preferred.
_As = float | Mapping[str, float]
_PORT: dict[tuple[str, ...], tuple[Metric, _As]] = {
    (*_INTERFACE, "oper-status"): (PORT_UP, _YES),
    (*_INTERFACE, "admin-status"): (PORT_ENABLED, _YES),
    (*_INTERFACE, "mtu"): (PORT_MTU, 1),
    (*_INTERFACE, "last-change"): (PORT_LAST_CHANGE, 1e-9),
    (*_INTERFACE, "counters", "in-octets"): (PORT_RECEIVE, 1),
    (*_INTERFACE, "counters", "out-octets"): (PORT_TRANSMIT, 1),
    (*_INTERFACE, "counters", "in-unicast-pkts"): (PORT_RECEIVE_PACKETS, 1),
    (*_INTERFACE, "counters", "out-unicast-pkts"): (PORT_TRANSMIT_PACKETS, 1),
    (*_INTERFACE, "counters", "in-errors"): (PORT_RECEIVE_ERRORS, 1),
    (*_INTERFACE, "counters", "out-errors"): (PORT_TRANSMIT_ERRORS, 1),
    (*_INTERFACE, "counters", "in-discards"): (PORT_RECEIVE_DISCARDS, 1),
    (*_INTERFACE, "counters", "out-discards"): (PORT_TRANSMIT_DISCARDS, 1),
    (*_INTERFACE, "counters", "carrier-transitions"): (PORT_STATUS_CHANGES, 1),
    (*_INTERFACE, "counters", "interface-transitions"): (PORT_STATUS_CHANGES, 1),
    (*_ETHERNET, "in-crc-errors"): (PORT_FCS_ERRORS, 1),
    (*_INTERFACE, "counters", "in-fcs-errors"): (PORT_FCS_ERRORS, 1),
    (*_ETHERNET, "in-symbol-error"): (PORT_SYMBOL_ERRORS, 1),
    (*_ETHERNET, "in-maxsize-exceeded"): (PORT_FRAME_TOO_LONGS, 1),
    (*_ETHERNET, "in-oversize-frames"): (PORT_FRAME_TOO_LONGS, 1),
    (*_ETHERNET, "in-mac-pause-frames"): (PORT_PAUSE_RECEIVED, 1),
    (*_ETHERNET, "out-mac-pause-frames"): (PORT_PAUSE_SENT, 1),
}
_OF_QUEUE: dict[tuple[str, ...], tuple[Metric, _As]] = {
    (*_QUEUE, "transmit-pkts"): (QUEUE_PACKETS, 1),
    (*_QUEUE, "transmit-octets"): (QUEUE_BYTES, 1),
    (*_QUEUE, "dropped-pkts"): (QUEUE_DROPPED, 1),
    (*_QUEUE, "dropped-octets"): (QUEUE_DROPPED_BYTES, 1),
    (*_QUEUE, "ecn-marked-pkts"): (QUEUE_ECN_MARKED, 1),
    (*_QUEUE, "max-queue-len"): (QUEUE_PEAK, 1),
}
_SESSION: dict[tuple[str, ...], tuple[Metric, _As]] = {
    (*_BGP, "session-state"): (BGP_STATE, BGP_STATES),
    (*_BGP, "enabled"): (BGP_ENABLED, _TRUTH),
    (*_BGP, "established-transitions"): (BGP_TRANSITIONS, 1),
    (*_BGP, "peer-as"): (BGP_AS, 1),
    (*_BGP, "messages", "received", "UPDATE"): (BGP_UPDATES_IN, 1),
    (*_BGP, "messages", "sent", "UPDATE"): (BGP_UPDATES_OUT, 1),
}
_METRICS = {**_PORT, **_OF_QUEUE, **_SESSION}
_RANK = {names: rank for rank, names in enumerate(_METRICS)}


def _subscriptions(interval: float) -> tuple[Wanted, ...]:
    """The counters of an interface are below its state, which is asked for as a whole."""
    return tuple(Wanted(name, "", path, interval) for name, path in _SUBSCRIPTIONS.items())


def _plain(name: str) -> str:
    """A name or an identity without the module that JSON_IETF puts before it."""
    return name.rpartition(":")[2]


def _leaves(change: Change) -> Iterator[tuple[Place, Scalar]]:
    names, keys = _start(change.path)
    for place, value in _below(names, keys, change.value, MOST_JSON_DEPTH):
        if place.names in _METRICS and all(is_name(key) for _, key in place.keys):
            kept = scalar(value)
            if kept is not None:
                yield place, kept


def _start(path: Path) -> tuple[tuple[str, ...], Keys]:
    names = tuple(_plain(element.name) for element in path.elements)
    keys = tuple(
        (f"{_plain(element.name)}/{name}", value)
        for element in path.elements
        for name, value in sorted(element.keys)
        if value != "*"
    )
    return names, keys


def _below(names: tuple[str, ...], keys: Keys, value: object, depth: int) -> Iterator[tuple[Place, object]]:
    if depth < 0:
        raise ValueError("JSON is nested too deeply")
    if isinstance(value, dict):
        for name, below in value.items():
            yield from _below((*names, _plain(name)), keys, below, depth - 1)
    elif isinstance(value, list):
        for entry in value:
            if isinstance(entry, dict):
                plain = {_plain(name): below for name, below in entry.items()}
                own = tuple((f"{names[-1]}/{key}", str(plain[key])) for key in _key_names(names, plain))
                yield from _below(names, (*keys, *own), entry, depth - 1)
    else:
        yield Place(names, keys), value


def _key_names(names: tuple[str, ...], entry: Mapping[str, object]) -> list[str]:
    """In the order in which a path has them: by name."""
    return sorted(key for key in _KEYS.get(names[-1] if names else "", ()) if key in entry)


def _place(path: Path) -> Place | None:
    names, keys = _start(path)
    return Place(names, keys)


def _rows(leaves: Mapping[Place, Scalar], names: Names) -> Rows:
    rows: Rows = {}
    for place in sorted(leaves, key=lambda place: _RANK[place.names]):
        found = _row(place, names)
        if found is not None:
            metric, meaning = _METRICS[place.names]
            put(rows, *found, metric, _value(leaves[place], meaning))
    for labels, values in rows.get(SWITCH_BGP, {}).items():
        if BGP_STATE in values:
            put(rows, SWITCH_BGP, labels, BGP_ESTABLISHED, float(values[BGP_STATE] == BGP_STATES["ESTABLISHED"]))
    return rows


def _row(place: Place, names: Names) -> tuple[Table, tuple[str, ...]] | None:
    """Table and labels of a leaf; None where it lacks a key."""
    keys = dict(place.keys)
    if place.names in _SESSION:
        peer, instance = keys.get("neighbor/neighbor-address"), keys.get("network-instance/name", "default")
        if peer is None:
            return None
        label = peer if instance.lower() in ("default", "master") else f"{instance}/{peer}"
        return SWITCH_BGP, (names.switch, label)
    port = keys.get("interface/name", keys.get("interface/interface-id"))
    if port is None:
        return None
    labels = (names.switch, names.ports.get(port, port))
    if place.names in _PORT:
        return SWITCH_PORT, labels
    queue = keys.get("queue/name")
    return None if queue is None else (SWITCH_QUEUE, (*labels, queue))


def _value(value: Scalar, meaning: _As) -> float | None:
    if isinstance(meaning, Mapping):
        word = _plain(str(value))
        return meaning.get(word, meaning.get(word.upper()))
    amount = number(value)
    return None if amount is None else amount * meaning


OPENCONFIG = Dialect(
    profile="openconfig",
    signals=frozenset({"ports", "mac_errors", "ecn", "queues", "queue_drops", "buffers", "bgp"}),
    subscriptions=_subscriptions,
    leaves=_leaves,
    place=_place,
    rows=_rows,
    disabled=lambda _leaves, _answered: frozenset(),
)
