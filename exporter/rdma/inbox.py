"""Deals with what arrives at a device: when it is readable, in every slot where it never is, and whenever asked to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from exporter.probing.loop import Loop
from exporter.rdma.device import Arrival, Device
from exporter.rdma.verbs import PyverbsError

_LOOKS = 16
"""At the completion queue, one after the other."""


class Inbox:
    """``take`` gets what has arrived; where it, or the device, raises PyverbsError, the device is ``broken``.

    ``on_broken`` is called, in a slot, once that is seen.
    """

    def __init__(
        self,
        loop: Loop,
        device: Device,
        take: Callable[[list[Arrival]], None],
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = loop
        self._device = device
        self._take = take
        self._on_broken = on_broken
        self._looking = False
        self._closed = False
        if device.fileno() >= 0:
            loop.watch(self)
        else:
            self._look_each_slot()

    def close(self) -> None:
        """To be called before the device is closed."""
        self._closed = True
        if self._device.fileno() >= 0:
            self._loop.forget(self)

    def _look_each_slot(self) -> None:
        if not self._closed and not self._device.broken:
            self._loop.after(0, self._look_each_slot)
            self.look(self._loop.clock())

    def fileno(self) -> int:
        return self._device.fileno()

    def on_input(self) -> None:
        self._look(self._device.on_event, self._loop.clock())

    def look(self, asked_ns: int) -> bool:
        """Deal with what has arrived; whether anything has. ``asked_ns`` is the monotonic time."""
        return self._look(self._device.look, asked_ns)

    def _look(self, look: Callable[[int], list[Arrival]], asked_ns: int) -> bool:
        """Of a flood as much as leaves the loop its slots."""
        anything = False
        with self._device_may_break():
            for _ in range(_LOOKS):
                if self._device.broken or self._closed:
                    return anything
                found = look(asked_ns)
                look = self._device.look
                anything = anything or bool(found)
                self._take(found)
                if not self._device.has_more:
                    break
        if self._device.broken:
            self._loop.after(0, self._tell_broken)
        elif self._device.has_more and not self._looking:
            self._looking = True
            self._loop.after(0, self._look_again)
        return anything

    def _tell_broken(self) -> None:
        if not self._closed:
            self._on_broken()

    def _look_again(self) -> None:
        self._looking = False
        self.look(self._loop.clock())

    @contextmanager
    def _device_may_break(self) -> Iterator[None]:
        try:
            yield
        except PyverbsError as error:
            self._device.broken = f"RDMA device {self._device.name}: {error}"

    def on_error(self) -> None:
        self._device.broken = f"RDMA device {self._device.name} reports no more completions"
        self._loop.forget(self)  # else it would wake us for ever

    def on_output(self) -> None:
        """Never asked for."""
