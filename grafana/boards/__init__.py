"""The dashboards, a module each. They lead from what hurts to the component: overview, job or component, path."""

from __future__ import annotations

from grafana.board import Board
from grafana.boards import dns, exporters, host, incidents, job, link, overview, path, rdma, switch, transit

BOARDS: tuple[Board, ...] = tuple(
    module.BOARD for module in (overview, incidents, job, path, link, switch, host, rdma, dns, transit, exporters)
)
