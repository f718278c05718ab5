"""Laws of who may speak to whom: the table over all pairs of peers notices each slip that opens or closes something."""

from collections.abc import Callable

import pytest
import traffic_rules
from rendered import BASE, Object, of_kind, stream_of
from traffic import HERE, Peer, open_ports


def moved(policy: Object, old: str, new: str) -> Object:
    """The policy with one text or number in place of another, wherever it stands."""

    def change(value: object) -> object:
        if isinstance(value, dict):
            return {key: change(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [change(inner) for inner in value]
        return type(value)(new) if str(value) == old else value

    changed = change(policy)
    assert changed != policy
    return changed  # type: ignore[return-value]


def only_egress(policy: Object, old: str, new: str) -> Object:
    return {**policy, "spec": {**policy["spec"], "egress": moved({"egress": policy["spec"]["egress"]}, old, new)["egress"]}}


SLIPS: dict[str, tuple[str, Callable[[Object, str, str], Object], str, str, str]] = {
    "submitter to verifiers": ("submitter", only_egress, "controller", "verifier", "submitter may not speak to controller, TCP 8265"),
    "operator elsewhere": ("job-control", moved, "kuberay-system", "default", "operator may not speak to controller, TCP 8265"),
    "another operator": ("job-control", moved, "kuberay-operator", "other", "operator may not speak to controller, TCP 8265"),
    "Prometheus elsewhere": ("metrics", moved, "monitoring", "monitorin", "Prometheus may not speak to learner, TCP 9400"),
    "ports of Ray's metrics": ("metrics", moved, "8080", "8081", "Prometheus may not speak to verifier, TCP 8080"),
    "ports of metrics": ("metrics", moved, "9400", "9500", "Prometheus may not speak to controller, TCP 9401"),
    "last port of metrics": ("metrics", moved, "9499", "9599", "Prometheus may speak to controller, TCP 9500"),
    "port of the API server": ("api-server", moved, "6443", "8000", "controller may not speak to world by IPv6, TCP 6443"),
    "API server for all": ("api-server", moved, "controller", "verifier", "verifier may speak to world, TCP 443"),
    "API server by IPv4 alone": ("api-server", moved, "::/0", "fe80::/10", "controller may not speak to world by IPv6, TCP 6443"),
    "port of the hub": ("model-hub", moved, "443", "4430", "learner may not speak to world, TCP 443"),
    "metadata of the node": ("model-hub", moved, "169.254.0.0/16", "169.253.0.0/16", "learner may speak to metadata 169.254.169.254, TCP 443"),
    "metadata by IPv6": ("model-hub", moved, "fd00:ec2::/32", "fd00:ec3::/32", "learner may speak to metadata fd00:ec2::254, TCP 443"),
    "names of nobody": ("dns", moved, "kube-system", "kube-dns", "verifier may not speak to DNS, UDP 53"),
    "names without a submitter": ("dns", moved, "submitter", "submiter", "submitter may not speak to DNS, UDP 53"),
    "names by TCP alone": ("dns", moved, "UDP", "TCP", "controller may not speak to DNS cache, UDP 53"),
    "a role outside the cluster": ("ray-cluster", moved, "learner", "lerner", "learner may not speak to generator, TCP 6379"),
}


@pytest.mark.parametrize("case", SLIPS)
def test_a_slip_in_a_policy_is_told_by_who_and_where(case: str) -> None:
    name, change, old, new, said = SLIPS[case]
    stream = [change(one, old, new) if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == name else one for one in stream_of(BASE)]
    found = list(traffic_rules.traffic(stream))
    assert any(fault.startswith(said) for fault in found), found


def test_every_policy_of_base_has_a_purpose() -> None:
    """Without any one of them something is closed that has to be open, or the other way round."""
    stream = stream_of(BASE)
    for policy in of_kind(stream, "NetworkPolicy"):
        without = [one for one in stream if one is not policy]
        assert [fault for rule in traffic_rules.RULES for fault in rule(without)] != [], policy["metadata"]["name"]


def test_without_a_policy_everything_passes_and_an_empty_rule_means_everybody() -> None:
    here, there = Peer("a", HERE, {"app": "a"}), Peer("b", "elsewhere")
    ports = [("TCP", 1), ("UDP", 2)]
    assert open_ports([], there, here, ports) == set(ports)
    closed = {"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}
    assert open_ports([closed], there, here, ports) == set()
    assert open_ports([closed], here, there, ports) == set(ports)
    everybody = {"spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 1}]}]}}
    assert open_ports([closed, everybody], there, here, ports) == {("TCP", 1)}
    alone = {"spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}]}}
    assert open_ports([alone], there, here, ports) == set()
    assert open_ports([alone], here, here, ports) == set(ports)
