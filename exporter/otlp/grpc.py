"""OTLP over gRPC by the official exporter, where the extra ``otlp-grpc`` is installed.

It has no public way in but the SDK's objects. Two of its methods are overridden, which its base class
declares for subclasses, and its stub is wrapped, because the library drops the answer that says how many
points were rejected. Hence the narrow range of versions in pyproject.toml.
"""

from __future__ import annotations

from typing import Any

import grpc
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics.export import MetricExportResult

from exporter.contracts.codec import read_bytes
from exporter.otlp.push import Outcome
from exporter.otlp.settings import Otlp, compression_of, endpoint_of, read_headers
from exporter.otlp.transport import one_line

# Trouble of a receiver or of the way there, which the next request would meet as well.
_UNAVAILING = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}


class GrpcTransport:
    """OTLP over gRPC; raise ContractError when a TLS file cannot be read."""

    def __init__(self, settings: Otlp) -> None:
        endpoint = endpoint_of(settings)
        headers = read_headers(settings.headers_file) if settings.headers_file else None
        files = (settings.ca_file, settings.key_file, settings.certificate_file)
        credentials = None
        if endpoint.startswith("https:") and any(files):
            credentials = grpc.ssl_channel_credentials(*(read_bytes(path) if path else None for path in files))
        compressions = {"gzip": grpc.Compression.Gzip, "none": grpc.Compression.NoCompression}
        self._exporter = _Exporter(
            endpoint=endpoint,
            credentials=credentials,
            headers=headers,
            timeout=settings.timeout_seconds,
            compression=compressions[compression_of(settings)],
        )

    def send(self, body: bytes) -> Outcome:
        return self._exporter.send(body)

    def abort(self) -> None:
        self._exporter.shutdown()


class _Exporter(OTLPMetricExporter):
    _client: Any  # the library does not type these two usefully
    _headers: Any
    _answer: Any = None
    _error: grpc.RpcError | None = None

    def send(self, body: bytes) -> Outcome:
        self._answer = self._error = None
        result: object = self._export(ExportMetricsServiceRequest.FromString(body))
        secrets = [value for _, value in self._headers]
        if result is MetricExportResult.SUCCESS and self._answer is not None:
            partial = self._answer.partial_success
            return Outcome(True, max(partial.rejected_data_points, 0), one_line(partial.error_message, secrets))
        error: Any = self._error
        if error is None:
            return Outcome(False, problem="shutting down", worth_trying=False)
        code = error.code()
        return Outcome(False, problem=f"gRPC status {code.name}", worth_trying=code not in _UNAVAILING)

    def _translate_data(self, data: Any) -> Any:
        return data

    def _count_data(self, data: Any) -> int:  # noqa: ARG002 - for metrics of the library's own, which are off
        return 0

    def _initialize_channel_and_stub(self) -> None:
        super()._initialize_channel_and_stub()  # type: ignore[no-untyped-call]
        export = self._client.Export

        def noting(**arguments: Any) -> Any:
            try:
                self._answer = export(**arguments)
            except grpc.RpcError as error:
                self._error = error
                raise
            return self._answer

        self._client.Export = noting
