"""The user-based security model (RFC 3414), on the receiving side: who said it, when, and what.

Keys, ciphers and their protocols are pysnmp's; the order of checks is not. pysnmp 7.1 sets its notion of a sender's
clock by a message before it judges that message by it, so that no trap is ever too old; it takes unauthenticated traps
of a user that has keys; and it acknowledges an inform before the application has seen it.

What a digest proves differs. The receiver is authoritative for an inform: its own engine ID, boots and time are in the
digest, and a recording is worth nothing after 150 s. The sender is authoritative for a trap: a recording is refused
when it is older than 150 s by what was heard of that sender before, so a receiver that has heard nothing yet, having
just started, takes the first one.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pyasn1.type.univ import OctetString
from pysnmp.proto.error import StatusInformation
from pysnmp.proto.secmod.rfc3414.service import SnmpUSMSecurityModel as Pysnmp

from exporter.traps.ber import (
    COUNTER32,
    OCTETS,
    SEQUENCE,
    MalformedError,
    Oid,
    element,
    integer,
    oid,
)
from exporter.traps.message import AUTHENTICATED, ENCRYPTED, REPORT, REPORTABLE, USM, SecuredMessage, read_message
from exporter.traps.settings import UserKeys

_WINDOW = 150  # seconds (RFC 3414, section 2.2.3)
_LAST_BOOTS = 2**31 - 1
_MOST_ENGINES = 4096
_LARGEST_MESSAGE = 65507
_UNKNOWN_ENGINES: Oid = (1, 3, 6, 1, 6, 3, 15, 1, 1, 4, 0)
_NOT_IN_TIME: Oid = (1, 3, 6, 1, 6, 3, 15, 1, 1, 2, 0)
_AUTHENTICATION: dict[str, tuple[int, int]] = {
    "md5": (2, 12),
    "sha": (3, 12),
    "sha224": (4, 16),
    "sha256": (5, 24),
    "sha384": (6, 32),
    "sha512": (7, 48),
}
"""Number of each protocol below snmpAuthProtocols, and the bytes of its digest (RFC 3414, RFC 7860)."""
_AUTHENTICATION_PROTOCOLS: Oid = (1, 3, 6, 1, 6, 3, 10, 1, 1)
_HASHES = {"sha": "sha1"}
_PRIVACY: dict[str, Oid] = {
    "des": (1, 3, 6, 1, 6, 3, 10, 1, 2, 2),  # RFC 3414
    "aes": (1, 3, 6, 1, 6, 3, 10, 1, 2, 4),  # RFC 3826
    "aes192": (1, 3, 6, 1, 4, 1, 9, 12, 6, 1, 1),  # draft-blumenthal-aes-usm-04, by pysnmp's name for it
    "aes256": (1, 3, 6, 1, 4, 1, 9, 12, 6, 1, 2),
}


class RefusedError(Exception):
    """Not taken. ``reason`` is one of REFUSALS, or None for a step of the handshake that is nobody's fault.

    ``reply`` is what the sender has to be told to do better (a Report), if anything.
    """

    def __init__(self, reason: str | None, detail: str, reply: bytes | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.reply = reply


class User:
    """One user with the keys that its passphrases give, made once and localized when needed."""

    def __init__(self, keys: UserKeys) -> None:
        self.engine = keys.engine_id
        self.private = keys.privacy is not None
        number, self.digest_bytes = _AUTHENTICATION[keys.authentication]
        self._protocol = (*_AUTHENTICATION_PROTOCOLS, number)
        self._authentication = Pysnmp.AUTH_SERVICES[self._protocol]
        self._hash = _HASHES.get(keys.authentication, keys.authentication)
        self._master = self._authentication.hash_passphrase(keys.authentication_key)
        if keys.privacy is not None:
            self._privacy = Pysnmp.PRIV_SERVICES[_PRIVACY[keys.privacy]]
            self._private_master = self._privacy.hash_passphrase(self._protocol, keys.privacy_key)
        self._localized = lru_cache(maxsize=256)(self._localize)

    def _localize(self, engine: bytes) -> tuple[bytes, OctetString | None]:
        """Keys of this user with that engine (RFC 3414, section 2.6): one switch's are of no use with another."""
        where = OctetString(engine)
        own = self._authentication.localize_key(self._master, where)
        private = self._privacy.localize_key(self._protocol, self._private_master, where) if self.private else None
        return bytes(own), private

    def digest(self, message: SecuredMessage) -> bytes:
        """What the digest of the message has to be: over all of it, with zeros where the digest is."""
        at, end = message.digest_at, message.digest_at + len(message.digest)
        blank = message.data[:at] + bytes(len(message.digest)) + message.data[end:]
        key, _ = self._localized(message.engine)
        return hmac.digest(key, blank, self._hash)[: self.digest_bytes]

    def decrypt(self, message: SecuredMessage) -> bytes:
        _, key = self._localized(message.engine)
        try:
            plain = self._privacy.decrypt_data(
                key, (message.boots, message.time, OctetString(message.salt)), OctetString(message.payload)
            )
        except (StatusInformation, ValueError) as error:  # a salt or a length that the cipher cannot have
            raise MalformedError("is encrypted in a way that cannot be read") from error
        return bytes(plain)

    def encrypt(self, engine: bytes, boots: int, time: int, plain: bytes) -> tuple[bytes, bytes]:
        """Cipher text and salt."""
        _, key = self._localized(engine)
        text, salt = self._privacy.encrypt_data(key, (boots, time, None), plain)
        return bytes(text), bytes(salt)


@dataclass(slots=True)
class _Clock:
    """The newest that an authentic message told of its sender's clock, and our monotonic time when it did."""

    switch: str
    boots: int
    time: int
    heard: float


class SecurityModel:
    """Users, the receiver's own engine, and what is known of the engines of switches."""

    def __init__(self, users: Sequence[UserKeys], engine: bytes, boots: int, started: float) -> None:
        """``boots`` has to grow from start to start unless ``engine`` is a new one; ``started`` is monotonic."""
        self.engine = engine
        self._boots = boots
        self._started = started
        self._users = {keys.name.encode(): User(keys) for keys in users}
        self._clocks: OrderedDict[bytes, _Clock] = OrderedDict()
        self._unknown_engines = self._late = 0

    def open(self, message: SecuredMessage, switch: str, now: float) -> bytes:
        """The scoped PDU of an authentic message of this switch; raise RefusedError or MalformedError.

        ``now`` is monotonic. The steps are those of RFC 3414, section 3.2.
        """
        reportable = bool(message.flags & REPORTABLE)
        if not message.engine and reportable:
            raise RefusedError(None, "asks for the engine ID", self._report_engine(message, now))
        ours = message.engine == self.engine
        # Who believes in another engine of ours, of before a restart say, learns of this one and tries again.
        advice = self._report_engine(message, now) if reportable and not ours else None
        user = self._users.get(message.user)
        if user is None:
            raise RefusedError("authentication", "unknown user", advice)
        if not ours and user.engine is not None and user.engine != message.engine:
            raise RefusedError("authentication", "unknown engine ID", advice)
        if not ours and not 5 <= len(message.engine) <= 32:
            raise MalformedError("has an engine ID of a length that none has")
        if not message.flags & AUTHENTICATED:
            raise RefusedError("authentication", "no digest, though the user has a key", advice)
        if len(message.digest) != user.digest_bytes or not hmac.compare_digest(user.digest(message), message.digest):
            raise RefusedError("authentication", "wrong digest: another passphrase or protocol", advice)
        if ours:
            self._check_own_window(message, user, now)
        else:
            self._check_window(message, switch, now)
        if user.private and not message.encrypted:
            raise RefusedError("authentication", "not encrypted, though the user has a key for it")
        if message.encrypted and not user.private:
            raise RefusedError("authentication", "encrypted, and the user has no key for it")
        return user.decrypt(message) if message.encrypted else message.payload

    def advise(self, message: SecuredMessage, now: float) -> RefusedError:
        """The refusal of an inform that was made for another engine, which only its receiver's may be."""
        return RefusedError("authentication", "inform for another engine ID", self._report_engine(message, now))

    def _check_own_window(self, message: SecuredMessage, user: User, now: float) -> None:
        """Section 3.2.7 a: ours is the clock that counts. Boots and time of 0 are how a sender asks for it."""
        if message.boots == self._boots and abs(message.time - self._time(now)) <= _WINDOW:
            return
        asks = message.boots == message.time == 0
        self._late += not asks
        body = self._scoped_report(_NOT_IN_TIME, self._late)
        reply = self._build(message, user, body, AUTHENTICATED, now)
        raise RefusedError(None if asks else "authentication", "outside the time window of 150 s", reply)

    def _check_window(self, message: SecuredMessage, switch: str, now: float) -> None:
        """Section 3.2.7 b: the sender's clock is the one that counts, and it never goes back."""
        known = self._clocks.get(message.engine)
        if known is not None:
            if known.switch != switch:
                raise RefusedError("authentication", f"engine ID of {known.switch}")
            expected = known.time + (now - known.heard)
            if message.boots < known.boots or (message.boots == known.boots and message.time < expected - _WINDOW):
                raise RefusedError("authentication", "older than what was heard before: a recording, or boots lost")
        if not (0 <= message.boots < _LAST_BOOTS and 0 <= message.time <= _LAST_BOOTS):
            raise RefusedError("authentication", "boots or time beyond their end")
        if known is None or (message.boots, message.time) > (known.boots, known.time):
            self._clocks[message.engine] = _Clock(switch, message.boots, message.time, now)
            if len(self._clocks) > _MOST_ENGINES:
                self._clocks.popitem(last=False)

    def seal(self, message: SecuredMessage, scoped: bytes, now: float) -> bytes:
        """The answer to an authentic message for our engine, as protected as that was."""
        user = self._users[message.user]
        return self._build(message, user, scoped, message.flags & (AUTHENTICATED | ENCRYPTED), now)

    def _time(self, now: float) -> int:
        return int(now - self._started)

    def _report_engine(self, message: SecuredMessage, now: float) -> bytes:
        self._unknown_engines += 1
        return self._build(message, None, self._scoped_report(_UNKNOWN_ENGINES, self._unknown_engines), 0, now)

    def _scoped_report(self, counter: Oid, value: int) -> bytes:
        variable = element(SEQUENCE, oid(counter), integer(value % 2**32, COUNTER32))
        report = element(REPORT, integer(0), integer(0), integer(0), element(SEQUENCE, variable))
        return element(SEQUENCE, element(OCTETS, self.engine), element(OCTETS), report)

    def _build(self, asked: SecuredMessage, user: User | None, scoped: bytes, flags: int, now: float) -> bytes:
        """A message of ours in reply to another; ``user`` where it has a digest."""
        time = self._time(now)
        salt = b""
        payload = scoped
        if user is not None and flags & ENCRYPTED:
            text, salt = user.encrypt(self.engine, self._boots, time, scoped)
            payload = element(OCTETS, text)
        header = element(
            SEQUENCE,
            integer(asked.identifier),
            integer(_LARGEST_MESSAGE),
            element(OCTETS, bytes((flags,))),
            integer(USM),
        )
        security = element(
            SEQUENCE,
            element(OCTETS, self.engine),
            integer(self._boots),
            integer(time),
            element(OCTETS, asked.user),
            element(OCTETS, bytes(user.digest_bytes if user is not None else 0)),
            element(OCTETS, salt),
        )
        data = element(SEQUENCE, integer(3), header, element(OCTETS, security), payload)
        if user is None:
            return data
        made = read_message(data)
        assert isinstance(made, SecuredMessage)  # noqa: S101 - built three lines above
        return data[: made.digest_at] + user.digest(made) + data[made.digest_at + user.digest_bytes :]
