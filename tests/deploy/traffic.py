"""Whether NetworkPolicies let one peer speak to another: the sender's egress and the receiver's ingress, as Kubernetes reads them.

Owns the reading of policies of one namespace. Peers are pods of it, pods of other namespaces, and addresses outside the cluster; what other
namespaces or the world forbid is not known here.
"""

import functools
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rendered import Object, selects

HERE = "firesteel"


@dataclass(frozen=True)
class Peer:
    """A pod where a namespace is given, else an address outside the cluster."""

    name: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    address: str = ""


def open_ports(policies: Sequence[Object], source: Peer, target: Peer, ports: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Of these protocols and ports of `target`, those to which `source` may open a connection."""
    sends, receives = _rules(policies, source, target, kind="Egress"), _rules(policies, target, source, kind="Ingress")
    return {port for port in ports if all(any(_means_port(rule, *port) for rule in rules) for rules in (sends, receives))}


def _rules(policies: Sequence[Object], mine: Peer, other: Peer, *, kind: str) -> list[Object]:
    """Rules of the policies for this direction of `mine` that mean `other`; where no policy rules it, one that means every port."""
    if mine.namespace != HERE:
        return [{}]
    ruling = [policy["spec"] for policy in policies if kind in policy["spec"].get("policyTypes", [])]
    ruling = [spec for spec in ruling if selects(spec.get("podSelector", {}), mine.labels)]
    key, peers = ("egress", "to") if kind == "Egress" else ("ingress", "from")
    return [rule for spec in ruling for rule in spec.get(key, []) if _means(rule.get(peers), other)] if ruling else [{}]


def _means_port(rule: Object, protocol: str, port: int) -> bool:
    if "ports" not in rule:
        return True
    return any(protocol == one.get("protocol", "TCP") and port in range(one["port"], one.get("endPort", one["port"]) + 1) for one in rule["ports"])


def _means(peers: Sequence[Object] | None, other: Peer) -> bool:
    return peers is None or any(all(_conditions(peer, other)) for peer in peers)


def _conditions(peer: Object, other: Peer) -> Iterator[bool]:
    if "ipBlock" in peer:
        yield _is_within(peer["ipBlock"], other.address)
        return
    if "namespaceSelector" in peer:
        yield bool(other.namespace) and selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
    else:
        yield other.namespace == HERE
    yield selects(peer.get("podSelector", {}), other.labels)


def _is_within(block: Object, address: str) -> bool:
    """Pods have no address here: policies mean them by their labels."""
    if not address:
        return False
    inside, *excepted = [_holds(cidr, address) for cidr in (block["cidr"], *block.get("except", []))]
    return inside and not any(excepted)


@functools.cache
def _holds(cidr: str, address: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr)
