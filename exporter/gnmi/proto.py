"""gNMI's messages as this client speaks them, described in code: neither generated nor compiled.

Names and numbers are those of ``proto/gnmi/gnmi.proto`` of github.com/openconfig/gnmi. Fields that are not listed
arrive as unknown ones and are ignored.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _TYPES.TYPE_BOOL,
    "bytes": _TYPES.TYPE_BYTES,
    "double": _TYPES.TYPE_DOUBLE,
    "enum": _TYPES.TYPE_INT32,  # on the wire an enumeration is an int32; the names are below
    "float": _TYPES.TYPE_FLOAT,
    "int64": _TYPES.TYPE_INT64,
    "string": _TYPES.TYPE_STRING,
    "uint32": _TYPES.TYPE_UINT32,
    "uint64": _TYPES.TYPE_UINT64,
}
# message: lines "type name = number"; a line "oneof NAME" begins one, which reaches to the end of the message.
_MESSAGES = {
    "Path": "string origin = 2; repeated PathElem elem = 3; string target = 4",
    "PathElem": "string name = 1; map key = 2",
    "Decimal64": "int64 digits = 1; uint32 precision = 2",
    "ScalarArray": "repeated TypedValue element = 1",
    "TypedValue": "oneof value; string string_val = 1; int64 int_val = 2; uint64 uint_val = 3; bool bool_val = 4; "
    "bytes bytes_val = 5; float float_val = 6; Decimal64 decimal_val = 7; ScalarArray leaflist_val = 8; "
    "bytes json_val = 10; bytes json_ietf_val = 11; string ascii_val = 12; bytes proto_bytes = 13; "
    "double double_val = 14",
    "Update": "Path path = 1; TypedValue val = 3; uint32 duplicates = 4",
    "Notification": "int64 timestamp = 1; Path prefix = 2; repeated Update update = 4; repeated Path delete = 5; "
    "bool atomic = 6",
    "Subscription": "Path path = 1; enum mode = 2; uint64 sample_interval = 3; bool suppress_redundant = 4; "
    "uint64 heartbeat_interval = 5",
    "SubscriptionList": "Path prefix = 1; repeated Subscription subscription = 2; enum mode = 5; enum encoding = 8; "
    "bool updates_only = 9",
    "SubscribeRequest": "oneof request; SubscriptionList subscribe = 1",
    "Error": "uint32 code = 1; string message = 2",
    "SubscribeResponse": "oneof response; Notification update = 1; bool sync_response = 3; Error error = 4",
    "ModelData": "string name = 1; string organization = 2; string version = 3",
    "CapabilityRequest": "",
    "CapabilityResponse": "repeated ModelData supported_models = 1; repeated enum supported_encodings = 2; "
    "string gNMI_version = 3",
}

SUBSCRIBE = "/gnmi.gNMI/Subscribe"
CAPABILITIES = "/gnmi.gNMI/Capabilities"
STREAM = 0
"""SubscriptionList.Mode"""
SAMPLE = 2
"""SubscriptionMode"""
JSON, PROTO, JSON_IETF = 0, 2, 4
"""Encoding"""


def _describe(message: descriptor_pb2.DescriptorProto, text: str) -> None:
    oneof: int | None = None
    for line in filter(None, text.split("; ")):
        words = line.split()
        if words[0] == "oneof":
            oneof = len(message.oneof_decl)
            message.oneof_decl.add(name=words[1])
            continue
        field = message.field.add(name=words[-3], number=int(words[-1]), label=_TYPES.LABEL_OPTIONAL)
        if words[0] in ("repeated", "map"):
            field.label = _TYPES.LABEL_REPEATED
        kind = words[-4]
        if kind == "map":  # of strings to strings: on the wire repeated messages of a key and a value
            entry = message.nested_type.add(name="KeyEntry")
            entry.options.map_entry = True
            _describe(entry, "string key = 1; string value = 2")
            field.type, field.type_name = _TYPES.TYPE_MESSAGE, f".gnmi.{message.name}.KeyEntry"
        elif kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            field.type, field.type_name = _TYPES.TYPE_MESSAGE, f".gnmi.{kind}"
        if oneof is not None:
            field.oneof_index = oneof


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="gnmi.proto", package="gnmi", syntax="proto3")
    for name, text in _MESSAGES.items():
        _describe(file.message_type.add(name=name), text)
    # A pool of our own: another library in this process may know gnmi.proto, and the default pool takes one of a name.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"gnmi.{name}")) for name in _MESSAGES}


_CLASS = _classes()
Path = _CLASS["Path"]
PathElem = _CLASS["PathElem"]
TypedValue = _CLASS["TypedValue"]
Update = _CLASS["Update"]
Notification = _CLASS["Notification"]
Subscription = _CLASS["Subscription"]
SubscriptionList = _CLASS["SubscriptionList"]
SubscribeRequest = _CLASS["SubscribeRequest"]
SubscribeResponse = _CLASS["SubscribeResponse"]
CapabilityRequest = _CLASS["CapabilityRequest"]
CapabilityResponse = _CLASS["CapabilityResponse"]
