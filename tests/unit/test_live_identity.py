"""Tokens: who is believed, and who is not."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest

from exporter.contracts.codec import ContractError
from skeleton_service.live.identity import LEEWAY_SECONDS, Identity, Keys, NotKnownError, Role

OLD, NEW = "o" * 64, "n" * 64
AGENT = Identity(Role.AGENT, "host-1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"{OLD}\n")
    return path


def test_a_token_names_its_bearer(file: Path) -> None:
    keys = Keys(file)
    assert keys.verify(keys.sign(AGENT, 60)) == AGENT


def test_keys_are_changed_while_the_service_runs(file: Path) -> None:
    keys = Keys(file)
    before = keys.sign(AGENT, 60)
    assert not keys.refresh()
    file.write_text(f"{NEW}\n{OLD}\n")
    assert keys.refresh()
    after = keys.sign(AGENT, 60)
    assert keys.verify(before) == keys.verify(after) == AGENT
    file.write_text(f"{NEW}\n\n")
    assert keys.refresh()
    assert keys.verify(after) == AGENT
    with pytest.raises(NotKnownError, match="no key of ours"):
        keys.verify(before)


def test_a_file_that_is_spoilt_or_gone_leaves_the_keys_before_it(file: Path) -> None:
    keys = Keys(file)
    token = keys.sign(AGENT, 60)
    file.write_text("short\n")
    with pytest.raises(ContractError, match="line 1 has fewer than 32 bytes") as problem:
        keys.refresh()
    assert "short" not in str(problem.value)
    assert keys.verify(token) == AGENT
    file.unlink()
    with pytest.raises(ContractError, match="the keys before stay"):
        keys.refresh()
    assert keys.verify(token) == AGENT


def test_what_is_too_old_or_not_ours_is_refused(file: Path) -> None:
    keys = Keys(file)
    with pytest.raises(NotKnownError, match="has expired"):
        keys.verify(keys.sign(AGENT, 60, now=1_000_000.0))
    keys.verify(keys.sign(AGENT, -LEEWAY_SECONDS / 2))
    claims = {"aud": "fabric-skeleton", "sub": "h", "role": "agent", "exp": 9e9}
    forged = [
        jwt.encode(claims, None, algorithm="none"),
        jwt.encode({**claims, "aud": "others"}, OLD, algorithm="HS256"),
        jwt.encode({**claims, "role": "root"}, OLD, algorithm="HS256"),
        jwt.encode({key: value for key, value in claims.items() if key != "exp"}, OLD, algorithm="HS256"),
        jwt.encode(claims, OLD, algorithm="HS512"),
        "a.b.c",
        "",
        "é" * 10_000,
    ]
    for token in forged:
        with pytest.raises(NotKnownError, match="no token of this service"):
            keys.verify(token)


def test_a_file_without_keys_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n \n")
    with pytest.raises(ContractError, match="holds no key"):
        Keys(empty)
