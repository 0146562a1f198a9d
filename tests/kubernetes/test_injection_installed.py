"""The admission webhook of the chart, asked by a real API server as pods are made."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import ConfigMap, Pod, Secret

from exporter.contracts.codec import encode
from tests.kubernetes.cluster import Cluster, job
from tests.kubernetes.kubelet import Container
from tests.kubernetes.test_chart_installed import CHART, TOPOLOGY
from tests.unit.running import until

helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed (extra dev)")

NAMESPACE, NAME = "webhooks", "probes-fabric-skeleton-injector"
VALUES: dict[str, Any] = {
    "image": {"repository": "registry.example/fabric-skeleton"},
    "topology": {"text": encode(TOPOLOGY).decode()},
    "exporter": {"mode": "sidecar", "config": {"probing": {}, "rdma": {}}, "key": {"value": "a2V5" * 8}},
    "injector": {"enabled": True, "namespaces": ["injected"]},
}


def own_address() -> str:
    """Not of loopback, which no endpoint may have."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError as error:
            pytest.skip(f"this machine has no address but loopback's: {error}")
        return str(probe.getsockname()[0])


@pytest.fixture(scope="module")
def injector(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    chart = tmp_path_factory.mktemp("chart") / CHART.name
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about | {"kubeVersion": ">=1.20.0-0"}))
    budget = "apiVersion: policy/v1\nkind: PodDisruptionBudget"
    template = chart / "templates" / "injector.yaml"
    text = template.read_text()
    assert budget in text
    assert "1.29.0-0" in text
    text = text.replace(budget, budget.replace("policy/v1", "policy/v1beta1")).replace("1.29.0-0", "1.20.0-0")
    template.write_text(text)
    cluster.namespace("injected")
    # As Kubernetes does by itself since 1.21.
    labelled = {"name": "injected", "labels": {"kubernetes.io/metadata.name": "injected"}}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": labelled})
    with helm.Config(kubeconfig_path=cluster.kubeconfig, namespace=NAMESPACE) as config:
        config.install(chart, "probes", VALUES, namespace=NAMESPACE, create_namespace=True)
        # Init containers have had probes since Kubernetes 1.28.
        text = cluster.client.get(ConfigMap, NAME, namespace=NAMESPACE).data["sidecar.yaml"]
        sidecar = yaml.safe_load(text)
        assert sidecar["container"].pop("livenessProbe")
        cluster.client.patch(ConfigMap, NAME, {"data": {"sidecar.yaml": yaml.safe_dump(sidecar)}}, namespace=NAMESPACE)
        deployment = cluster.client.get(Deployment, NAME, namespace=NAMESPACE).to_dict()
        running = Container(
            cluster, NAMESPACE, deployment["spec"]["template"]["spec"], tmp_path_factory.mktemp("injector")
        )
        try:
            until(lambda: "listens on" in running.log, 20)
            address = {"addresses": [{"ip": own_address()}], "ports": [{"name": "https", "port": 9443}]}
            metadata = {"name": NAME, "namespace": NAMESPACE}
            cluster.apply({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": [address]})
            yield running
        finally:
            code = running.stop()
            config.uninstall("probes")
    assert code == 0, running.log
    assert "Traceback" not in running.log


def pods_of(cluster: Cluster, name: str, namespace: str, **labels: str) -> list[dict[str, Any]]:
    cluster.apply(job(name, namespace, 1, **labels))

    def made() -> list[dict[str, Any]]:
        found = cluster.client.list(Pod, namespace=namespace, labels={"job-name": name})
        return [pod.to_dict() for pod in found]

    until(made, 20)
    return made()


def test_pods_that_use_rdma_are_given_an_exporter_and_others_are_left_alone(
    cluster: Cluster, injector: Container
) -> None:
    until(lambda: "initContainers" in pods_of(cluster, "warm", "injected")[0]["spec"], 20)
    (pod,) = pods_of(cluster, "ember", "injected")
    (exporter,) = pod["spec"]["initContainers"]
    assert exporter["name"] == "fabric-exporter"
    assert exporter["resources"]["limits"]["rdma/hca_shared_devices_a"] == "1"
    assert exporter["command"][-2:] == ["--host", "$(NODE_NAME)"]
    mounted = {mount["name"] for mount in exporter["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert mounted <= volumes.keys()
    for volume in (volumes[name] for name in mounted):
        if "configMap" in volume:
            assert cluster.client.get(ConfigMap, volume["configMap"]["name"], namespace="injected")
        else:
            assert cluster.client.get(Secret, volume["secret"]["secretName"], namespace="injected")
    (unwanted,) = pods_of(cluster, "ash", "injected", **{"fabric-skeleton/inject": "false"})
    assert "initContainers" not in unwanted["spec"]
    (elsewhere,) = pods_of(cluster, "ash", cluster.namespace("not-injected"))
    assert "initContainers" not in elsewhere["spec"]
    assert injector.stop() == 0
    (alone,) = pods_of(cluster, "birch", "injected")
    assert "initContainers" not in alone["spec"], "a job is not kept from starting"
    assert cluster.client.get(MutatingWebhookConfiguration, f"{NAMESPACE}.{NAME}")
