"""How components are written in files, labels and notifications.

An endpoint is ``container/rnic``, split at the *last* slash, because a container may be
``namespace/pod``. A port is ``switch:port`` or ``host:rnic``, split at the *first* colon, because
port names may hold colons. A link is its two ends in bytewise order joined by ``" -- "``.
"""

from __future__ import annotations

LINK_JOINT = " -- "


def endpoint_id(container: str, rnic: str) -> str:
    return f"{container}/{rnic}"


def split_endpoint(endpoint: str) -> tuple[str, str]:
    """Return ``(container, rnic)``; raise ValueError when there is no slash or an empty side."""
    container, slash, rnic = endpoint.rpartition("/")
    if not (slash and container and rnic):
        raise ValueError(f"endpoint {endpoint!r} is not written container/rnic")
    return container, rnic


def port_id(node: str, port: str) -> str:
    return f"{node}:{port}"


def split_port(port: str) -> tuple[str, str]:
    """Return ``(node, port)``; raise ValueError when there is no colon or an empty side."""
    node, colon, name = port.partition(":")
    if not (colon and node and name):
        raise ValueError(f"port {port!r} is not written switch:port or host:rnic")
    return node, name


def link_id(end: str, other_end: str) -> str:
    """Name a link by its two ends, whatever their order."""
    first, second = sorted((end, other_end), key=str.encode)
    return f"{first}{LINK_JOINT}{second}"


def split_link(link: str) -> tuple[str, str]:
    """Return the two ends of a link name; raise ValueError when it is not one."""
    first, joint, second = link.partition(LINK_JOINT)
    if not joint:
        raise ValueError(f"link {link!r} is not written 'end{LINK_JOINT}end'")
    return first, second


def path_id(
    source_host: str,
    source_rnic: str,
    destination_host: str,
    destination_rnic: str,
    probe: str,
    traffic_class: int,
    source_port: int,
) -> str:
    """Name a probed path by its *physical* ends, so that its series outlive containers and jobs.

    A path is one (source RNIC, destination RNIC, source port); the probe type and the traffic class
    are part of the name because they are counted apart.
    """
    return f"{source_host}:{source_rnic}>{destination_host}:{destination_rnic}/{probe}/{traffic_class}/{source_port}"
