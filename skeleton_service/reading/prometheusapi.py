"""The HTTP API of a Prometheus: questions about one moment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request

import msgspec

from exporter.contracts.codec import ContractError
from skeleton_service.reading.fetching import fetch

PREFIX = "prometheus:"
TIMEOUT_SECONDS = 60.0
Labels = dict[str, str]


class Series(msgspec.Struct):
    """Of an answer: ``values`` of a range, or ``value``, each with its time."""

    metric: Labels
    values: msgspec.Raw = msgspec.Raw(b"[]")
    value: tuple[float, str] = (0.0, "NaN")


class _Data(msgspec.Struct):
    result: list[Series]


class _Answer(msgspec.Struct):
    status: str
    data: _Data | None = None
    error: str = ""


class Api:
    """The HTTP API of a Prometheus, or of what speaks like one."""

    def __init__(
        self,
        source: str,
        token_file: str | None,
        too_much: str = "shorten --window",
        unauthorized: str = "give --prometheus-token-file",
    ) -> None:
        """``too_much`` and ``unauthorized`` are remedies: more is asked than Prometheus will load, or by a stranger."""
        self.source = source
        self._too_much, self._unauthorized = too_much, unauthorized
        url = source.removeprefix(PREFIX)
        prefix = source[: len(source) - len(url)]
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ContractError(source, "is no address of a Prometheus", f"write {prefix}http://host:9090")
        self._url = url.rstrip("/") + "/api/v1/query"
        self._headers: dict[str, str] = {}
        if token_file is not None:
            if parts.scheme == "http" and not _is_this_machine(parts.hostname):
                raise ContractError(source, "the token would travel in the clear", "use https://")
            self._headers["Authorization"] = f"Bearer {_token(token_file)}"

    def instant(self, expression: str, at: float) -> Iterator[tuple[Labels, float]]:
        """Yield (labels, value) of an instant vector, as ``query`` does."""
        for series in self.query(expression, at):
            yield series.metric, float(series.value[1])

    def query(self, expression: str, at: float) -> list[Series]:
        """Evaluate an instant query; raise ContractError with Prometheus' own words."""
        form = urlencode({"query": expression, "time": f"{at:.3f}"}).encode()
        request = Request(self._url, data=form)  # noqa: S310 - the scheme was checked
        for name, value in self._headers.items():
            request.add_unredirected_header(name, value)
        try:
            answer = _decode(fetch(request, self.source, TIMEOUT_SECONDS))
        except ContractError as error:
            if isinstance(error.__cause__, HTTPError):
                raise self._refused(error.__cause__) from error
            raise
        if answer is None or answer.data is None:
            raise ContractError(self.source, "does not answer as Prometheus does", "give its address up to /api")
        return answer.data.result

    def _refused(self, error: HTTPError) -> ContractError:
        answer = _decode(error.read(1 << 16))
        words = " ".join(answer.error.split()) if answer and answer.error else error.reason
        remedy = {401: self._unauthorized, 403: self._unauthorized, 422: self._too_much}
        return ContractError(self.source, f"answers {error.code}: {words}", remedy.get(error.code, ""))


def _decode(body: bytes) -> _Answer | None:
    try:
        return msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _token(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(path, getattr(error, "strerror", None) or "holds no token") from error
    token = text.split("\n", 1)[0].strip()
    if not token:
        raise ContractError(path, "holds no token on its first line")
    return token


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def quoted(text: str) -> str:
    """As PromQL writes a string."""
    return json.dumps(text, ensure_ascii=False)
