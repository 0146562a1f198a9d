"""RDMA probes over real RoCEv2: what is sent, lost, delayed, marked, and what happens to ports and responders."""

from __future__ import annotations

import pytest

from lab.guest.network import Fabric
from tests.rdma.guest.hosts import LOST, RTT, SENT, Host, target, until


def test_paths_from_several_source_ports_are_answered(fabric: Fabric) -> None:
    near, far = fabric.ports
    with Host(near) as here, Host(far) as there:
        until(lambda: here.up() and there.up())
        here.plan(target(near, far, port) for port in (50_000, 50_001, 50_002))
        here.answers(100)
        paths = here.paths()
    assert len(paths) == 3
    assert all(values[LOST] == 0 and values[RTT] > 0 for values in paths.values())
