"""Breaking the lab on purpose, and knowing afterwards exactly what was broken and how much was lost.

Runs inside the sandbox. What is broken is recorded in ``faults.json`` in the lab's directory, so that
every process that enters the lab sees it. Breaking twice, or mending what is whole, changes nothing.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from lab.design import Cable, Design, End
from lab.errors import LabError
from lab.netns import inside

Kind = Literal["link-down", "silent-loss", "port-mtu"]
PARTS = 1_000_000  # resolution of a loss: 0.0001 %
SMALLEST_MTU = 68  # RFC 791
TABLE = "fault_{}"  # one nftables table per interface


@dataclass(frozen=True)
class Fault:
    """``target`` is a link or a port by its contract name; ``value`` is percent for a loss, bytes for an MTU."""

    kind: Kind
    target: str
    value: float | None = None

    @property
    def name(self) -> str:
        return f"{self.kind} {self.target}"

    def __str__(self) -> str:
        unit = {"silent-loss": " %", "port-mtu": " bytes"}.get(self.kind, "")
        return self.name + ("" if self.value is None else f" {self.value:g}{unit}")


class Faults:
    """The faults of one running lab. Links and ports are named as in the contracts."""

    def __init__(self, design: Design, directory: Path) -> None:
        self.design = design
        self._file = directory / "faults.json"

    def link_down(self, link: str) -> Fault:
        """Take a link down: no carrier on either end, and routing knows at once."""
        cable = self.design.link(link)
        return self._inflict(Fault("link-down", cable.id))

    def silent_loss(self, link: str, percent: float) -> Fault:
        """Drop ``percent`` of the IPv4 packets in each direction, while the link stays up.

        BGP (TCP port 179) and ARP pass, as on a fabric whose routing protocol does not notice.
        """
        cable = self.design.link(link)
        if not 100 / PARTS <= percent <= 100:
            raise LabError(f"a loss of {percent:g} % cannot be", f"{100 / PARTS:g} to 100; `heal` takes it away")
        return self._inflict(Fault("silent-loss", cable.id, percent))

    def port_mtu(self, port: str, mtu: int = 1500) -> Fault:
        """Set the MTU of one port only, in bytes: longer packets die there, whichever way they go."""
        end = self.design.end(port)
        if not SMALLEST_MTU <= mtu <= self.design.mtu:
            raise LabError(f"an MTU of {mtu} bytes cannot be", f"{SMALLEST_MTU} to {self.design.mtu}")
        return self._inflict(Fault("port-mtu", end.id, mtu))

    def heal(self, what: str | None = None) -> tuple[Fault, ...]:
        """Mend one fault (by name), all faults of one link or port, or all (None); return what was mended."""
        with self._recorded() as faults:
            if what is None:
                chosen = list(faults.values())
            else:
                chosen = [fault for fault in faults.values() if what in (fault.name, fault.target, str(fault))]
                if not chosen and what not in self._known():
                    raise LabError(f"no fault is called {what!r}", "active: " + (", ".join(faults) or "none"))
            for fault in chosen:
                self._mend(fault)
                del faults[fault.name]
        return tuple(chosen)

    def active(self) -> tuple[Fault, ...]:
        try:
            return tuple(msgspec.json.decode(self._file.read_bytes(), type=list[Fault]))
        except FileNotFoundError:
            return ()

    def dropped(self) -> dict[str, int]:
        """Packets that each active silent loss has dropped since it began, both directions together, by link."""
        return {
            fault.target: sum(_dropped_at(end) for end in self.design.link(fault.target).ends)
            for fault in self.active()
            if fault.kind == "silent-loss"
        }

    # ---- how

    def _known(self) -> set[str]:
        return {name for link in self.design.links for name in (link.id, link.a.id, link.b.id)}

    @contextmanager
    def _recorded(self) -> Iterator[dict[str, Fault]]:
        """The active faults by name, locked against other processes, written back even after an error."""
        with open(self._file.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            faults = {fault.name: fault for fault in self.active()}
            try:
                yield faults
            finally:
                new = self._file.with_suffix(".new")
                new.write_bytes(msgspec.json.encode(list(faults.values())))
                new.replace(self._file)

    def _inflict(self, fault: Fault) -> Fault:
        with self._recorded() as faults:
            if faults.get(fault.name) == fault:
                return fault
            faults[fault.name] = fault  # first: a fault half made can then be mended
            if fault.kind == "link-down":
                _ip(_switch_end(self.design.link(fault.target)), "down")
            elif fault.kind == "silent-loss":
                for end in self.design.link(fault.target).ends:
                    _drop_at(end, fault.value or 0)
            else:
                _ip(self.design.end(fault.target), "mtu", f"{fault.value:g}")
        return fault

    def _mend(self, fault: Fault) -> None:
        if fault.kind == "link-down":
            _ip(_switch_end(self.design.link(fault.target)), "up")
        elif fault.kind == "silent-loss":
            for end in self.design.link(fault.target).ends:
                table = TABLE.format(end.netdev)
                _nft(end, f"add table netdev {table}\ndelete table netdev {table}\n")
        else:
            _ip(self.design.end(fault.target), "mtu", str(self.design.mtu))
            # What hosts have learnt of the smaller MTU would outlive the fault by ten minutes.
            for host in self.design.hosts:
                with inside(host.name):
                    subprocess.run(["ip", "route", "flush", "cache"], capture_output=True, check=True)


def _switch_end(cable: Cable) -> End:
    """The end to be taken down: a host's would forget its routes, a switch's routing puts them back."""
    return cable.b


def _run(end: End, argv: list[str], text: str | None = None) -> str:
    with inside(end.node):
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(argv)} on {end.node}: {' '.join(done.stderr.split())}")
    return done.stdout


def _ip(end: End, *words: str) -> None:
    _run(end, ["ip", "link", "set", "dev", end.netdev, *words])


def _nft(end: End, script: str) -> None:
    _run(end, ["nft", "-f", "-"], script)


def _drop_at(end: End, percent: float) -> None:
    """Drop what arrives at ``end``; replaces an earlier loss, and its counter, in one transaction."""
    table = TABLE.format(end.netdev)
    packets = f"meta protocol ip numgen random mod {PARTS} < {round(percent / 100 * PARTS)}"
    if percent == 100:  # nftables refuses a comparison that is always true
        packets = "meta protocol ip"
    _nft(
        end,
        f"""
        add table netdev {table}
        delete table netdev {table}
        table netdev {table} {{
            counter dropped {{ }}
            chain arriving {{
                type filter hook ingress device "{end.netdev}" priority 0;
                policy accept;
                tcp sport 179 accept
                tcp dport 179 accept
                {packets} counter name dropped drop
            }}
        }}
        """,
    )


def _dropped_at(end: End) -> int:
    answer = json.loads(_run(end, ["nft", "-j", "list", "counters"]))
    table = TABLE.format(end.netdev)
    counters = (entry["counter"] for entry in answer["nftables"] if "counter" in entry)
    return sum(int(counter["packets"]) for counter in counters if counter["table"] == table)
