"""Netfilter over netlink: packets handed to a process and back, and the one rule that nft cannot always write.

Structures and numbers are those of linux/netfilter/nfnetlink.h, nfnetlink_queue.h, nf_tables.h,
nf_tables_compat.h and xt_NFQUEUE.h. Attribute values are in network byte order.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_NO_ENOBUFS = 5

NLMSG_ERROR = 2
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_APPEND = 0x1, 0x4, 0x400, 0x800
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

SUBSYSTEM_QUEUE, SUBSYSTEM_NFTABLES = 3, 10
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NFT_MSG_NEWRULE = 6

NFQNL_MSG_PACKET, NFQNL_MSG_VERDICT, NFQNL_MSG_CONFIG, NFQNL_MSG_VERDICT_BATCH = 0, 1, 2, 3
NFQA_PACKET_HDR, NFQA_VERDICT_HDR = 1, 2
NFQA_CFG_CMD, NFQA_CFG_PARAMS, NFQA_CFG_QUEUE_MAXLEN, NFQA_CFG_MASK, NFQA_CFG_FLAGS = 1, 2, 3, 4, 5
NFQNL_CFG_CMD_BIND = 1
NFQNL_COPY_META = 1
NFQA_CFG_F_FAIL_OPEN, NFQA_CFG_F_GSO = 0x1, 0x4
NF_ACCEPT = 1
NFQ_FLAG_BYPASS = 0x1

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_FAMILY = struct.Struct("!BBH")  # nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type


def _padded(length: int) -> int:
    return (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_padded(length) - length)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def message(kind: int, flags: int, family: int, resource: int, *attributes: bytes) -> bytes:
    body = _FAMILY.pack(family, 0, resource) + b"".join(attributes)
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, 1, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages of one datagram, as (type, body)."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += _padded(length)


def _open() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)


def _acknowledged(connection: socket.socket) -> None:
    """Read answers until the acknowledgement; raise OSError with what the kernel objects to."""
    while True:
        for kind, body in messages(connection.recv(65536)):
            if kind == NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", body)
                if code:
                    raise OSError(-code, os.strerror(-code))
                return


def append_queue_target(table: str, chain: str, queue: int) -> None:
    """Append ``NFQUEUE --queue-num QUEUE --queue-bypass`` to a chain of family ip, where the caller stands.

    What ``nft`` writes as ``queue flags bypass to QUEUE``, for kernels without nft's own queue expression
    (CONFIG_NFT_QUEUE): the target of iptables, as iptables-nft puts it into nf_tables.
    """
    information = struct.pack("=HHHxx", queue, 1, NFQ_FLAG_BYPASS)  # xt_NFQ_info_v3, aligned to 8 bytes
    target = nested(
        2,  # NFTA_EXPR_DATA
        attribute(1, b"NFQUEUE\0"),
        attribute(2, struct.pack("!I", 3)),  # its revision
        attribute(3, information),
    )
    rule = message(
        SUBSYSTEM_NFTABLES << 8 | NFT_MSG_NEWRULE,
        NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK,
        socket.AF_INET,
        0,
        attribute(1, table.encode() + b"\0"),
        attribute(2, chain.encode() + b"\0"),
        nested(4, nested(1, attribute(1, b"target\0"), target)),  # NFTA_RULE_EXPRESSIONS: one NFTA_LIST_ELEM
    )
    begin, end = (message(kind, 0, socket.AF_UNSPEC, SUBSYSTEM_NFTABLES) for kind in (BATCH_BEGIN, BATCH_END))
    with _open() as connection:
        connection.bind((0, 0))
        connection.send(begin + rule + end)
        _acknowledged(connection)


class PacketQueue:
    """NFQUEUE ``number`` of the namespace where the caller stands: packets wait in the kernel for a verdict.

    The kernel passes what does not fit (``longest`` packets, the socket's buffer) undelayed: nothing is lost
    uncounted. Raise OSError (EBUSY, EPERM) when another process has bound the queue.
    """

    def __init__(self, number: int, longest: int = 65536) -> None:
        self._number = number
        self._socket = _open()
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            self._socket.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
            self._configure(attribute(NFQA_CFG_CMD, struct.pack("!BxH", NFQNL_CFG_CMD_BIND, socket.AF_INET)))
            flags = struct.pack("!I", NFQA_CFG_F_FAIL_OPEN | NFQA_CFG_F_GSO)
            self._configure(
                attribute(NFQA_CFG_PARAMS, struct.pack("!IB", 0, NFQNL_COPY_META)),
                attribute(NFQA_CFG_QUEUE_MAXLEN, struct.pack("!I", longest)),
                attribute(NFQA_CFG_FLAGS, flags),
                attribute(NFQA_CFG_MASK, flags),
            )
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def _configure(self, *attributes: bytes) -> None:
        kind = SUBSYSTEM_QUEUE << 8 | NFQNL_MSG_CONFIG
        self._socket.send(message(kind, NLM_F_ACK, socket.AF_UNSPEC, self._number, *attributes))
        _acknowledged(self._socket)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Give the queue up: the kernel drops what still waits in it, and passes what comes after."""
        self._socket.close()

    def arrived(self) -> Iterator[int]:
        """Identifiers of the packets that wait for a verdict and were not told before; never blocks."""
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            for kind, body in messages(data):
                if kind == SUBSYSTEM_QUEUE << 8 | NFQNL_MSG_PACKET:
                    yield _packet_identifier(body)

    def release(self, identifier: int, *, earlier_too: bool = False) -> None:
        """Let one packet go on, or it and all that arrived before it."""
        kind = SUBSYSTEM_QUEUE << 8 | (NFQNL_MSG_VERDICT_BATCH if earlier_too else NFQNL_MSG_VERDICT)
        verdict = attribute(NFQA_VERDICT_HDR, struct.pack("!II", NF_ACCEPT, identifier))
        try:
            self._socket.send(message(kind, 0, socket.AF_UNSPEC, self._number, verdict))
        except OSError as error:
            if error.errno != errno.ENOENT:  # the packet's interface went down: the kernel has dropped it
                raise


def _packet_identifier(body: bytes) -> int:
    offset = _FAMILY.size
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if kind & NLA_TYPE_MASK == NFQA_PACKET_HDR:
            return int.from_bytes(body[offset + 4 : offset + 8], "big")
        offset += _padded(max(length, _ATTRIBUTE.size))
    raise ValueError("a queued packet without a header")
