"""All that one RNIC counts, read at once; and what it does not tell."""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from exporter.contracts.metric import Metric
from exporter.contracts.rnic_counters import (
    ACTIVE,
    ACTIVE_MTU,
    BOND_MEMBERS,
    BOND_MEMBERS_UP,
    BYTES_TIME,
    COMBINED_RECEIVE,
    COMBINED_TRANSMIT,
    ECN_NP_ENABLED,
    ECN_RP_ENABLED,
    HW,
    LINES,
    PFC_ENABLED,
    PFC_PAUSED,
    PFC_PAUSING,
    PFC_RECEIVED,
    PFC_SENT,
    PORT,
    PRIORITY_RECEIVE,
    RDMA_RECEIVE,
    RDMA_TRANSMIT,
    STALLED_READ_RATIO,
    STALLED_WRITE_RATIO,
    TRUSTS_DSCP,
)
from exporter.host.counterfiles import CounterFiles, GoneError
from exporter.host.dcb import Priorities, read_priorities
from exporter.host.device import Device, Setup, SetupReader, bond_of, driver_of, read_device, read_text
from exporter.host.dialects import Term, of_hw_counter, of_port_counter
from exporter.host.ethtool import Statistics
from exporter.host.vlans import Vlan

State = Literal["supported", "disabled", "absent", "stale"]

SIGNALS: Mapping[str, tuple[Metric, ...]] = {
    "bytes": (RDMA_RECEIVE, RDMA_TRANSMIT),
    "ecn": (HW["np_ecn_marked_roce_packets"],),
    "cnp": (HW["np_cnp_sent"], HW["rp_cnp_handled"]),
    "loss": (HW["out_of_sequence"], HW["packet_seq_err"], HW["retransmitted_packets"]),
    "timeout": (HW["local_ack_timeout_err"], HW["req_transport_retries_exceeded"]),
    "pfc": (PFC_RECEIVED, PFC_SENT),
    "pause_time": (PFC_PAUSED, PFC_PAUSING),
    "discards": (LINES["rx_discards_phy"], LINES["tx_discards_phy"], PORT["xmit_discards"]),
    "bit_errors": (LINES["rx_crc_errors_phy"], LINES["rx_symbol_err_phy"], PORT["symbol_error"]),
    "pcie": (STALLED_READ_RATIO, STALLED_WRITE_RATIO),
}
"""{signal: metrics of which one at least tells it}."""

_PFC = ("pfc", "pause_time")
_ECN = (("roce_np", ECN_NP_ENABLED), ("roce_rp", ECN_RP_ENABLED))
_SWAPPED = frozenset({"ixgbe"})
"""Drivers that tell received PFC frames as requests, and sent ones as indications."""
_ANEW_READINGS = 6
"""Every so many readings what the RNIC is, and of what type its GIDs are, is read anew."""
_WIDTH = 1 << 32
_QUARTER = _WIDTH // 4
_NARROW = frozenset((
    "rx_write_requests", "rx_read_requests", "rx_atomic_requests", "rx_dct_connect", "out_of_buffer",
    "out_of_sequence", "duplicate_request", "rnr_nak_retry_err", "packet_seq_err", "implied_nak_seq_err",
    "local_ack_timeout_err", "resp_local_length_error", "resp_cqe_error", "req_cqe_error",
    "req_remote_invalid_request", "req_remote_access_errors", "resp_remote_access_errors", "resp_cqe_flush_error",
    "req_cqe_flush_error", "req_transport_retries_exceeded", "req_rnr_retries_exceeded", "roce_adp_retrans",
    "roce_adp_retrans_to", "roce_slow_restart", "roce_slow_restart_cnps", "roce_slow_restart_trans", "cnpSent",
    "cnpHandled", "cnpIgnored",
))  # fmt: skip
"""Counters of 32 bits: mlx5's queue counters (be32 in its query), and irdma's of congestion notifications."""
_COUNTERS, _HW_COUNTERS = "ports/1/counters", "ports/1/hw_counters"
_BYTES = frozenset({RDMA_RECEIVE, RDMA_TRANSMIT})
_NETDEV = {"rx_bytes": (COMBINED_RECEIVE, RDMA_RECEIVE), "tx_bytes": (COMBINED_TRANSMIT, RDMA_TRANSMIT)}
"""{file of a network device's statistics: the metric that it is a part of, and the other part}."""

Key = TypeVar("Key")


class NoDeviceError(OSError):
    """There is no such RDMA device, nor its network device."""


class _Named(NamedTuple):
    name: str
    term: Term


def _named(meaning: Callable[[str], Term | None]) -> Callable[[str], _Named | None]:
    def of(name: str) -> _Named | None:
        term = meaning(name)
        return None if term is None else _Named(name, term)

    return of


def _of_bytes(meaning: Callable[[str], Term | None]) -> Callable[[str], _Named | None]:
    def of(name: str) -> _Named | None:
        term = meaning(name)
        return _Named(name, term) if term is not None and term.metric in _BYTES else None

    return of


_Files = CounterFiles[_Named]


class Unwrapped:
    """Numbers of 32 bits as if they had more, of counters that are known to have so few.

    One that was in the last quarter, and is in the first now, has wrapped; any other that went back was reset, and
    starts again. So a wrap is missed where a counter does half of its range between two readings.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._wraps: dict[str, int] = {}

    def of(self, name: str, value: int) -> int:
        if name not in _NARROW:
            return value
        last = self._last.get(name, value)
        self._last[name] = value
        if value < last:
            wrapped = _WIDTH - _QUARTER <= last < _WIDTH and value < _QUARTER
            self._wraps[name] = self._wraps.get(name, 0) + 1 if wrapped else 0
        return value + _WIDTH * self._wraps.get(name, 0)

    def forget(self) -> None:
        """The device is another one now."""
        self._last.clear()
        self._wraps.clear()


@dataclass(slots=True)
class Reading:
    """What an RNIC tells; what is not in it, it does not tell."""

    values: dict[Metric, float] = field(default_factory=dict)
    priorities: dict[int, dict[Metric, float]] = field(default_factory=dict)
    device: Device = field(default_factory=Device)
    setup: Setup = field(default_factory=Setup)
    of_dscp: Mapping[int, int] = field(default_factory=dict)
    """{DSCP: priority}."""
    coverage: dict[str, State] = field(default_factory=dict)
    refused: str = ""
    """Why statistics or priorities are not in it: the kernel's error."""


class RnicReader:
    """Reads one RNIC again and again. Not for several threads at once."""

    def __init__(
        self,
        rnic: str,
        netdev: str | None,
        statistics: Statistics,
        sysfs: Path = Path("/sys"),
        priorities: Callable[[str], Priorities] = read_priorities,
    ) -> None:
        self._rnic, self._netdev, self._statistics, self._sysfs = rnic, netdev, statistics, sysfs
        self._priorities = priorities
        root = sysfs / "class/infiniband" / rnic
        self._hw = CounterFiles(root / _HW_COUNTERS, _named(of_hw_counter))
        self._port = CounterFiles(root / _COUNTERS, _named(of_port_counter))
        self._bytes = [
            CounterFiles(root / _COUNTERS, _of_bytes(of_port_counter)),
            CounterFiles(root / _HW_COUNTERS, _of_bytes(of_hw_counter)),
        ]
        self._unwrapped = Unwrapped()
        self._setup = SetupReader(rnic, sysfs)
        self._device: Device | None = None
        self._had_device = False
        self._has_dcb = self._has_ecn = self._swapped = False
        self._net: CounterFiles[tuple[Metric, Metric]] | None = None
        self._enabled: int | None = None
        self._shape: tuple[object, ...] = ()
        """What the last reading held; as long as this one holds the same, its coverage does."""
        self._coverage: dict[str, State] = {}
        self._readings = 0

    def read(self, vlans: Mapping[str, Vlan]) -> Reading:
        """All of it. Raise OSError, saying why, where nothing can be read: GoneError if the device went meanwhile."""
        anew = self._readings % _ANEW_READINGS == 0
        if anew:
            self._device = read_device(self._rnic, self._netdev, self._sysfs)
        device = self._device
        if device is None and self._had_device:
            self._forget()
            raise GoneError(errno.ENODEV, "its RDMA device is gone", self._rnic)
        self._had_device = device is not None
        netdev = device.netdev if device is not None else self._netdev
        if device is None and not (netdev and (self._sysfs / "class/net" / netdev).is_dir()):
            self._forget()
            raise NoDeviceError(errno.ENODEV, "there is neither such an RDMA device nor its network device", self._rnic)
        if device is None and netdev:
            device = Device(netdev=netdev, bond=bond_of(netdev, self._sysfs))
        reading = Reading(device=device or Device())
        reading.values = self._counted(netdev, self._port, self._hw)
        if netdev and not os.path.isdir(f"{self._sysfs}/class/net/{netdev}"):
            on = sorted({gid.netdev for gid in self._setup.gids if gid.netdev})
            reading.refused = f"there is no network device {netdev!r}" + (
                f": its GIDs are on {', '.join(on)}" if on else ""
            )
        elif netdev:
            try:
                self._add_statistics(reading, netdev)
                self._add_priorities(reading, netdev, anew=anew)
            except OSError as error:
                reading.refused = f"statistics or priorities of {netdev} are refused: {error.strerror or error}"
        reading.setup = self._setup.read(netdev, reading.device.bond, vlans, anew=anew)
        if reading.setup.active is not None:
            reading.values[ACTIVE] = float(reading.setup.active)
        if reading.setup.active_mtu is not None:
            reading.values[ACTIVE_MTU] = float(reading.setup.active_mtu)
        if members := reading.setup.members:
            reading.values[BOND_MEMBERS] = float(len(members))
            reading.values[BOND_MEMBERS_UP] = float(sum(up for _, up in members))
        shape = tuple(reading.values), *((each, *own) for each, own in reading.priorities.items()), self._enabled
        if shape != self._shape:
            self._shape, self._coverage = shape, coverage(reading)
        reading.coverage = self._coverage
        self._readings += 1
        return reading

    def read_bytes(self) -> dict[Metric, float]:
        """Bytes received and sent alone, for a series of rates: as they are in a whole reading."""
        device = self._device
        return self._counted(device.netdev if device is not None else self._netdev, *self._bytes)

    def _counted(self, netdev: str | None, port: _Files, hw: _Files) -> dict[Metric, float]:
        """What files of counters say. Raise GoneError for a device that went, of which nothing is kept."""
        if self._net is None or self._net.directory.parent.name != netdev:
            self._net = CounterFiles(self._sysfs / "class/net" / (netdev or "-") / "statistics", _NETDEV.get)
        try:
            from_port, from_hw, from_net = port.read(), hw.read(), self._net.read()
        except GoneError:  # torn: a device that is reset in the middle of a reading has told half of two lives
            self._forget()
            raise
        now = time.time()
        if port.another or hw.another:
            self._unwrapped.forget()
        # Of what both tell, such as bytes, ``counters`` is what everybody reads.
        sums = self._sums(from_hw) | self._sums(from_port)
        values = {metric: value for metric, value in sums.items() if not math.isnan(value)}
        for (combined, rdma), number in from_net:
            if rdma in values and number is not None:
                values[combined] = values[rdma] + number
        if COMBINED_RECEIVE in values and COMBINED_TRANSMIT in values:
            values[BYTES_TIME] = now
        return values

    def _sums(self, numbers: list[tuple[_Named, int | None]]) -> dict[Metric, float]:
        """Of each metric the sum of what counts it; NaN where a part is missing, lest the sum go back."""
        sums: dict[Metric, float] = {}
        for (name, (metric, factor)), number in numbers:
            value = math.nan if number is None else factor * self._unwrapped.of(name, number)
            sums[metric] = sums.get(metric, 0.0) + value
        return sums

    def _add_priorities(self, reading: Reading, netdev: str, *, anew: bool) -> None:
        if anew:  # a driver that takes no part is not asked each time
            self._has_dcb, self._has_ecn = True, os.path.isdir(f"{self._sysfs}/class/net/{netdev}/ecn")
            self._swapped = driver_of(netdev, self._sysfs) in _SWAPPED
        told = self._priorities(netdev) if self._has_dcb else Priorities()
        self._has_dcb = told != Priorities()
        reading.of_dscp, self._enabled = told.of_dscp, told.lossless
        if self._has_dcb:
            reading.values[TRUSTS_DSCP] = float(bool(told.of_dscp))
        lossless = told.lossless
        for priority in range(8) if lossless is not None else ():
            own = reading.priorities.setdefault(priority, {})
            own[PFC_ENABLED] = float((lossless or 0) >> priority & 1)
            # Where statistics count as well, they are younger.
            if PFC_SENT not in own and PFC_RECEIVED not in own:
                sent, received = told.sent[priority], told.received[priority]
                own[PFC_SENT], own[PFC_RECEIVED] = (received, sent) if self._swapped else (sent, received)
        for side, metric in _ECN if self._has_ecn else ():
            for priority in range(8):
                text = read_text(f"{self._sysfs}/class/net/{netdev}/ecn/{side}/enable/{priority}")
                if text in ("0", "1"):
                    reading.priorities.setdefault(priority, {})[metric] = float(text)

    def _add_statistics(self, reading: Reading, netdev: str) -> None:
        for (metric, factor), priority, number in self._statistics.read(netdev):
            values = reading.values if priority is None else reading.priorities.setdefault(priority, {})
            values[metric] = values.get(metric, 0.0) + factor * number

    def _forget(self) -> None:
        """The next device of this name is another one."""
        self._unwrapped.forget()
        self._readings = 0
        self.close()

    def close(self) -> None:
        for files in (self._hw, self._port, *self._bytes):
            files.close()
        if self._net is not None:
            self._net.close()


def coverage(reading: Reading) -> dict[str, State]:
    """Whether each signal is told."""
    told = set(reading.values)
    for values in reading.priorities.values():
        told |= set(values)
    states: dict[str, State] = {
        signal: "supported" if told & set(metrics) else "absent" for signal, metrics in SIGNALS.items()
    }
    # mlx5 has lines of pauses for the priorities with PFC alone: other lines of priorities, and none of pauses.
    if any(PRIORITY_RECEIVE in own for own in reading.priorities.values()) and states["pfc"] == "absent":
        states |= dict.fromkeys(_PFC, "disabled")
    enabled = [own[PFC_ENABLED] for own in reading.priorities.values() if PFC_ENABLED in own]
    if enabled and not any(enabled):
        states["pfc"] = "disabled"
    return states
