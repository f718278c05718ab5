"""The restricted pod security profile, as far as a manifest decides it, for every pod of a stream.

Owns the project's own reading of the standard (kubernetes.io/docs/concepts/security/pod-security-standards), so that its law has a test where the
outside material is absent; where it is there, both are asked.
"""

from collections.abc import Iterator

from rendered import Object, Pod, Stream, pods

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
PROFILES = ("RuntimeDefault", "Localhost")


def faults(stream: Stream) -> list[str]:
    return [f"{pod.name}: {fault}" for pod in pods(stream) for fault in _of_pod(pod)]


def _of_pod(pod: Pod) -> Iterator[str]:
    spec = pod.spec
    context = spec.get("securityContext", {})
    yield from (f"{key} is not set" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key))
    if context.get("sysctls"):
        yield "sysctls are not set"
    for volume in spec.get("volumes", []):
        yield from (f"the volume {volume['name']} is no {kind}" for kind in volume.keys() - {"name"} - VOLUMES)
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        yield from (f"{container['name']}: {fault}" for fault in of_container(container, context))


def of_container(container: Object, pod: Object) -> Iterator[str]:
    own = container.get("securityContext", {})
    merged = pod | own
    if own.get("privileged"):
        yield "privileged is not set"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation must be false"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities.drop must contain ALL"
    if added := set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"capabilities.add must not contain {', '.join(sorted(added))}"
    if merged.get("runAsNonRoot") is not True:
        yield "runAsNonRoot must be true"
    if merged.get("runAsUser") == 0:
        yield "runAsUser 0 is root"
    if merged.get("seccompProfile", {}).get("type") not in PROFILES:
        yield f"seccompProfile is one of {', '.join(PROFILES)}"
    if own.get("procMount", "Default") != "Default":
        yield "procMount must be Default"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPort is not set"
