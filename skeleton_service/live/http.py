"""The service's HTTP: what agents, people and CI ask. OpenAPI is made of these handlers: ``/openapi.json``."""

from __future__ import annotations

import asyncio
import gzip
import logging
import random
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Litestar, MediaType, Request, Response, delete, get, put
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException, NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult, DefineMiddleware
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import Parameter
from litestar.types import ASGIApp
from msgspec import Meta
from prometheus_client import CONTENT_TYPE_LATEST

from exporter.contracts.codec import ContractError
from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.job import Job, Name
from exporter.contracts.plan import Plan, Unsigned
from exporter.contracts.skeleton import Skeleton
from skeleton_service import __version__
from skeleton_service.live.diagnosing import Diagnoses
from skeleton_service.live.errors import AbsentError, BrokenError, BusyError, ForeignJobError, UnknownJobError
from skeleton_service.live.identity import Believer, Identity, NotKnownError, Role
from skeleton_service.live.planner import joined
from skeleton_service.live.rulekeeper import RuleKeeper
from skeleton_service.live.service import Service
from skeleton_service.live.state import StoredJob
from skeleton_service.live.suspects import Suspects
from skeleton_service.live.verdict import Suspect, Verdict
from skeleton_service.live.waiting import LONGEST_WAIT, Waiting, who_asks

_LARGEST_REGISTRATION = 64 << 10
LARGEST_BODY = 32 << 20
"""Bytes: a job of 65,536 containers."""
_RETRY_SECONDS = 2.0
_log = logging.getLogger(__name__)


class Problem(msgspec.Struct, frozen=True):
    """Why a request is not answered, in a line."""

    error: str
    remedy: str = ""


class EndpointState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    rnic: Name
    ready: bool
    """Whether its responder answers."""
    queue_pair: Unsigned | None = None
    """Of the responder of RDMA probes."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself when it starts, and when that changes."""

    boot_epoch: Unsigned
    """Other than before: its queue pairs are new ones."""
    version: Name
    endpoints: Annotated[tuple[EndpointState, ...], Meta(max_length=256)] = ()


class PlanEntry(msgspec.Struct, frozen=True):
    job: str
    generation: int


class Plans(msgspec.Struct, frozen=True):
    """Which plans a host has: one of another generation is to be fetched anew, one that is gone to be ended.

    But only where ``state`` is that of before: a service whose state was lost knows of no job that it had.
    """

    state: str
    plans: list[PlanEntry]


class AgentState(msgspec.Struct, frozen=True):
    host: str
    registered: float
    """Unix seconds."""
    registration: Registration


class JobState(msgspec.Struct, frozen=True):
    job: str
    source: str
    """``file``, ``pods`` or ``api``."""
    began: float
    """Unix seconds."""
    phase: str
    generation: int
    expires: float
    containers: int


def _state_of(job: StoredJob) -> JobState:
    return JobState(job.job, job.source, job.began, job.phase, job.generation, job.expires, job.containers)


# ---- who may


class Authentication(AbstractAuthenticationMiddleware):
    """Whoever presents a bearer token, or a certificate, is who it names; others get no answer but of health."""

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        try:
            headers = connection.headers
            return AuthenticationResult(
                user=who_asks(connection.scope, headers, connection.app.state.signing), auth=None
            )
        except NotKnownError as error:
            raise NotAuthorizedException(str(error), headers={"WWW-Authenticate": "Bearer"}) from error


def _identity(connection: ASGIConnection[Any, Any, Any, Any]) -> Identity:
    user = connection.user
    assert isinstance(user, Identity)  # noqa: S101 - the middleware let nobody else through
    return user


def own_host(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """An agent learns and says what is its own host's, and nothing else."""
    identity = _identity(connection)
    if identity.role is not Role.AGENT or identity.name != connection.path_params["host"]:
        host = connection.path_params["host"]
        raise PermissionDeniedException(f"{identity.role} {identity.name!r} is not the agent of host {host!r}")


def operator(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    if _identity(connection).role is not Role.OPERATOR:
        raise PermissionDeniedException("jobs are begun and ended by operators")


def reader(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    if _identity(connection).role is Role.AGENT:
        raise PermissionDeniedException("agents are told their own plans alone")


_REFUSED = {
    status: ResponseSpec(Problem, generate_examples=False, description=why)
    for status, why in ((401, "no token, or one that is not believed"), (403, "another one's"))
}
_UNKNOWN = {404: ResponseSpec(Problem, generate_examples=False, description="no such job")}
_FOREIGN = {409: ResponseSpec(Problem, generate_examples=False, description="a job of a file is its file's to change")}
_BROKEN = {503: ResponseSpec(Problem, generate_examples=False, description="Prometheus, or the disk, does not answer")}
_WRONG = {400: ResponseSpec(Problem, generate_examples=False, description="what is wrong with the request")}
_BUSY = {429: ResponseSpec(Problem, generate_examples=False, description="again after Retry-After")}

# ---- agents


@get(
    "/v1/agents/{host:str}/plans",
    guards=[own_host],
    responses={
        **_REFUSED,
        200: ResponseSpec(Plans, generate_examples=False, description="which plans this host has"),
        304: ResponseSpec(None, description="the same as If-None-Match, for all of the time waited"),
    },
)
async def plans(
    request: Request[Identity, None, Any],
    host: str,
    if_none_match: Annotated[str | None, Parameter(header="If-None-Match", max_length=100)] = None,
    wait: Annotated[float, Parameter(ge=0, le=LONGEST_WAIT)] = 0.0,  # noqa: ARG001 - over, see Waiting
) -> Response[Plans | None]:
    """Which plans the host has; with If-None-Match, once they are other ones, or 304 after ``wait`` seconds."""
    service: Service = request.app.state.service
    if service.not_ready:
        raise BrokenError(service.not_ready)
    book = service.book
    if not book.others_than(host, if_none_match or ""):
        return Response(None, status_code=304, headers={"ETag": if_none_match or ""})
    told = Plans(book.identity, [PlanEntry(job, generation) for job, generation in book.plans(host)])
    return Response(told, headers={"ETag": book.etag(host)})


@get(
    "/v1/agents/{host:str}/plans/{job:str}",
    guards=[own_host],
    responses={**_REFUSED, **_UNKNOWN, 200: ResponseSpec(Plan, generate_examples=False, description="the host's part")},
)
async def plan(request: Request[Identity, None, Any], host: str, job: str) -> Response[bytes]:
    """What the host is to probe for this job: a plan file."""
    part = await request.app.state.service.plan(host, job)
    # A connection over which so much went keeps room for it, since OpenSSL's buffers never shrink, and those of agents
    # go on for weeks. A new one is paid for once, by whoever has another plan.
    headers = {"ETag": f'"{part.generation}"', "Vary": "Accept-Encoding", "Connection": "close"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(part.body, media_type=MediaType.JSON, headers={**headers, "Content-Encoding": "gzip"})
    return Response(gzip.decompress(part.body), media_type=MediaType.JSON, headers=headers)


@put(
    "/v1/agents/{host:str}",
    guards=[own_host],
    status_code=204,
    responses={**_REFUSED, **_BUSY},
    request_max_body_size=_LARGEST_REGISTRATION,
)
async def register(request: Request[Identity, None, Any], host: str, data: Registration) -> None:
    """What the host's agent says of itself; it is kept when this is answered."""
    service: Service = request.app.state.service
    await service.register(host, msgspec.json.encode(data))


# ---- people and CI


@get("/v1/agents", guards=[reader], responses=_REFUSED)
async def agents(request: Request[Identity, None, Any]) -> list[AgentState]:
    """What the agents of hosts said last of themselves, and when."""
    service: Service = request.app.state.service
    return [
        AgentState(host, time, msgspec.json.decode(said, type=Registration))
        for host, (said, time) in sorted(service.agents.items())
    ]


@get("/v1/jobs", guards=[reader], responses=_REFUSED)
async def jobs(request: Request[Identity, None, Any]) -> list[JobState]:
    service: Service = request.app.state.service
    return [_state_of(job) for job in service.jobs]


@get("/v1/jobs/{job:str}", guards=[reader], responses={**_REFUSED, **_UNKNOWN})
async def job_of(request: Request[Identity, None, Any], job: str) -> JobState:
    service: Service = request.app.state.service
    return _state_of(service.job(job))


@get(
    "/v1/jobs/{job:str}/file",
    guards=[reader],
    responses={**_REFUSED, **_UNKNOWN, 200: ResponseSpec(Job, generate_examples=False, description="job")},
)
async def file_of(request: Request[Identity, None, Any], job: str) -> Response[bytes]:
    """What the job is, as it was told: a job file."""
    service: Service = request.app.state.service
    return Response(service.job(job).document, media_type=MediaType.JSON)


@get(
    "/v1/jobs/{job:str}/skeleton",
    guards=[reader],
    responses={**_REFUSED, **_UNKNOWN, 200: ResponseSpec(Skeleton, generate_examples=False, description="skeleton")},
)
async def skeleton_of(request: Request[Identity, None, Any], job: str) -> Response[bytes]:
    """Whom the job's traffic was seen to connect; 404 while it was not."""
    service: Service = request.app.state.service
    found = service.job(job).skeleton
    if found is None:
        looks = "its traffic is looked at again and again" if request.app.state.infers else "add a section 'inference'"
        raise AbsentError(f"job {job} has no skeleton yet", looks)
    return Response(found, media_type=MediaType.JSON)


@get(
    "/v1/jobs/{job:str}/plan",
    guards=[reader],
    responses={**_REFUSED, **_UNKNOWN, 200: ResponseSpec(Plan, generate_examples=False, description="of all hosts")},
)
async def whole_plan(request: Request[Identity, None, Any], job: str) -> Response[bytes]:
    """What all hosts together probe for the job: a plan file."""
    service: Service = request.app.state.service
    parts = await service.parts(job)
    return Response(await asyncio.to_thread(joined, parts), media_type=MediaType.JSON)


@get(
    "/v1/jobs/{job:str}/rules",
    guards=[reader],
    media_type=MediaType.TEXT,
    responses={**_REFUSED, **_UNKNOWN, **_BROKEN},
)
async def rules_of(request: Request[Identity, None, Any], job: str) -> str:
    """The job's rules, as Prometheus reads them; 404 while it has none."""
    service: Service = request.app.state.service
    keeper: RuleKeeper | None = request.app.state.rules
    service.job(job)
    text = await keeper.text(job) if keeper is not None else ""
    if not text:
        later = "they come 'rules.after_seconds' after its beginning" if keeper is not None else "add a section 'rules'"
        raise AbsentError(f"job {job} has no rules", later)
    return text


@get("/v1/jobs/{job:str}/verdict", guards=[reader], responses={**_REFUSED, **_UNKNOWN, **_BUSY, **_BROKEN})
async def verdict_of(request: Request[Identity, None, Any], job: str) -> Verdict:
    """Is it the network? By what Prometheus has recorded of the job's paths, and by the alerts that concern it."""
    service: Service = request.app.state.service
    diagnoses: Diagnoses | None = request.app.state.diagnoses
    known = service.job(job)
    return await _suspects(request).verdict(known, diagnoses.of(job) if diagnoses is not None else None)


@get("/v1/jobs/{job:str}/diagnosis", guards=[reader], responses={**_REFUSED, **_UNKNOWN, **_BROKEN})
async def diagnosis_of(request: Request[Identity, None, Any], job: str) -> Diagnosis:
    """What is broken, by the job's probe records of the last minutes; 404 while nothing of the job hurts."""
    service: Service = request.app.state.service
    diagnoses: Diagnoses | None = request.app.state.diagnoses
    service.job(job)
    if diagnoses is None:
        raise AbsentError("this service diagnoses no job", "add a section 'diagnosis'")
    found = diagnoses.of(job)
    if found is None and diagnoses.problem:
        raise BrokenError(diagnoses.problem)
    if found is None:
        raise AbsentError(f"job {job} is not diagnosed", "nothing is known to hurt it, or others are hurt worse")
    return found


@get("/v1/suspects", guards=[reader], responses={**_REFUSED, **_UNKNOWN, **_BROKEN})
async def suspects(request: Request[Identity, None, Any]) -> list[Suspect]:
    """What alerts point at now, the oldest first, and the jobs that it hurts."""
    return await _suspects(request).all()


def _suspects(request: Request[Identity, None, Any]) -> Suspects:
    found: Suspects | None = request.app.state.suspects
    if found is None:
        raise AbsentError("this service knows no Prometheus", "add a section 'prometheus'")
    return found


@put("/v1/jobs/{job:str}", guards=[operator], status_code=200, responses={**_WRONG, **_REFUSED, **_FOREIGN, **_BUSY})
async def put_job(request: Request[Identity, None, Any], job: str, data: Job) -> JobState:
    """Begin a job, or say what it has become. Answered once its agents are told."""
    if data.job != job:
        raise ContractError("field 'job'", f"is {data.job!r}, and {job!r} is asked for", "write the same name twice")
    service: Service = request.app.state.service
    if await service.put(data, "api"):
        _log.info("asked for", extra={"job": job, "by": _identity(request).name})
    return _state_of(service.job(job))


@delete("/v1/jobs/{job:str}", guards=[operator], status_code=204, responses={**_REFUSED, **_UNKNOWN, **_FOREIGN})
async def end_job(request: Request[Identity, None, Any], job: str) -> None:
    service: Service = request.app.state.service
    await service.end(job, "api")


# ---- operation


@get("/healthz", media_type=MediaType.TEXT, include_in_schema=False, exclude_from_auth=True)
async def health() -> str:
    """The event loop turns."""
    return "ok\n"


@get("/readyz", media_type=MediaType.TEXT, include_in_schema=False, exclude_from_auth=True)
async def ready(request: Request[Any, None, Any]) -> Response[str]:
    service: Service = request.app.state.service
    problem = service.not_ready
    return Response(f"{problem}\n" if problem else "ready\n", status_code=503 if problem else 200)


# ---- what goes wrong


def _problem(status: int, error: str, remedy: str = "", **headers: str) -> Response[Problem]:
    return Response(Problem(error, remedy), status_code=status, media_type=MediaType.JSON, headers=headers)


_REMEDIES = {
    401: "Authorization: Bearer …, as 'skeleton-service token' makes them, or a certificate of tls.client_ca",
    403: "ask as who may: 'skeleton-service token --role …'",
}


def _on_http(_: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    text = error.detail
    if isinstance(error.extra, Sequence) and error.extra and isinstance(error.extra[0], dict):
        text = "; ".join(f"{each.get('key', '')}: {each.get('message', '')}".lstrip(": ") for each in error.extra)
    return _problem(error.status_code, text, _REMEDIES.get(error.status_code, ""), **dict(error.headers or {}))


def _on_contract(_: Request[Any, Any, Any], error: ContractError) -> Response[Problem]:
    return _problem(400, f"{error.source}: {error.problem}", error.remedy)


def _on_unknown(_: Request[Any, Any, Any], error: UnknownJobError) -> Response[Problem]:
    return _problem(404, f"no job {error.args[0]} runs", "GET /v1/jobs lists those that do")


def _on_absent(_: Request[Any, Any, Any], error: AbsentError) -> Response[Problem]:
    return _problem(404, str(error), error.remedy)


def _on_foreign(_: Request[Any, Any, Any], error: ForeignJobError) -> Response[Problem]:
    return _problem(409, str(error), "change or take away its file; a job that was asked for is ended with DELETE")


def _on_busy(_: Request[Any, Any, Any], error: BusyError) -> Response[Problem]:
    seconds = error.seconds + random.uniform(0, _RETRY_SECONDS)  # noqa: S311 - so that a herd comes back spread out
    return _problem(429, str(error), **{"Retry-After": f"{max(1, round(seconds))}"})


def _on_broken(_: Request[Any, Any, Any], error: BrokenError) -> Response[Problem]:
    seconds = random.uniform(1, 1 + _RETRY_SECONDS)  # noqa: S311 - the same
    return _problem(503, str(error), "again after Retry-After", **{"Retry-After": f"{round(seconds)}"})


def _on_unreadable(_: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """Bytes that are no text, or JSON that is nested without end: msgspec does not say so itself."""
    return _problem(400, f"the body cannot be read: {type(error).__name__}")


def _on_defect(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    _log.error("%s failed", request.scope["route_handler"].handler_name, exc_info=error)
    return _problem(500, "a defect of the service; its log has more")


@get("/metrics", media_type=MediaType.TEXT, include_in_schema=False, exclude_from_auth=True)
async def metrics(request: Request[Any, None, Any]) -> Response[bytes]:
    """For Prometheus. With a section ``diagnosis`` it names jobs that are hurt, and what hurts them."""
    return _metrics_of(request)


@get("/metrics", media_type=MediaType.TEXT, include_in_schema=False, guards=[reader])
async def protected_metrics(request: Request[Identity, None, Any]) -> Response[bytes]:
    return _metrics_of(request)


def _metrics_of(request: Request[Any, None, Any]) -> Response[bytes]:
    service: Service = request.app.state.service
    return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def application(
    service: Service,
    keys: Believer | None,
    *,
    rules: RuleKeeper | None = None,
    suspects_: Suspects | None = None,
    diagnoses: Diagnoses | None = None,
    infers: bool = False,
    metrics_protected: bool = False,
) -> ASGIApp:
    told = protected_metrics if metrics_protected else metrics
    who = DefineMiddleware(Authentication, exclude=["^/openapi"], exclude_from_auth_key="exclude_from_auth")
    app = Litestar(
        [
            plans, plan, register, agents,
            jobs, job_of, file_of, skeleton_of, whole_plan, rules_of, verdict_of, diagnosis_of, suspects,
            put_job, end_job,
            health, ready, told,
        ],
        before_send=[service.metrics.count],
        middleware=[service.metrics.middleware, who],
        exception_handlers={
            HTTPException: _on_http, ContractError: _on_contract, UnknownJobError: _on_unknown,
            AbsentError: _on_absent, ForeignJobError: _on_foreign, BusyError: _on_busy, BrokenError: _on_broken,
            UnicodeDecodeError: _on_unreadable, RecursionError: _on_unreadable, Exception: _on_defect,
        },
        openapi_config=OpenAPIConfig(
            title="skeleton-service",
            version=__version__,
            description=(__doc__ or "").splitlines()[0],
            path="/",
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            use_handler_docstrings=True,
            components=Components(security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}),
            security=[{"bearer": []}],
        ),
        request_max_body_size=LARGEST_BODY,
        logging_config=None,
    )  # fmt: skip
    app.state.service, app.state.signing, app.state.rules, app.state.suspects = service, keys, rules, suspects_
    app.state.diagnoses, app.state.infers = diagnoses, infers
    return Waiting(app, service, keys)
