"""The service behind TLS: who a certificate names, and certificates that are changed while it runs."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from exporter.contracts.codec import ContractError
from skeleton_service.live.identity import Identity, NotKnownError, Role
from skeleton_service.live.tls import Certificates, bearer_of
from tests.unit.authority import Authority
from tests.unit.running import until
from tests.unit.serving import RunningService


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path)
    made.sign("server")
    return made


@pytest.fixture
def service(tmp_path: Path, authority: Authority) -> Iterator[RunningService]:
    tls = {"certificate": "server.pem", "key": "server.key", "client_ca": "clients.pem"}
    shutil.copy(authority.certificate, tmp_path / "clients.pem")
    running = RunningService(tmp_path, tls=tls)
    yield running
    assert running.stop() == 0, running.log


def trusting(authority: Authority, *identity: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if identity:
        context.load_cert_chain(*map(str, identity))
    return context


def status(service: RunningService, context: ssl.SSLContext, path: str) -> int:
    with service.client(context=context) as client:
        return client.get(path).status_code


def test_a_client_certificate_is_who_it_names(service: RunningService, authority: Authority) -> None:
    plans, jobs = "/v1/agents/host-p0-0/plans", "/v1/jobs"
    agent = trusting(authority, *authority.sign("agent", "host-p0-0", "agent"))
    assert (status(service, agent, plans), status(service, agent, jobs)) == (200, 403)
    other = trusting(authority, *authority.sign("other", uri="spiffe://example.org/agent/host-p1-0"))
    assert (status(service, other, plans), status(service, other, "/v1/agents/host-p1-0/plans")) == (403, 200)
    reader = trusting(authority, *authority.sign("reader", uri="spiffe://example.org/reader/grafana"))
    assert (status(service, reader, plans), status(service, reader, jobs)) == (403, 200)
    nobody = trusting(authority, *authority.sign("nobody", "host-p0-0"))
    assert status(service, nobody, plans) == 401
    assert status(service, trusting(authority), plans) == 401
    assert status(service, trusting(authority), "/readyz") == 200
    with service.client("reader", "me", trusting(authority)) as client:
        assert client.get(jobs).status_code == 200


def test_a_certificate_of_another_authority_opens_no_connection(
    service: RunningService, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    foreign = Authority(tmp_path / "elsewhere").sign("agent", "host-p0-0", "agent")
    with pytest.raises(httpx.TransportError):
        status(service, trusting(authority, *foreign), "/v1/jobs")
    assert status(service, trusting(authority), "/healthz") == 200


def served(service: RunningService, authority: Authority) -> bytes:
    """The certificate that a new connection is shown."""
    context = trusting(authority)
    with (
        socket.create_connection(("127.0.0.1", service.port), 5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        return secure.getpeercert(binary_form=True) or b""


def test_certificates_are_changed_while_it_runs(service: RunningService, authority: Authority, tmp_path: Path) -> None:
    before = served(service, authority)
    (tmp_path / "server.pem").write_text("half a certificate")
    until(lambda: "is no certificate with the key" in service.log)
    assert served(service, authority) == before
    authority.sign("server")
    until(lambda: served(service, authority) != before)
    old = trusting(authority, *authority.sign("reader", "grafana", "reader"))
    assert status(service, old, "/v1/jobs") == 200
    (tmp_path / "next").mkdir()
    successor = Authority(tmp_path / "next")
    shutil.copy(successor.certificate, tmp_path / "clients.pem")
    until(lambda: service.log.count("certificates read anew") >= 2)
    new = trusting(authority, *successor.sign("reader", "grafana", "reader"))
    assert status(service, new, "/v1/jobs") == 200
    with pytest.raises(httpx.TransportError):
        status(service, old, "/v1/jobs")


@pytest.mark.parametrize(
    ("certificate", "bearer"),
    [
        ({"subject": ((("organizationalUnitName", "agent"),), (("commonName", "h"),))}, Identity(Role.AGENT, "h")),
        ({"subjectAltName": (("URI", "spiffe://d/operator/ci"),)}, Identity(Role.OPERATOR, "ci")),
        ({"subjectAltName": (("URI", "spiffe://d/agent/h%2F1"),)}, Identity(Role.AGENT, "h/1")),
        ({"subject": ((("commonName", "h"),),)}, None),
        ({"subject": ((("organizationalUnitName", "root"),), (("commonName", "h"),))}, None),
        ({"subjectAltName": (("URI", "spiffe://d/agent/"),)}, None),
        ({"subjectAltName": (("DNS", "agent"),)}, None),
        ({}, None),
    ],
)
def test_bearers(certificate: dict[str, object], bearer: Identity | None) -> None:
    if bearer is not None:
        assert bearer_of(certificate) == bearer
    else:
        with pytest.raises(NotKnownError):
            bearer_of(certificate)


def test_files_that_do_not_fit_are_named(tmp_path: Path, authority: Authority) -> None:
    certificate, _ = authority.sign("a")
    _, key = authority.sign("b")
    with pytest.raises(ContractError, match=r"a\.pem: is no certificate with the key .*b\.key"):
        Certificates(str(certificate), str(key), None)
    with pytest.raises(ContractError, match=r"absent\.pem: No such file"):
        Certificates(str(tmp_path / "absent.pem"), str(key), None)
