"""A running fabric for the tests of this folder: real namespaces, real routing, no mocks.

The lab runs in the background and dies with pytest, also by ``kill -9``. Tests stay outside and reach
in with ``fabric.run(node, argv)``, ``fabric.command(node, argv)`` (for Popen) and ``fabric.act(...)``
(faults); ``node`` None is the sandbox itself, from where every management address is reachable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.contracts.codec import encode
from lab import sandbox
from lab.errors import LabError
from lab.network import transit
from lab.network.design import Design, Host, draw
from lab.running import Running
from tests.lab.agent import Agent, stop, until


@pytest.fixture(scope="session")
def sandbox_possible() -> None:
    """Skips, with the reason and the remedy, where no lab can run."""
    try:
        sandbox.require()
    except LabError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def fabric(sandbox_possible: None) -> Iterator[Running]:  # noqa: ARG001
    """One lab for the whole session. A test that breaks it heals it (see ``whole``)."""
    running = Running(f"pytest-{os.getpid()}")
    running.up(draw(seed=os.getpid()), die_with_parent=True)
    try:
        yield running
    finally:
        running.down()


@pytest.fixture(scope="session")
def design(fabric: Running) -> Design:
    return fabric.design()


@pytest.fixture(autouse=True)
def converged(request: pytest.FixtureRequest) -> None:
    """Every path is there as a test begins: tests before it may have starved BGP's keepalives of the processor."""
    if "fabric" in request.fixturenames:
        request.getfixturevalue("fabric").act("wait-converged")


@pytest.fixture
def whole(fabric: Running) -> Iterator[Running]:
    """The fabric, mended and converged after the test."""
    yield fabric
    fabric.act("heal", "all")
    fabric.act("wait-converged")


@pytest.fixture(scope="session")
def two_sites(sandbox_possible: None) -> Iterator[Running]:  # noqa: ARG001
    """A small lab with a second site behind two carriers. A test that breaks it heals it."""
    running = Running(f"pytest-{os.getpid()}-transit")
    small = draw(seed=os.getpid(), pods=1, rails=1, spines=2, hosts_per_pod=3, tenants=0)
    running.up(transit.add(small), die_with_parent=True)
    try:
        yield running
    finally:
        running.down()


@pytest.fixture
def hosts(design: Design) -> tuple[Host, Host]:
    """Two hosts of two pods."""
    near = design.hosts[0]
    return near, next(host for host in design.hosts if host.pod != near.pod)


@pytest.fixture
def start(fabric: Running, design: Design, tmp_path: Path) -> Iterator[Callable[..., list[Agent]]]:
    """``start(*hosts, **probing)``: agents on these hosts, which answer."""
    topology = tmp_path / "topology.json"
    topology.write_bytes(encode(design.topology()))
    started: list[Agent] = []

    def begin(*hosts: Host, **probing: object) -> list[Agent]:
        new = [Agent(fabric, host, tmp_path / host.name, topology, **probing) for host in hosts]
        started.extend(new)
        until(lambda: all(agent.metrics() for agent in new))
        return new

    try:
        yield begin
    finally:
        codes = stop(started)
    assert codes == [0] * len(started)


@pytest.fixture
def agents(start: Callable[..., list[Agent]], hosts: tuple[Host, Host]) -> tuple[Agent, Agent]:
    """Agents on two hosts of two pods; the second one answers only."""
    near, far = start(*hosts)
    return near, far
