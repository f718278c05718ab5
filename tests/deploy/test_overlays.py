"""Laws of deploy/overlays and deploy/components: each changes what it says, and nothing else of base."""

import copy
import re

import pytest
from differences import differences, places
from rendered import BASE, COMPONENTS, DEPLOY, OVERLAYS, cluster_of, of_kind, stream_of

SIZES = ("labels.rlvr.io/usd-per-hour", "resources", "volumes.cache.emptyDir.sizeLimit", "volumes.scratch.emptyDir.sizeLimit")
SMALL_GPU_POD = (*SIZES, "volumes.shm.emptyDir.sizeLimit", "image", "tolerations")
CHANGED = {
    "big-pods": {
        "PodMonitor/rlvr spec.podMetricsEndpoints.rlvr-metrics",
        "PodMonitor/rlvr spec.podMetricsEndpoints.rlvr-queue",
        "ScrapeConfig/rlvr",
        "RayJob/rlvr spec.entrypoint",
        *(f"generators.{place}" for place in ("minReplicas", "maxReplicas", "labels.rlvr.io/usd-per-hour", "resources")),
        *(f"generators.volumes.{name}.emptyDir.sizeLimit" for name in ("scratch", "shm")),
    },
    "dev-cpu": {
        "ConfigMap/rlvr-run data.run.toml",
        "NetworkPolicy/model-hub",
        "PersistentVolumeClaim/rlvr-run spec.resources",
        *(f"head.{place}" for place in (*SIZES[:3], "image")),
        *(f"generators.{place}" for place in (*SMALL_GPU_POD, "minReplicas", "maxReplicas")),
        *(f"learner.{place}" for place in SMALL_GPU_POD),
        *(f"verifiers.{place}" for place in ("labels.rlvr.io/usd-per-hour", "resources", "maxReplicas")),
    },
    "kueue": {"RayJob/rlvr metadata.labels.kueue.x-k8s.io/queue-name", "RayJob/rlvr metadata.annotations"},
    "raycluster": {"RayJob/rlvr", "RayCluster/rlvr", "NetworkPolicy/submitter", "NetworkPolicy/job-control spec.ingress"},
    "rdma": {
        "RayJob/rlvr spec.entrypoint",
        *(f"{group}.{place}" for group in ("generators", "learner") for place in ("resources", "env.NCCL_IB_HCA")),
        *("learner.minReplicas", "learner.maxReplicas"),
    },
    "spot": {
        *("generators-spot", "generators.minReplicas", "verifiers.minReplicas", "verifiers.maxReplicas"),
        *("verifiers.labels.ray.io/market-type", "verifiers.labels.rlvr.io/usd-per-hour", "verifiers.nodeSelector", "verifiers.tolerations"),
    },
    "volcano": {"RayJob/rlvr metadata.labels.volcano.sh/queue-name"},
    "gke": {"NetworkPolicy/gke-identity", "NetworkPolicy/gke-dns"},
    "eks": {"NetworkPolicy/eks-identity"},
    "private-store": {"NetworkPolicy/private-store"},
}
"""Places of base; those of a group of pods begin with its name."""


def short(place: str) -> str:
    """Without what every place of a group has in common; all resources of a container are one place."""
    for common in ("RayJob/rlvr spec.rayClusterSpec.", "workerGroupSpecs.", "template.spec.", "containers.ray-worker.", "containers.ray-head."):
        place = place.replace(common, "")
    return re.sub(r"\.resources\..*", ".resources", place.replace("headGroupSpec.", "head."))


@pytest.mark.parametrize("folder", [*OVERLAYS, *COMPONENTS], ids=lambda folder: folder.name)
def test_a_variant_changes_what_it_says_and_nothing_else(folder: object) -> None:
    stream = stream_of(folder)  # type: ignore[arg-type]
    assert {short(place) for place in differences(stream_of(BASE), stream)} == CHANGED[folder.name]  # type: ignore[attr-defined]


def test_every_component_is_built_over_base() -> None:
    assert {folder.name for folder in COMPONENTS} == {folder.name for folder in (DEPLOY / "components").iterdir()}


def test_a_deadline_that_slips_into_an_overlay_is_a_difference() -> None:
    slipped = stream_of(DEPLOY / "overlays" / "volcano")
    [job] = of_kind(slipped, "RayJob")
    job["spec"] |= {"activeDeadlineSeconds": 60, "backoffLimit": 1}
    found = differences(stream_of(BASE), slipped) - CHANGED["volcano"]
    assert found == {"RayJob/rlvr spec.activeDeadlineSeconds", "RayJob/rlvr spec.backoffLimit"}


def test_generators_on_spot_machines_are_those_of_base_on_other_nodes() -> None:
    groups = {group["groupName"]: group for group in cluster_of(stream_of(DEPLOY / "overlays" / "spot"))["workerGroupSpecs"]}
    found = {short(place) for place in places(groups["generators"], groups["generators-spot"])}
    numbers = {"groupName", "minReplicas", "maxReplicas", "labels.rlvr.io/usd-per-hour"}
    assert found == numbers | {"labels.ray.io/market-type", "nodeSelector", "tolerations"}


def test_an_object_and_an_entry_of_a_list_are_called_by_their_names() -> None:
    before = stream_of(BASE)
    after = copy.deepcopy(before)
    cluster_of(after)["workerGroupSpecs"].reverse()
    assert differences(before, after) == set()
    [head] = cluster_of(after)["headGroupSpec"]["template"]["spec"]["containers"]
    head["env"][0]["value"] = "1"
    place = f"spec.rayClusterSpec.headGroupSpec.template.spec.containers.ray-head.env.{head['env'][0]['name']}.value"
    assert differences(before, [one for one in after if one["kind"] != "Service"]) == {f"RayJob/rlvr {place}", "Service/rlvr-controller"}
