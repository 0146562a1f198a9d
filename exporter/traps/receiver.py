"""What becomes of each datagram: counted as a notification of its switch, or refused for a reason, and answered."""

from __future__ import annotations

import hashlib
import hmac
import math
import sys
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from exporter.contracts.switch_counters import (
    NOTIFICATIONS_REFUSED,
    REFUSALS,
    SWITCH_NOTIFICATION_TIME,
    SWITCH_NOTIFICATIONS,
)
from exporter.store import RowWriter, TableWriter
from exporter.traps.ber import MalformedError
from exporter.traps.meaning import Said, read_entries, understand
from exporter.traps.message import (
    CommunityMessage,
    Notification,
    SecuredMessage,
    acknowledged,
    find_pdu,
    read_message,
    read_notification,
)
from exporter.traps.settings import LABEL_SETS_PER_SWITCH, TrapSettings
from exporter.traps.usm import RefusedError, SecurityModel

_COMPLAINTS_EVERY = 30.0  # seconds between log lines for one reason
_SAME_EVERY = 3600.0  # seconds between two that say the same
_MOST_TOLD = 256
_PROOFS = 10  # datagrams whose community or digest is compared, for each notification that may be counted
_REMEMBERED_SECONDS = (
    302.0  # both ends of the time window of v3 (RFC 3414, 3.2), and their rounding: older ones are refused
)
_REPEATED_SECONDS = 150.0  # longer than senders repeat an inform; by a community nothing tells a recording anyway
_MOST_REMEMBERED = 16_384
_LONGEST = 8192  # bytes: a notification fits in a frame of Ethernet, mostly


@dataclass(slots=True)
class _Bucket:
    """It fills by ``rate`` a second, and holds what comes in one."""

    rate: float
    level: float
    since: float = 0.0

    def take(self, now: float) -> bool:
        self.level = min(self.rate, self.level + (now - self.since) * self.rate)
        self.since = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


class _Allowance:
    """So many a second, and half of it for each switch: one that floods leaves the other half to the rest."""

    def __init__(self, rate: float, switches: Iterable[str]) -> None:
        self._all = _Bucket(rate, rate)
        self._each = {name: _Bucket(rate / 2, rate / 2) for name in switches}

    def take(self, switch: str, now: float) -> None:
        """Raise RefusedError where nothing is left."""
        if not (self._each[switch].take(now) and self._all.take(now)):
            raise RefusedError("limit", "this switch, or all together, send too many a second")


class _Seen:
    """Whether something came before, as far back as matters."""

    def __init__(self) -> None:
        self._when: OrderedDict[bytes, float] = OrderedDict()

    def has(self, key: bytes, now: float, seconds: float = _REMEMBERED_SECONDS) -> bool:
        """Whether it came within the last ``seconds``."""
        while self._when and next(iter(self._when.values())) < now - _REMEMBERED_SECONDS:
            self._when.popitem(last=False)
        return self._when.get(key, -math.inf) >= now - seconds

    def add(self, key: bytes, now: float) -> None:
        self._when[key] = now
        self._when.move_to_end(key)
        if len(self._when) > _MOST_REMEMBERED:
            self._when.popitem(last=False)


class _Log:
    """A line for a reason every half a minute, the same one but once an hour: no flood and no stray fills a disk."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        self._told: OrderedDict[str, float] = OrderedDict()
        self._untold: dict[str, int] = {}

    def tell(self, reason: str, text: str, now: float) -> None:
        if now < self._next.get(reason, now) or now < self._told.get(text, now):
            self._untold[reason] = self._untold.get(reason, 0) + 1
            return
        self._next[reason] = now + _COMPLAINTS_EVERY
        self._told[text] = now + _SAME_EVERY
        self._told.move_to_end(text)
        if len(self._told) > _MOST_TOLD:
            self._told.popitem(last=False)
        more = self._untold.pop(reason, 0)
        also = f"; {more} more for that reason since the last such line" if more else ""
        print(f"traps: refused as {reason}: {text}{also}", file=sys.stderr, flush=True)


class Receiver:
    """The whole of receiving but for the socket. ``receive`` never raises for what a datagram holds."""

    def __init__(
        self, settings: TrapSettings, security: SecurityModel, notifications: TableWriter, refusals: TableWriter
    ) -> None:
        self._settings = settings
        self._security = security
        self._entries = read_entries()
        self._table = notifications
        self._count = notifications.column(SWITCH_NOTIFICATIONS.name)
        self._time = notifications.column(SWITCH_NOTIFICATION_TIME.name)
        self._rows: dict[str, dict[Said, RowWriter]] = {name: {} for name in settings.sources.values()}
        self._refusals = {reason: refusals.add((reason,)) for reason in REFUSALS}
        self._refused = refusals.column(NOTIFICATIONS_REFUSED.name)
        # Who has no secret can exhaust the first alone, and it is large: what is proven is not crowded out.
        self._proofs = _Allowance(float(_PROOFS * settings.notifications_per_second), self._rows)
        self._notifications = _Allowance(float(settings.notifications_per_second), self._rows)
        self._seen = _Seen()
        self._log = _Log()

    def receive(self, datagram: bytes, address: str, now: float, clock: float) -> bytes | None:
        """What to answer, if anything. ``now`` is monotonic, ``clock`` Unix time, both in seconds.

        The address decides first: what comes from nowhere known is counted and not looked into.
        """
        switch = self._settings.sources.get(address)
        if switch is None:
            self._refuse("unknown_source", f"{address} is of no switch", now)
            return None
        try:
            self._proofs.take(switch, now)
            if len(datagram) > _LONGEST:  # a few such would take the time of all others
                raise MalformedError(f"has over {_LONGEST} bytes")
            message = read_message(datagram)
            if isinstance(message, CommunityMessage):
                return self._by_community(message, switch, now, clock)
            return self._by_user(message, switch, now, clock)
        except MalformedError as error:
            self._refuse("malformed", f"a datagram of {switch} ({address}) {error}", now)
        except RefusedError as refused:
            if refused.reason is not None:
                self._refuse(refused.reason, f"{switch} ({address}): {refused.detail}", now)
            return refused.reply
        return None

    def _by_community(self, message: CommunityMessage, switch: str, now: float, clock: float) -> bytes | None:
        ours = self._settings.community
        if ours is None:
            raise RefusedError("authentication", "v2c, and there is no traps.community_file")
        if not hmac.compare_digest(message.community, ours):
            raise RefusedError("authentication", "wrong community")
        self._notifications.take(switch, now)
        notification = read_notification(message.data, message.pdu_at)
        if not notification.confirmed:
            self._book(switch, notification, clock)
            return None
        self._book_once(switch, notification, message.data[message.pdu_at :], now, clock, _REPEATED_SECONDS)
        return acknowledged(message.data, message.pdu_at)

    def _by_user(self, message: SecuredMessage, switch: str, now: float, clock: float) -> bytes | None:
        scoped = self._security.open(message, switch, now)
        self._notifications.take(switch, now)
        pdu_at, end = find_pdu(scoped)
        scoped = scoped[:end]
        notification = read_notification(scoped, pdu_at)
        if not notification.confirmed:
            # Every message has an identifier and, encrypted, a salt of its own: the same again is a recording.
            key = hashlib.sha256(message.data).digest()
            if self._seen.has(key, now):
                raise RefusedError("authentication", "the same trap again: a recording")
            self._book(switch, notification, clock)
            self._seen.add(key, now)
            return None
        if message.engine != self._security.engine:
            raise self._security.advise(message, now)
        self._book_once(switch, notification, scoped[pdu_at:], now, clock, _REMEMBERED_SECONDS)
        return self._security.seal(message, acknowledged(scoped, pdu_at), now)

    def _book_once(
        self, switch: str, inform: Notification, pdu: bytes, now: float, clock: float, seconds: float
    ) -> None:
        """Count an inform. Its sender repeats it until it hears of it: acknowledged again, it is not counted again."""
        key = hashlib.sha256(switch.encode() + b"\0" + pdu).digest()
        if not self._seen.has(key, now, seconds):
            self._book(switch, inform, clock)
            self._seen.add(key, now)

    def _book(self, switch: str, notification: Notification, clock: float) -> None:
        ports, aliases = self._settings.ports.get(switch, {}), self._settings.aliases.get(switch, {})
        said = understand(notification, self._entries, ports, aliases)
        rows = self._rows[switch]
        row = rows.get(said)
        if row is None:
            if len(rows) >= LABEL_SETS_PER_SWITCH:
                raise RefusedError("limit", f"it names more than {LABEL_SETS_PER_SWITCH} things")
            row = rows[said] = self._table.add((switch, said.notification, said.port, said.priority, said.peer))
        row.begin()
        row.add(self._count)
        row.set(self._time, clock)
        row.end()

    def _refuse(self, reason: str, text: str, now: float) -> None:
        row = self._refusals[reason]
        row.begin()
        row.add(self._refused)
        row.end()
        self._log.tell(reason, text, now)
