"""Laws of the rules over a stream: each slip in the RayJob that a schema lets pass is told in words."""

from collections.abc import Sequence
from typing import Any

import pytest
from mutants import own_faults
from rendered import BASE, of_kind, stream_of

CLUSTER = ("rayClusterSpec",)
HEAD = (*CLUSTER, "headGroupSpec")
HEAD_POD = (*HEAD, "template", "spec")
SUBMITTER = ("submitterPodTemplate",)
LEARNER_POD = (*CLUSTER, "workerGroupSpecs", 2, "template", "spec")
VERIFIER_POD = (*CLUSTER, "workerGroupSpecs", 1, "template", "spec")
SUBMITTER_CONTAINER = (*SUBMITTER, "spec", "containers", 0)
WITHOUT_DISK = {"cpu": "4", "memory": "8Gi"}
SLIPS: dict[str, tuple[Sequence[Any], Any, str]] = {
    "token elsewhere": ((*CLUSTER, "autoscalerOptions", "volumeMounts", 0, "mountPath"), "/var/run/secrets/token", "the autoscaler finds its token"),
    "dashboard on loopback": ((*HEAD, "rayStartParams", "dashboard-host"), "127.0.0.1", "dashboard-host is 0.0.0.0"),
    "group of the head": ((*HEAD_POD, "securityContext", "fsGroup"), 2000, "head: fsGroup is 1000"),
    "group of the submitter": ((*SUBMITTER, "spec", "securityContext", "fsGroup"), 2000, "submitter: fsGroup is 1000"),
    "GPUs of the head's node": ((*HEAD, "resources", "GPU"), "1", 'head: resources.GPU is "0"'),
    "GPUs by NVIDIA's runtime": ((*HEAD_POD, "containers", 0, "env", 7, "value"), "all", "head: ray-head has NVIDIA_VISIBLE_DEVICES=void"),
    "GPUs of the autoscaler": ((*CLUSTER, "autoscalerOptions", "env"), [], "head: autoscaler has NVIDIA_VISIBLE_DEVICES=void"),
    "a submitter that dies once": (("submitterConfig", "backoffLimit"), 0, "a submitter that is lost is replaced"),
    "a submitter that may be moved": ((*SUBMITTER, "metadata", "annotations"), {}, "submitter: a node autoscaler may move it"),
    "a head that may be moved": (
        (*HEAD, "template", "metadata", "annotations", "karpenter.sh/do-not-disrupt"),
        "false",
        "controller: a node",
    ),
    "a submitter that hangs": ((*SUBMITTER_CONTAINER, "livenessProbe", "failureThreshold"), 30, "submitter: livenessProbe notices"),
    "a submitter in a hurry": ((*SUBMITTER_CONTAINER, "startupProbe", "failureThreshold"), 3, "submitter: startupProbe waits"),
    "a probe of another job": ((*SUBMITTER_CONTAINER, "livenessProbe", "exec", "command"), ["true"], "submitter: livenessProbe asks"),
    "no attempt after the first": (("backoffLimit",), 0, "a run is retried"),
    "an end after a week": (("activeDeadlineSeconds",), 604800, "activeDeadlineSeconds ends a run for good"),
    "an end after a minute": (("activeDeadlineSeconds",), 60, "activeDeadlineSeconds ends a run for good"),
    "a head that is waited for": ((*HEAD_POD, "tolerations", 1, "tolerationSeconds"), 300, "head: tolerates node.kubernetes.io/unreachable for 60 s"),
    "checkpoints that do not fit": ((*LEARNER_POD, "volumes", 2, "emptyDir", "sizeLimit"), "20Gi", "learner: /tmp is an emptyDir"),
    "checkpoints on the container": (
        (*LEARNER_POD, "containers", 0, "volumeMounts", 2, "mountPath"),
        "/scratch",
        "/tmp is an",
    ),
    "a disk smaller than its volumes": (
        (*LEARNER_POD, "volumes", 0, "emptyDir", "sizeLimit"),
        "300Gi",
        "learner: its emptyDirs may hold",
    ),
    "a disk without a limit": ((*LEARNER_POD, "volumes", 0, "emptyDir"), {}, "learner: its emptyDirs may hold"),
    "a pod without a limit of its disk": (
        (*VERIFIER_POD, "containers", 0, "resources"),
        {"limits": WITHOUT_DISK, "requests": WITHOUT_DISK},
        "ephemeral-storage",
    ),
}


@pytest.mark.parametrize("case", SLIPS)
def test_a_slip_that_no_schema_sees_is_told(case: str) -> None:
    path, value, said = SLIPS[case]
    stream = stream_of(BASE)
    [job] = of_kind(stream, "RayJob")
    parent = job["spec"]
    for key in path[:-1]:
        parent = parent[key]
    assert parent[path[-1]] != value
    parent[path[-1]] = value
    assert any(said in fault for fault in own_faults(stream)), own_faults(stream)
