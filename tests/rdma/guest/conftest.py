"""Networks for the tests of this folder, apart from what is sent over them. All runs in a guest (../conftest.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.guest.network import Fabric, addresses
from tests.rdma.guest.spines import SPINES


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    """Two ports on one switch."""
    with Fabric(addresses(2)) as made:
        yield made


@pytest.fixture(params=["10.9.0.0/24", "fd09::/64"], ids=["ipv4", "ipv6"])
def either(request: pytest.FixtureRequest) -> Iterator[Fabric]:
    """Two ports on one switch, over IPv4 and over IPv6."""
    with Fabric(addresses(2, request.param)) as made:
        yield made


@pytest.fixture
def routed() -> Iterator[Fabric]:
    """Two ports, each in its own subnet, and a router between."""
    with Fabric(["10.9.1.1/24", "10.9.2.1/24"]) as made:
        yield made


@pytest.fixture
def spined() -> Iterator[Fabric]:
    """Two ports, each on a leaf of its own, and two spines between."""
    with Fabric(["10.9.1.1/24", "10.9.2.1/24"], spines=SPINES) as made:
        yield made


@pytest.fixture
def overlay() -> Iterator[Fabric]:
    """Three ports over VXLAN, whose VTEPs are on one switch."""
    with Fabric(addresses(3, "10.7.0.0/24"), vteps=addresses(3, "172.16.0.0/24")) as made:
        yield made


@pytest.fixture
def mesh() -> Iterator[Fabric]:
    """Sixteen ports on one switch."""
    with Fabric(addresses(16)) as made:
        yield made
