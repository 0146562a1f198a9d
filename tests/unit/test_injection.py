"""What the admission webhook does to pods, and what it leaves alone."""

from __future__ import annotations

import base64
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts.codec import ContractError
from skeleton_service.jobs.injection import LABEL, Sidecar, patches, read_sidecar, reviewed

CONTAINER = {
    "name": "fabric-exporter", "image": "i", "restartPolicy": "Always",
    "resources": {"limits": {"memory": "512Mi"}},
}  # fmt: skip
SIDECAR = Sidecar(container=CONTAINER, volumes=[{"name": "fabric-key"}, {"name": "fabric-config"}], shares_device=True)
RDMA = {"resources": {"limits": {"rdma/hca_shared_devices_a": "1", "nvidia.com/gpu": "8"}}}


def pod(*containers: dict[str, Any], labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"labels": labels}, "spec": {"containers": list(containers), **spec}}


def applied(before: dict[str, Any], sidecar: Sidecar = SIDECAR) -> dict[str, Any]:
    """As the API server applies a patch; ``add`` is all there is."""
    after = deepcopy(before)
    for each in patches(before, sidecar):
        assert each["op"] == "add"
        *parents, last = each["path"].strip("/").split("/")
        at = after
        for parent in parents:
            at = at[parent]
        if isinstance(at, list):
            at.insert(len(at) if last == "-" else int(last), each["value"])
        else:
            assert last not in at, "what is there is not to be replaced"
            at[last] = each["value"]
    return after


def test_a_pod_that_asks_for_rdma_is_given_an_exporter_first_of_all() -> None:
    before = pod(RDMA, initContainers=[{"name": "fetch"}], volumes=[{"name": "data"}, {"name": "fabric-key"}])
    spec = applied(before)["spec"]
    assert [each["name"] for each in spec["initContainers"]] == ["fabric-exporter", "fetch"]
    assert [each["name"] for each in spec["volumes"]] == ["data", "fabric-key", "fabric-config"]
    assert spec["initContainers"][0]["resources"]["limits"] == {"memory": "512Mi", "rdma/hca_shared_devices_a": "1"}
    assert spec["containers"] == before["spec"]["containers"]
    assert CONTAINER["resources"] == {"limits": {"memory": "512Mi"}}
    assert applied(applied(before)) == applied(before), "asked again, it does nothing"


def test_a_pod_with_nothing_yet_is_given_lists() -> None:
    spec = applied(pod(RDMA))["spec"]
    assert [each["name"] for each in spec["initContainers"]] == ["fabric-exporter"]
    assert len(spec["volumes"]) == 2


@pytest.mark.parametrize(
    ("given_pod", "injected"),
    [
        (pod({}), False),
        (pod(RDMA, labels={LABEL: "false"}), False),
        (pod({}, labels={LABEL: "true"}), True),
        (pod({"resources": {"limits": {"nvidia.com/rdma": "1"}}}), False),
        (pod({"resources": None}, RDMA), True),
        (pod(RDMA, {"name": "fabric-exporter"}), False),  # two of a name are no pod
    ],
)
def test_who_uses_no_rdma_or_wants_none_is_left_alone(given_pod: dict[str, Any], injected: bool) -> None:
    assert bool(list(patches(given_pod, SIDECAR))) == injected


def test_a_device_that_is_a_containers_alone_is_asked_for_once() -> None:
    own = {"resources": {"limits": {"nvidia.com/sriov_rdma": "8"}}}
    sidecar = Sidecar(container=CONTAINER, volumes=[], shares_device=True, resources=("nvidia.com/sriov",))
    assert applied(pod(own), sidecar)["spec"]["initContainers"] == [CONTAINER]


def test_a_review_is_answered_by_its_own_words() -> None:
    review = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "u", "object": pod(RDMA)},
    }
    answer = json.loads(reviewed(json.dumps(review).encode(), SIDECAR))
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert (answer["response"]["uid"], answer["response"]["allowed"]) == ("u", True)
    assert json.loads(base64.b64decode(answer["response"]["patch"])) == list(patches(pod(RDMA), SIDECAR))
    review["request"]["object"] = pod({})  # type: ignore[index]
    assert json.loads(reviewed(json.dumps(review).encode(), SIDECAR))["response"] == {"uid": "u", "allowed": True}


KEYS = ("request", "uid", "object", "metadata", "labels", "spec", "containers", "resources", "limits", "name", LABEL)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(),
        lambda each: st.lists(each) | st.dictionaries(st.sampled_from(KEYS), each),
    )
)
def test_whatever_is_asked_is_answered_or_refused_with_a_reason(document: Any) -> None:
    try:
        answer = json.loads(reviewed(json.dumps(document).encode(), SIDECAR))
    except ContractError:
        return
    assert answer["response"]["allowed"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("container: {name: a, image: b}\nvolumes: []\n", "restartPolicy' is not Always"),
        ("container: {image: b}\nvolumes: []\n", "'container.name' is missing"),
        ("container: {}\n", "volumes"),
        ("container: {}\nvolumes: []\nextra: 1\n", "extra"),
    ],
)
def test_a_sidecar_that_would_do_harm_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "sidecar.yaml").write_text(text)
    with pytest.raises(ContractError, match=problem):
        read_sidecar(tmp_path / "sidecar.yaml")
