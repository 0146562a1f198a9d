"""``fabric-exporter switch coverage|neighbors``: what a switch can tell, and who is at the other end of its cables."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.secrets import read_secret
from exporter.contracts.switch_counters import SIGNALS
from exporter.switches.device import Device, TableState
from exporter.switches.profile import read_profiles
from exporter.switches.section import Switches, SwitchTarget, poller_settings, port_aliases
from exporter.switches.sessions import opener, resolved
from exporter.switches.settings import PollerSettings, SwitchSettings
from exporter.switches.snmp import SnmpError

_PATIENCE = 60.0
"""Seconds for one table: a person waits for an agent that is slow with its first answer."""
_MARK = {"supported": "yes", "disabled": "off", "absent": "no", "stale": "failed"}
_WIDTH = 110


def run(options: argparse.Namespace) -> int:
    """0 when every target answered, 2 when one did not; raise ContractError for wrong usage."""
    settings = _settings(options)
    if options.what == "neighbors":
        from exporter.switches.discovery import neighbors_of  # noqa: PLC0415

        document, failed = asyncio.run(neighbors_of(settings))
        print(document)
        for name, problem in failed.items():
            print(f"fabric-exporter: switch {name}: {problem}", file=sys.stderr)
        return 2 if failed else 0
    return asyncio.run(_cover(settings, options.json))


async def _cover(settings: PollerSettings, as_json: bool) -> int:
    reports = await asyncio.gather(*(_look(settings, switch) for switch in settings.switches))
    if as_json:
        print(json.dumps({"version": 1, "switches": [_document(*report) for report in reports]}, indent=1))
    else:
        print("\n\n".join(_text(*report) for report in reports))
    return 2 if any(problem is not None for _, problem in reports) else 0


async def _look(settings: PollerSettings, switch: SwitchSettings) -> tuple[Device, str | None]:
    """Read every table of a switch once, those as well that the poller would leave out; (device, what went wrong)."""
    profiles = read_profiles(settings.profiles)
    every = tuple({table.name for profile in profiles for table in profile.tables})
    device = Device(switch, profiles, _PATIENCE, settings.priorities, every)
    with contextlib.ExitStack() as stack:
        try:
            session = opener(settings)(await resolved(switch), None)
            stack.callback(session.close)
            turn = await device.poll(session)
            if turn.reachable:
                await device.poll_rare(session)
                await device.learn_neighbors(session)
        except (SnmpError, OSError) as error:
            return device, str(error)
    return device, None if turn.reachable else turn.error


def _rows(device: Device) -> list[tuple[str, str, str, str, str]]:
    """(signal, state, tables, values, remark) of every signal."""
    states = device.coverage()
    blind = device.profile.blind if device.profile is not None else {}
    rows = []
    for signal in SIGNALS:
        tables = [table for table in device.tables if signal in table.profile.signals]
        telling = [
            table
            for table in tables
            if table.profile.default and (not table.empty or table.disabled or table.error is not None)
        ]
        rows.append(
            (
                signal,
                states[signal],
                ", ".join(table.profile.name for table in telling),
                str(sum(table.rows for table in telling)) if telling else "",
                _remark(states[signal], tables, blind.get(signal, ""))
                if (signal, states[signal]) != ("cnp", "absent") or states["queues"] != "supported"
                else "name the queue that CNPs are classed into: cnp_queue",
            )
        )
    return rows


def _remark(state: str, tables: Sequence[TableState], blind: str) -> str:
    errors = [f"{table.profile.name}: {table.error}" for table in tables if table.error is not None]
    if errors:
        return "; ".join(errors)
    if state == "supported":
        asked = [table.profile.name for table in tables if not table.profile.default and not table.empty]
        return f"not read: {', '.join(asked)} (name it in switches.tables)" if asked else ""
    turn_on = next((table.profile.turn_on for table in tables if table.profile.turn_on), "")
    if turn_on:
        return f"turn on: {turn_on}"
    told = sum(table.rows for table in tables)
    asked_for = f"{told} values, none of a port" if told else "asked, nothing there"
    return blind or (asked_for if tables else "the profile has no table of it")


def _text(device: Device, problem: str | None) -> str:
    settings = device.settings
    head = f"{settings.name} ({settings.address}:{settings.port})"
    if problem is not None or device.profile is None:
        return f"{head}: {problem}"
    profile = device.profile
    tried = {
        "hardware": "tried on hardware",
        "recording": "tried on recorded walks",
        "agent": "tried on its agent",
        "mib": "from the MIBs, not tried on hardware",
    }[profile.tested]
    described = textwrap.shorten(device.description, _WIDTH - 2, placeholder=" …")
    lines = [
        head,
        f"  {described}",
        f"  profile {profile.name} ({profile.vendor}; {tried}), {len(device.names.ports)} ports",
        "",
    ]
    rows = [("SIGNAL", "TOLD", "BY TABLE", "VALUES", "REMARK")]
    rows += [(signal, _MARK[state], by, values, remark) for signal, state, by, values, remark in _rows(device)]
    width = [max(len(row[place]) for row in rows) for place in range(4)]
    for signal, state, by, values, remark in rows:
        line = f"  {signal:<{width[0]}}  {state:<{width[1]}}  {by:<{width[2]}}  {values:>{width[3]}}"
        lines.append(f"{line}  {remark}".rstrip())
    return "\n".join(lines)


def _document(device: Device, problem: str | None) -> dict[str, object]:
    settings = device.settings
    return {
        "name": settings.name,
        "address": settings.address,
        "error": problem,
        "description": device.description,
        "profile": device.profile.name if device.profile is not None else None,
        "ports": len(device.names.ports),
        "signals": [
            {"signal": signal, "state": state, "tables": by, "values": int(values or 0), "remark": remark}
            for signal, state, by, values, remark in (_rows(device) if problem is None else [])
        ],
    }


def _settings(options: argparse.Namespace) -> PollerSettings:
    """The targets that are meant, as the poller is told them; raise ContractError."""
    section: Switches | None = None
    aliases: dict[str, dict[str, str]] = {}
    if options.config is not None:
        from exporter.config import read_config  # noqa: PLC0415
        from exporter.contracts.topology import read_topology  # noqa: PLC0415

        config = read_config(options.config)
        if config.switches is None:
            raise ContractError(options.config, "has no section 'switches'", "name its targets there")
        section = config.switches
        if config.topology is not None:
            aliases = port_aliases(read_topology(config.topology))
    known = {target.name: target for target in section.targets} if section is not None else {}
    at = {target.address: target for target in known.values()}
    targets = []
    for name in options.targets or list(known):
        target = known.get(name) or at.get(name)
        if target is not None and (options.community_file is not None or options.port is not None):
            problem = f"--community-file and --port are of no use for {name!r}, which is in {options.config}"
            raise ContractError("switch", problem, "leave them out, or the --config")
        if target is None:
            if options.community_file is None:
                remedy = f"one of {', '.join(sorted(known))}, or " if known else ""
                problem = f"target {name!r} is in no configuration"
                raise ContractError("switch", problem, f"{remedy}say with --community-file who asks it")
            path = str(Path(options.community_file).absolute())
            read_secret(path)
            target = SwitchTarget(name=name, address=name, port=options.port or 161, community_file=path)
        targets.append(target)
    if not targets:
        raise ContractError("switch", "no target", "name one, or a --config")
    base = section if section is not None else Switches(targets=tuple(targets))
    chosen = msgspec.structs.replace(base, targets=tuple(targets), shard=None, timeout_seconds=options.timeout)
    settings = poller_settings(chosen, aliases, options.config or "switch")
    if options.profile is not None:
        profiles = {profile.name for profile in read_profiles(settings.profiles)}
        if options.profile not in profiles:
            problem = f"no profile {options.profile!r}"
            raise ContractError("--profile", problem, f"one of {', '.join(sorted(profiles))}")
        switches = tuple(msgspec.structs.replace(switch, profile=options.profile) for switch in settings.switches)
        settings = msgspec.structs.replace(settings, switches=switches)
    return settings
