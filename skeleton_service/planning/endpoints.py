"""A skeleton's endpoints in a topology: one check for whatever binds them."""

from __future__ import annotations

from exporter.contracts.codec import ContractError
from exporter.contracts.fabric import Fabric, Interface
from exporter.contracts.names import port_id
from exporter.contracts.skeleton import Endpoint, Skeleton


def interface_of(endpoint: Endpoint, fabric: Fabric) -> Interface:
    """Return the RNIC that the endpoint sends by; raise ContractError where the topology has none of its name."""
    interface = fabric.interfaces.get(port_id(endpoint.host, endpoint.rnic))
    if interface is None:
        problem = f"RNIC {endpoint.rnic!r} of host {endpoint.host!r} is missing, needed by endpoint {endpoint.id!r}"
        raise ContractError("topology", problem, "add the host with this RNIC")
    return interface


def check_fits(skeleton: Skeleton, fabric: Fabric) -> None:
    """Raise ContractError for the first endpoint whose RNIC the topology does not have."""
    for endpoint in skeleton.endpoints:
        interface_of(endpoint, fabric)
