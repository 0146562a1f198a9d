"""A verification for a terminal or a pipeline's log: line cards and the like first, each with its ports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from exporter.contracts.names import LINK_JOINT, split_port
from exporter.contracts.verification import Finding, Group, NotTold, Verification

_KINDS = {"linecard": "line card", "breakout_group": "breakout group", "lag": "LAG"}
_VALUES = {
    "mtu": "MTUs",
    "mtu_ends": "links",
    "rdma_mtu": "RDMA MTUs",
    "speed": "speeds",
    "lossless": "priorities",
    "pfc": "PFC modes",
    "trust": "trusts",
    "dscp": "DSCPs",
    "ecn": "ECN settings",
    "ecn_threshold": "ECN thresholds",
    "bgp": "BGP timers",
}
_NODES_NAMED = 8
_PORTS_NAMED = 8


def verification_lines(verification: Verification) -> Iterator[str]:
    """One line a group, with its ports below it; one a difference that is of no group; then what was not compared."""
    return (
        "".join(letter if letter.isprintable() else "?" for letter in line) for line in _lines(verification)
    )  # names come from files, and may hold anything


def _lines(verification: Verification) -> Iterator[str]:
    grouped: set[int] = set()
    for group in verification.groups:
        grouped.update(group.findings)
        yield _of_group(group)
        for number in group.findings:
            yield f"  {_of_finding(verification.findings[number], short=True)}"
    for number, finding in enumerate(verification.findings):
        if number not in grouped:
            yield _of_finding(finding)
    yield from _of_blind(verification.not_told)
    skipped = verification.skipped
    yield from _counted("not compared: drained", skipped.nodes)
    yield from _counted("not compared: administratively down", skipped.ports)
    yield from _counted("not compared: sessions that are stopped or not established", skipped.sessions)
    if skipped.unknown:
        yield f"not compared: {_many(skipped.unknown, 'port')} that the topology does not have"
    compared = ", ".join(f"{count} {_VALUES.get(item, item)}" for item, count in verification.compared.items())
    count = len(verification.findings)
    if not compared:
        yield "nothing could be compared"
        return
    yield f"{'all that is told agrees' if verification.agrees else _many(count, 'difference')}; compared: {compared}"


def _of_group(group: Group) -> str:
    ports = "RNIC" if group.component.kind == "host" else "port"
    many = f"{group.ports} {ports}s" if group.ports == group.of else f"{group.ports} of {group.of} {ports}s"
    if group.component.kind in _KINDS:
        switch, part = split_port(group.component.name)
        named = f"{_KINDS[group.component.kind]} {part} of {switch}"
    else:
        named = f"{group.component.kind} {group.component.name}"
    return f"{named}: {many} with {group.found}, meant {group.meant}"


def _of_finding(finding: Finding, *, short: bool = False) -> str:
    """What is, what is meant, and which cable to follow; ``short`` below a line that says what."""
    name = finding.component.name
    link = finding.link if finding.link != name else None
    about = [f"link {link}"] if link else []
    if short:
        return f"{name}" + (f" ({about[0]})" if about else "")
    for words, part in (
        ("line card", finding.linecard),
        ("breakout group", finding.breakout_group),
        ("LAG", finding.lag),
    ):
        if part is not None:
            about.append(f"{words} {part}")
    kind = "BGP session " if finding.component.kind == "bgp_session" else "link " if LINK_JOINT in name else ""
    return f"{kind}{name}: {finding.found}, meant {finding.meant}" + (f" ({', '.join(about)})" if about else "")


def _of_blind(not_told: tuple[NotTold, ...]) -> Iterator[str]:
    """What is not told, by subject; of a node that tells nothing for a reason, the reason once."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    by_subject: dict[str, list[str]] = defaultdict(list)
    for each in not_told:
        if each.reason is None:
            by_subject[each.subject].append(_of_node(each))
        elif each.node not in by_reason[each.reason]:
            by_reason[each.reason].append(each.node)
    for reason, nodes in by_reason.items():
        yield f"not told: anything: {_few(nodes)} ({reason})"
    for subject, nodes in by_subject.items():
        yield f"not told: {subject}: {_few(nodes)}"


def _of_node(each: NotTold) -> str:
    if not each.ports:
        return each.node
    named = " ".join(each.ports[:_PORTS_NAMED]) + (" ..." if len(each.ports) > _PORTS_NAMED else "")
    return f"{each.node} {named} ({len(each.ports)} of {each.of})"


def _few(names: Sequence[str]) -> str:
    more = len(names) - _NODES_NAMED
    return ", ".join(names[:_NODES_NAMED]) + (f" and {more} more" if more > 0 else "")


def _counted(what: str, names: tuple[str, ...]) -> Iterator[str]:
    if names:
        yield f"{what}: {len(names)}: {_few(names)}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
