"""What an intent means of one port, RNIC or queue, and how that is told to people. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from exporter.contracts.intent import Amount, Intent, Override, QueueEcn, Range
from skeleton_service.verification.groups import Place


def mtu_of(intent: Intent, place: Place) -> Amount | None:
    """Bytes meant of a port or RNIC: of the last override that selects it, else of its tier or of RNICs."""
    general = intent.mtu.rnics if place.tier is None else intent.mtu.tiers.get(place.tier)
    own = [each.mtu for each in intent.overrides if each.mtu is not None and _selects(each, place)]
    return own[-1] if own else general


def speed_of(intent: Intent, place: Place) -> Amount | None:
    """Mb/s meant of a switch port, as ``mtu_of``."""
    own = [each.speed_mbps for each in intent.overrides if each.speed_mbps is not None and _selects(each, place)]
    return own[-1] if own else intent.speed_mbps.get(place.tier or "")


def queues_of(intent: Intent, tier: str) -> Sequence[QueueEcn]:
    """What is meant of each queue of a tier's switches: a word on the tier goes before the general one."""
    meant = {each.queue: each for each in intent.ecn.queues if not each.tiers}
    meant |= {each.queue: each for each in intent.ecn.queues if tier in each.tiers}
    return list(meant.values())


def meets(meant: Amount, value: float) -> bool:
    if isinstance(meant, Range):
        enough = meant.at_least is None or value >= meant.at_least
        return enough and (meant.at_most is None or value <= meant.at_most)
    return value in meant if isinstance(meant, tuple) else value == meant


def number_text(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:g}"


def amount_text(meant: Amount) -> str:
    if isinstance(meant, tuple):
        return " or ".join(map(str, meant))
    if isinstance(meant, Range):
        if meant.at_least is None:
            return f"at most {meant.at_most}"
        return f"at least {meant.at_least}" if meant.at_most is None else f"{meant.at_least} to {meant.at_most}"
    return str(meant)


def _selects(override: Override, place: Place) -> bool:
    of_host = place.tier is None
    if override.ports and place.port not in override.ports:
        return False
    if of_host:
        return not (override.tiers or override.switches or override.facing) and (
            place.node in override.hosts if override.hosts else bool(override.ports)
        )
    return (
        not override.hosts
        and (not override.tiers or place.tier in override.tiers)
        and (not override.switches or place.node in override.switches)
        and (override.facing is None or place.facing == override.facing)
    )
