"""Plans, jobs, configurations and tokens that were damaged, by chance or on purpose: taken, or refused for a reason."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.config import read_config
from exporter.contracts.codec import ContractError, encode, write
from exporter.contracts.job import read_job
from exporter.contracts.plan import read_plan
from exporter.planfile import Destinations, own_part, split, workloads_of
from skeleton_service.live.identity import Identity, Keys, NotKnownError, Role
from skeleton_service.live.planner import parts, unobserved
from skeleton_service.live.settings import read_settings
from skeleton_service.live.tls import bearer_of
from skeleton_service.planning.plan import Settings
from tests.unit.fabrics import leaf_spine
from tests.unit.serving import job
from tests.unit.test_plan_contract import PLAN

TOPOLOGY = leaf_spine()
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20),
    st.sampled_from(["", "..", "/", "\0", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "1e999", "𝔘\n", "-1"]),
)  # fmt: skip
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
_PATIENT = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _places(child, (*path, key))


@st.composite
def damaged(draw: st.DrawFn, document: dict[str, Any]) -> bytes:
    """The document with some of its values others, some gone, some twice; or with some of its bytes others."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([each for each in _places(changed) if each] or [("x",)]))
        inner = changed
        for key in way:
            inner = inner[key]
        kind = draw(st.sampled_from(["replace", "remove", "repeat"]))
        if kind == "replace":
            inner[last] = draw(_VALUES)
        elif kind == "remove":
            del inner[last]
        elif isinstance(inner, list):
            inner.append(copy.deepcopy(inner[last]))
    data = bytearray(json.dumps(changed, allow_nan=True).encode())
    for _ in range(draw(st.integers(0, 2))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def refused_or_taken(path: Path, data: bytes, read: Callable[[Path], Any]) -> Any:
    """What was read; None where it was refused, with one line that names the file or something in it."""
    path.write_bytes(data)
    return _taken(lambda: read(path))


def _taken(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except (ContractError, NotKnownError) as error:
        problem = error
    assert str(problem).isprintable()
    assert not isinstance(problem, ContractError) or problem.problem
    return None


@_PATIENT
@given(data=damaged(msgspec.to_builtins(PLAN)))
def test_plans(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    plan = refused_or_taken(tmp_path_factory.getbasetemp() / "plan.json", data, read_plan)
    if plan is not None:
        work = own_part([plan], {"10.0.0.1"}, 10, Destinations(TOPOLOGY, ["10.0.0.0/8"]))
        split(work.targets, {"10.0.0.1"})
        workloads_of([plan], {"10.0.0.1": "r"})
        assert len(work.targets) <= 10


@_PATIENT
@given(data=damaged(job()))
def test_jobs(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    from exporter.contracts.fabric import Fabric

    said = refused_or_taken(tmp_path_factory.getbasetemp() / "job.json", data, read_job)
    if said is None:
        return
    fabric = Fabric(TOPOLOGY)
    skeleton = _taken(lambda: unobserved(said, fabric))
    if skeleton is not None:
        parts(skeleton, fabric, observed=False, generation=1, expires=2e9, settings=Settings())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("configured")
    write(made / "topology.json", encode(TOPOLOGY))
    (made / "keys").write_text("k" * 40)
    (made / "key").write_bytes(b"k" * 32)
    (made / "token").write_text("t")
    return made


SERVICE = {
    "topology": "topology.json", "state": "state.db", "keys": "keys", "jobs": "jobs",
    "listen": {"address": "127.0.0.1", "port": 9106}, "plans": {"probes": ["udp"], "valid_seconds": 3600},
    "inference": {"exporters": "http://{host}:9105", "after_seconds": 300},
    "rules": {"directory": "rules", "reload": "http://localhost:9090/-/reload"},
    "prometheus": {"url": "http://localhost:9090"}, "webhook": {"url": "https://localhost/", "key_file": "keys"},
}  # fmt: skip
EXPORTER = {
    "host": "host-p0-0", "topology": "topology.json", "probing": {"key_file": "key", "destinations": ["10.9.0.0/16"]},
    "service": {"url": "https://localhost:9106", "token_file": "token", "plans": "plans"},
    "workloads": [{"job": "j", "container": "c", "rnics": ["mlx5_0"], "rank": 0}],
}  # fmt: skip


@_PATIENT
@given(data=damaged(SERVICE))
def test_configurations_of_the_service(directory: Path, data: bytes) -> None:
    refused_or_taken(directory / "service.yaml", data, read_settings)


@_PATIENT
@given(data=damaged(EXPORTER))
def test_configurations_of_the_exporter(directory: Path, data: bytes) -> None:
    refused_or_taken(directory / "exporter.yaml", data, read_config)


def test_what_is_damaged_was_good_before(directory: Path) -> None:
    for name, document, read in (
        ("service.yaml", SERVICE, read_settings),
        ("exporter.yaml", EXPORTER, read_config),
        ("job.yaml", job(), read_job),
        ("plan.yaml", msgspec.to_builtins(PLAN), read_plan),
    ):
        assert refused_or_taken(directory / name, yaml.safe_dump(document).encode(), read) is not None


@_PATIENT
@given(data=st.data())
def test_tokens(directory: Path, data: st.DataObject) -> None:
    keys = Keys(directory / "keys")
    good = keys.sign(Identity(Role.AGENT, "h"), 60)
    token = list(good)
    for _ in range(data.draw(st.integers(1, 4))):
        token[data.draw(st.integers(0, len(token) - 1))] = data.draw(st.characters())
    text = "".join(token)
    if text == good:
        return
    found = _taken(lambda: keys.verify(text))
    if found is not None:  # the last letter of a signature has bits that mean nothing
        assert found == Identity(Role.AGENT, "h")
        assert text.rpartition(".")[0] == good.rpartition(".")[0]


@_PATIENT
@given(text=st.text())
def test_what_is_no_token(directory: Path, text: str) -> None:
    with pytest.raises(NotKnownError):
        Keys(directory / "keys").verify(text)


@_PATIENT
@given(
    names=st.lists(st.tuples(st.sampled_from(["URI", "DNS"]), st.text() | st.just("spiffe://d/agent/x")), max_size=3)
)
def test_certificates(names: list[tuple[str, str]]) -> None:
    found = _taken(lambda: bearer_of({"subjectAltName": tuple(names)}))
    assert found is None or found.name
