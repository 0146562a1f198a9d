"""Whatever a client that knows the OpenAPI document may send: answered, or refused with a reason, and never a 5xx."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests.unit.serving import RunningService, decoded, job

OPERATIONS = {
    ("GET", "/v1/agents"), ("GET", "/v1/agents/{host}/plans"), ("GET", "/v1/agents/{host}/plans/{job}"),
    ("PUT", "/v1/agents/{host}"), ("GET", "/v1/jobs"), ("GET", "/v1/jobs/{job}"), ("PUT", "/v1/jobs/{job}"),
    ("DELETE", "/v1/jobs/{job}"), ("GET", "/v1/jobs/{job}/skeleton"), ("GET", "/v1/jobs/{job}/plan"),
    ("GET", "/v1/jobs/{job}/rules"), ("GET", "/v1/jobs/{job}/verdict"), ("GET", "/v1/suspects"),
    ("GET", "/v1/jobs/{job}/diagnosis"), ("GET", "/v1/jobs/{job}/file"),
}  # fmt: skip
EXAMPLES = 40


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    running = RunningService(tmp_path_factory.mktemp("service"))
    with running.client("operator", "ci") as operator:
        assert operator.put("/v1/jobs/j", json=job()).status_code == 200
    yield running
    assert running.stop() == 0, running.log


def asked(service: RunningService, case: Any, known: bool) -> httpx.Response:
    """As somebody who may; of a host and a job that are ``known``, or of those that were drawn."""
    if known:
        case.path_parameters |= {
            name: value for name, value in (("host", "host-p0-0"), ("job", "j")) if name in (case.path_parameters or {})
        }
    if case.query and isinstance(case.query, dict) and "wait" in case.query:
        case.query["wait"] = min(float(case.query["wait"]), 0.01) if _is_number(case.query["wait"]) else "x"
    of_host = "{host}" in case.path
    token = service.token("agent", "host-p0-0") if of_host else service.token("operator", "ci")
    return case.call(headers={"Authorization": f"Bearer {token}"})  # type: ignore[no-any-return]


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("known", [True, False])
def test_nothing_that_is_asked_is_an_error_of_the_service(
    service: RunningService, mode: GenerationMode, known: bool
) -> None:
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{service.port}/openapi.json")
    operations = [each.ok() for each in schema.get_all_operations()]
    assert {(each.method.upper(), each.path) for each in operations} == OPERATIONS
    statuses: Counter[int] = Counter()
    for operation in operations:
        if (operation.method.upper(), known) == ("DELETE", True):
            continue

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def ask(case: Any) -> None:
            answer = asked(service, case, known)
            statuses[answer.status_code] += 1
            assert answer.status_code < 500, (case.method, answer.request.url, answer.text)
            if answer.status_code >= 400 and answer.content:
                assert set(decoded(answer)) == {"error", "remedy"}

        ask()
    assert statuses[400] > 10, "nothing was refused"
    if mode is GenerationMode.POSITIVE:
        assert statuses[200] + statuses[204] > EXAMPLES, "nothing was answered"
    assert service.client().get("/readyz").status_code == 200
    assert "Traceback" not in service.log
