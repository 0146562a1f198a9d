"""The section ``switches`` of the configuration: what is refused, where secrets come from, and that none is shown."""

from __future__ import annotations

import json
import traceback
from itertools import chain
from pathlib import Path

import msgspec
import pytest

from exporter import cli
from exporter.config import Config, read_config
from exporter.contracts.codec import ContractError
from exporter.switches.section import poller_settings
from exporter.switches.settings import PollerSettings
from exporter.switches.snmp import Community, User

SECRET, KEY, PRIVACY = "s3cret-community", "authentication-s3cret", "privacy-s3cret-key"


def read(directory: Path, section: str) -> Config:
    """A configuration with this section; secrets are in files beside it."""
    for name, text in (("community", SECRET), ("auth", KEY), ("priv", PRIVACY), ("short", "1234567"), ("none", "\n")):
        (directory / name).write_text(text + "\nnot this line\n" if text.strip() else text)
    config = directory / "config.yaml"
    config.write_text(f"host: h\nswitches:\n{section}")
    return read_config(config)


def settings(directory: Path, section: str) -> PollerSettings:
    switches = read(directory, section).switches
    assert switches is not None
    return poller_settings(switches, {"leaf-1": {"etp1": "Ethernet0"}})


LEAF = "  targets: [{name: leaf-1, address: 10.0.0.1}]\n"
COMMUNITY = "  community_file: community\n"
V3 = (
    "  user: {name: poller, authentication: sha256, authentication_key_file: auth, privacy: aes,"
    " privacy_key_file: priv}\n"
)


def target(more: str) -> str:
    return f"  targets: [{{name: leaf-1, address: 10.0.0.1, {more}}}]\n"


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        (COMMUNITY, "targets"),
        (COMMUNITY + "  targets: []\n", "length >= 1"),
        (LEAF, "field 'switches' says not as whom it is asked (give one of community_file, "),
        (LEAF + COMMUNITY + V3, "field 'switches' says more than one way to ask it"),
        (
            COMMUNITY + target("community_file: community, community_environment: X"),
            "field 'switches.targets[leaf-1]' says more than one way to ask it",
        ),
        (LEAF + "  community_file: nowhere\n", "nowhere: No such file or directory"),
        (LEAF + "  community_file: none\n", "none: holds no secret on its first line"),
        (
            LEAF + "  community_environment: FABRIC_TEST_UNSET\n",
            "field 'switches': the environment has no FABRIC_TEST_UNSET (set it, or name a file)",
        ),
        (
            COMMUNITY + "  targets: [{name: a, address: 10.0.0.1}, {name: a, address: 10.0.0.2}]\n",
            "field 'switches.targets': 'a' appears twice",
        ),
        (COMMUNITY + "  targets: [{name: '', address: 10.0.0.1}]\n", "length >= 1"),
        (COMMUNITY + f"  targets: [{{name: {'口' * 22}, address: 10.0.0.1}}]\n", "is longer than 64 bytes"),
        (COMMUNITY + target("port: 0"), ">= 1"),
        (COMMUNITY + target("port: 65536"), "<= 65535"),
        (COMMUNITY + target("profile: sonik"), "field 'switches.targets[leaf-1].profile': no profile 'sonik' (one of"),
        (COMMUNITY + target("cnp_queue: 64"), "<= 63"),
        (COMMUNITY + target("comunity_file: x"), "comunity_file"),
        (COMMUNITY + LEAF + "  period: 5\n", "period"),
        (COMMUNITY + LEAF + "  period_seconds: 0.5\n", ">= 1"),
        (COMMUNITY + LEAF + "  timeout_seconds: 0\n", "> 0"),
        (COMMUNITY + LEAF + "  retries: 6\n", "<= 5"),
        (COMMUNITY + LEAF + "  engine: net-snmp\n", "net-snmp"),
        (COMMUNITY + LEAF + "  priorities: [8]\n", "<= 7"),
        (COMMUNITY + LEAF + "  max_repetitions: 0\n", ">= 1"),
        (COMMUNITY + LEAF + "  tables: [queue_byte]\n", "field 'switches.tables': no profile has a table 'queue_byte'"),
        (COMMUNITY + LEAF + "  without: [bgp]\n", "field 'switches.without': no profile has a table 'bgp' (one "),
        (COMMUNITY + LEAF + "  profiles: nowhere\n", "is no directory (give one with a YAML file for each profile)"),
        (
            COMMUNITY + LEAF + "  shard: {number: 2, of: 2}\n",
            "field 'switches.shard': number is not below of (shards are counted from 0)",
        ),
        (
            COMMUNITY + "  targets: [{name: a, address: '192.0.2.1:161'}]\n",
            "field 'switches.targets[a].address': '192.0.2.1:161' is no address (the port goes into 'port')",
        ),
        (
            COMMUNITY + "  targets: [{name: a, address: 192.0.2.300}]\n",
            "'192.0.2.300' is no address (give an IP address or a host name)",
        ),
        (
            COMMUNITY + "  targets: [{name: a, address: 192.0.2.1}, {name: b, address: 192.0.2.1}]\n",
            "field 'switches.targets': 192.0.2.1:161 is of two targets",
        ),
        (LEAF + "  user: {name: u, authentication: sha256}\n", "field 'switches.user.authentication' needs a key"),
        (
            LEAF + "  user: {name: u, authentication: sha256, authentication_key_file: auth,"
            " authentication_key_environment: X}\n",
            "has two keys (keep one)",
        ),
        (
            LEAF + "  user: {name: u, authentication_key_file: auth}\n",
            "field 'switches.user' has a key and no 'authentication' (name the protocol)",
        ),
        (
            LEAF + "  user: {name: u, authentication: sha256, authentication_key_file: short}\n",
            "field 'switches.user.authentication': its key is too short (8 bytes at least (RFC 3414))",
        ),
        (
            LEAF + "  user: {name: u, privacy: aes, privacy_key_file: priv}\n",
            "field 'switches.user' has privacy without authentication (give it both (RFC 3414))",
        ),
        (LEAF + "  user: {name: u, authentication: sha3, authentication_key_file: auth}\n", "sha3"),
        (
            target("user: {name: u, authentication: md5, authentication_key_environment: FABRIC_TEST_UNSET}"),
            "field 'switches.targets[leaf-1].user.authentication_key': the environment has no FABRIC_TEST_UNSET",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line_without_a_secret(tmp_path: Path, section: str, problem: str) -> None:
    with pytest.raises(ContractError) as refused:
        read(tmp_path, section)
    text = str(refused.value)
    assert problem in text
    assert "\n" not in text
    told = "".join(traceback.format_exception(refused.value)) + repr(refused.value)
    assert not [secret for secret in (SECRET, KEY, PRIVACY, "1234567") if secret in told]


def test_a_community_comes_from_the_first_line_of_a_file(tmp_path: Path) -> None:
    (switch,) = settings(tmp_path, COMMUNITY + LEAF).switches
    assert switch.credentials == Community(SECRET)
    assert (switch.address, switch.port, switch.aliases) == ("10.0.0.1", 161, {"etp1": "Ethernet0"})


def test_secrets_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FABRIC_TEST_COMMUNITY", f" {SECRET}\n")
    monkeypatch.setenv("FABRIC_TEST_KEY", KEY)
    community = settings(tmp_path, "  community_environment: FABRIC_TEST_COMMUNITY\n" + LEAF)
    assert community.switches[0].credentials == Community(SECRET)
    user = "{name: u, authentication: sha, authentication_key_environment: FABRIC_TEST_KEY}"
    (switch,) = settings(tmp_path, COMMUNITY + target(f"user: {user}")).switches
    assert switch.credentials == User(name="u", authentication="sha", authentication_key=KEY)


def test_a_switch_may_be_asked_as_another_than_the_rest(tmp_path: Path) -> None:
    section = V3 + (
        "  targets:\n  - {name: leaf-1, address: 10.0.0.1}\n  - {name: leaf-2, address: '2001:db8::1', port: 1161,"
        " community_file: community, profile: sonic, cnp_queue: 6}\n"
    )
    first, second = settings(tmp_path, section).switches
    assert first.credentials == User(
        name="poller", authentication="sha256", authentication_key=KEY, privacy="aes", privacy_key=PRIVACY
    )
    assert second.credentials == Community(SECRET)
    assert (second.address, second.port, second.profile, second.cnp_queue) == ("2001:db8::1", 1161, "sonic", 6)


def test_no_secret_is_shown_by_what_holds_it(tmp_path: Path) -> None:
    told = settings(tmp_path, V3 + "  targets: [{name: a, address: 10.0.0.1}]\n")
    also = settings(tmp_path, COMMUNITY + LEAF)
    config = read(tmp_path, COMMUNITY + LEAF)
    text = f"{told} {told!r} {also!r} {also.switches[0].credentials} {config!r}"
    assert not [secret for secret in (SECRET, KEY, PRIVACY) if secret in text]
    assert "Community(…)" in text
    assert "User('poller', …)" in text


def test_settings_reach_the_poller_whole(tmp_path: Path) -> None:
    section = V3 + LEAF + (
        "  period_seconds: 5\n  timeout_seconds: 0.5\n  retries: 3\n  engine: pysnmp\n  priorities: [3, 4]\n"
        "  tables: [queue_bytes]\n  without: [optics]\n  max_repetitions: 10\n"
    )  # fmt: skip
    told = settings(tmp_path, section)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=PollerSettings) == told
    assert (told.period_seconds, told.engine, told.priorities, told.tables) == (5, "pysnmp", (3, 4), ("queue_bytes",))


def test_each_switch_belongs_to_one_shard(tmp_path: Path) -> None:
    names = [f"leaf-{number}" for number in range(50)]
    targets = "  targets:\n" + "".join(f"  - {{name: {name}, address: 10.0.0.{n}}}\n" for n, name in enumerate(names))
    parts = [
        [
            switch.name
            for switch in settings(tmp_path, f"{COMMUNITY}  shard: {{number: {n}, of: 3}}\n{targets}").switches
        ]
        for n in range(3)
    ]
    assert sorted(chain(*parts)) == sorted(names)
    assert all(len(part) > 8 for part in parts)
    assert settings(tmp_path, f"{COMMUNITY}  shard: {{number: 0, of: 1}}\n{targets}").switches[0].name == "leaf-0"


def test_paths_are_relative_to_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.yml").write_text("version: 1\nname: mine\nvendor: me\ntested: mib\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert settings(tmp_path, V3 + LEAF + "  profiles: own\n").profiles == str(tmp_path / "own")


def test_a_profile_of_ones_own_that_is_wrong_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.yaml").write_text("version: 1\nname: mine\nvendor: me\n")
    with pytest.raises(ContractError, match=r"own/mine\.yaml: .*`tested`"):
        read(tmp_path, COMMUNITY + LEAF + "  profiles: own\n")


def test_profiles_of_ones_own_are_there_and_have_names_of_their_own(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(ContractError, match=r"own: holds no profile \(name files \*\.yaml"):
        read(tmp_path, COMMUNITY + LEAF + "  profiles: own\n")
    for name in ("one.yaml", "two.yml"):
        (own / name).write_text("version: 1\nname: mine\nvendor: me\ntested: mib\n")
    with pytest.raises(ContractError, match=r"two\.yml: profile 'mine' is in one\.yaml too"):
        read(tmp_path, COMMUNITY + LEAF + "  profiles: own\n")


def test_what_is_legal_and_probably_not_meant_is_remarked_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topology = {"version": 1, "hosts": [], "switches": [{"name": "leaf-1", "tier": "leaf"}], "links": []}
    (tmp_path / "topology.json").write_text(json.dumps(topology))
    config = tmp_path / "poller.yaml"
    (tmp_path / "community").write_text("public")
    config.write_text(
        "topology: topology.json\nswitches:\n  community_file: community\n  timeout_seconds: 10\n"
        "  targets: [{name: leaf1, address: 192.0.2.1}]\n"
    )
    assert cli.main(["check-config", str(config)]) == 0
    said = capsys.readouterr()
    assert said.out.endswith(": good\n")
    assert "switch 'leaf1' is not in the topology (did you mean 'leaf-1'?): its counters are joined with" in said.err
    assert "a lost request takes 20 s, longer than period_seconds" in said.err
