"""A switch that speaks gNMI: a real server on loopback, with TLS of a test CA, that tells what a test gives it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio

from exporter.gnmi import proto

T = TypeVar("T")
ADDRESS = "127.0.0.1"

SONIC: dict[str, dict[str, object]] = {
    "COUNTERS/Ethernet*": {
        "Ethernet1/1": {
            "SAI_PORT_STAT_IF_IN_OCTETS": "1000",
            "SAI_PORT_STAT_IF_OUT_OCTETS": "2000",
            "SAI_PORT_STAT_PFC_3_RX_PKTS": "7",
            "SAI_PORT_STAT_PFC_3_TX_PKTS": "8",
            "SAI_PORT_STAT_PFC_3_RX_PAUSE_DURATION_US": "2500000",
        }
    },
    "COUNTERS/Ethernet*/Queues": {
        "Ethernet1/1:3": {"SAI_QUEUE_STAT_PACKETS": "50", "SAI_QUEUE_STAT_WRED_ECN_MARKED_PACKETS": "12"},
        "Ethernet1/1:4": {},
    },
    "COUNTERS/Ethernet*/Pfcwd": {
        "Ethernet1/1:3": {
            "PFC_WD_QUEUE_STATS_DEADLOCK_DETECTED": "2",
            "PFC_WD_QUEUE_STATS_DEADLOCK_RESTORED": "1",
            "PFC_WD_QUEUE_STATS_TX_DROPPED_PACKETS": "30",
            "PFC_WD_QUEUE_STATS_RX_DROPPED_PACKETS": "4",
            "PFC_WD_STATUS": "stormed",
        }
    },
    "PORT_TABLE": {"Ethernet0": {"oper_status": "up"}},
    "PORT": {"Ethernet0": {"alias": "Ethernet1/1", "mtu": "9100", "admin_status": "up", "speed": "400000"}},
    "PORT_QOS_MAP": {"Ethernet0": {"pfc_enable": "3,4", "dscp_to_tc_map": "AZURE"}},
    "DSCP_TO_TC_MAP": {"AZURE": {"3": "3", "26": "3", "48": "6"}},
    "WRED_PROFILE": {
        "AZURE_LOSSLESS": {"ecn": "ecn_all", "green_min_threshold": "250000", "green_max_threshold": "2097152"}
    },
    "QUEUE": {"Ethernet0|3-4": {"wred_profile": "AZURE_LOSSLESS"}, "Ethernet0|0": {"scheduler": "s"}},
    "FLEX_COUNTER_TABLE": {"WRED_ECN_QUEUE": {"FLEX_COUNTER_STATUS": "enable"}},
    "PFC_WD": {"Ethernet0": {"action": "drop", "detection_time": "200"}, "GLOBAL": {"POLL_INTERVAL": "200"}},
    "NEIGH_STATE_TABLE": {"10.0.0.1": {"state": "Established"}},
}
"""What a SONiC switch tells, by the path that is subscribed to."""


class RefusedError(Exception):
    """A status to end a stream with."""

    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        super().__init__(details)
        self.code = code
        self.details = details


Script = Callable[[str, float], AsyncIterator[Any]]
"""(path, interval in seconds) -> responses, as messages or bytes."""


def path_of(text: str, target: str = "") -> Any:
    return proto.Path(elem=[proto.PathElem(name=name) for name in text.split("/")], target=target)


def update(path: str, value: object) -> Any:
    """A response of one value, as SONiC writes it: JSON at the path that was subscribed to."""
    typed = proto.TypedValue(json_ietf_val=json.dumps(value).encode())
    return proto.SubscribeResponse(
        update=proto.Notification(timestamp=1, update=[proto.Update(path=path_of(path), val=typed)])
    )


def samples(tables: dict[str, dict[str, object]]) -> Script:
    """Each table whole, once an interval; a table that is not there is refused, as SONiC does it."""

    async def script(path: str, interval: float) -> AsyncIterator[Any]:
        if path not in tables:
            raise RefusedError(grpc.StatusCode.NOT_FOUND, f"no {path}")
        yield update(path, tables[path])
        yield proto.SubscribeResponse(sync_response=True)
        while True:
            await asyncio.sleep(interval)
            yield update(path, tables[path])

    return script


class Certificates:
    """A CA, a certificate for 127.0.0.1 and one for a client, all PEM files in ``directory``."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.ca, self.ca_key = directory / "ca.pem", directory / "ca.key"
        self._openssl("req", "-x509", *_KEY, "-keyout", self.ca_key, "-out", self.ca, "-subj", "/CN=ca", "-days", "2")
        self.certificate, self.key = self._issue(directory, "switch", "subjectAltName=IP:127.0.0.1")
        self.client_certificate, self.client_key = self._issue(directory, "client", "extendedKeyUsage=clientAuth")

    def _issue(self, directory: Path, name: str, extension: str) -> tuple[Path, Path]:
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        self._openssl(
            "req", "-x509", *_KEY, "-keyout", key, "-out", certificate, "-subj", f"/CN={name}", "-days", "2",
            "-CA", self.ca, "-CAkey", self.ca_key, "-addext", extension, "-addext", "basicConstraints=CA:FALSE",
        )  # fmt: skip
        return certificate, key

    def _openssl(self, *arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class FakeTarget:
    """The server, in a thread. ``script`` may be replaced while it runs; ``subscribed`` counts subscriptions begun."""

    def __init__(
        self,
        script: Script,
        certificates: Certificates | None = None,
        login: tuple[str, str] | None = None,
        port: int = 0,
        client_certificate: bool = False,
    ) -> None:
        self.script = script
        self.subscribed: list[str] = []
        self.encodings = [proto.JSON, proto.JSON_IETF]
        self.refusal = "wrong user or password"
        self._login = login
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = self._run(self._start(certificates, port, client_certificate))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self, certificates: Certificates | None, port: int, client_certificate: bool) -> int:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers = {
            "Subscribe": grpc.stream_stream_rpc_method_handler(
                self._subscribe, request_deserializer=proto.SubscribeRequest.FromString
            ),
            "Capabilities": grpc.unary_unary_rpc_method_handler(self._capabilities),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("gnmi.gNMI", handlers),))
        if certificates is None:
            bound = self._server.add_insecure_port(f"{ADDRESS}:{port}")
        else:
            pair = (certificates.key.read_bytes(), certificates.certificate.read_bytes())
            root = certificates.ca.read_bytes() if client_certificate else None
            credentials = grpc.ssl_server_credentials([pair], root, client_certificate)
            bound = self._server.add_secure_port(f"{ADDRESS}:{port}", credentials)
        await self._server.start()
        return int(bound)

    async def _check(self, context: Any) -> None:
        told = dict(context.invocation_metadata())
        if self._login is not None and (told.get("username"), told.get("password")) != self._login:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, self.refusal)

    async def _capabilities(self, _: bytes, context: Any) -> bytes:
        await self._check(context)
        answer = proto.CapabilityResponse(supported_encodings=self.encodings, gNMI_version="0.7.0")
        return bytes(answer.SerializeToString())

    async def _subscribe(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        await self._check(context)
        request = await anext(aiter(requests))
        (subscription,) = request.subscribe.subscription
        path = "/".join(elem.name for elem in subscription.path.elem)
        self.subscribed.append(path)
        try:
            async for response in self.script(path, subscription.sample_interval / 1e9):
                yield response if isinstance(response, bytes) else response.SerializeToString()
        except RefusedError as refused:
            await context.abort(refused.code, refused.details)

    def stop_serving(self) -> None:
        """End all streams and take no more."""
        self._run(self._server.stop(None))

    def stop(self) -> None:
        self.stop_serving()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
