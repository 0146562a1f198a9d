"""The chart, installed by Helm into a cluster: what it is allowed there is all that its service needs."""

from __future__ import annotations

import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import yaml
from lightkube.resources.apps_v1 import DaemonSet, Deployment
from lightkube.resources.core_v1 import Secret

from exporter.contracts.codec import encode
from tests.kubernetes.cluster import Cluster, job
from tests.kubernetes.kubelet import Container
from tests.unit.fabrics import leaf_spine
from tests.unit.running import free_port, until

helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed (extra dev)")

CHART = Path(__file__).parents[2] / "charts" / "fabric-skeleton"
TOPOLOGY = leaf_spine()
HOSTS = [host.name for host in TOPOLOGY.hosts]
NAMESPACE, RELEASE = "monitoring", "fabric"
SERVICE = "fabric-fabric-skeleton-service"
AUDIENCE = f"fabric-skeleton.{NAMESPACE}.{RELEASE}"
PORT = free_port(socket.SOCK_STREAM, "127.0.0.1")
VALUES: dict[str, Any] = {
    "image": {"repository": "registry.example/fabric-skeleton"},
    "topology": {"text": encode(TOPOLOGY).decode()},
    "exporter": {"config": {"probing": {}}, "key": {"value": "a2V5" * 8}},
    "service": {
        "enabled": True,
        "config": {"listen": {"port": PORT}},
        "rules": {"additionalLabels": {"release": "prometheus"}},
    },
    "rules": {"enabled": True},
    "dashboards": {"enabled": True},
    "monitoring": {"enabled": True},
}


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is, but for the oldest Kubernetes that it is for: what is had from Debian is older."""
    copied = tmp_path_factory.mktemp("chart") / CHART.name
    shutil.copytree(CHART, copied)
    about = yaml.safe_load((copied / "Chart.yaml").read_text())
    (copied / "Chart.yaml").write_text(yaml.safe_dump(about | {"kubeVersion": ">=1.20.0-0"}))
    return copied


@pytest.fixture(scope="module")
def installed(cluster: Cluster, chart: Path) -> Iterator[float]:
    """When ``helm install`` was begun, monotonic seconds."""
    begun = time.monotonic()
    with helm.Config(kubeconfig_path=cluster.kubeconfig, namespace=NAMESPACE) as config:
        config.install(chart, RELEASE, VALUES, namespace=NAMESPACE, create_namespace=True)
        yield begun
        config.uninstall(RELEASE)


def service_of(cluster: Cluster, directory: Path) -> Container:
    deployment = cluster.client.get(Deployment, SERVICE, namespace=NAMESPACE).to_dict()
    return Container(cluster, NAMESPACE, deployment["spec"]["template"]["spec"], directory)


@pytest.fixture(scope="module")
def service(cluster: Cluster, installed: float, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:  # noqa: ARG001
    running = service_of(cluster, tmp_path_factory.mktemp("service"))
    try:
        until(lambda: answers(running, "/readyz"), 30)
        yield running
    finally:
        code = running.stop()
    assert code == 0, running.log
    assert "Traceback" not in running.log


def ask(container: Container, path: str, token: str = "") -> httpx.Response:
    assert container.process.poll() is None, container.log
    headers = {"Host": f"{SERVICE}.{NAMESPACE}.svc", **({"Authorization": f"Bearer {token}"} if token else {})}
    believed = ssl.create_default_context(cafile=str(container.directory / "tls" / "ca.crt"))
    with httpx.Client(verify=believed, trust_env=False) as client:
        name = {"sni_hostname": f"{SERVICE}.{NAMESPACE}.svc"}
        return client.get(f"https://127.0.0.1:{PORT}{path}", headers=headers, extensions=name)


def answers(container: Container, path: str) -> bool:
    try:
        return ask(container, path).status_code == 200
    except httpx.TransportError:
        return False


def test_from_install_to_the_first_rules_of_a_job_and_from_its_end_to_none(
    cluster: Cluster, installed: float, service: Container, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace = cluster.namespace("team-a")
    for host in HOSTS:
        cluster.node(host)
    cluster.apply(job("ember", namespace, 2))
    cluster.schedule(namespace, [HOSTS[0], HOSTS[-1]], pods=2)
    until(lambda: cluster.rules(namespace), 60)
    took = time.monotonic() - installed
    with capsys.disabled():
        print(f" helm install to first rules: {took:.1f} s", end="")
    assert took <= 60, service.log
    ((name, rule),) = cluster.rules(namespace).items()
    assert name == "fabric-job-team-a.ember"
    assert {each.kind for each in rule.metadata.ownerReferences} == {"Job"}
    assert rule.metadata.labels["release"] == "prometheus"
    metrics = ask(service, "/metrics").text
    assert "fabric_service_jobs 1.0" in metrics
    cluster.end(namespace, "ember")
    until(lambda: not cluster.rules(namespace), 30)
    until(lambda: "fabric_service_jobs 0.0" in ask(service, "/metrics").text, 40)


def test_a_pods_token_is_believed_for_its_node_alone(cluster: Cluster, service: Container) -> None:
    daemonset = cluster.client.get(DaemonSet, "fabric-fabric-skeleton", namespace=NAMESPACE).to_dict()
    pod = daemonset["spec"]["template"]["spec"]
    (projected,) = [
        source["serviceAccountToken"]
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
        if "serviceAccountToken" in source
    ]
    assert projected["audience"] == AUDIENCE
    account, own, other = pod["serviceAccountName"], HOSTS[0], HOSTS[1]
    path = f"/v1/agents/{own}/plans"
    until(lambda: ask(service, path, cluster.token(NAMESPACE, account, AUDIENCE, node=own)).status_code == 200)
    assert ask(service, path, cluster.token(NAMESPACE, account, AUDIENCE, node=other)).status_code == 403
    refused = {
        "names no pod on a node": cluster.token(NAMESPACE, account, AUDIENCE),  # as before Kubernetes 1.30
        "names no pod": cluster.token(NAMESPACE, account, AUDIENCE, node=own, pod=""),
        "Audience doesn't match": cluster.token(NAMESPACE, account, node=own),
        "of an account that is no exporter's": cluster.token(NAMESPACE, "default", AUDIENCE, node=own),
        "has expired": cluster.token(NAMESPACE, account, AUDIENCE, node=own, seconds=-120),
        "Signature verification failed": cluster.token(NAMESPACE, account, AUDIENCE, node=own, key=other_key()),
        "is no token": "a.b.c",
    }
    for problem, token in refused.items():
        answer = ask(service, path, token)
        assert (answer.status_code, problem in answer.text) == (401, True), answer.text
    unsigned = jwt.encode({"sub": "x"}, None, algorithm="none")
    assert ask(service, path, unsigned).status_code == 401


def other_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_what_is_installed_is_what_was_rendered_and_an_upgrade_keeps_its_secrets(
    cluster: Cluster,
    installed: float,
    chart: Path,
) -> None:
    def secrets() -> dict[str, Any]:
        found = cluster.client.list(Secret, namespace=NAMESPACE, labels={"app.kubernetes.io/component": "service"})
        return {each.metadata.name: each.data for each in found}

    assert time.monotonic() > installed
    before = secrets()
    assert set(before) == {f"{SERVICE}-tls", f"{SERVICE}-keys"}
    rules = cluster.rules(NAMESPACE)
    packed = {path.stem for path in (CHART / "files" / "rules").glob("*.yaml") if not path.stem.startswith("dialect")}
    assert set(rules) == {f"fabric-fabric-skeleton-{stem}" for stem in packed}
    for stem in packed:
        source = yaml.safe_load((CHART / "files" / "rules" / f"{stem}.yaml").read_text())
        assert rules[f"fabric-fabric-skeleton-{stem}"]["spec"]["groups"] == source["groups"]
    with helm.Config(kubeconfig_path=cluster.kubeconfig, namespace=NAMESPACE) as config:
        upgraded = config.upgrade(chart, RELEASE, VALUES, namespace=NAMESPACE)
    assert upgraded["revision"] == 2, upgraded
    assert secrets() == before
