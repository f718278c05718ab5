"""What the folders of deploy/ become: objects as kustomize renders them, and the pods in them as the operator would make them.

Owns the reading; the rules over it are in role_rules, network_rules and run_rules. A stream is the list of objects of one folder.
"""

import copy
import functools
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "base"
OVERLAYS = sorted(folder for folder in (DEPLOY / "overlays").iterdir() if folder.is_dir())
COMPONENTS = sorted((Path(__file__).resolve().parent / "components").iterdir())
"""Base with one component each."""
VARIANTS = [BASE, *OVERLAYS, *COMPONENTS]
BAD = Path(__file__).resolve().parent / "bad"

Object = dict[str, Any]
Stream = list[Object]

CONTROLLER, GENERATOR, VERIFIER, LEARNER, SUBMITTER = "controller", "generator", "verifier", "learner", "submitter"
RAY_ROLES = (CONTROLLER, GENERATOR, VERIFIER, LEARNER)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Pod:
    """A pod that will be: of the head, of a worker group, or of the submitter. labels: as the operator merges them."""

    name: str
    labels: Mapping[str, str]
    spec: Object
    group: Object = field(default_factory=dict)

    @property
    def role(self) -> str:
        return self.labels.get("rlvr.io/role", "")

    @property
    def container(self) -> Object:
        """The one that runs Ray: the first."""
        return self.spec["containers"][0]

    @property
    def env(self) -> dict[str, str]:
        return {entry["name"]: entry.get("value", "") for entry in self.container.get("env", [])}

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", [])}

    @property
    def limits(self) -> dict[str, Any]:
        return self.container.get("resources", {}).get("limits", {})

    @property
    def gpus(self) -> int:
        return int(self.limits.get("nvidia.com/gpu", 0))


def kubectl() -> str:
    """The command, or a skip that says what is missing."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is absent: manifests are rendered by `kubectl kustomize`")
    return found


def build(folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False)


@functools.cache
def text_of(folder: Path) -> str:
    """What kustomize makes of a folder."""
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stream_of(folder: Path) -> Stream:
    """The objects of a folder, new ones each time."""
    return copy.deepcopy(_parsed(folder))


@functools.cache
def _parsed(folder: Path) -> Stream:
    return [one for one in yaml.load_all(text_of(folder), Loader=LOADER) if one]


def of_kind(stream: Stream, *kinds: str) -> Stream:
    return [one for one in stream if one.get("kind") in kinds]


def cluster_of(stream: Stream) -> Object:
    """The specification of the one Ray cluster."""
    [owner] = of_kind(stream, "RayJob", "RayCluster")
    return owner["spec"]["rayClusterSpec"] if owner["kind"] == "RayJob" else owner["spec"]


def ray_pods(stream: Stream) -> list[Pod]:
    """The head's pod and one of each worker group."""
    cluster = cluster_of(stream)
    groups = [("head", cluster["headGroupSpec"]), *((group["groupName"], group) for group in cluster["workerGroupSpecs"])]
    return [
        Pod(name=name, labels=_labels(group["template"]) | group.get("labels", {}), spec=group["template"]["spec"], group=group)
        for name, group in groups
    ]


def pods(stream: Stream) -> list[Pod]:
    """Those of Ray, and the submitter's where there is a job."""
    templates = [job["spec"]["submitterPodTemplate"] for job in of_kind(stream, "RayJob") if "submitterPodTemplate" in job["spec"]]
    return ray_pods(stream) + [Pod(name=SUBMITTER, labels=_labels(template), spec=template["spec"]) for template in templates]


def replicas(pod: Pod) -> int:
    """Pods that stand from the beginning."""
    return int(pod.group.get("minReplicas", 0)) if pod.name != "head" else 1


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector of Kubernetes means these labels."""
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return exact and all(_holds(expression, labels) for expression in selector.get("matchExpressions", []))


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise ValueError(f"no operator of a selector: {expression['operator']}")


def _labels(template: Object) -> dict[str, str]:
    return dict(template.get("metadata", {}).get("labels", {}))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every path of an object with what lies there, containers included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key), inner
        yield from leaves(inner, (*path, key))


def num_bytes(quantity: Any) -> float:
    """A quantity of Kubernetes in bytes, such as 16Gi."""
    text = str(quantity)
    for suffix, factor in (("Ki", 2**10), ("Mi", 2**20), ("Gi", 2**30), ("Ti", 2**40)):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text)


def num_cpus(quantity: Any) -> float:
    text = str(quantity)
    return float(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)
