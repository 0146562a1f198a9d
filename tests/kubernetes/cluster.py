"""Kubernetes without nodes: a real API server with its etcd and its controllers, and what stands in for kubelets."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import jwt
import yaml
from lightkube import ApiError, Client, KubeConfig
from lightkube.codecs import from_dict
from lightkube.generic_resource import create_namespaced_resource, get_generic_resource
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Namespace, Pod, ServiceAccount
from lightkube.types import CascadeType

from tests.unit.running import free_port, until

CRDS = Path(__file__).parent / "crds.yaml"
_READY_SECONDS = 90.0
_ADMIN = "a-token-of-an-administrator"


def programs() -> Path | None:
    """The directory with Kubernetes' programs, as scripts/kubernetes builds them; None where there is none."""
    script = Path(__file__).parents[2] / "scripts" / "kubernetes"
    found = subprocess.run([script, "--cached"], capture_output=True, text=True, check=False)
    return Path(found.stdout.strip()) if found.returncode == 0 else None


def resource(group: str, version: str, kind: str, plural: str) -> Any:
    known = get_generic_resource(f"{group}/{version}", kind)
    return known or create_namespaced_resource(group, version, kind, plural)


PrometheusRule = resource("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules")


class Cluster:
    """For one test session. ``client`` is an administrator's."""

    def __init__(self, programs: Path, directory: Path) -> None:
        self.directory = directory
        self.port, etcd, peers = (free_port(socket.SOCK_STREAM, "127.0.0.1") for _ in range(3))
        self._processes: list[subprocess.Popen[bytes]] = []
        (directory / "tokens.csv").write_text(f"{_ADMIN},admin,admin,system:masters\n")
        key = self._key = directory / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        self.url = f"https://127.0.0.1:{self.port}"
        self._run(
            programs / "etcd", "--data-dir", directory / "etcd", "--listen-client-urls", f"http://127.0.0.1:{etcd}",
            "--advertise-client-urls", f"http://127.0.0.1:{etcd}", "--listen-peer-urls", f"http://127.0.0.1:{peers}",
            "--unsafe-no-fsync",
        )  # fmt: skip
        self._programs, self._etcd = programs, etcd
        self._run_server()
        self.authority = directory / "certificates" / "apiserver.crt"
        until(self.authority.exists, _READY_SECONDS)  # its own, of itself
        self.kubeconfig = self.config("admin", _ADMIN)
        self.client = Client(KubeConfig.from_file(self.kubeconfig), timeout=httpx2.Timeout(30))
        until(self._answers, _READY_SECONDS)
        self._run(
            programs / "kube-controller-manager", f"--kubeconfig={self.kubeconfig}",
            f"--service-account-private-key-file={key}", "--controllers=job,garbagecollector,namespace",
            "--leader-elect=false", "--port=0", f"--secure-port={free_port(socket.SOCK_STREAM, '127.0.0.1')}",
            f"--cert-dir={directory / 'controllers'}", "--concurrent-gc-syncs=2",
        )  # fmt: skip
        self.apply(*yaml.safe_load_all(CRDS.read_text()))
        for crd in self.client.list(CustomResourceDefinition):
            self.client.wait(CustomResourceDefinition, crd.metadata.name, for_conditions=["Established"])

    def _run_server(self) -> None:
        self._run(
            self._programs / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{self._etcd}",
            "--bind-address=127.0.0.1", f"--secure-port={self.port}", "--insecure-port=0",
            f"--cert-dir={self.directory / 'certificates'}", f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24", "--allow-privileged=true",
            f"--service-account-key-file={self._key}", f"--service-account-signing-key-file={self._key}",
            f"--service-account-issuer={self.url}", "--api-audiences=api",
            "--disable-admission-plugins=ServiceAccount",
            "--enable-aggregator-routing=true",  # to a webhook by its endpoints: nobody routes a service's address
        )  # fmt: skip

    def restart_server(self) -> None:
        """As after a crash of the API server: connections break, and for a while nobody answers."""
        (server,) = [each for each in self._processes if str(each.args[0]).endswith("kube-apiserver")]  # type: ignore[index]
        self._processes.remove(server)
        server.kill()
        server.wait()
        self._run_server()
        until(self._answers, _READY_SECONDS)

    def _run(self, *argv: object) -> None:
        name = Path(str(argv[0])).name
        with open(self.directory / f"{name}.log", "wb") as log:
            command = [str(each) for each in argv]
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    def _answers(self) -> bool:
        for process in self._processes:
            assert process.poll() is None, (self.directory / f"{Path(process.args[0]).name}.log").read_text()[-2000:]
        try:
            self.client.get(Namespace, "default")
        except (ApiError, httpx2.HTTPError):
            return False
        return True

    def config(self, name: str, token: str, namespace: str = "default") -> Path:
        """A kubeconfig file of whoever has a token."""
        path = self.directory / f"{name}.kubeconfig"
        server = {"server": self.url, "certificate-authority": str(self.authority)}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": server}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": namespace}}],
            "users": [{"name": "it", "user": {"token": token}}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(config))
        return path

    def token(
        self,
        namespace: str,
        name: str,
        audience: str = "api",
        *,
        node: str = "",
        pod: str = "a-pod",
        seconds: int = 3600,
        key: bytes = b"",
    ) -> str:
        """A token of a service account, which is made where there is none; with ``node`` as Kubernetes 1.30 has it.

        That is signed here, with the API server's own key, or with ``key``.
        """
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}
        if not any(each.metadata.name == name for each in self.client.list(ServiceAccount, namespace=namespace)):
            self.apply(account)
        spec = {"audiences": [audience], "expirationSeconds": 3600}
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        made = self.post(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", asked)
        token = str(made["status"]["token"])
        if not node:
            return token
        claims = jwt.decode(token, options={"verify_signature": False})
        bound = claims["kubernetes.io"]
        bound["node"] = {"name": node, "uid": "of-the-node"}
        if pod:
            bound["pod"] = {"name": pod, "uid": "of-the-pod"}
        claims["exp"] = int(time.time()) + seconds
        header = jwt.get_unverified_header(token)
        return jwt.encode(
            claims, key or self._key.read_bytes(), algorithm=header["alg"], headers={"kid": header["kid"]}
        )

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """What the client library has no words for."""
        verify = ssl.create_default_context(cafile=str(self.authority))
        answer = httpx2.post(self.url + path, json=body, headers={"Authorization": f"Bearer {_ADMIN}"}, verify=verify)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def apply(self, *objects: Mapping[str, Any]) -> None:
        for each in objects:
            self.client.apply(from_dict(dict(each)), field_manager="tests", force=True)

    def namespace(self, name: str) -> str:
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return name

    def node(self, name: str) -> None:
        self.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})

    # ---- what a scheduler and a kubelet do

    def bind(self, pod: Pod, node: str) -> None:
        """To a node, where it runs from now on."""
        name, namespace = pod.metadata.name, pod.metadata.namespace
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        self.post(f"/api/v1/namespaces/{namespace}/pods/{name}/binding", binding)
        self.client.patch(Pod.Status, name, {"status": {"phase": "Running"}}, namespace=namespace)

    def schedule(self, namespace: str, nodes: list[str], *, pods: int) -> list[str]:
        """Bind so many pods, one a node; return their names."""
        until(lambda: len(self.pods(namespace)) >= pods, 30)
        found = sorted(self.pods(namespace), key=lambda pod: pod.metadata.name)
        for pod, node in zip(found, nodes, strict=True):
            self.bind(pod, node)
        return [pod.metadata.name for pod in found]

    def end(self, namespace: str, job: str) -> None:
        """As ``kubectl delete`` does."""
        self.client.delete(Job, job, namespace=namespace, cascade=CascadeType.BACKGROUND)

    def reap(self, namespace: str) -> None:
        """Take pods away that are to end: a kubelet would, when their containers have ended."""
        for pod in self.client.list(Pod, namespace=namespace):
            if pod.metadata.deletionTimestamp is not None:
                self.client.delete(Pod, pod.metadata.name, namespace=namespace, grace_period=0)

    def pods(self, namespace: str) -> list[Pod]:
        return [pod for pod in self.client.list(Pod, namespace=namespace) if not pod.spec.nodeName]

    def rules(self, namespace: str = "*") -> dict[str, Any]:
        return {each.metadata.name: each for each in self.client.list(PrometheusRule, namespace=namespace)}

    def stop(self) -> None:
        """At once: nothing is kept."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()


def job(name: str, namespace: str, pods: int, **labels: str) -> dict[str, Any]:
    """A Job, whose pods ask for RDMA."""
    container = {
        "name": "worker", "image": "registry.example/worker",
        "resources": {"limits": {"rdma/hca_shared_devices_a": "1"}},
    }  # fmt: skip
    template = {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": namespace},
        "spec": {"parallelism": pods, "completions": pods, "template": template},
    }  # fmt: skip
