"""The exporter's configuration file: strict, so that a misspelt key is an error with the right name beside it."""

from __future__ import annotations

import difflib
import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from exporter.contracts.addresses import canonical, is_ipv6, is_link_local
from exporter.contracts.codec import ContractError, decode, read_bytes
from exporter.contracts.plan import INTRODUCTION_PORT, RESPONDER_PORT
from exporter.contracts.secrets import read_key
from exporter.contracts.strict import convert_strictly
from exporter.contracts.topology import Rnic, read_topology
from exporter.dnsconfig import Dns, dns_settings
from exporter.gnmi.settings import Gnmi, check_gnmi
from exporter.host.settings import Counters
from exporter.otlp.settings import Otlp, check_otlp
from exporter.overlay.settings import Overlay, OverlayPort
from exporter.probing.ceilings import Ceilings, check_ceilings
from exporter.probing.settings import RESPONDER_PACKETS_PER_SECOND
from exporter.rdma.settings import Reliable, check_reliable
from exporter.service.settings import Service, check_service
from exporter.switches.section import Switches, check_switches
from exporter.traps.settings import Traps, check_traps
from exporter.underlay.settings import Underlay

Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every section: unknown keys are errors."""


class Listen(_Section, frozen=True, kw_only=True):
    address: str = "0.0.0.0"  # noqa: S104 - an exporter is there to be scraped
    port: Port = 9105


class Probing(_Section, frozen=True, kw_only=True):
    key_file: str
    """Shared key of probers and responders, 16 to 32 bytes; a final newline is not part of it."""
    timeout_seconds: Annotated[float, Meta(ge=0.2, le=60)] = 0.5
    """A busy responder answers within 100 ms."""
    max_paths: Annotated[int, Meta(ge=1, le=100_000)] = 4096
    responder: bool = True
    responder_port: Port = RESPONDER_PORT
    responder_packets_per_second: Annotated[float, Meta(ge=1, le=1_000_000)] = RESPONDER_PACKETS_PER_SECOND
    """Answered of each prober's address; what exceeds it is dropped and counted."""
    ceilings: Ceilings = Ceilings()
    destinations: tuple[str, ...] = ()
    """Networks that may be probed beside the topology's addresses."""
    trace_period_seconds: Seconds = 60.0
    trace_max_hops: Annotated[int, Meta(ge=1, le=32)] = 8
    spraying: bool = False
    """Whether the fabric sends the packets of one flow over all its equal-cost paths (packet spraying)."""


class Rdma(_Section, frozen=True, kw_only=True):
    """RDMA probes, from RNICs that are named as their RDMA devices. Key and timeout are those of ``probing``."""

    port: Port = INTRODUCTION_PORT
    """UDP, where probers ask for the queue pair that answers them."""
    reliable: Reliable | None = None
    """Reliable connections as well; left out, none is made and none served."""


class Throughput(_Section, frozen=True, kw_only=True):
    step_seconds: Annotated[float, Meta(ge=0.1, le=60)] = 1.0
    retention_seconds: Annotated[float, Meta(ge=60, le=86400)] = 1800.0
    request: str | None = None
    """A throughput request, obeyed when it appears: when to sample at a finer step."""


class Workload(_Section, frozen=True, kw_only=True):
    """A container on this host, for the throughput it is asked for; rank is its node rank."""

    job: str
    container: str
    rnics: tuple[str, ...]
    rank: int | None = None


class Config(_Section, frozen=True, kw_only=True):
    """A whole configuration. Sections left out switch their part off."""

    host: str = msgspec.field(default_factory=socket.gethostname)
    topology: str | None = None
    plan: str | None = None
    rnics: tuple[Rnic, ...] = ()
    listen: Listen = msgspec.field(default_factory=Listen)
    probing: Probing | None = None
    throughput: Throughput = msgspec.field(default_factory=Throughput)
    workloads: tuple[Workload, ...] = ()
    counters: Counters | None = None
    switches: Switches | None = None
    gnmi: Gnmi | None = None
    otlp: Otlp | None = None
    dns: Dns | None = None
    overlay: Overlay | None = None
    underlay: Underlay | None = None
    rdma: Rdma | None = None
    traps: Traps | None = None
    service: Service | None = None
    """Who hands out plans; then ``plan`` is left out."""
    sysfs: str = "/sys"


_SWITCHES = (
    "probing", "counters", "switches", "gnmi", "otlp", "dns", "overlay", "underlay", "rdma", "traps", "service",
)  # fmt: skip
"""Sections that switch a part on by being there."""


def read_config(path: Path | str, host: str | None = None) -> Config:
    """Read and check a configuration; relative paths in it are relative to it. Raise ContractError.

    ``host``: instead of the one in it, as many hosts have one configuration.
    """
    source = str(path)
    document = decode(read_bytes(path), dict, source)
    if host is not None:
        document["host"] = host
    for name, section in document.items():
        if section is None and name in _SWITCHES:
            raise ContractError(source, f"section {name!r} is empty", f"write '{name}: {{}}', or leave it out")
    config = convert_strictly(document, Config, source)
    base = Path(path).absolute().parent

    def resolve(name: str | None) -> str | None:
        return None if name is None else str(base / name)

    throughput = msgspec.structs.replace(config.throughput, request=resolve(config.throughput.request))
    config = msgspec.structs.replace(
        config, topology=resolve(config.topology), plan=resolve(config.plan), throughput=throughput
    )
    if config.probing is not None:
        check_ceilings(config.probing.ceilings, source)
        key_file = str(base / config.probing.key_file)
        config = msgspec.structs.replace(config, probing=msgspec.structs.replace(config.probing, key_file=key_file))
        read_key(key_file)
    config = msgspec.structs.replace(config, sysfs=str(base / config.sysfs))
    if not Path(config.sysfs).is_dir():
        raise ContractError(source, f"field 'sysfs': {config.sysfs} is no directory", "give a tree like /sys")
    if config.counters is not None:
        counters = msgspec.structs.replace(config.counters, ethtool=resolve(config.counters.ethtool))
        if counters.ethtool is not None and not Path(counters.ethtool).is_dir():
            problem = f"field 'counters.ethtool': {counters.ethtool} is no directory"
            raise ContractError(source, problem, "give one with a file for each network device")
        config = msgspec.structs.replace(config, counters=counters)
    if config.overlay is not None:
        overlay = msgspec.structs.replace(
            config.overlay,
            openvswitch=resolve(config.overlay.openvswitch),
            ports=_checked_ports(config.overlay.ports, source),
        )
        config = msgspec.structs.replace(config, overlay=overlay)
    if config.switches is not None:
        switches = config.switches.resolve(base)
        check_switches(switches, source)
        config = msgspec.structs.replace(config, switches=switches)
    if config.service is not None:
        service = config.service.resolve(base)
        check_service(service, source)
        if config.plan is not None:
            raise ContractError(source, "both 'plan' and section 'service' name plans", "leave one out")
        if config.probing is None:
            raise ContractError(source, "section 'service' is asked for what to probe", "add a section 'probing'")
        config = msgspec.structs.replace(config, service=service, plan=service.plans)
    if config.traps is not None:
        traps = config.traps.resolve(base)
        check_traps(traps, source)
        config = msgspec.structs.replace(config, traps=traps)
    if config.gnmi is not None:
        gnmi = config.gnmi.resolve(base)
        check_gnmi(gnmi, [target.name for target in config.switches.targets] if config.switches else [], source)
        config = msgspec.structs.replace(config, gnmi=gnmi)
    if config.otlp is not None:
        otlp = config.otlp.resolve(base)
        check_otlp(otlp, source)
        config = msgspec.structs.replace(config, otlp=otlp)
    if config.dns is not None:
        if config.probing is None:
            raise ContractError(source, "section 'dns' is the prober's", "add a section 'probing'")
        dns = msgspec.structs.replace(config.dns, resolv_conf=str(base / config.dns.resolv_conf))
        dns_settings(dns, source)
        config = msgspec.structs.replace(config, dns=dns)
    if config.probing is not None:
        for number, network in enumerate(config.probing.destinations):
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                where = f"field 'probing.destinations[{number}]'"
                raise ContractError(source, f"{where}: {error}", "write a network, as 198.51.100.0/24") from error
    if config.rdma is not None and config.probing is None:
        raise ContractError(source, "section 'rdma' needs the key of probers", "add a section 'probing'")
    if config.rdma is not None and config.rdma.reliable is not None:
        check_reliable(config.rdma.reliable, source)
    if config.underlay is not None:
        config = msgspec.structs.replace(config, underlay=_resolve_underlay(config, config.underlay, base, source))
    if not config.rnics and config.topology is not None:
        rnics = _rnics_of(
            config.host, config.topology, source, needed=bool(config.probing or config.underlay or config.counters)
        )
        config = msgspec.structs.replace(config, rnics=rnics)
    if config.probing is not None and not config.rnics:
        raise ContractError(source, "nothing to probe from", "name the host's 'rnics', or a 'topology' that holds it")
    config = msgspec.structs.replace(config, rnics=_checked(config.rnics, source, over_rdma=config.rdma is not None))
    if config.underlay is not None and not config.underlay.devices:
        for rnic in config.rnics:
            if rnic.netdev is None:
                problem = f"section 'underlay': {rnic.name!r} of {config.host} has no 'netdev' to look at"
                raise ContractError(source, problem, "give it one, or list underlay.devices")
    if config.counters is not None and not config.rnics:
        raise ContractError(
            source, "section 'counters' has no RNIC to read", "name the host's 'rnics', or a 'topology' that holds it"
        )
    if config.counters is not None and not config.counters.takes(config.rnics):
        problem = f"section 'counters' takes none of {', '.join(rnic.name for rnic in config.rnics)}"
        raise ContractError(source, problem, "correct counters.include and counters.exclude")
    known = {rnic.name for rnic in config.rnics}
    for number, workload in enumerate(config.workloads):
        for name in workload.rnics:
            if name not in known:
                raise ContractError(source, f"field 'workloads[{number}].rnics': {name!r} is no RNIC of {config.host}")
    return config


def _checked_ports(ports: tuple[OverlayPort, ...], source: str) -> tuple[OverlayPort, ...]:
    """With addresses in one spelling; each port is there once."""
    checked: list[OverlayPort] = []
    for number, port in enumerate(ports):
        try:
            checked.append(msgspec.structs.replace(port, address=canonical(port.address)))
        except ValueError as error:
            raise ContractError(
                source, f"field 'overlay.ports[{number}].address': {error}", "give an IP address"
            ) from error
    names = [(port.name, port.address) for port in checked]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ContractError(source, f"field 'overlay.ports': {twice[0]!r} with {twice[1]} appears twice")
    return tuple(checked)


def _resolve_underlay(config: Config, underlay: Underlay, base: Path, source: str) -> Underlay:
    """The section with whole paths; a plan without a key has that of ``probing``."""
    if config.topology is None:
        raise ContractError(source, "section 'underlay' finds links in a topology", "name the 'topology'")
    own = config.probing.key_file if config.probing is not None else None
    plans = []
    for number, plan in enumerate(underlay.plans):
        key_file = own if plan.key_file is None else str(base / plan.key_file)
        if key_file is None:
            raise ContractError(
                source, f"field 'underlay.plans[{number}]' has no 'key_file'", "name that of its agents"
            )
        read_key(key_file)
        plans.append(msgspec.structs.replace(plan, plan=str(base / plan.plan), key_file=key_file))
    return msgspec.structs.replace(underlay, plans=tuple(plans))


def _checked(rnics: Sequence[Rnic], source: str, *, over_rdma: bool) -> tuple[Rnic, ...]:
    """With addresses in one spelling. Names and addresses must be unique; IPv6 is for RDMA probes, from an ``ip``."""
    checked: list[Rnic] = []
    names: set[str] = set()
    addresses: set[str] = set()
    for rnic in rnics:
        if rnic.name in names:
            raise ContractError(source, f"field 'rnics': {rnic.name!r} appears twice")
        names.add(rnic.name)
        try:
            known = rnic.with_canonical_addresses()
        except ValueError as error:
            raise ContractError(source, f"field 'rnics': {rnic.name!r}: {error}") from error
        for address in known.addresses:
            if address in addresses:
                raise ContractError(source, f"field 'rnics': address {address!r} appears twice")
            addresses.add(address)
            _check_usable(address, rnic.name, source, over_rdma=over_rdma and address == known.ip)
        checked.append(known)
    return tuple(checked)


def _check_usable(address: str, rnic: str, source: str, *, over_rdma: bool) -> None:
    where = f"field 'rnics': {address!r} of {rnic!r}"
    if not is_ipv6(address):
        try:
            ipaddress.IPv4Address(address)
        except ValueError as error:
            raise ContractError(source, f"{where} is no IPv4 address") from error
    elif not over_rdma:
        remedy = "IPv6 is for RDMA probes, from the 'ip' of an RNIC: add a section 'rdma'"
        raise ContractError(source, f"{where} is no IPv4 address", remedy)
    elif is_link_local(address):
        remedy = "name a global or unique local address of its interface"
        raise ContractError(source, f"{where} is link-local, and no other link can be probed from it", remedy)


def _rnics_of(host: str, topology: str, source: str, *, needed: bool) -> tuple[Rnic, ...]:
    """RNICs of ``host`` in the topology; a host that is not there is an error only where it has to probe."""
    hosts = {entry.name: entry for entry in read_topology(topology).hosts}
    if host in hosts:
        return hosts[host].rnics
    if not needed:
        return ()
    nearest = difflib.get_close_matches(host, hosts)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else "name the host as the topology does, or list its 'rnics'"
    raise ContractError(source, f"field 'host': {host!r} is not in the topology", remedy)
