"""What a kubelet does for one container: its volumes as the API server has them, its service account, its command."""

from __future__ import annotations

import base64
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from lightkube.resources.core_v1 import ConfigMap, Secret

from tests.kubernetes.cluster import Cluster

_CHECKOUT = Path(__file__).parents[2]
_AS_ROOT = () if os.geteuid() == 0 else ("--map-root-user",)
_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class Container:
    """The one container of a pod's template, running in a mount namespace of its own on this machine's files."""

    def __init__(self, cluster: Cluster, namespace: str, pod: dict[str, Any], directory: Path) -> None:
        self.directory = directory
        (container,) = pod["containers"]
        volumes = {volume["name"]: self._volume(cluster, namespace, volume) for volume in pod["volumes"]}
        mounts = [(volumes[mount["name"]], mount["mountPath"]) for mount in container["volumeMounts"]]
        if pod.get("automountServiceAccountToken"):
            mounts.append((self._account(cluster, namespace, pod["serviceAccountName"]), _ACCOUNT))
        # What is under /tmp is bound before something else is.
        mounts.sort(key=lambda mount: mount[1].startswith("/tmp"))  # noqa: S108
        checkout, held = shlex.quote(str(_CHECKOUT)), "/run/checkout"
        script = ["set -e", "mount -t tmpfs tmpfs /run", f"mkdir {held}", f"mount --bind {checkout} {held}"]
        script.append("mount -t tmpfs tmpfs /var/lib")
        for source, target in mounts:
            script += [
                f"mkdir -p {shlex.quote(target)}",
                f"mount --bind {shlex.quote(str(source))} {shlex.quote(target)}",
            ]
        # A checkout under /tmp or /var/lib is what the image has elsewhere: its programs are needed.
        script.append(f"test -e {checkout}/.venv || {{ mkdir -p {checkout}; mount --bind {held} {checkout}; }}")
        script.append("exec " + shlex.join(container["command"]))
        (host, port) = cluster.url.removeprefix("https://").split(":")
        path = f"{_CHECKOUT / '.venv' / 'bin'}:{os.environ['PATH']}"
        environment = {"PATH": path, "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        with open(directory / "log", "wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", *_AS_ROOT, "bash", "-c", "\n".join(script)],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _volume(self, cluster: Cluster, namespace: str, volume: dict[str, Any]) -> Path:
        path = self.directory / volume["name"]
        path.mkdir()
        files: dict[str, bytes] = {}
        if "configMap" in volume:
            found = cluster.client.get(ConfigMap, volume["configMap"]["name"], namespace=namespace)
            files = {name: text.encode() for name, text in (found.data or {}).items()}
        elif "secret" in volume:
            secret = cluster.client.get(Secret, volume["secret"]["secretName"], namespace=namespace)
            files = {name: base64.b64decode(text) for name, text in (secret.data or {}).items()}
        else:
            assert volume["emptyDir"] is not None
        for name, data in files.items():
            (path / name).write_bytes(data)
        return path

    def _account(self, cluster: Cluster, namespace: str, name: str) -> Path:
        path = self.directory / "account"
        path.mkdir()
        (path / "token").write_text(cluster.token(namespace, name))
        (path / "namespace").write_text(namespace)
        (path / "ca.crt").write_text(cluster.authority.read_text())
        return path

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
