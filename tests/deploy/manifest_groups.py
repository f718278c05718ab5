"""The groups of deploy/base: what the manifests say of each kind of pod, for tests that start nodes as such pods would."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

RAYJOB = Path(__file__).resolve().parents[2] / "deploy" / "base" / "rayjob.yaml"
HEAD = "headgroup"
"""What KubeRay calls the head's group."""
ROLE = "rlvr.io/role"
DRAIN_TIMEOUT = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"


@dataclass(frozen=True)
class Group:
    """One kind of pod: its labels, and Ray's settings in its environment."""

    name: str
    labels: dict[str, str]
    environment: dict[str, str]

    @property
    def role(self) -> str:
        return self.labels[ROLE]

    @property
    def drain_s(self) -> float:
        """Within which a pod that is told to go has gone."""
        return float(self.environment[DRAIN_TIMEOUT])


def ray_cluster() -> dict[str, Any]:
    """The cluster of the RayJob, as a RayCluster."""
    job = next(document for document in yaml.safe_load_all(RAYJOB.read_text(encoding="utf-8")) if document["kind"] == "RayJob")
    return {"metadata": {"name": job["metadata"]["name"], "namespace": "test"}, "spec": job["spec"]["rayClusterSpec"]}


def groups() -> dict[str, Group]:
    """All groups by their role."""
    spec = ray_cluster()["spec"]
    found = [group_of(HEAD, spec["headGroupSpec"]), *(group_of(group["groupName"], group) for group in spec["workerGroupSpecs"])]
    return {group.role: group for group in found}


def group_of(name: str, spec: dict[str, Any]) -> Group:
    pairs = spec["template"]["spec"]["containers"][0]["env"]
    return Group(name, dict(spec["labels"]), {pair["name"]: pair["value"] for pair in pairs if pair["name"].startswith("RAY_")})
