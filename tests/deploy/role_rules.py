"""What every pod of a run has to be, beyond what a schema knows. Each rule takes a stream and yields one sentence for each fault.

Owns the rules of pods: labels, prices, ports, drain, resources, versions, volumes, and the keys of maps that a schema leaves free. What a run
survives is in survival_rules.
"""

import functools
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

from rendered import (
    CONTROLLER,
    GENERATOR,
    RAY_ROLES,
    ROOT,
    VERIFIER,
    Object,
    Pod,
    Stream,
    cluster_of,
    leaves,
    num_bytes,
    of_kind,
    pods,
    ray_pods,
)

from actors.cluster import QUIET

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
NODE_ENV = {name: value for name, value in QUIET.items() if name.isupper() or name.startswith("RAY_process")}
"""What `firesteel run` sets on a machine of its own, and the nodes of a joined cluster have to bring along."""
GROUP = 1000
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where Ray's autoscaler, as every client within a cluster, looks for its token."""
GROUP_LABELS = {"rlvr.io/run", "rlvr.io/role", "rlvr.io/usd-per-hour"}
FREE_MAPS = {
    ("metadata", "labels"): {
        "app.kubernetes.io/part-of",
        "kueue.x-k8s.io/queue-name",
        "pod-security.kubernetes.io/audit",
        "pod-security.kubernetes.io/enforce",
        "pod-security.kubernetes.io/enforce-version",
        "pod-security.kubernetes.io/warn",
        "release",
        "rlvr.io/role",
        "volcano.sh/queue-name",
    },
    ("metadata", "annotations"): {
        "cluster-autoscaler.kubernetes.io/safe-to-evict",
        "karpenter.sh/do-not-disrupt",
        "kueue.x-k8s.io/elastic-job",
    },
    ("annotations",): {"summary", "description", "runbook_url"},
    ("labels",): {"severity", "system", *GROUP_LABELS, "ray.io/market-type"},
    ("limits",): {"cpu", "memory", "ephemeral-storage", "nvidia.com/gpu", "rdma/ib"},
    ("requests",): {"cpu", "memory", "ephemeral-storage", "nvidia.com/gpu", "rdma/ib", "storage"},
    ("resources",): {"CPU", "GPU", "requests", "limits"},
    ("nodeSelector",): {"cloud.google.com/gke-spot"},
}
"""Maps in which a schema allows any key, by the end of their path, the longest first: a key that is not here is a slip until somebody adds it."""


def labels(stream: Stream) -> Iterator[str]:
    for pod in ray_pods(stream):
        if missing := GROUP_LABELS - pod.group.get("labels", {}).keys():
            yield f"{pod.name}: the group's labels lack {', '.join(sorted(missing))}"
            continue
        if pod.role not in RAY_ROLES:
            yield f"{pod.name}: rlvr.io/role is one of {', '.join(RAY_ROLES)}, got {pod.role!r}"
        price = pod.labels["rlvr.io/usd-per-hour"]
        try:
            is_price = isinstance(price, str) and Decimal(price) > 0
        except InvalidOperation:
            is_price = False
        if not is_price:
            yield f"{pod.name}: rlvr.io/usd-per-hour is a price in US dollars, got {price!r}"
        if "ray.io/market-type" in pod.labels and pod.role not in (GENERATOR, VERIFIER):
            yield f"{pod.name}: a {pod.role} does not live on spot machines"
    if absent := set(RAY_ROLES) - {pod.role for pod in ray_pods(stream)}:
        yield f"no group has the role {', '.join(sorted(absent))}"
    if len(runs := {pod.labels.get("rlvr.io/run") for pod in ray_pods(stream)}) != 1:
        yield f"the groups belong to different runs: {sorted(map(str, runs))}"


def ports(stream: Stream) -> Iterator[str]:
    for pod in ray_pods(stream):
        wanted = {"metrics": 8080, "rlvr-metrics": 9400} | ({"rlvr-queue": 9401} if pod.role == CONTROLLER else {})
        for name, number in wanted.items():
            if pod.ports.get(name) != number:
                yield f"{pod.name}: the port {name} is {number}, got {pod.ports.get(name)}"


def drain(stream: Stream) -> Iterator[str]:
    for pod in ray_pods(stream):
        drain_s, grace_s = float(pod.env.get(DRAIN) or 30), pod.spec.get("terminationGracePeriodSeconds", 30)
        if DRAIN not in pod.env or grace_s <= drain_s:
            yield f"{pod.name}: a grace of {grace_s} s must be longer than the drain of {drain_s:g} s ({DRAIN})"


def resources(stream: Stream) -> Iterator[str]:
    for pod in pods(stream):
        for container in pod.spec["containers"]:
            given = container.get("resources", {})
            if not {"cpu", "memory", "ephemeral-storage"} <= given.get("limits", {}).keys():
                yield f"{pod.name}: {container['name']} has no limit of cpu, memory and ephemeral-storage"
            if given.get("limits") != given.get("requests"):
                yield f"{pod.name}: {container['name']} is given other limits than it requests, and is evicted first"
        disks = [num_bytes(one["emptyDir"].get("sizeLimit", "inf")) for one in pod.spec.get("volumes", []) if _is_disk(one)]
        if sum(disks) > num_bytes(pod.limits.get("ephemeral-storage", 0)):
            yield f"{pod.name}: its emptyDirs may hold {sum(disks) / 2**30:g} GiB, more than its limit of ephemeral-storage, and it is evicted before"
    yield from _nothing_beside_the_controller(cluster_of(stream))


def _is_disk(volume: Object) -> bool:
    return "emptyDir" in volume and "medium" not in volume["emptyDir"]


def _nothing_beside_the_controller(cluster: Object) -> Iterator[str]:
    head = cluster["headGroupSpec"]
    for resource in ("CPU", "GPU"):
        if str(head.get("resources", {}).get(resource)) != "0":
            yield f'head: resources.{resource} is "0", so that no worker lands beside the controller'
    containers = [*head["template"]["spec"]["containers"], {**cluster["autoscalerOptions"], "name": "autoscaler"}]
    for container in containers:
        if {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} not in container.get("env", []):
            yield f"head: {container['name']} has NVIDIA_VISIBLE_DEVICES=void, else it has every GPU of a node whose default runtime is NVIDIA's"


def versions(stream: Stream) -> Iterator[str]:
    ray = cluster_of(stream).get("rayVersion")
    locked = locked_ray()
    if {ray} != locked:
        yield f"rayVersion is {ray}, the locks have {', '.join(sorted(locked))}"
    for pod in pods(stream):
        for container in pod.spec["containers"]:
            image = container.get("image", "")
            if not image.endswith(f"-ray{ray}"):
                yield f"{pod.name}: the image {image} is not one of Ray {ray}: its tag ends with -ray{ray}"


@functools.cache
def locked_ray() -> frozenset[str]:
    locks = [(ROOT / "requirements" / f"{device}.lock").read_text() for device in ("cpu", "gpu", "verifier")]
    return frozenset(version for lock in locks for version in re.findall(r"^ray==([\d.]+)", lock, re.MULTILINE))


def environment(stream: Stream) -> Iterator[str]:
    for pod in ray_pods(stream):
        for name, value in NODE_ENV.items():
            if pod.env.get(name) != value:
                yield f"{pod.name}: {name} is {value}, as on a machine of the run's own, got {pod.env.get(name)}"
        names = [entry["name"] for entry in pod.container.get("env", [])]
        if doubles := {name for name in names if names.count(name) > 1}:
            yield f"{pod.name}: env names {', '.join(sorted(doubles))} twice"


def references(stream: Stream) -> Iterator[str]:
    """A ConfigMap, volume claim or secret that a pod names has to be there, or be optional."""
    there = {(one["kind"], one["metadata"]["name"]) for one in stream} | {("ConfigMap", "kube-root-ca.crt")}
    for pod in pods(stream):
        for path, value in leaves(pod.spec):
            if path[-1] in ("secretKeyRef", "secret", "secretRef"):
                if pod.role == VERIFIER:
                    yield f"{pod.name}: a verifier, which reads hostile text, is given no secret"
                name = value.get("name") or value.get("secretName")
                if not value.get("optional") and ("Secret", name) not in there:
                    yield f"{pod.name}: the secret {name} is not in these manifests; mark the reference as optional"
            if path[-1] in ("configMap", "configMapRef") and ("ConfigMap", value.get("name")) not in there:
                yield f"{pod.name}: there is no ConfigMap {value.get('name')}"
            if path[-1] == "claimName" and ("PersistentVolumeClaim", value) not in there:
                yield f"{pod.name}: there is no PersistentVolumeClaim {value}"


def volumes(stream: Stream) -> Iterator[str]:
    sidecar = cluster_of(stream).get("autoscalerOptions", {}).get("volumeMounts", [])
    for pod in pods(stream):
        made = {volume["name"] for volume in pod.spec.get("volumes", [])}
        mounts = [mount for container in pod.spec["containers"] for mount in container.get("volumeMounts", [])]
        mounted = {mount["name"] for mount in mounts + (sidecar if pod.role == CONTROLLER else [])}
        if made != mounted:
            yield f"{pod.name}: volumes {sorted(made - mounted)} are not mounted, {sorted(mounted - made)} do not exist"
    for pod in ray_pods(stream):
        yield from _shared_memory(pod)


def _shared_memory(pod: Pod) -> Iterator[str]:
    """Ray's object store lies in /dev/shm, and what lies there counts as memory of the container."""
    [name] = [mount["name"] for mount in pod.container["volumeMounts"] if mount["mountPath"] == "/dev/shm"] or [None]
    given = [
        volume["emptyDir"]["sizeLimit"]
        for volume in pod.spec["volumes"]
        if volume["name"] == name and volume.get("emptyDir", {}).get("medium") == "Memory"
    ]
    store = float(pod.group.get("rayStartParams", {}).get("object-store-memory", 0))
    if not given or not 0 < store <= num_bytes(given[0]) < num_bytes(pod.limits["memory"]):
        yield f"{pod.name}: /dev/shm is a memory volume that holds the object store ({store:g} bytes) and is smaller than the memory limit"


def identity(stream: Stream) -> Iterator[str]:
    """Who may speak to the API server: the autoscaler's container alone. Who may read the volume: every pod by one group."""
    for pod in pods(stream):
        if pod.spec.get("securityContext", {}).get("fsGroup") != GROUP:
            yield f"{pod.name}: fsGroup is {GROUP}, as in every pod that has mounted the volume before"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.name}: automountServiceAccountToken is false"
        for container in pod.spec["containers"]:
            if any(mount["name"] == "kube-api" for mount in container.get("volumeMounts", [])):
                yield f"{pod.name}: {container['name']} is given the token of the API server"
    cluster = cluster_of(stream)
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode is token: without it whoever reaches a port of Ray runs code"
    given = {mount["mountPath"]: mount["name"] for mount in cluster.get("autoscalerOptions", {}).get("volumeMounts", [])}
    if given != {SERVICE_ACCOUNT: "kube-api"}:
        yield f"the autoscaler finds its token and nothing else in {SERVICE_ACCOUNT}, got {given}"
    context = cluster.get("autoscalerOptions", {}).get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "autoscalerOptions.securityContext is that of the other containers: the operator's own container is not restricted"


def free_maps(stream: Stream) -> Iterator[str]:
    """Keys of maps in which a schema allows any key."""
    for one in stream:
        for path, value in leaves(one):
            if isinstance(value, dict) and path[-1] == "rayStartParams":
                if unknown := value.keys() - ray_start_options():
                    yield f"{_where(one, path)}: `ray start` has no --{', --'.join(sorted(unknown))}"
            elif isinstance(value, dict) and (known := _known_keys(path)) is not None and (unknown := value.keys() - known):
                yield f"{_where(one, path)}: {', '.join(sorted(unknown))} is none of {', '.join(sorted(known))}"


def _known_keys(path: tuple[object, ...]) -> set[str] | None:
    return FREE_MAPS.get(path[-2:]) or FREE_MAPS.get(path[-1:])  # type: ignore[call-overload,no-any-return]


def _where(one: dict[str, object], path: tuple[object, ...]) -> str:
    return f"{one['kind']} {'.'.join(map(str, path))}"


@functools.cache
def ray_start_options() -> frozenset[str]:
    """What `ray start` of the locked Ray takes."""
    from ray.scripts.scripts import start

    return frozenset(option.removeprefix("--") for parameter in start.params for option in parameter.opts)


def namespace(stream: Stream) -> Iterator[str]:
    for one in of_kind(stream, "Namespace"):
        if one["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield "the namespace does not enforce the restricted pod security profile"


RULES = (labels, ports, drain, resources, versions, environment, references, volumes, identity, free_maps, namespace)
