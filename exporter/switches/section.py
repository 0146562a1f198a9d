"""The section ``switches`` of the configuration: which switches are polled, as whom, and what of them is read."""

from __future__ import annotations

import ipaddress
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from exporter.contracts.codec import ContractError
from exporter.contracts.secrets import read_secret
from exporter.contracts.topology import Topology
from exporter.switches.profile import read_profiles, tables_of
from exporter.switches.settings import PollerSettings, SwitchSettings
from exporter.switches.snmp import Community, Credentials, User

_SHORTEST_KEY = 8  # RFC 3414, 11.2: what a password has at least; agents refuse shorter ones
_LONGEST_NAME = 64
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_NEARLY_AN_ADDRESS = re.compile(r"[0-9.]+")


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class V3User(_Section, frozen=True, kw_only=True):
    """A user of SNMP v3 (RFC 3414). Its keys stand in files or in the environment, never in the configuration."""

    name: Annotated[str, Meta(min_length=1, max_length=32)]
    authentication: Literal["md5", "sha", "sha224", "sha256", "sha384", "sha512"] | None = None
    authentication_key_file: str | None = None
    authentication_key_environment: str | None = None
    privacy: Literal["des", "aes", "aes192", "aes256"] | None = None
    privacy_key_file: str | None = None
    privacy_key_environment: str | None = None


class _Who(_Section, frozen=True, kw_only=True):
    """As whom a switch is asked: by a community (v2c) or as a user (v3)."""

    community_file: str | None = None
    community_environment: str | None = None
    """Name of the variable that holds it."""
    user: V3User | None = None

    @property
    def says_who(self) -> bool:
        return self.community_file is not None or self.community_environment is not None or self.user is not None


_OneWho = TypeVar("_OneWho", bound=_Who)


class SwitchTarget(_Who, frozen=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=_LONGEST_NAME)]
    address: str
    port: Annotated[int, Meta(ge=1, le=65535)] = 161
    profile: str | None = None
    """Of which profile it is, whatever it says of itself."""
    cnp_queue: Annotated[int, Meta(ge=0, le=63)] | None = None
    """The egress queue that congestion notifications are classed into."""


class Shard(_Section, frozen=True, kw_only=True):
    """A share of the targets, for several exporters with one list: each target belongs to one of them, by its name."""

    number: Annotated[int, Meta(ge=0, le=999)]
    of: Annotated[int, Meta(ge=1, le=1000)]

    def has(self, name: str) -> bool:
        return zlib.crc32(name.encode()) % self.of == self.number


class Switches(_Who, frozen=True, kw_only=True):
    targets: Annotated[tuple[SwitchTarget, ...], Meta(min_length=1, max_length=10_000)]
    period_seconds: Annotated[float, Meta(ge=1, le=3600)] = 15.0
    timeout_seconds: Annotated[float, Meta(gt=0, le=300)] = 2.0
    retries: Annotated[int, Meta(ge=0, le=5)] = 1
    engine: Literal["fast", "pysnmp"] = "fast"
    priorities: tuple[Annotated[int, Meta(ge=0, le=7)], ...] = ()
    """Of which PFC and queues are read; all that a switch tells where it is left out."""
    tables: tuple[str, ...] = ()
    """Tables to be read though their profile leaves them out."""
    without: tuple[str, ...] = ()
    """Tables not to be read though their profile has them."""
    max_repetitions: Annotated[int, Meta(ge=1, le=200)] | None = None
    profiles: str | None = None
    """Directory of profiles of one's own; one of a name of ours replaces it."""
    shard: Shard | None = None

    def resolve(self, base: Path) -> Switches:
        """With paths relative to ``base``, and the targets of this shard alone."""
        targets = tuple(_resolve(target, base) for target in self.targets)
        whole = _resolve(self, base)
        profiles = None if self.profiles is None else str(base / self.profiles)
        return msgspec.structs.replace(whole, targets=targets, profiles=profiles)

    @property
    def own_targets(self) -> tuple[SwitchTarget, ...]:
        shard = self.shard
        return self.targets if shard is None else tuple(target for target in self.targets if shard.has(target.name))

    def credentials_of(self, target: SwitchTarget, source: str) -> Credentials:
        """Read who we are to a target; raise ContractError, which never holds the secret."""
        who, where = (target, f"switches.targets[{target.name}]") if target.says_who else (self, "switches")
        ways = [who.community_file is not None, who.community_environment is not None, who.user is not None]
        if sum(ways) != 1:
            problem = "says not as whom it is asked" if not any(ways) else "says more than one way to ask it"
            raise ContractError(
                source, f"field '{where}' {problem}", "give one of community_file, community_environment, user"
            )
        if who.user is None:
            return Community(_secret(who.community_file, who.community_environment, source, where))
        return _user(who.user, source, f"{where}.user")


def port_aliases(topology: Topology) -> dict[str, dict[str, str]]:
    """{switch: {alias: canonical name of the port}}."""
    return {
        switch.name: {alias: port.name for port in switch.ports for alias in port.aliases}
        for switch in topology.switches
    }


def check_switches(section: Switches, source: str) -> None:
    """Hold the section to what can be; raise ContractError naming the field."""
    names = [target.name for target in section.targets]
    if long := next((name for name in names if len(name.encode()) > _LONGEST_NAME), None):
        raise ContractError(source, f"field 'switches.targets': {long!r} is longer than {_LONGEST_NAME} bytes")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ContractError(source, f"field 'switches.targets': {twice!r} appears twice")
    for target in section.targets:
        _check_address(target, source)
    places = [(target.address, target.port) for target in section.targets]
    if doubled := next((place for place in places if places.count(place) > 1), None):
        problem = f"field 'switches.targets': {doubled[0]}:{doubled[1]} is of two targets"
        raise ContractError(source, problem, "poll each switch once, or all of its series come twice")
    if section.shard is not None and section.shard.number >= section.shard.of:
        raise ContractError(source, "field 'switches.shard': number is not below of", "shards are counted from 0")
    if section.profiles is not None and not Path(section.profiles).is_dir():
        problem = f"field 'switches.profiles': {section.profiles} is no directory"
        raise ContractError(source, problem, "give one with a YAML file for each profile")
    profiles = read_profiles(section.profiles)
    known = {profile.name for profile in profiles}
    for target in section.targets:
        if target.profile is not None and target.profile not in known:
            problem = f"field 'switches.targets[{target.name}].profile': no profile {target.profile!r}"
            raise ContractError(source, problem, f"one of {', '.join(sorted(known))}")
        section.credentials_of(target, source)
    tables = {table.name for profile in profiles for table in tables_of(profile)}
    for field, wanted in (("tables", section.tables), ("without", section.without)):
        for name in wanted:
            if name not in tables:
                problem = f"field 'switches.{field}': no profile has a table {name!r}"
                raise ContractError(source, problem, f"one of {', '.join(sorted(tables))}")


def _check_address(target: SwitchTarget, source: str) -> None:
    """Refuse what can be neither an IP address nor a name."""
    address = target.address
    try:
        ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        remedy = "the port goes into 'port'" if address.count(":") == 1 else "give an IP address or a host name"
        if not _HOST_NAME.fullmatch(address) or _NEARLY_AN_ADDRESS.fullmatch(address):
            problem = f"field 'switches.targets[{target.name}].address': {address!r} is no address"
            raise ContractError(source, problem, remedy) from None


def poller_settings(
    section: Switches, aliases: Mapping[str, Mapping[str, str]], source: str = "configuration"
) -> PollerSettings:
    """What the poller is told; ``aliases`` is {switch: {alias: canonical name of the port}}."""
    return PollerSettings(
        period_seconds=section.period_seconds,
        timeout_seconds=section.timeout_seconds,
        retries=section.retries,
        engine=section.engine,
        priorities=section.priorities,
        tables=section.tables,
        without=section.without,
        max_repetitions=section.max_repetitions,
        profiles=section.profiles,
        switches=tuple(
            SwitchSettings(
                name=target.name,
                address=target.address,
                port=target.port,
                credentials=section.credentials_of(target, source),
                aliases=dict(aliases.get(target.name, {})),
                profile=target.profile,
                cnp_queue=target.cnp_queue,
            )
            for target in section.own_targets
        ),
    )


def _resolve(who: _OneWho, base: Path) -> _OneWho:
    """With paths relative to ``base``."""

    def path(name: str | None) -> str | None:
        return None if name is None else str(base / name)

    user = who.user
    if user is not None:
        user = msgspec.structs.replace(
            user,
            authentication_key_file=path(user.authentication_key_file),
            privacy_key_file=path(user.privacy_key_file),
        )
    return msgspec.structs.replace(who, community_file=path(who.community_file), user=user)


def _secret(file: str | None, variable: str | None, source: str, where: str) -> str:
    if file is not None:
        return read_secret(file)
    value = os.environ.get(variable or "", "").strip()
    if not value:
        raise ContractError(source, f"field '{where}': the environment has no {variable}", "set it, or name a file")
    return value


def _user(user: V3User, source: str, where: str) -> User:
    authentication = _key(user, "authentication", source, where)
    privacy = _key(user, "privacy", source, where)
    if privacy and not authentication:
        raise ContractError(source, f"field '{where}' has privacy without authentication", "give it both (RFC 3414)")
    return User(
        name=user.name,
        authentication=user.authentication,
        authentication_key=authentication,
        privacy=user.privacy,
        privacy_key=privacy,
    )


def _key(user: V3User, kind: str, source: str, where: str) -> str:
    protocol, file, variable = (getattr(user, f"{kind}{suffix}") for suffix in ("", "_key_file", "_key_environment"))
    given = (file is not None) + (variable is not None)
    if protocol is None:
        if given:
            raise ContractError(source, f"field '{where}' has a key and no '{kind}'", "name the protocol")
        return ""
    if given != 1:
        problem = f"field '{where}.{kind}' has two keys" if given else f"field '{where}.{kind}' needs a key"
        remedy = "keep one" if given else f"give {kind}_key_file or {kind}_key_environment"
        raise ContractError(source, problem, remedy)
    key = _secret(file, variable, source, f"{where}.{kind}_key")
    if len(key.encode()) < _SHORTEST_KEY:
        raise ContractError(
            source, f"field '{where}.{kind}': its key is too short", f"{_SHORTEST_KEY} bytes at least (RFC 3414)"
        )
    return key
