"""Sessions by the configured engine: an engine is imported by the process that needs it, and only then."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable

import msgspec

from exporter.switches.profile import Profile
from exporter.switches.settings import PollerSettings, SwitchSettings
from exporter.switches.snmp import MAX_REPETITIONS, NoAnswerError, Session

_RESOLVED_SECONDS = 5.0

Opener = Callable[[SwitchSettings, Profile | None], Session]


async def resolved(switch: SwitchSettings) -> SwitchSettings:
    """The switch with an IP address in place of a name; raise NoAnswerError for one that has none."""
    try:
        ipaddress.ip_address(switch.address.partition("%")[0])
    except ValueError:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_RESOLVED_SECONDS):
                found = await loop.getaddrinfo(switch.address, None, type=socket.SOCK_DGRAM)
        except (OSError, TimeoutError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "no answer"
            raise NoAnswerError(
                f"{switch.address!r} has no address ({why}: mend DNS, or give the IP address)"
            ) from None
        return msgspec.structs.replace(switch, address=str(found[0][4][0]))
    return switch


def opener(settings: PollerSettings) -> Opener:
    """A function that opens a session with a switch; it raises OSError or SnmpError."""

    def repetitions(profile: Profile | None) -> int:
        if settings.max_repetitions is not None:
            return settings.max_repetitions
        return (profile.max_repetitions if profile is not None else None) or MAX_REPETITIONS

    if settings.engine == "pysnmp":
        from pysnmp.hlapi.v3arch.asyncio import SnmpEngine  # noqa: PLC0415

        from exporter.switches.standard import StandardSession  # noqa: PLC0415

        engine = SnmpEngine()

        def open_standard(switch: SwitchSettings, profile: Profile | None) -> Session:
            return StandardSession(
                engine, switch.address, switch.port, switch.credentials, settings.timeout_seconds, settings.retries,
                repetitions(profile),
            )  # fmt: skip

        return open_standard
    from exporter.switches.fast import FastSession  # noqa: PLC0415

    def open_fast(switch: SwitchSettings, profile: Profile | None) -> Session:
        return FastSession(
            switch.address, switch.port, switch.credentials, settings.timeout_seconds, settings.retries,
            repetitions(profile),
        )  # fmt: skip

    return open_fast
