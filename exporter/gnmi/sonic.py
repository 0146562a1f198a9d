"""What SONiC switches tell by gNMI, straight from their databases. Pure.

Paths and shapes are those of sonic-gnmi (virtual_db.go, db_client.go): a sample of ``COUNTERS/Ethernet*`` is one JSON
object {port: {field: "123"}}, of ``…/Queues`` and ``…/Pfcwd`` {"port:queue": {…}}, of a table of CONFIG_DB
{key: {field: text}}. Ports are called by the vendor's alias there where they have one, and by SONiC's own name in
CONFIG_DB; table ``PORT`` says which is which.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from exporter.contracts.metric import Metric
from exporter.contracts.switch_counters import (
    BGP_ESTABLISHED,
    BGP_STATE,
    PFC_PAUSED,
    PFC_PAUSING,
    PFC_RECEIVED,
    PFC_SENT,
    PORT_ALIGNMENT_ERRORS,
    PORT_ENABLED,
    PORT_FCS_ERRORS,
    PORT_FEC_UNCORRECTED,
    PORT_FRAME_TOO_LONGS,
    PORT_MTU,
    PORT_PAUSE_RECEIVED,
    PORT_PAUSE_SENT,
    PORT_RECEIVE,
    PORT_RECEIVE_DISCARDS,
    PORT_RECEIVE_ERRORS,
    PORT_RECEIVE_PACKETS,
    PORT_SPEED,
    PORT_SYMBOL_ERRORS,
    PORT_TRANSMIT,
    PORT_TRANSMIT_DISCARDS,
    PORT_TRANSMIT_ERRORS,
    PORT_TRANSMIT_PACKETS,
    PORT_UP,
    PORT_WRED_DISCARDS,
    PRIORITY_LOSSLESS,
    QUEUE_BYTES,
    QUEUE_DEPTH,
    QUEUE_DROPPED,
    QUEUE_DROPPED_BYTES,
    QUEUE_ECN_ENABLED,
    QUEUE_ECN_HIGH,
    QUEUE_ECN_LOW,
    QUEUE_ECN_MARKED,
    QUEUE_PACKETS,
    QUEUE_PEAK,
    QUEUE_WRED_DROPPED,
    SWITCH_BGP,
    SWITCH_DSCP_PRIORITY,
    SWITCH_DSCP_TABLE,
    SWITCH_PORT,
    SWITCH_PRIORITY,
    SWITCH_QUEUE,
    WATCHDOG_DROPPED,
    WATCHDOG_RECOVERED,
    WATCHDOG_SHUT,
    WATCHDOG_STUCK,
)
from exporter.gnmi.states import BGP_STATES
from exporter.gnmi.tree import (
    Change,
    Dialect,
    Names,
    Path,
    Place,
    Rows,
    Scalar,
    Wanted,
    flatten,
    is_name,
    number,
    put,
    scalar,
)

SETTINGS_SECONDS = 60.0
"""Between samples of what is configured."""
_PRIORITIES = 8
_QUEUES = 64
_OF_PORTS = frozenset({"PORT_QOS_MAP", "QUEUE"})
"""Tables whose keys older releases write for all ports at once: ``Ethernet0,Ethernet4|3-4``."""
_LONGEST_LIST = 8192  # bytes: 512 ports of a name's usual length
_MOST_EXPANDED = 65_536
"""Ports x queues that such keys are taken apart into, all together: 1,024 x 64."""
_BYTES_A_MEGABIT = 125_000.0

_PORT: dict[str, tuple[Metric, float]] = {
    "SAI_PORT_STAT_IF_IN_OCTETS": (PORT_RECEIVE, 1),
    "SAI_PORT_STAT_IF_OUT_OCTETS": (PORT_TRANSMIT, 1),
    "SAI_PORT_STAT_IF_IN_UCAST_PKTS": (PORT_RECEIVE_PACKETS, 1),
    "SAI_PORT_STAT_IF_OUT_UCAST_PKTS": (PORT_TRANSMIT_PACKETS, 1),
    "SAI_PORT_STAT_IF_IN_ERRORS": (PORT_RECEIVE_ERRORS, 1),
    "SAI_PORT_STAT_IF_OUT_ERRORS": (PORT_TRANSMIT_ERRORS, 1),
    "SAI_PORT_STAT_IF_IN_DISCARDS": (PORT_RECEIVE_DISCARDS, 1),
    "SAI_PORT_STAT_IF_OUT_DISCARDS": (PORT_TRANSMIT_DISCARDS, 1),
    "SAI_PORT_STAT_ETHER_RX_OVERSIZE_PKTS": (PORT_FRAME_TOO_LONGS, 1),
    "SAI_PORT_STAT_DOT3_STATS_FCS_ERRORS": (PORT_FCS_ERRORS, 1),
    "SAI_PORT_STAT_DOT3_STATS_ALIGNMENT_ERRORS": (PORT_ALIGNMENT_ERRORS, 1),
    "SAI_PORT_STAT_DOT3_STATS_SYMBOL_ERRORS": (PORT_SYMBOL_ERRORS, 1),
    "SAI_PORT_STAT_IF_IN_FEC_NOT_CORRECTABLE_FRAMES": (PORT_FEC_UNCORRECTED, 1),
    "SAI_PORT_STAT_PAUSE_RX_PKTS": (PORT_PAUSE_RECEIVED, 1),
    "SAI_PORT_STAT_PAUSE_TX_PKTS": (PORT_PAUSE_SENT, 1),
    "SAI_PORT_STAT_WRED_DROPPED_PACKETS": (PORT_WRED_DISCARDS, 1),
}
_PRIORITY: dict[str, tuple[str, Metric, float]] = {
    f"SAI_PORT_STAT_PFC_{priority}_{suffix}": (str(priority), metric, factor)
    for priority in range(_PRIORITIES)
    for suffix, metric, factor in (
        ("RX_PKTS", PFC_RECEIVED, 1),
        ("TX_PKTS", PFC_SENT, 1),
        ("RX_PAUSE_DURATION_US", PFC_PAUSED, 1e-6),
        ("TX_PAUSE_DURATION_US", PFC_PAUSING, 1e-6),
    )
}
_QUEUE: dict[str, Metric] = {
    "SAI_QUEUE_STAT_PACKETS": QUEUE_PACKETS,
    "SAI_QUEUE_STAT_BYTES": QUEUE_BYTES,
    "SAI_QUEUE_STAT_DROPPED_PACKETS": QUEUE_DROPPED,
    "SAI_QUEUE_STAT_DROPPED_BYTES": QUEUE_DROPPED_BYTES,
    "SAI_QUEUE_STAT_WRED_ECN_MARKED_PACKETS": QUEUE_ECN_MARKED,
    "SAI_QUEUE_STAT_WRED_DROPPED_PACKETS": QUEUE_WRED_DROPPED,
    "SAI_QUEUE_STAT_CURR_OCCUPANCY_BYTES": QUEUE_DEPTH,
    "SAI_QUEUE_STAT_SHARED_WATERMARK_BYTES": QUEUE_PEAK,
}
_WATCHDOG: dict[str, Metric] = {
    "PFC_WD_QUEUE_STATS_DEADLOCK_DETECTED": WATCHDOG_STUCK,
    "PFC_WD_QUEUE_STATS_DEADLOCK_RESTORED": WATCHDOG_RECOVERED,
    "PFC_WD_QUEUE_STATS_TX_DROPPED_PACKETS": WATCHDOG_DROPPED,
    "PFC_WD_QUEUE_STATS_RX_DROPPED_PACKETS": WATCHDOG_DROPPED,
    "PFC_WD_STATUS": WATCHDOG_SHUT,
}
_SHUT = {"operational": 0.0, "stormed": 1.0}
_UP = {"up": 1.0, "down": 0.0}
# Fields that are of use, by table; of DSCP_TO_TC_MAP they are the values of DSCP.
_TABLES: dict[str, frozenset[str]] = {
    "PORT": frozenset({"mtu", "alias", "admin_status", "speed"}),
    "PORT_TABLE": frozenset({"oper_status"}),
    "PORT_QOS_MAP": frozenset({"pfc_enable", "dscp_to_tc_map"}),
    "DSCP_TO_TC_MAP": frozenset(map(str, range(64))),
    "WRED_PROFILE": frozenset({"ecn", "green_min_threshold", "green_max_threshold"}),
    "QUEUE": frozenset({"wred_profile", "scheduler"}),
    "FLEX_COUNTER_TABLE": frozenset({"FLEX_COUNTER_STATUS"}),
    "PFC_WD": frozenset({"action"}),
    "NEIGH_STATE_TABLE": frozenset({"state"}),
}
_Fields = dict[str, Scalar]


def _subscriptions(interval: float) -> tuple[Wanted, ...]:
    settings = max(SETTINGS_SECONDS, interval)
    counters = {
        "ports": ("COUNTERS", "Ethernet*"),
        "queues": ("COUNTERS", "Ethernet*", "Queues"),
    }
    configured = ("PORT", "PORT_QOS_MAP", "DSCP_TO_TC_MAP", "WRED_PROFILE", "QUEUE", "FLEX_COUNTER_TABLE", "PFC_WD")
    return (
        *(Wanted(name, "COUNTERS_DB", path, interval) for name, path in counters.items()),
        # Where no queue is watched this path stands for nothing, and sonic-gnmi takes the first of nothing, which ends
        # its process. What it tells is in "queues" too, where the server's list of watched queues is out of date.
        Wanted("watchdog", "COUNTERS_DB", ("COUNTERS", "Ethernet*", "Pfcwd"), interval, Place(("PFC_WD", "action"))),
        Wanted("PORT_TABLE", "APPL_DB", ("PORT_TABLE",), interval),
        Wanted("NEIGH_STATE_TABLE", "STATE_DB", ("NEIGH_STATE_TABLE",), interval),
        *(Wanted(table, "CONFIG_DB", (table,), settings) for table in configured),
    )


def _leaves(change: Change) -> Iterator[tuple[Place, Scalar]]:
    names = tuple(element.name for element in change.path.elements)
    for below, value in flatten(change.value):
        place = _leaf(names + below)
        kept = scalar(value)
        if place is not None and kept is not None:
            yield place, kept


def _leaf(names: tuple[str, ...]) -> Place | None:
    """Where a value belongs that was found by these names, of which the last is its field's."""
    if len(names) < 3:
        return None
    table, *_, field = names
    if table == "COUNTERS":
        return _counter(names[-2], field)
    if field not in _TABLES.get(table, ()):
        return None
    key = _key(names[1:-1])
    sound = _is_list(key) if table in _OF_PORTS else is_name(key)
    return Place((table, field), (("key", key),)) if sound else None


def _is_list(key: str) -> bool:
    """Whether a key may be a list of ports, and of what else each table has behind ``|``: each part is a name."""
    return len(key) <= _LONGEST_LIST and all(is_name(part) for piece in key.split("|") for part in piece.split(","))


def _key(names: tuple[str, ...]) -> str:
    """A table's key, which some servers send as an element for each of its parts."""
    return "|".join(names)


def _counter(key: str, field: str) -> Place | None:
    if field in _PORT or field in _PRIORITY:
        return Place(("COUNTERS", "port", field), (("port", key),)) if is_name(key) else None
    kind = "queue" if field in _QUEUE else "watchdog" if field in _WATCHDOG else None
    if kind is None:
        return None
    # At the last colon: the alias of a port may hold one. "Ethernet0:1:periodic" is a watermark's other reading.
    port, _, queue = key.rpartition(":")
    if not (is_name(port) and len(queue) <= 2 and queue.isascii() and queue.isdigit()):
        return None
    return Place(("COUNTERS", kind, field), (("port", port), ("queue", str(int(queue)))))


def _place(path: Path) -> Place | None:
    names = tuple(element.name for element in path.elements)
    if not names:
        return None
    table, *rest = names
    if not rest:
        return Place((table,))
    if table != "COUNTERS":
        if len(rest) > 1 and rest[-1] in _TABLES.get(table, ()):
            return Place((table, rest[-1]), (("key", _key(tuple(rest[:-1]))),))
        return Place((table,), (("key", _key(tuple(rest))),))
    port = [("port", name) for name in rest[:1] if not name.endswith("*")]
    kind = {"Queues": "queue", "Pfcwd": "watchdog"}.get(rest[1] if len(rest) > 1 else "", "port")
    if kind == "port":
        return Place(("COUNTERS", "port", *rest[1:2]), tuple(port))
    if len(rest) > 2:
        name, _, queue = rest[2].rpartition(":")
        return Place(("COUNTERS", kind, *rest[3:4]), (("port", name), ("queue", queue)))
    return Place(("COUNTERS", kind), tuple(port))


def _rows(leaves: Mapping[Place, Scalar], names: Names) -> Rows:
    tables: dict[str, dict[str, _Fields]] = {}
    counters: list[tuple[Place, Scalar]] = []
    for place, value in leaves.items():
        if place.names[0] == "COUNTERS":
            counters.append((place, value))
        else:
            tables.setdefault(place.names[0], {}).setdefault(place.keys[0][1], {})[place.names[1]] = value
    ports = _PortNames(names, tables.get("PORT", {}))
    rows: Rows = {}
    for place, value in counters:
        _put_counter(rows, (names.switch, ports.of(place.keys[0][1])), place, value)
    _put_ports(rows, names.switch, ports, tables)
    _put_lossless(rows, names.switch, ports, tables.get("PORT_QOS_MAP", {}))
    _put_marking(rows, names.switch, ports, tables.get("QUEUE", {}), tables.get("WRED_PROFILE", {}))
    for dscp, priority in _classes(tables.get("PORT_QOS_MAP", {}), tables.get("DSCP_TO_TC_MAP", {})).items():
        put(rows, SWITCH_DSCP_TABLE, (names.switch, dscp), SWITCH_DSCP_PRIORITY, priority)
    for peer, fields in tables.get("NEIGH_STATE_TABLE", {}).items():
        state = BGP_STATES.get(str(fields.get("state")).upper())
        put(rows, SWITCH_BGP, (names.switch, peer), BGP_STATE, state)
        put(rows, SWITCH_BGP, (names.switch, peer), BGP_ESTABLISHED, None if state is None else float(state == 6))
    return rows


class _PortNames:
    """A port's name in the topology, whichever of its two names a database uses; without a topology SONiC's own."""

    def __init__(self, names: Names, configured: Mapping[str, _Fields]) -> None:
        self._known = names.ports
        self._own = {str(fields["alias"]): port for port, fields in configured.items() if "alias" in fields}
        self._alias = {port: alias for alias, port in self._own.items()}

    def of(self, port: str) -> str:
        own = self._own.get(port, port)
        for name in (port, own, self._alias.get(own)):
            if name is not None and name in self._known:
                return self._known[name]
        return own


def _put_counter(rows: Rows, labels: tuple[str, str], place: Place, value: Scalar) -> None:
    kind, field = place.names[1:]
    if kind == "port":
        if field in _PORT:
            metric, factor = _PORT[field]
            put(rows, SWITCH_PORT, labels, metric, _times(value, factor))
        else:
            priority, metric, factor = _PRIORITY[field]
            put(rows, SWITCH_PRIORITY, (*labels, priority), metric, _times(value, factor))
        return
    queue = (*labels, place.keys[1][1])
    if kind == "queue":
        put(rows, SWITCH_QUEUE, queue, _QUEUE[field], number(value))
        return
    metric = _WATCHDOG[field]
    if metric is WATCHDOG_SHUT:
        put(rows, SWITCH_QUEUE, queue, metric, _SHUT.get(str(value)))
        return
    amount = number(value)
    if amount is not None and metric is WATCHDOG_DROPPED:  # counted apart for either direction
        amount += rows.get(SWITCH_QUEUE, {}).get(queue, {}).get(metric, 0.0)
    put(rows, SWITCH_QUEUE, queue, metric, amount)


def _times(value: Scalar, factor: float) -> float | None:
    amount = number(value)
    return None if amount is None else amount * factor


def _put_ports(rows: Rows, switch: str, ports: _PortNames, tables: Mapping[str, Mapping[str, _Fields]]) -> None:
    for port, fields in tables.get("PORT", {}).items():
        labels = (switch, ports.of(port))
        put(rows, SWITCH_PORT, labels, PORT_MTU, number(fields.get("mtu")))
        put(rows, SWITCH_PORT, labels, PORT_ENABLED, _UP.get(str(fields.get("admin_status"))))
        put(rows, SWITCH_PORT, labels, PORT_SPEED, _times(fields.get("speed", ""), _BYTES_A_MEGABIT))
    for port, fields in tables.get("PORT_TABLE", {}).items():
        put(rows, SWITCH_PORT, (switch, ports.of(port)), PORT_UP, _UP.get(str(fields.get("oper_status"))))


def _put_lossless(rows: Rows, switch: str, ports: _PortNames, maps: Mapping[str, _Fields]) -> None:
    """A port with an entry and no ``pfc_enable`` pauses nobody: that is told as well."""
    left = _MOST_EXPANDED
    for key, fields in maps.items():
        enabled = {text.strip() for text in str(fields.get("pfc_enable", "")).split(",")}
        for port in filter(None, key.split(",")) if key != "global" else ():
            left -= _PRIORITIES
            if left < 0:
                return
            for priority in map(str, range(_PRIORITIES)):
                labels = (switch, ports.of(port), priority)
                put(rows, SWITCH_PRIORITY, labels, PRIORITY_LOSSLESS, float(priority in enabled))


def _put_marking(
    rows: Rows, switch: str, ports: _PortNames, queues: Mapping[str, _Fields], profiles: Mapping[str, _Fields]
) -> None:
    """RoCE's packets are green; a profile that marks none of those marks nothing that matters here."""
    left = _MOST_EXPANDED
    for key, fields in queues.items():
        profile = _referred(fields.get("wred_profile"))
        told = profiles.get(profile) if profile else {}
        if told is None:  # the profile has not arrived, or was never made
            continue
        marking = str(told.get("ecn", "ecn_none"))
        marks = float(marking == "ecn_all" or "green" in marking)
        for port, queue in _queues_of(key):
            left -= 1
            if left < 0:
                return
            labels = (switch, ports.of(port), queue)
            put(rows, SWITCH_QUEUE, labels, QUEUE_ECN_ENABLED, marks)
            if marks:
                put(rows, SWITCH_QUEUE, labels, QUEUE_ECN_LOW, number(told.get("green_min_threshold")))
                put(rows, SWITCH_QUEUE, labels, QUEUE_ECN_HIGH, number(told.get("green_max_threshold")))


def _queues_of(key: str) -> Iterator[tuple[str, str]]:
    """``Ethernet0,Ethernet4|3-4`` -> each port with each queue; of a chassis the last two parts are these."""
    *_, ports, queues = ("", "", *key.split("|"))
    first, _, last = queues.partition("-")
    last = last or first
    if not all(text.isascii() and text.isdigit() and len(text) <= 2 for text in (first, last)):
        return
    for port in filter(None, ports.split(",")):
        for queue in range(int(first), min(int(last), _QUEUES - 1) + 1):
            yield port, str(queue)


def _referred(value: Scalar | None) -> str:
    """The name in a reference, which older releases write ``[TABLE|NAME]``."""
    return str(value or "").strip("[]").rpartition("|")[2]


def _classes(maps: Mapping[str, _Fields], tables: Mapping[str, _Fields]) -> dict[str, float]:
    """{dscp: priority} where all maps that ports use agree; without a port's word, where there is one map alone."""
    used = {_referred(fields["dscp_to_tc_map"]) for fields in maps.values() if "dscp_to_tc_map" in fields}
    if not used and len(tables) == 1:
        used = set(tables)
    told = [tables.get(name, {}) for name in used]
    agreed = {}
    for dscp in _TABLES["DSCP_TO_TC_MAP"]:
        values = {number(table.get(dscp)) for table in told}
        value = values.pop() if len(values) == 1 else None
        if value is not None and value < _PRIORITIES:
            agreed[dscp] = value
    return agreed


def _disabled(leaves: Mapping[Place, Scalar], answered: Collection[str]) -> frozenset[str]:
    """Off unless somebody said ``counterpoll wredqueue enable`` and ``pfcwd start``."""
    off = set()
    marking = leaves.get(Place(("FLEX_COUNTER_TABLE", "FLEX_COUNTER_STATUS"), (("key", "WRED_ECN_QUEUE"),)))
    if "FLEX_COUNTER_TABLE" in answered and marking != "enable":
        off.add("ecn")
    if "PFC_WD" in answered and not any(leaf.names == ("PFC_WD", "action") for leaf in leaves):
        off.add("pfc_watchdog")
    return frozenset(off)


SONIC = Dialect(
    profile="sonic",
    signals=frozenset(
        {"ports", "mac_errors", "pfc", "pfc_duration", "pfc_watchdog", "ecn", "queues", "queue_drops", "buffers"}
        | {"bgp", "settings"}
    ),
    subscriptions=_subscriptions,
    leaves=_leaves,
    place=_place,
    rows=_rows,
    disabled=_disabled,
)
