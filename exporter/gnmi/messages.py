"""gNMI's messages, to and from the plain values of exporter.gnmi.tree. What arrives is a stranger's."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from exporter.gnmi import proto
from exporter.gnmi.tree import Change, Element, Notification, Path, Wanted, read_json

_MOST_DIGITS = 18


class MessageError(ValueError):
    """A message that is none of gNMI's, or holds what no switch sends."""


def request_of(wanted: Wanted, encoding: int) -> Any:
    """The SubscribeRequest of one subscription: a stream of samples."""
    path = proto.Path(elem=[proto.PathElem(name=name) for name in wanted.path])
    subscription = proto.Subscription(
        path=path, mode=proto.SAMPLE, sample_interval=round(wanted.interval_seconds * 1_000_000_000)
    )
    subscriptions = proto.SubscriptionList(
        prefix=proto.Path(target=wanted.target), subscription=[subscription], mode=proto.STREAM, encoding=encoding
    )
    return proto.SubscribeRequest(subscribe=subscriptions)


MOST_CHANGES = 50_000
"""Of one message; 512 ports with all of theirs are some 30,000."""


def response_of(data: bytes, target: str) -> Notification | None:
    """The notification in a SubscribeResponse; None in one that says that all values were sent once.

    ``target`` is whose values they are where the message does not say. Raise MessageError.
    """
    try:
        message = proto.SubscribeResponse.FromString(data)
    except DecodeError as error:
        raise MessageError("a message that is none of gNMI's") from error
    kind = message.WhichOneof("response")
    if kind == "error":
        raise MessageError(f"error {message.error.code}: {message.error.message}")
    if kind != "update":
        return None
    notification = message.update
    if len(notification.update) + len(notification.delete) > MOST_CHANGES:
        raise MessageError(f"a message of more than {MOST_CHANGES} changes")
    prefix = notification.prefix
    return Notification(
        changes=tuple(Change(_path(prefix, update.path, target), _value(update.val)) for update in notification.update),
        deleted=tuple(_path(prefix, path, target) for path in notification.delete),
    )


def encodings_of(data: bytes) -> tuple[frozenset[int], str]:
    """(encodings that a switch can send, the version of gNMI it speaks) in a CapabilityResponse; raise MessageError."""
    try:
        message = proto.CapabilityResponse.FromString(data)
    except DecodeError as error:
        raise MessageError("capabilities that are none of gNMI's") from error
    return frozenset(message.supported_encodings), message.gNMI_version


def _path(prefix: Any, path: Any, target: str) -> Path:
    elements = tuple(
        Element(elem.name, tuple(sorted(elem.key.items()))) for part in (prefix, path) for elem in part.elem
    )
    return Path(prefix.target or path.target or target, elements)


def _value(typed: Any) -> object:
    kind = typed.WhichOneof("value")
    if kind is None:
        return None
    value = getattr(typed, kind)
    if kind in ("json_val", "json_ietf_val"):
        try:
            return read_json(value)
        except ValueError as error:
            raise MessageError("a value that is no JSON") from error
    if kind == "decimal_val":
        return value.digits / 10**value.precision if value.precision <= _MOST_DIGITS else None
    return value if kind.startswith(("string", "ascii", "int", "uint", "bool", "float", "double")) else None
