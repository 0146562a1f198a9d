"""The Helm chart, rendered and linted by Helm's own library; what it renders is checked by Kubernetes' schemas."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.config import Config
from exporter.contracts.strict import convert_strictly

helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed (extra dev)")
schemas = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed (extra dev)")

CHART = Path(__file__).parents[2] / "charts" / "fabric-skeleton"
VERSIONS = ("1.25", "1.30", "1.37")  # the oldest that Chart.yaml allows, and later ones
RESOURCE = "rdma/hca_shared_devices_a"
PLUGIN = {"resource": RESOURCE}
PROBING: dict[str, Any] = {"probing": {"responder_port": 65310}}
RDMA: dict[str, Any] = {**PROBING, "rdma": {}}


def values(topology: str = "", **exporter: Any) -> dict[str, Any]:
    image, key = {"repository": "registry.example/fabric-exporter"}, {"existingSecret": "fabric-probe-key"}
    return {"image": image, "topology": {"text": topology}, "exporter": {"key": key, **exporter}}


def render(given: dict[str, Any]) -> dict[str, str]:
    with helm.Chart.load(CHART) as chart:
        files: dict[str, str] = chart.render(given, name="probes", namespace="monitoring")
    return {Path(name).name: text for name, text in files.items()}


def every(given: dict[str, Any]) -> list[dict[str, Any]]:
    """What is rendered; without errors of Helm's linter, or of Kubernetes' schemas."""
    linted = helm.lint(CHART, given, strict=True, kube_version="v1.30.0")
    assert not [message for message in linted["messages"] if message["severity"] > 1], linted
    files = render(given)
    found = [
        each for name, text in files.items() if name.endswith(".yaml") for each in yaml.safe_load_all(text) if each
    ]
    for each in found:
        check(each)
        assert each["metadata"].get("namespace", "monitoring") == "monitoring" or each["kind"] in (
            "Role",
            "RoleBinding",
        )
    return found


def manifests(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """One of each kind."""
    return {each["kind"]: each for each in every(given)}


def check(manifest: dict[str, Any]) -> None:
    if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
        return  # of the Prometheus operator; PrometheusRule objects are checked by promtool below
    for version in VERSIONS:
        schemas.validate(manifest, version, strict=True)


def container(given: dict[str, Any]) -> dict[str, Any]:
    (found,) = manifests(given)["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    return dict(found)


ROOT = {"runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0}
ORDINARY = {"runAsNonRoot": True, "runAsUser": 65534, "runAsGroup": 65534}
UNPRIVILEGED = {"allowPrivilegeEscalation": False}
COMMON = {"readOnlyRootFilesystem": True, "seccompProfile": {"type": "RuntimeDefault"}}
NAMESPACE = {"namespace": "/run/netns/fabric"}


def only(*added: str) -> dict[str, Any]:
    return {"capabilities": {"drop": ["ALL"], **({"add": list(added)} if added else {})}}


@pytest.mark.parametrize(
    ("exporter", "context"),
    [
        ({"config": PROBING}, ORDINARY | UNPRIVILEGED | only()),
        ({"config": {"probing": None}, "key": {}}, ORDINARY | UNPRIVILEGED | only()),
        ({"config": RDMA, "rdma": PLUGIN}, ROOT | UNPRIVILEGED | only("IPC_LOCK")),
        ({"config": RDMA, "rdma": PLUGIN | {"lockMemory": "limit"}}, ORDINARY | UNPRIVILEGED | only()),
        ({"config": RDMA, "rdma": {"privileged": True}}, ROOT | {"privileged": True}),
        ({"config": RDMA, "rdma": {"privileged": True, "lockMemory": "limit"}}, ROOT | {"privileged": True}),
        ({"config": PROBING | {"underlay": {}}}, ROOT | UNPRIVILEGED | only("NET_RAW")),
        (
            {"config": RDMA, "rdma": PLUGIN, "mode": "setns", "setns": NAMESPACE},
            ROOT | UNPRIVILEGED | only("SYS_ADMIN", "SETUID", "SETGID", "SETPCAP", "IPC_LOCK"),
        ),
    ],
)
def test_privileges_follow_from_mode_and_configuration(exporter: dict[str, Any], context: dict[str, Any]) -> None:
    assert container(values(**exporter))["securityContext"] == COMMON | context


def test_host_mode_is_in_the_network_of_the_node_and_has_no_token() -> None:
    found = manifests(values(config=RDMA, rdma=PLUGIN, topology="version: 1\n", plan={"configMap": "plan"}))
    assert sorted(found) == ["ConfigMap", "DaemonSet", "ServiceAccount"]
    pod = found["DaemonSet"]["spec"]["template"]["spec"]
    assert pod["hostNetwork"] is True
    assert pod["automountServiceAccountToken"] is False is found["ServiceAccount"]["automountServiceAccountToken"]
    (exporter,) = pod["containers"]
    assert exporter["resources"]["limits"] == {RESOURCE: 1, "memory": "512Mi"}
    assert exporter["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": 9105}
    assert exporter["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 9105}
    assert {volume["name"] for volume in pod["volumes"]} == {mount["name"] for mount in exporter["volumeMounts"]}
    assert "infiniband" not in {volume["name"] for volume in pod["volumes"]}  # the plugin gives the nodes


def test_the_configuration_is_one_that_the_exporter_takes_and_its_files_are_mounted() -> None:
    given = values(
        config={**RDMA, "listen": {"port": 9200}}, rdma=PLUGIN, topology="version: 1", plan={"hostPath": "/p"}
    )
    found = manifests(given)
    files = {name: text for each in every(given) if each["kind"] == "ConfigMap" for name, text in each["data"].items()}
    config = convert_strictly(yaml.safe_load(files["config.yaml"]), Config, "config.yaml")
    assert config.probing is not None
    assert config.probing.responder_port == 65310
    pod = found["DaemonSet"]["spec"]["template"]["spec"]
    (exporter,) = pod["containers"]
    mounted = {mount["mountPath"] for mount in exporter["volumeMounts"]}
    for file in (exporter["command"][-1], config.topology, config.plan, config.probing.key_file):
        assert str(Path(str(file)).parent) in mounted
    assert {Path(exporter["command"][-1]).name, Path(str(config.topology)).name} == set(files)
    assert exporter["livenessProbe"]["httpGet"]["port"] == 9200


def test_a_key_given_as_a_value_becomes_a_secret() -> None:
    given = values(config=PROBING, key={"value": "a2V5a2V5a2V5a2V5a2V5a2V5"})
    found = manifests(given)
    (mounted,) = [
        volume["secret"]["secretName"]
        for volume in found["DaemonSet"]["spec"]["template"]["spec"]["volumes"]
        if "secret" in volume
    ]
    assert mounted == found["Secret"]["metadata"]["name"]
    assert found["Secret"]["data"] == {"probe.key": "a2V5a2V5a2V5a2V5a2V5a2V5"}


def test_without_a_device_plugin_the_nodes_devices_are_mounted() -> None:
    pod = manifests(values(config=RDMA, rdma={"privileged": True}))["DaemonSet"]["spec"]["template"]["spec"]
    assert {"name": "infiniband", "hostPath": {"path": "/dev/infiniband", "type": "Directory"}} in pod["volumes"]
    assert {"name": "infiniband", "mountPath": "/dev/infiniband"} in pod["containers"][0]["volumeMounts"]


def test_setns_mode_enters_the_namespace_and_drops_what_that_took() -> None:
    given = values(config=RDMA, rdma=PLUGIN, mode="setns", setns=NAMESPACE)
    pod = manifests(given)["DaemonSet"]["spec"]["template"]["spec"]
    assert pod["hostNetwork"] is True  # the host name of the node, by which the topology knows it
    command = pod["containers"][0]["command"]
    assert command[:3] == ["nsenter", "--net=/run/netns/fabric", "setpriv"]
    kept = {word.partition("=")[2] for word in command if "caps=" in word or "bounding-set=" in word}
    assert kept == {"-all,+ipc_lock"}
    assert command[-4:-1] == ["fabric-exporter", "run", "--config"]
    for probe in ("livenessProbe", "readinessProbe"):
        asked = pod["containers"][0][probe]["exec"]["command"]
        assert asked[:2] == command[:2]
        assert re.search(r"http://127\.0\.0\.1:9105/(healthz|readyz)", asked[-1])
        compile(asked[-1], probe, "exec")


@pytest.mark.parametrize(("memory", "kept"), [("capability", "-all,+ipc_lock"), ("limit", "-all")])
def test_a_privileged_container_runs_the_exporter_as_an_ordinary_user(memory: str, kept: str) -> None:
    command = container(values(config=RDMA, rdma={"privileged": True, "lockMemory": memory}))["command"]
    assert command[:2] == ["setpriv", "--reuid=65534"]
    assert "--no-new-privs" in command
    sets = [word.partition("=")[2] for word in command if "caps=" in word or "bounding-set=" in word]
    assert sets == [kept] * 3
    assert command[-4:-1] == ["fabric-exporter", "run", "--config"]


def test_a_new_key_starts_the_exporters_again() -> None:
    def annotations(key: dict[str, str]) -> dict[str, str]:
        found: dict[str, str] = manifests(values(config=PROBING, key=key))["DaemonSet"]["spec"]["template"]["metadata"][
            "annotations"
        ]
        return found

    one, other = annotations({"value": "a2V5a2V5a2V5a2V5a2V5a2V5"}), annotations({"value": "a2V5a2V5a2V5a2V5a2V5a2V6"})
    assert one["checksum/key"] != other["checksum/key"]
    assert annotations({"existingSecret": "one"}) != annotations({"existingSecret": "other"})


def test_without_probes_a_key_makes_no_secret() -> None:
    assert "Secret" not in manifests(values(config={"probing": None}, key={"value": "a2V5a2V5a2V5a2V5a2V5a2V5"}))


def test_a_key_that_lies_in_the_checkout_is_in_no_image() -> None:
    assert "**/*.key" in (CHART.parents[1] / ".dockerignore").read_text().splitlines()


def test_sidecar_mode_runs_nothing_and_shows_a_container_for_the_pods_of_jobs() -> None:
    given = values(config=RDMA, rdma=PLUGIN, mode="sidecar")
    assert set(manifests(given)) == {"ConfigMap"}
    shown = re.search(r"^initContainers:\n.*?\n\n", render(given)["NOTES.txt"], re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert "65301/udp and 4791/udp" in render(given)["NOTES.txt"]
    pod = yaml.safe_load(shown.group())
    (exporter,) = pod["initContainers"]
    assert exporter["restartPolicy"] == "Always"  # else a Job would never complete
    assert "readinessProbe" not in exporter  # a job is no less ready for its prober
    assert exporter["resources"]["limits"][RESOURCE] == 1
    assert exporter["securityContext"] == COMMON | ROOT | UNPRIVILEGED | only("IPC_LOCK")
    job = {"name": "worker", "image": "job"}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "job"}, "spec": {**pod, "containers": [job]}}
    schemas.validate(manifest, "1.30", strict=True)


def test_a_chart_that_depends_on_this_one_includes_the_container(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("{apiVersion: v2, name: job, version: 1.0.0}")
    shutil.copytree(CHART, tmp_path / "charts" / CHART.name)
    pod = """{{- $exporter := index .Subcharts "fabric-skeleton" -}}
apiVersion: v1
kind: Pod
metadata: {name: job}
spec:
  initContainers:
    - {{ include "fabric-skeleton.container" $exporter | nindent 6 | trim }}
  containers: [{name: worker, image: job}]
  volumes:
    {{- include "fabric-skeleton.volumes" $exporter | nindent 4 }}
"""
    (tmp_path / "templates" / "pod.yaml").write_text(pod)
    with helm.Chart.load(tmp_path) as chart:
        files = chart.render({"fabric-skeleton": values(config=RDMA, rdma=PLUGIN, mode="sidecar")}, name="job")
    (rendered,) = [yaml.safe_load(text) for name, text in files.items() if name.endswith("/pod.yaml")]
    schemas.validate(rendered, "1.30", strict=True)
    assert rendered["spec"]["initContainers"][0]["resources"]["limits"][RESOURCE] == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"exporter": {"key": {"existingSecret": "k"}}}, "build one from the Dockerfile"),
        (values(key={}), "name an existingSecret"),
        (values(key={"existingSecret": "k", "value": "a2V5" * 8}), "not both"),
        (values(plan={"configMap": "p", "hostPath": "/p"}), "not both"),
        (values(config=RDMA), "name the device plugin's resource, or set privileged"),
        (values(mode="setns"), "name the network namespace's file"),
        (values(mode="daemon"), "mode"),
        (values(modus="host"), "modus"),
        (values(key={"value": "not base64!"}), "value"),
        (values(key={"value": "a2V5a2V5a2V5a2V5a2V5"}), "holds a key of 15 bytes; 16 to 32 are needed"),
        (values(key={"value": "a2V5" * 11}), "holds a key of 33 bytes"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(given: dict[str, Any], said: str) -> None:
    with pytest.raises(helm.HelmError, match=re.escape(said)):
        render(given)


CI = sorted((CHART / "ci").glob("*-values.yaml"))


def whole(file: Path, release: str = "probes") -> list[dict[str, Any]]:
    given = yaml.safe_load(file.read_text())
    with helm.Chart.load(CHART) as chart:
        rendered = chart.render(given, name=release, namespace="monitoring")
    texts = [text for name, text in rendered.items() if name.endswith(".yaml")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


@pytest.mark.parametrize("release", ["probes", "123", "a" * 53])
@pytest.mark.parametrize("file", CI, ids=lambda file: file.name.removesuffix("-values.yaml"))
def test_every_values_file_renders_lints_and_validates(file: Path, release: str) -> None:
    linted = helm.lint(CHART, yaml.safe_load(file.read_text()), strict=True, kube_version="v1.30.0")
    assert not [message for message in linted["messages"] if message["severity"] > 1], linted
    found = whole(file, release)
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in found]
    assert len(set(names)) == len(names)
    for each in found:
        check(each)
        assert len(each["metadata"]["name"]) <= 253
        if each["kind"] in ("Service", "Deployment", "DaemonSet"):
            assert len(each["metadata"]["name"]) <= 63, "of a label's value"
        for value in each["metadata"]["labels"].values():
            assert len(value) <= 63


@pytest.mark.parametrize("file", CI, ids=lambda file: file.name.removesuffix("-values.yaml"))
def test_what_is_mounted_or_named_is_there(file: Path) -> None:
    found = whole(file)
    made = {(each["kind"], each["metadata"]["name"]) for each in found}
    given = file.read_text()
    for each in found:
        pod = each.get("spec", {}).get("template", {}).get("spec")
        if pod is None:
            continue
        assert ("ServiceAccount", pod["serviceAccountName"]) in made
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()
        for volume in volumes.values():
            sources = [volume, *volume.get("projected", {}).get("sources", ())]
            for kind, field in (("ConfigMap", "configMap"), ("Secret", "secret")):
                for source in (each[field] for each in sources if field in each):
                    name = source.get("secretName") or source["name"]
                    assert (kind, name) in made or name in given, f"{kind} {name} is nobody's"


def test_the_configuration_of_each_part_is_one_that_it_takes(tmp_path: Path) -> None:
    from skeleton_service.live.settings import ServiceSettings

    found = {(each["kind"], each["metadata"]["name"]): each for each in whole(CHART / "ci" / "everything-values.yaml")}
    service = yaml.safe_load(found["ConfigMap", "probes-fabric-skeleton-service"]["data"]["service.yaml"])
    settings = convert_strictly(service, ServiceSettings, "service.yaml")
    assert settings.kubernetes is not None
    assert settings.kubernetes.agents is not None
    assert settings.kubernetes.agents.accounts == ("monitoring/probes-fabric-skeleton",)
    assert settings.rules is not None
    assert settings.rules.objects is not None
    assert settings.rules.objects.labels == {"release": "prometheus"}
    assert settings.inference is not None
    assert settings.inference.dask is not None
    exporter = yaml.safe_load(found["ConfigMap", "probes-fabric-skeleton"]["data"]["config.yaml"])
    config = convert_strictly(exporter, Config, "config.yaml")
    assert config.service is not None
    assert config.service.url == "https://probes-fabric-skeleton-service.monitoring.svc:9106"
    poller = yaml.safe_load(found["ConfigMap", "probes-fabric-skeleton-poller"]["data"]["config.yaml"])
    assert convert_strictly(poller, Config, "config.yaml").traps is not None
    assert poller["traps"]["port"] == 9162
    (tmp_path / "rules.yaml").write_text("")


def test_alerts_are_the_packs_but_for_those_that_are_not_wanted(tmp_path: Path) -> None:
    rules = [each for each in whole(CHART / "ci" / "everything-values.yaml") if each["kind"] == "PrometheusRule"]
    alerts = {
        rule["alert"]: rule
        for each in rules
        for group in each["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    packed = {
        rule["alert"]: rule
        for file in (CHART / "files" / "rules").glob("*.yaml")
        if not file.name.startswith("dialect")
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert packed.keys() - alerts.keys() == {"FabricServiceRefusing"}
    for name, rule in alerts.items():
        assert rule == {**packed[name], "labels": {**packed[name]["labels"], "team": "fabric"}}
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH (apt: prometheus)")
    for number, each in enumerate(rules):
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump({"groups": each["spec"]["groups"]}))
        subprocess.run([promtool, "check", "rules", file], check=True, capture_output=True)
        assert len(file.read_bytes()) < 512 << 10


def test_dashboards_are_those_of_the_project_for_grafanas_sidecar() -> None:
    found = [each for each in whole(CHART / "ci" / "everything-values.yaml") if "dashboard" in each["metadata"]["name"]]
    assert {name for each in found for name in each["data"]} == {
        file.name for file in (CHART / "files" / "dashboards").glob("*.json")
    }
    for each in found:
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert each["metadata"]["annotations"] == {"grafana_folder": "Fabric"}
        for name, text in each["data"].items():
            assert json.loads(text) == json.loads((CHART / "files" / "dashboards" / name).read_text())


def rights(file: str) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """{(kind, namespace): {(verb, resource)}}"""
    return {
        (each["kind"], each["metadata"].get("namespace", "")): {
            (verb, resource) for rule in each["rules"] for verb in rule["verbs"] for resource in rule["resources"]
        }
        for each in whole(CHART / "ci" / file)
        if each["kind"] in ("Role", "ClusterRole")
    }


def test_the_service_may_do_what_it_does_and_nothing_else() -> None:
    pods = {("list", "pods"), ("watch", "pods")}
    rules = {(verb, "prometheusrules") for verb in ("get", "list", "create", "patch", "delete")}
    assert rights("everything-values.yaml") == {("ClusterRole", ""): pods | rules}
    assert rights("namespaces-values.yaml") == {
        ("Role", "team-a"): pods, ("Role", "123"): pods, ("Role", "monitoring"): rules
    }  # fmt: skip
    assert rights("host-values.yaml") == {}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"service": {"rules": {"afterSeconds": "soon"}}}, "/service/rules/afterSeconds': got string, want number"),
        ({"service": {"pods": {"namespaces": ["Team_A"]}}}, "/service/pods/namespaces/0': 'Team_A' does not match"),
        ({"servcie": {}}, "additional properties 'servcie' not allowed"),
        ({"monitoring": {"kind": "Probe"}}, "/monitoring/kind': value must be one of 'PodMonitor', 'ServiceMonitor'"),
        ({"monitoring": {"interval": "15"}}, "/monitoring/interval': '15' does not match"),
        ({"rules": {"disabled": ["FabricLinkDown"]}}, "/rules/disabled': got array, want object"),
        ({"rules": {"enabled": True, "disabled": {"FabricLinkDwon": True}}}, "there is no alert FabricLinkDwon"),
        ({"topology": {"text": "a", "configMap": "b"}}, "topology: give text or configMap, not both"),
        ({"topology": {}, "service": {"enabled": True}}, "topology: the service plans by it"),
        ({"poller": {"enabled": True}}, "poller.config: says no switch"),
        ({"injector": {"enabled": True, "namespaces": ["a"]}}, "injector: is for exporter.mode: sidecar"),
        ({"image": {"repository": "a b"}}, "/image/repository': 'a b' does not match"),
        ({"service": {"persistence": {"size": "1 GB"}}}, "/service/persistence/size': '1 GB' does not match"),
    ],
)
def test_a_wrong_value_is_refused_with_a_line_that_helps(wrong: dict[str, Any], said: str) -> None:
    given = {**values(), "topology": {"configMap": ""}, **wrong}
    with pytest.raises(helm.HelmError, match=re.escape(said)):
        render(given)
