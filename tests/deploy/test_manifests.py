"""Laws of deploy/base and its overlays: each builds, is valid to the letter, obeys the operator's rules and ours; slips of the pen are noticed."""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import object_schemas
import pytest
import role_rules
import run_rules
import yaml
from mutants import MUTATIONS, RULES, is_noticed, own_faults, places
from rendered import BAD, BASE, DEPLOY, OVERLAYS, ROOT, VARIANTS, Object, build, cluster_of, num_bytes, of_kind, ray_pods, stream_of, text_of

from actors.fleet.worker_pool import LEAVE_S
from actors.run.service import Target
from rlvr.config_file import load_config

NOTICED = 0.99


def named(folder: Path) -> str:
    return folder.name


@pytest.mark.parametrize("folder", VARIANTS, ids=named)
def test_every_object_is_valid_to_the_letter(folder: Path) -> None:
    for one in stream_of(folder):
        assert object_schemas.faults(one) == [], f"{one['kind']} {one['metadata']['name']}"


@pytest.mark.parametrize("folder", VARIANTS, ids=named)
def test_objects_of_kubernetes_itself_are_valid_without_outside_material(folder: Path) -> None:
    core = [one for one in stream_of(folder) if one["kind"] not in object_schemas.CUSTOM]
    assert {"Namespace", "NetworkPolicy", "PersistentVolumeClaim", "Service", "ConfigMap"} == {one["kind"] for one in core}
    assert [fault for one in core for fault in object_schemas.core_faults(one)] == []
    assert [fault for one in stream_of(folder) for fault in object_schemas.metadata_faults(one)] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.__module__}.{rule.__name__}")
@pytest.mark.parametrize("folder", VARIANTS, ids=named)
def test_every_rule_of_ours_holds(folder: Path, rule: object) -> None:
    assert list(rule(stream_of(folder))) == []  # type: ignore[operator]


@pytest.mark.parametrize("folder", VARIANTS, ids=named)
def test_no_key_is_written_twice(folder: Path) -> None:
    """The API server refuses what a YAML reader would silently take the last of."""
    for file in folder.rglob("*.yaml"):
        for node in yaml.compose_all(file.read_text()):
            assert _doubles(node) == [], file


def _doubles(node: yaml.Node | None) -> list[str]:
    if isinstance(node, yaml.SequenceNode):
        return [double for item in node.value for double in _doubles(item)]
    if not isinstance(node, yaml.MappingNode):
        return []
    keys = Counter(key.value for key, _ in node.value)
    return [key for key, times in keys.items() if times > 1] + [double for _, value in node.value for double in _doubles(value)]


def test_an_overlay_exists_for_every_way_of_deploying() -> None:
    assert {"dev-cpu", "raycluster", "spot", "kueue", "volcano", "rdma", "big-pods"} == {folder.name for folder in OVERLAYS}


def test_a_leaving_worker_has_time_within_the_drain() -> None:
    for pod in ray_pods(stream_of(BASE)):
        assert float(pod.env[role_rules.DRAIN]) > LEAVE_S


def test_the_base_trains_what_the_recipe_of_eight_gpus_trains() -> None:
    _same_training(BASE / "run.toml", ROOT / "recipes" / "gpu-8.toml", beside={"name"})


def test_the_small_cluster_trains_the_demo() -> None:
    _same_training(
        DEPLOY / "overlays" / "dev-cpu" / "run.toml", ROOT / "recipes" / "demo.toml", beside={"name", "checkpoint_every_steps", "policy", "file"}
    )


def _same_training(ours: Path, theirs: Path, *, beside: set[str]) -> None:
    mine, other = load_config(ours), load_config(theirs)
    for table in ("run", "model", "prompts", "rollout", "reward", "advantage", "objective", "optimizer"):
        left, right = getattr(mine, table), getattr(other, table)
        differing = {key for key in left.__struct_fields__ if getattr(left, key) != getattr(right, key)}
        assert differing <= beside, f"{table}: {differing}"


def test_the_raycluster_is_the_cluster_of_the_job() -> None:
    assert cluster_of(stream_of(DEPLOY / "overlays" / "raycluster")) == cluster_of(stream_of(BASE))


def test_spot_groups_can_be_empty_and_a_generator_stays_on_demand() -> None:
    spot = [pod for pod in ray_pods(stream_of(DEPLOY / "overlays" / "spot")) if "ray.io/market-type" in pod.labels]
    assert {pod.role for pod in spot} == {"generator", "verifier"}
    assert all(pod.group["minReplicas"] == 0 for pod in spot)
    assert any(pod.role == "generator" and pod.group["minReplicas"] for pod in ray_pods(stream_of(DEPLOY / "overlays" / "spot")) if pod not in spot)


def test_the_learners_pod_holds_a_checkpoint_beside_its_processes() -> None:
    """A checkpoint passes through host memory on its way from the GPUs to the store."""
    [learner] = [pod for pod in ray_pods(stream_of(BASE)) if pod.role == "learner"]
    assert num_bytes(learner.limits["memory"]) > 2 * run_rules.CHECKPOINT_BYTES * run_rules.PARAMS["Qwen/Qwen2.5-Math-1.5B"]


def test_the_prometheus_rule_is_the_rule_file() -> None:
    rules = yaml.safe_load((DEPLOY / "monitoring" / "firesteel.rules.yml").read_text())
    [rule] = of_kind(stream_of(BASE), "PrometheusRule")
    assert rule["spec"] == rules


def test_the_prometheus_rule_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    for name in ("base", "monitoring"):
        (tmp_path / name).mkdir()
    script, made = tmp_path / "base" / "prometheusrule.py", tmp_path / "base" / "prometheusrule.yaml"
    script.write_bytes((BASE / script.name).read_bytes())
    (tmp_path / "monitoring" / "firesteel.rules.yml").write_bytes((DEPLOY / "monitoring" / "firesteel.rules.yml").read_bytes())
    subprocess.run([sys.executable, str(script)], check=True, env={"PATH": os.environ["PATH"]})
    assert made.read_bytes() == (BASE / made.name).read_bytes(), "run python deploy/base/prometheusrule.py"


def test_service_discovery_gives_the_labels_that_the_monitor_gives() -> None:
    """`run` comes with the answer, role and replica from its target."""
    [monitor] = of_kind(stream_of(BASE), "PodMonitor")
    for endpoint in monitor["spec"]["podMetricsEndpoints"][:2]:
        assert {rule["targetLabel"] for rule in endpoint["relabelings"]} == {"run", "role", "replica"}
    assert {"role", "replica"} < set(Target.__struct_fields__)


BAD_FOLDERS = sorted(folder for folder in BAD.iterdir() if not (folder / "expected").read_text().startswith("pod security: "))


@pytest.mark.parametrize("folder", BAD_FOLDERS, ids=named)
def test_a_bad_manifest_is_refused_by_name(folder: Path) -> None:
    """Each folder is base with one slip; `expected` beside it has the sentence, or words of it, who has to say it before: schema,
    kubernetes (its own schemas alone), ours, or kustomize."""
    who, words = (folder / "expected").read_text().strip().split(": ", 1)
    done = build(folder)
    if who == "kustomize":
        assert done.returncode != 0
        assert words in done.stderr
        return
    stream = stream_of(folder)
    if who == "kubernetes":
        said = [fault for one in stream if one["kind"] not in object_schemas.CUSTOM for fault in object_schemas.core_faults(one)]
    else:
        said = own_faults(stream) if who == "ours" else [fault for one in stream for fault in object_schemas.faults(one)]
    assert any(words in fault for fault in said), said


def test_no_bad_manifest_differs_from_base_by_nothing() -> None:
    assert len(BAD_FOLDERS) >= 20
    assert all(text_of(folder) != text_of(BASE) for folder in BAD_FOLDERS if not (folder / "expected").read_text().startswith("kustomize"))


def test_slips_are_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    """A key that is misspelt or a value of another type, at every place of base and of what an overlay has beside it."""
    object_schemas.tool("validate_crd")
    made, missed = slips(lambda one: True)
    total = sum(made.values())
    with capsys.disabled():
        summary = ", ".join(f"{number} {name}" for name, number in made.items())
        sys.stdout.write(f"\nslips: {total} ({summary}), noticed {total - len(missed)} = {1 - len(missed) / total:.2%}\n")
        sys.stdout.write("".join(f"  unnoticed: {slip}\n" for slip in missed))
    assert made["renamed"] > 800
    assert made["retyped"] > 800
    assert 1 - len(missed) / total >= NOTICED


def test_slips_in_objects_of_kubernetes_itself_are_noticed_without_outside_material() -> None:
    made, missed = slips(lambda one: one["kind"] not in object_schemas.CUSTOM)
    assert made["renamed"] > 200
    assert made["retyped"] > 200
    assert missed == []


def slips(is_meant: Callable[[Object], bool]) -> tuple[Counter[str], list[str]]:
    """How many mutants of each kind were made of the objects that are meant, and those that nothing noticed."""
    seen: set[tuple[object, ...]] = set()
    made, missed = Counter[str](), []
    for folder in VARIANTS:
        stream = stream_of(folder)
        assert own_faults(stream) == []  # so that whatever is noticed below was noticed because of the slip
        for one in filter(is_meant, stream):
            for path, value in places(one):
                place = (one["kind"], one["metadata"]["name"], path, repr(value))
                for name, mutation in () if place in seen else MUTATIONS.items():
                    with mutation(one, path) as is_mutant:
                        made[name] += is_mutant
                        if is_mutant and not is_noticed(stream, one, path):
                            missed.append(f"{name} {folder.name} {one['kind']}/{one['metadata']['name']} {'.'.join(map(str, path))}")
                seen.add(place)
    return made, missed


def test_a_part_is_judged_as_the_whole_is() -> None:
    """The mutation test asks the schema about parts; here the whole object is asked too."""
    object_schemas.tool("validate_crd")
    chance = random.Random(0)
    stream = [one for one in stream_of(BASE) if one["kind"] in object_schemas.CUSTOM]
    for _ in range(60):
        one = chance.choice(stream)
        path, _value = chance.choice(list(places(one)))
        with chance.choice(list(MUTATIONS.values()))(one, path) as is_mutant:
            if is_mutant:
                assert object_schemas.refuses_part(one, path[:-1]) == bool(object_schemas.faults(one)), path
