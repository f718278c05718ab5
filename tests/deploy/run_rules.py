"""Whether the run that a stream starts can live on the pods that it makes: configuration, command, labels, sizes.

Owns the rules between the run file in the ConfigMap, read by the product's own parser, and the groups of the cluster.
"""

import functools
import itertools
import shlex
from collections.abc import Iterator
from pathlib import Path

from rendered import CONTROLLER, LEARNER, Pod, Stream, num_bytes, num_cpus, of_kind, ray_pods, replicas, selects

from actors.run.disk_space import LOGGED_VERSIONS, PUBLISHED_BYTES, checkpoints_at_once
from rlvr.config import Config
from rlvr.config_file import parse_config
from rlvr.errors import ConfigError

CHECKPOINT_BYTES = 14
"""Of a parameter: bf16, and float32 master and moments."""
STATE_BYTES = 12
"""Of a parameter in the exact state alone."""
PARAMS = {"Qwen/Qwen2.5-Math-1.5B": 1.54e9, "/opt/firesteel/demo-base": 345_472}


def command(stream: Stream) -> Iterator[str]:
    """The RayJob starts the run of the ConfigMap, in a folder on the volume, and resumes it."""
    for job in of_kind(stream, "RayJob"):
        words = shlex.split(job["spec"].get("entrypoint", ""))
        [head] = [pod for pod in ray_pods(stream) if pod.name == "head"]
        mounts = {mount["mountPath"]: mount["name"] for mount in head.container["volumeMounts"]}
        if words[:2] != ["firesteel", "run"] or "auto" not in _values(words, "--resume"):
            yield f"the command is `firesteel run ... --resume auto`, so that another attempt goes on, got {' '.join(words)}"
            return
        file, [folder] = Path(words[2]), _values(words, "--run-dir") or [""]
        volume = mounts.get(str(file.parent))
        sources = {one["name"]: one.get("configMap", {}).get("name") for one in head.spec["volumes"]}
        maps = {one["metadata"]["name"]: one.get("data", {}) for one in of_kind(stream, "ConfigMap")}
        if file.name not in maps.get(sources.get(str(volume)), {}):
            yield f"the command reads {file}, which no ConfigMap puts there"
        claims = {one["name"] for one in head.spec["volumes"] if "persistentVolumeClaim" in one}
        if mounts.get(str(Path(folder).parent)) not in claims:
            yield f"the run's folder {folder!r} does not lie on a volume that outlives the pod"


def _values(words: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(words) if name == option]


def config_of(stream: Stream) -> Config:
    """The configuration that the run will have, as the product reads it. Raises ConfigError."""
    [text] = [text for one in of_kind(stream, "ConfigMap") for name, text in one.get("data", {}).items() if name.endswith(".toml")]
    overrides = [value for job in of_kind(stream, "RayJob") for value in _values(shlex.split(job["spec"].get("entrypoint", "")), "--set")]
    return _parsed(text, tuple(overrides))


@functools.lru_cache(maxsize=64)
def _parsed(text: str, overrides: tuple[str, ...]) -> Config:
    return parse_config(text, overrides, folder=Path("/etc/firesteel"))


def configuration(stream: Stream) -> Iterator[str]:
    try:
        config = config_of(stream)
    except (ConfigError, ValueError) as error:
        yield f"the run file cannot be read: {error}"
        return
    pods = ray_pods(stream)
    [head] = [pod for pod in pods if pod.role == CONTROLLER] or [None]
    if head is None:
        return
    if {pod.labels.get("rlvr.io/run") for pod in pods} != {config.run.name}:
        yield f"run.name is {config.run.name}, the pods are labelled {sorted({str(pod.labels.get('rlvr.io/run')) for pod in pods})}"
    if config.metrics.bind != "0.0.0.0" or (config.metrics.port, config.metrics.actor_port) != (head.ports.get("rlvr-metrics"),) * 2:
        yield "metrics.bind, port and actor_port are those of the pods' ports rlvr-metrics, open to other pods"
    yield from _places(config, pods)
    yield from _disk(config, stream)


def _places(config: Config, pods: list[Pod]) -> Iterator[str]:
    for table, labels in (("generators", config.generators.labels), ("verifiers", config.verifiers.labels), ("learner", config.learner.labels)):
        homes = [pod for pod in pods if labels and pod.name != "head" and selects({"matchLabels": labels}, pod.labels)]
        if not homes:
            yield f"{table}.labels = {labels}: no group of pods has them"
        for pod in homes:
            yield from _room(config, table, pod)
            yield from _scratch(config, table, pod)
        if table == "learner" and homes:
            yield from _learner(config, homes)


def _room(config: Config, table: str, pod: Pod) -> Iterator[str]:
    cpus = num_cpus(pod.limits.get("cpu", 0))
    needed = config.verifiers.workers if table == "verifiers" else 1
    if cpus < needed:
        yield f"{pod.name}: an actor asks for {needed} CPUs, the pod has {cpus:g}"
    if table == "generators" and config.generators.device == "cuda" and (not pod.gpus or pod.gpus % config.generators.tensor_parallel):
        yield f"{pod.name}: {pod.gpus} GPUs do not divide into engines of {config.generators.tensor_parallel}"
    if table == "verifiers" and num_bytes(pod.limits.get("memory", 0)) < (config.verifiers.workers * config.verifiers.memory_mib + 2048) * 2**20:
        yield f"{pod.name}: {config.verifiers.workers} sandboxed children of {config.verifiers.memory_mib} MiB and Ray do not fit its memory"


def _scratch(config: Config, table: str, pod: Pod) -> Iterator[str]:
    """What passes through /tmp: two versions of each engine; a checkpoint that is staged, or the exact state, which each rank fetches whole."""
    if table == "verifiers":
        return
    params, seats = PARAMS[config.model.policy], pod.gpus or 1
    needed = (
        2 * PUBLISHED_BYTES * params * seats / config.generators.tensor_parallel
        if table == "generators"
        else params * max(CHECKPOINT_BYTES, STATE_BYTES * seats)
    )
    name = next((mount["name"] for mount in pod.container["volumeMounts"] if mount["mountPath"] == "/tmp"), None)
    given = [num_bytes(one["emptyDir"].get("sizeLimit", 0)) for one in pod.spec["volumes"] if one["name"] == name and "medium" not in one["emptyDir"]]
    if not given or given[0] < needed:
        yield f"{pod.name}: /tmp is an emptyDir of at least {needed / 1e9:.1f} GB, got {given}"


def _learner(config: Config, homes: list[Pod]) -> Iterator[str]:
    if any(pod.group.get("minReplicas") != pod.group.get("maxReplicas") or pod.role != LEARNER for pod in homes):
        yield "the learner's size is fixed: minReplicas = maxReplicas"
    seats = sum(replicas(pod) * (pod.gpus if config.learner.device == "cuda" else 1) for pod in homes)
    if seats != config.learner.ranks:
        yield f"learner.ranks is {config.learner.ranks}, the learner's pods have room for {seats}"


def _disk(config: Config, stream: Stream) -> Iterator[str]:
    """A hub model's size is not known before it is there, so the volume is held to the arithmetic here."""
    params = PARAMS[config.model.policy]
    needed = params * (CHECKPOINT_BYTES * checkpoints_at_once(config) + PUBLISHED_BYTES * LOGGED_VERSIONS) + config.run.keep_rollouts_gib * 2**30
    for claim in of_kind(stream, "PersistentVolumeClaim"):
        given = num_bytes(claim["spec"].get("resources", {}).get("requests", {}).get("storage", 0))
        if given < needed:
            yield f"the volume {claim['metadata']['name']} has {given / 1e9:.0f} GB, checkpoints, versions and rollouts take {needed / 1e9:.0f}"


RULES = (command, configuration)
