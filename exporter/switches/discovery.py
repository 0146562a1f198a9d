"""The neighbours file (docs/contracts/neighbors.md) of switches that are asked now."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from exporter.contracts.neighbors import Neighbor as Told
from exporter.contracts.neighbors import NeighborPort, Neighbors, NeighborSwitch
from exporter.switches.device import Device
from exporter.switches.interfaces import IF_NAME
from exporter.switches.neighbors import LOCAL_CHASSIS, LOCAL_CHASSIS_SUBTYPE, LOCAL_SYSTEM_NAME, Neighbor, identifier
from exporter.switches.profile import read_profiles
from exporter.switches.sessions import opener, resolved
from exporter.switches.settings import PollerSettings, SwitchSettings
from exporter.switches.snmp import SYSTEM_NAME, Session, SnmpError, Value

_MTU, _SPEED, _LAG_STACK = "1.3.6.1.2.1.2.2.1.4", "1.3.6.1.2.1.31.1.1.1.15", "1.2.840.10006.300.43.1.2.1.1.13"
"""ifMtu, ifHighSpeed (Mb/s) and dot3adAggPortAttachedAggID (IEEE8023-LAG-MIB)."""
_CHASSIS_MAC = 4


async def neighbors_of(settings: PollerSettings) -> tuple[str, dict[str, str]]:
    """(JSON of the switches that answered, {switch: what went wrong} of the others)."""
    answers = await asyncio.gather(*(_ask(settings, switch) for switch in settings.switches))
    told = [answer for answer in answers if isinstance(answer, NeighborSwitch)]
    failed = {
        switch.name: answer
        for switch, answer in zip(settings.switches, answers, strict=True)
        if isinstance(answer, str)
    }
    document = Neighbors(version=1, switches=tuple(told))
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode(), failed


async def _ask(settings: PollerSettings, switch: SwitchSettings) -> NeighborSwitch | str:
    device = Device(switch, read_profiles(settings.profiles), settings.period_seconds)
    with contextlib.ExitStack() as stack:
        try:
            session = opener(settings)(await resolved(switch), None)
            stack.callback(session.close)
            await device.learn(session)
            await device.learn_neighbors(session)
            return await _describe(session, device)
        except (SnmpError, OSError) as error:
            return str(error)


async def _describe(session: Session, device: Device) -> NeighborSwitch:
    indexes = list(device.names.ports)
    facts = await session.get(
        [LOCAL_CHASSIS, LOCAL_CHASSIS_SUBTYPE, LOCAL_SYSTEM_NAME, SYSTEM_NAME]
        + [f"{column}.{index}" for column in (_MTU, _SPEED, _LAG_STACK, IF_NAME) for index in indexes]
    )
    beside: dict[str, list[Neighbor]] = {}
    for neighbor in device.neighbors:
        beside.setdefault(neighbor.port, []).append(neighbor)
    system_name = identifier(facts.get(LOCAL_SYSTEM_NAME)) or identifier(facts.get(SYSTEM_NAME))
    chassis = identifier(facts.get(LOCAL_CHASSIS), mac=facts.get(LOCAL_CHASSIS_SUBTYPE) == _CHASSIS_MAC)
    return NeighborSwitch(
        name=device.settings.name,
        address=device.settings.address,
        chassis_id=chassis or None,
        sys_name=system_name or None,
        ports=tuple(_port(device, facts, index, beside) for index in indexes),
    )


def _port(device: Device, facts: dict[str, Value], index: int, beside: dict[str, list[Neighbor]]) -> NeighborPort:
    name = device.names.ports[index]
    own = identifier(facts.get(f"{IF_NAME}.{index}"))
    lag = _number(facts.get(f"{_LAG_STACK}.{index}"))
    return NeighborPort(
        name=name,
        aliases=(own,) if own and own != name else (),
        ifindex=index,
        mtu=_number(facts.get(f"{_MTU}.{index}")),
        speed_mbps=_number(facts.get(f"{_SPEED}.{index}")),
        lag=device.names.others.get(lag) if lag is not None and lag != index else None,
        neighbors=tuple(
            Told(
                chassis_id=each.chassis_id,
                chassis_id_subtype=each.chassis_id_subtype,
                port_id=each.port_id,
                port_id_subtype=each.port_id_subtype,
                port_description=each.port_description or None,
                system_name=each.system_name or None,
                management_addresses=each.management_addresses,
            )
            for each in beside.get(name, ())
        ),
    )


def _number(value: Value | None) -> int | None:
    """0 is "unknown" in all of these."""
    return value if isinstance(value, int) and value > 0 else None
