"""Open vSwitch by its own control socket: how many flows it has, and which (ovs-appctl(8), ovs-dpctl(8)).

The socket speaks JSON-RPC 1.0 (RFC 7047, section 4.1): a command is a method, its words are the parameters. Flows are
what the datapath does with packets that came by lately, as ``dpctl/dump-flows -m --names`` writes them.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from exporter.contracts.addresses import canonical
from exporter.contracts.overlay import LOCAL, Entry
from exporter.overlay.settings import OverlayPort

_TIMEOUT = 10.0
_MOST_BYTES = 256 << 20
_PIECE_BYTES = 1 << 20
_CURRENT = re.compile(r"^\s*flows\s*: \(current (\d+)\)", re.MULTILINE)
_OFFLOADED = re.compile(r"^\s*offloaded flows\s*:\s*(\d+)", re.MULTILINE)
_TUNNEL_KEY = re.compile(r"tun_id=(0x[0-9a-f]+|\d+)")
_SET_TUNNEL = re.compile(r"set\(tunnel\((?P<tunnel>[^()]*(?:\([^()]*\)[^()]*)*)\)\)")
_PUSH = re.compile(
    r"tnl_push\(.*?ipv[46]\(src=[^,]*,dst=(?P<vtep>[^,]*),.*?(?:vxlan|geneve)\([^()]*vni=(?P<vni>0x[0-9a-f]+|\d+)"
)
_DESTINATION = re.compile(r"(?:^|,)(?:ipv6_)?dst=([^,]*)")


@dataclass(frozen=True, slots=True)
class Flows:
    """How many flows there are, of all datapaths."""

    current: int
    offloaded: int | None
    """None where the datapath does not tell."""


class OpenVSwitch:
    """One ``ovs-vswitchd``, by the directory of its control socket. Every method raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def count(self) -> Flows:
        """Cheap: what the revalidators counted last."""
        told = self._command("upcall/show")
        offloaded = [int(number) for number in _OFFLOADED.findall(told)]
        return Flows(
            current=sum(int(number) for number in _CURRENT.findall(told)),
            offloaded=sum(offloaded) if offloaded else None,
        )

    def flows(self) -> list[str]:
        """Every flow, a line each: takes the switch time for each of them."""
        lines: list[str] = []
        for datapath in self._command("dpctl/dump-dps").split():
            lines += self._command("dpctl/dump-flows", "-m", "--names", datapath).splitlines()
        return lines

    def _socket(self) -> str:
        try:
            number = (self._directory / "ovs-vswitchd.pid").read_text().strip()
            named = self._directory / f"ovs-vswitchd.{number}.ctl"
            if named.exists():
                return str(named)
        except OSError:
            pass
        found = sorted(self._directory.glob("ovs-vswitchd*.ctl"))
        if not found:
            raise OSError(errno.ENOENT, "no control socket of ovs-vswitchd", str(self._directory))
        return str(found[-1])

    def _command(self, method: str, *words: str) -> str:
        path = self._socket()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(_TIMEOUT)
                sock.connect(path)
                sock.sendall(msgspec.json.encode({"id": 0, "method": method, "params": words}))
                answer = _answer(sock)
        except OSError as error:
            raise OSError(error.errno or errno.ETIMEDOUT, error.strerror or str(error), path) from error
        if answer.error is not None:
            raise OSError(errno.EREMOTEIO, f"{method}: {' '.join(str(answer.error).split())[:200]}", path)
        return answer.result or ""


class _Answer(msgspec.Struct):
    result: str | None = None
    error: object = None


def _answer(sock: socket.socket) -> _Answer:
    """One JSON value: nothing follows it, and nothing tells its length before."""
    data = bytearray()
    while piece := sock.recv(_PIECE_BYTES):
        data += piece
        if len(data) > _MOST_BYTES:
            raise OSError(errno.EMSGSIZE, "an answer of more than 256 MiB")
        if data.endswith(b"}"):
            try:
                return msgspec.json.decode(data, type=_Answer)
            except msgspec.DecodeError:
                continue  # the brace of a flow, perhaps
    raise OSError(errno.ECONNRESET, "ends in the middle of an answer")


def entries(flows: Iterable[str], host: str, ports: Iterable[OverlayPort], now: float) -> Iterator[Entry]:
    """Overlay entries of flows that encapsulate for one address, or deliver what is for one address to a known port."""
    containers = {port.name: port.container for port in ports}
    for line in flows:
        match, separator, rest = line.partition(", packets:")
        fields = dict(_fields(match)) if separator else {}
        destination = _exact(fields)
        if destination is None:
            continue
        about, _, actions = rest.partition(", actions:")
        actions = actions.partition(", dp-extra-info:")[0]
        tunnelled = _TUNNEL_KEY.search(fields.get("tunnel", ""))
        try:
            way = _encapsulation(actions) if tunnelled is None else _delivery(tunnelled[1], actions, containers)
        except ValueError:  # an address that is none
            continue
        if way is not None:
            vni, following = way
            yield Entry(
                host=host,
                table="vswitch",
                vni=vni,
                dst=destination,
                dst_mac=_mac(fields),
                next=following,
                in_port=fields.get("in_port"),
                offloaded="offloaded:yes" in about,
                time=now,
            )


def _fields(match: str) -> Iterator[tuple[str, str]]:
    """``a(b),c(d(e))`` as (a, b), (c, d(e))."""
    depth, begin, name = 0, 0, ""
    for at, letter in enumerate(match):
        if letter == "(":
            if depth == 0:
                name, begin = match[begin:at].strip(", "), at + 1
            depth += 1
        elif letter == ")":
            depth -= 1
            if depth == 0:
                yield name, match[begin:at]
                begin = at + 1
            elif depth < 0:
                return


def _exact(fields: dict[str, str]) -> str | None:
    """The overlay address that a flow is for; None where it is for several, or for none."""
    found = _DESTINATION.search(fields.get("ipv4") or fields.get("ipv6") or "")
    if found is None or "/" in found[1]:
        return None
    try:
        return canonical(found[1])
    except ValueError:
        return None


def _mac(fields: dict[str, str]) -> str | None:
    found = _DESTINATION.search(fields.get("eth", ""))
    return None if found is None or "/" in found[1] else found[1]


def _encapsulation(actions: str) -> tuple[int, str] | None:
    """(VNI, VTEP) that packets are sent to; None where that is nowhere, or several places: one is a mirror's."""
    ways = {(int(pushed["vni"], 0), canonical(pushed["vtep"])) for pushed in _PUSH.finditer(actions)}
    for tunnel in _SET_TUNNEL.finditer(actions):
        key, vtep = _TUNNEL_KEY.search(tunnel["tunnel"]), _DESTINATION.search(tunnel["tunnel"])
        if vtep is not None:
            ways.add((int(key[1], 0) if key is not None else -1, canonical(vtep[1])))
    (way,) = ways if len(ways) == 1 else (None,)
    return way if way is not None and way[0] >= 0 else None


def _delivery(key: str, actions: str, containers: dict[str, str]) -> tuple[int, str] | None:
    """(VNI, ``local:<container>``) of what came out of a tunnel."""
    known = {containers[port] for port in map(str.strip, actions.split(",")) if port in containers}
    return (int(key, 0), LOCAL + known.pop()) if len(known) == 1 else None
