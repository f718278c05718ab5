"""Who may speak to whom, and on which port, as one table over every pair of peers: what is not in it is closed.

Owns the matrix of a run's traffic, and its one rule over a stream. What components of deploy/ open beside base is named here by their policies.
"""

import functools
import itertools
import json
from collections.abc import Iterator

from rendered import CONTROLLER, GENERATOR, LEARNER, RAY_ROLES, SUBMITTER, Object, Stream, of_kind, pods
from traffic import HERE, Peer, open_ports

OPERATOR = Peer("operator", "kuberay-system", {"app.kubernetes.io/component": "kuberay-operator"})
PROMETHEUS = Peer("Prometheus", "monitoring", {"app.kubernetes.io/name": "prometheus"})
DNS = Peer("DNS", "kube-system", {"k8s-app": "kube-dns"})
DNS_CACHE = Peer("DNS cache", address="169.254.20.10")
STORE = Peer("MinIO", "minio", {"app": "minio"})
STRANGERS = (Peer("stranger", "default"), Peer("neighbour of the operator", "kuberay-system", {"app": "other"}), Peer("unlabelled pod", HERE))
WORLD = (Peer("world", address="203.0.113.7"), Peer("world by IPv6", address="2001:db8::7"))
"""The model hub, an object store, and the API server, whose address may be any."""
METADATA = tuple(
    Peer(f"metadata {address}", address=address)
    for address in ("169.254.169.254", "169.254.169.252", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23", "fe80::1")
)
API_PORTS = (443, 6443, 8443, 16443)
HUB_ROLES = (CONTROLLER, GENERATOR, LEARNER)
NUMBERS = (80, 443, 988, 4430, 6379, 8000, 8080, 8265, 9000, 9399, 9400, 9401, 9499, 9500, *API_PORTS[1:])
PORTS = (("UDP", 53), ("TCP", 53), *(("TCP", number) for number in NUMBERS))
ADDED = {
    "gke-identity": {("metadata 169.254.169.254", 80), ("metadata 169.254.169.252", 988)},
    "eks-identity": {("metadata 169.254.170.23", 80), ("metadata fd00:ec2::23", 80)},
    "private-store": {("MinIO", 9000)},
    "gke-dns": {("metadata 169.254.169.254", 53)},
}
"""What policies of components open, to roles that open the store; names to every role."""


def traffic(stream: Stream) -> Iterator[str]:
    """The table holds, in both directions: what a run needs is open, everything else is closed."""
    policies = json.dumps(of_kind(stream, "NetworkPolicy"), sort_keys=True)
    roles = tuple(sorted(pod.role for pod in pods(stream)))
    yield from _faults(policies, roles)


@functools.lru_cache(maxsize=256)
def _faults(policies: str, roles: tuple[str, ...]) -> tuple[str, ...]:
    read = json.loads(policies)
    ours = [Peer(role, HERE, {"rlvr.io/role": role}) for role in dict.fromkeys(roles)]
    others = [OPERATOR, PROMETHEUS, DNS, STORE, *STRANGERS]
    names = frozenset(policy["metadata"]["name"] for policy in read)
    pairs = [pair for pair in itertools.product([*ours, *others], [*ours, *others, DNS_CACHE, *WORLD, *METADATA]) if HERE in _namespaces(pair)]
    return tuple(fault for source, target in pairs for fault in _of_pair(read, source, target, names))


def _of_pair(policies: list[Object], source: Peer, target: Peer, names: frozenset[str]) -> Iterator[str]:
    is_open = open_ports(policies, source, target, PORTS)
    wanted = {port for port in PORTS if _is_wanted(source.name, target, port[1], names)}
    yield from (f"{source.name} may not speak to {target.name}, {protocol} {port}, and has to" for protocol, port in sorted(wanted - is_open))
    yield from (f"{source.name} may speak to {target.name}, {protocol} {port}, and has no reason to" for protocol, port in sorted(is_open - wanted))


def _namespaces(pair: tuple[Peer, Peer]) -> set[str]:
    return {peer.namespace for peer in pair}


def _is_wanted(source: str, target: Peer, port: int, policies: frozenset[str]) -> bool:
    if target.name in RAY_ROLES and source in RAY_ROLES:
        return True
    match source:
        case OPERATOR.name:
            return (target.name, port) == (CONTROLLER, 8265)
        case PROMETHEUS.name:
            return target.name in RAY_ROLES and (port == 8080 or 9400 <= port <= 9499)
    if source not in (*RAY_ROLES, SUBMITTER):
        return False
    if target in (DNS, DNS_CACHE):
        return port == 53
    if target in WORLD:
        return (source == CONTROLLER and port in API_PORTS) or (source in HUB_ROLES and port == 443 and "model-hub" in policies)
    if source == SUBMITTER and target.name == CONTROLLER:
        return port == 8265
    opened = {flow for name, flows in ADDED.items() if name in policies and (source in HUB_ROLES or name == "gke-dns") for flow in flows}
    return (target.name, port) in opened


def hub(stream: Stream) -> Iterator[str]:
    """A model that the hub has is fetched from there; one that the image has needs no way out."""
    texts = [text for one in of_kind(stream, "ConfigMap") for name, text in one.get("data", {}).items() if name.endswith(".toml")]
    is_in_image = all('policy = "/' in text for text in texts)
    if is_in_image == _has(stream, "model-hub"):
        yield "a model of the image needs no policy model-hub" if is_in_image else "a model of the hub needs the policy model-hub"


def _has(stream: list[Object], name: str) -> bool:
    return any(policy["metadata"]["name"] == name for policy in of_kind(stream, "NetworkPolicy"))


RULES = (traffic, hub)
