"""Strict schemas of every kind in deploy/: Kubernetes' own from a package, KubeRay's and the Prometheus operator's from the outside material.

Owns one question, `faults(object)`, and its answer for a part alone, which mutation tests ask thousands of times.
"""

import functools
import importlib.util
import json
import runpy
import subprocess
import sys
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from rendered import ROOT, Object

SHARED: Path = runpy.run_path(str(ROOT / "tests" / "conftest.py"))["SHARED"]
"""By path: a folder's own conftest has the same name."""
KUBERNETES = "1.37.0"
RAY_KINDS = ("RayJob", "RayCluster")
CUSTOM = (*RAY_KINDS, "PodMonitor", "PrometheusRule", "ScrapeConfig")


def tool_path(name: str) -> Path:
    """A validator of the outside material; the test is skipped, and counted, where it is absent."""
    path = SHARED / "tools" / f"{name}.py"
    if not path.is_file():
        pytest.skip(f"outside material is absent ({SHARED.name}/tools/{name}.py beside the clone)")
    return path


@functools.cache
def tool(name: str) -> ModuleType:
    """The same, imported."""
    spec = importlib.util.spec_from_file_location(name, tool_path(name))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def faults(one: Object) -> list[str]:
    """What the API server would refuse, and for KubeRay's kinds what the operator would."""
    if one.get("kind") in CUSTOM:
        return [*(tool("validate_crd").check(one) or []), *metadata_faults(one)]
    return core_faults(one)


def metadata_faults(one: Object) -> list[str]:
    """Of the metadata that every object has: the schema of a custom kind leaves them to the API server."""
    reference = "/api/_definitions.json#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    validator = Draft202012Validator({"$ref": reference}, registry=_definitions())
    return [f"metadata: {error.message[:200]}" for error in validator.iter_errors(one.get("metadata"))]


def core_faults(one: Object) -> list[str]:
    """What the API server would refuse of a kind that Kubernetes itself has, unknown keys included."""
    validator = _core_validator(str(one.get("kind")), str(one.get("apiVersion")))
    if validator is None:
        return [f"there is no kind {one.get('apiVersion')} {one.get('kind')}"]
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(one)]


def refuses_part(one: Object, path: tuple[Any, ...]) -> bool:
    """As `bool(faults(one))`, where everything but the part at `path` is known to be sound.

    A structural schema has no rule between a part and its surroundings, so the part alone gets the same answer; a test compares the two.
    """
    if one.get("kind") not in CUSTOM:
        return bool(core_faults(one))
    crd = tool("validate_crd")
    validator, _ = crd.validator(one["kind"])
    schema, part = validator.schema, one
    for key in path:
        properties = schema.get("properties", {})
        schema = properties[key] if key in properties else schema.get("items" if isinstance(part, list) else "additionalProperties", {})
        schema = schema if isinstance(schema, dict) else {}
        part = part[key]
    if next(validator.evolve(schema=schema).iter_errors(part), None) is not None or metadata_faults(one):
        return True
    return one["kind"] in RAY_KINDS and bool(_operator_faults(crd, one))


def _operator_faults(crd: ModuleType, one: Object) -> list[str]:
    try:
        return list(crd.operator_rules(one["kind"], one, frozenset()))
    except (AttributeError, TypeError, ValueError):
        return ["the operator cannot read it"]


@functools.cache
def _core_validator(kind: str, api_version: str) -> Draft202012Validator | None:
    """As `kubernetes-validate --strict`, which reads the same files anew for each object."""
    group, slash, version = api_version.rpartition("/")
    file = _schemas() / f"{kind.lower()}-{group.partition('.')[0]}{'-' if slash else ''}{version}.json"
    if not file.is_file():
        return None
    return Draft202012Validator(json.loads(file.read_text()), registry=_definitions())


def _schemas() -> Any:
    return resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES}-local-strict"


@functools.cache
def _definitions() -> "Registry[Any]":
    resource: Resource[Any] = Resource.from_contents(json.loads((_schemas() / "_definitions.json").read_text()), DRAFT202012)
    return Registry().with_resource("/api/_definitions.json", resource).crawl()


def pod_security_faults(manifests: str) -> list[str]:
    """What the restricted profile refuses of the pods in a stream of YAML, as the tool of the outside material says it."""
    script = tool_path("pod_security")
    done = subprocess.run([sys.executable, str(script)], input=manifests, capture_output=True, text=True, check=False)
    *faults, last = done.stdout.splitlines()
    assert (done.returncode != 0) == bool(faults), done.stderr
    assert "pod specs" in last
    return faults
