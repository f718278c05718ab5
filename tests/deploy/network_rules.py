"""Who may reach whom, and who is watched. Each rule takes a stream and yields one sentence for each fault.

Owns the rules of NetworkPolicy, Service, PodMonitor and ScrapeConfig.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

from rendered import RAY_ROLES, VERIFIER, Object, Stream, leaves, of_kind, pods, ray_pods, selects

METRICS_PORTS = {"rlvr-metrics", "rlvr-queue"}


def selectors(stream: Stream) -> Iterator[str]:
    """A selector that means no pod is a slip; an empty one, which means all, is for denying alone."""
    for policy in of_kind(stream, "NetworkPolicy"):
        name, spec = policy["metadata"]["name"], policy["spec"]
        if not spec.get("podSelector") and (spec.get("ingress") or spec.get("egress")):
            yield f"NetworkPolicy {name} opens something for every pod of the namespace"
        for path, value in leaves(spec):
            is_elsewhere = path[-1] == "podSelector" and len(path) > 1 and "namespaceSelector" in _at(spec, path[:-1])
            if path[-1] == "podSelector" and not is_elsewhere and not any(selects(value, pod.labels) for pod in pods(stream)):
                yield f"NetworkPolicy {name}: {'.'.join(map(str, path))} means no pod"
            if path[-1] == "namespaceSelector" and value.get("matchLabels", {}).keys() != {"kubernetes.io/metadata.name"}:
                yield f"NetworkPolicy {name}: a namespace is chosen by kubernetes.io/metadata.name"
            if path[-1] == "podSelector" and is_elsewhere and value.get("matchLabels") != {"app.kubernetes.io/component": "kuberay-operator"}:
                yield f"NetworkPolicy {name}: the only pod of another namespace that is named is the operator's"
    if not any(_denies_all(policy["spec"]) for policy in of_kind(stream, "NetworkPolicy")):
        yield "no NetworkPolicy denies what is not allowed"


def _denies_all(spec: Object) -> bool:
    return (
        not spec.get("podSelector")
        and not spec.get("ingress")
        and not spec.get("egress")
        and set(spec.get("policyTypes", [])) == {"Ingress", "Egress"}
    )


def _at(value: object, path: tuple[object, ...]) -> object:
    for key in path:
        value = value[key]  # type: ignore[index]
    return value


def numbers(stream: Stream) -> Iterator[str]:
    """A quoted number names a port of that name, which nobody has."""
    for one in stream:
        for path, value in leaves(one):
            if path[-1] in ("port", "targetPort", "endPort") and isinstance(value, str) and value.isdigit():
                yield f"{one['kind']} {one['metadata']['name']}: {'.'.join(map(str, path))} is a number, without quotes"


def policies(stream: Stream) -> Iterator[str]:
    """Every type of traffic that a policy rules it names, so that an emptied list denies and is not forgotten."""
    for policy in of_kind(stream, "NetworkPolicy"):
        spec = policy["spec"]
        for kind, key in (("Ingress", "ingress"), ("Egress", "egress")):
            if key in spec and kind not in spec.get("policyTypes", []):
                yield f"NetworkPolicy {policy['metadata']['name']}: {key} without {kind} in policyTypes"
        for path, value in leaves(spec):
            if path[-1] in ("from", "to") and any(not peer for peer in value):
                yield f"NetworkPolicy {policy['metadata']['name']}: {'.'.join(map(str, path))} means everybody"
            if path[0] in ("ingress", "egress") and len(path) == 2 and not ({"from", "to"} & value.keys()):
                yield f"NetworkPolicy {policy['metadata']['name']}: {'.'.join(map(str, path))} names nobody, which means everybody"
            if path[-1] == "ipBlock" and value["cidr"] in ("0.0.0.0/0", "::/0") and not value.get("except"):
                yield f"NetworkPolicy {policy['metadata']['name']}: the whole world includes a cloud's metadata address: except it"


def verifiers(stream: Stream) -> Iterator[str]:
    """Verifiers speak to the cluster's pods and to its name service, whatever their text would like."""
    for pod in (pod for pod in ray_pods(stream) if pod.role == VERIFIER):
        ruled = [policy for policy in of_kind(stream, "NetworkPolicy") if selects(policy["spec"].get("podSelector", {}), pod.labels)]
        rules = [rule for policy in ruled for rule in policy["spec"].get("egress", [])]
        if not any("Egress" in policy["spec"].get("policyTypes", []) for policy in ruled):
            yield f"{pod.name}: no policy rules what a verifier may reach"
        for rule in rules:
            is_dns = {port.get("port") for port in rule.get("ports", [{}])} == {53}
            is_inside = all(set(peer) == {"podSelector"} for peer in rule.get("to", [{}]))
            if not (is_dns or is_inside):
                yield f"{pod.name}: a verifier may leave the cluster by {rule}"


def ray(stream: Stream) -> Iterator[str]:
    """Ray, NCCL and gloo choose their ports: between pods of the cluster every one is open, in both directions."""
    every_role = {pod.role for pod in ray_pods(stream)}
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        open_between = [
            (policy["spec"]["podSelector"], peer["podSelector"])
            for policy in of_kind(stream, "NetworkPolicy")
            for rule in policy["spec"].get(direction, [])
            if "ports" not in rule
            for peer in rule.get(peers, [])
            if set(peer) == {"podSelector"}
        ]
        for role in sorted(every_role):
            labels = {"rlvr.io/role": role}
            reached = {
                other for other in every_role for mine, theirs in open_between if selects(mine, labels) and selects(theirs, {"rlvr.io/role": other})
            }
            if reached != every_role:
                yield f"{direction} of a {role} is not open to every pod of its cluster: {', '.join(sorted(every_role - reached))}"


def services(stream: Stream) -> Iterator[str]:
    for service in of_kind(stream, "Service"):
        name, spec = service["metadata"]["name"], service["spec"]
        chosen = [pod for pod in pods(stream) if spec.get("selector") and selects({"matchLabels": spec["selector"]}, pod.labels)]
        if not chosen:
            yield f"Service {name} means no pod"
        if spec.get("type") not in (None, "ClusterIP"):
            yield f"Service {name} is reached from outside the cluster"
        for port in spec.get("ports", []):
            for pod in chosen:
                if port.get("targetPort", port["port"]) not in {*pod.ports, *pod.ports.values()}:
                    yield f"Service {name}: the pod {pod.name} has no port {port.get('targetPort', port['port'])}"
                elif port["port"] not in pod.ports.values():
                    yield f"Service {name}: the port {port['port']} is not that of the pod {pod.name}"


def monitors(stream: Stream) -> Iterator[str]:
    """Each endpoint is a port of the pods that are meant, and gives run and replica to what it finds."""
    for monitor in of_kind(stream, "PodMonitor"):
        spec = monitor["spec"]
        chosen = [pod for pod in pods(stream) if selects(spec.get("selector", {}), pod.labels)]
        if {pod.role for pod in chosen} != set(RAY_ROLES):
            yield f"PodMonitor means the roles {sorted({pod.role for pod in chosen})}, the run has {sorted(RAY_ROLES)}"
        for endpoint in spec.get("podMetricsEndpoints", []):
            port = endpoint.get("port")
            if not any(port in pod.ports for pod in chosen):
                yield f"PodMonitor: no pod has the port {port}"
            given = {rule.get("targetLabel"): rule for rule in endpoint.get("relabelings", [])}
            wanted = {"run", "replica"} | ({"role"} if port in METRICS_PORTS else set())
            if not wanted <= given.keys():
                yield f"PodMonitor: the endpoint {port} gives {sorted(map(str, given))}, not {sorted(wanted)}"
            for label, rule in given.items():
                if not rule.get("sourceLabels") and not rule.get("replacement"):
                    yield f"PodMonitor: the endpoint {port} gives an empty {label}"
                if rule.get("action", "replace") != "replace":
                    yield f"PodMonitor: the endpoint {port} makes {label} by {rule.get('action')}"
    yield from _discovery(stream)


def _discovery(stream: Stream) -> Iterator[str]:
    """Either the PodMonitor finds the actors, or the controller names them: both would count each twice, neither finds nobody."""
    by_port = {
        endpoint.get("port") for monitor in of_kind(stream, "PodMonitor") for endpoint in monitor["spec"].get("podMetricsEndpoints", [])
    } & METRICS_PORTS
    configs = of_kind(stream, "ScrapeConfig")
    if by_port and configs:
        yield "PodMonitor and ScrapeConfig find the same actors: every sum would be double"
    if not configs and by_port != METRICS_PORTS:
        yield f"nobody asks the ports {sorted(METRICS_PORTS - by_port)}"
    known = {
        (service["metadata"]["name"], service["metadata"].get("namespace"), port["port"])
        for service in of_kind(stream, "Service")
        for port in service["spec"]["ports"]
    }
    for config in configs:
        for discovery in config["spec"].get("httpSDConfigs", [{}]):
            url = urlsplit(str(discovery.get("url")))
            host = (url.hostname or "").split(".")
            if url.path != "/sd" or (*host[:2], url.port) not in known or host[2:] != ["svc"]:
                yield f"ScrapeConfig asks {discovery.get('url')}, the controller answers at http://SERVICE.NAMESPACE.svc:PORT/sd"


RULES = (selectors, numbers, policies, verifiers, ray, services, monitors)
