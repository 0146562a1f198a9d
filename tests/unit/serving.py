"""A service as an operator runs it, on loopback, and those who ask it."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import yaml

from exporter.contracts.codec import encode, write
from exporter.contracts.topology import Topology
from skeleton_service.live.identity import Identity, Keys, Role
from tests.unit.fabrics import leaf_spine
from tests.unit.running import free_port

READY_SECONDS = 20
TOPOLOGY = leaf_spine()


class RunningService:
    """``skeleton-service serve`` in a directory that has its configuration, its keys and its topology."""

    def __init__(
        self, directory: Path, topology: Topology = TOPOLOGY, ready_seconds: float = READY_SECONDS, **settings: Any
    ) -> None:
        self.directory, self._ready_seconds = directory, ready_seconds
        self.port = free_port(socket.SOCK_STREAM, "127.0.0.1")
        write(directory / "topology.json", encode(topology))
        (directory / "keys").write_bytes(base64.b64encode(os.urandom(32)))
        self.keys = Keys(directory / "keys")
        self.config = directory / "service.yaml"
        self.settings: dict[str, Any] = {
            "topology": "topology.json", "state": "state.db", "keys": "keys",
            "listen": {"address": "127.0.0.1", "port": self.port}, **settings,
        }  # fmt: skip
        self.configure()
        self.start()

    def configure(self, **settings: Any) -> None:
        self.settings |= settings
        self.config.write_text(yaml.safe_dump(self.settings))

    def start(self) -> None:
        self._log = open(self.directory / "log", "ab")  # noqa: SIM115 - closed when it stops
        self.process = subprocess.Popen(
            [sys.executable, "-m", "skeleton_service.cli", "serve", "--config", str(self.config)],
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        deadline = time.monotonic() + self._ready_seconds
        while True:
            try:
                if self.client(context=False).get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def token(self, role: str, name: str, seconds: float = 60.0) -> str:
        return self.keys.sign(Identity(Role(role), name), seconds)

    def client(self, role: str = "", name: str = "", context: ssl.SSLContext | bool = True) -> httpx.Client:
        """Somebody who asks, with a token of a role; without one, a stranger."""
        headers = {"Authorization": f"Bearer {self.token(role, name)}"} if role else {}
        scheme = "https" if self.settings.get("tls") else "http"
        return httpx.Client(
            base_url=f"{scheme}://127.0.0.1:{self.port}", headers=headers, verify=context, timeout=30, trust_env=False
        )

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(15)
        finally:
            self.process.kill()
            self._log.close()


def job(name: str = "j", hosts: tuple[str, ...] = ("host-p0-0", "host-p1-0")) -> dict[str, Any]:
    return {"version": 1, "job": name, "containers": [{"name": f"{name}-{host}", "host": host} for host in hosts]}


def decoded(response: httpx.Response) -> Any:
    return msgspec.json.decode(response.content)
