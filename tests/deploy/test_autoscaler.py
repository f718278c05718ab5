"""Laws of scaling by role: the groups of the manifests, under Ray's real autoscaler, follow what a run asks for, each group by itself.

The actors ask for what those of deploy/base/run.toml ask for, and have nothing in them: no engine is started, and a GPU is a number.
"""

import logging
import time
from collections.abc import Callable, Iterator

import pytest
from autoscaled_cluster import AutoscaledCluster, Observer, autoscaling_config
from hosts import until

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.ray, pytest.mark.processes]

WITHIN_S = 120.0
RANKS = 4
"""learner.ranks of deploy/base/run.toml, all on one node."""


@pytest.fixture(scope="module")
def observer() -> Iterator[Observer]:
    """Of a cluster that holds one generator, one verifier and the learner."""
    cluster = AutoscaledCluster(autoscaling_config(idle_s=2.0, generators=(0, 4)))
    with cluster, Observer(cluster) as observer:
        observer.want(generators=1, verifiers=1, ranks=RANKS)
        until(is_so(observer, generator=1, verifier=1, learner=1), within_s=WITHIN_S, what="one node of each group")
        yield observer


def is_so(observer: Observer, **wanted: int) -> Callable[[], bool]:
    """Whether there are so many nodes of these roles."""

    def look() -> bool:
        nodes = observer.nodes()
        return all(len(nodes.get(role, ())) == number for role, number in wanted.items())

    return look


def test_generators_from_one_to_three_and_back_change_their_own_nodes_alone(observer: Observer) -> None:
    seen = [observer.nodes()]
    for number in (3, 1):
        began = time.monotonic()
        observer.want(generators=number)
        until(is_so(observer, generator=number), within_s=WITHIN_S, what=f"{number} nodes for generators")
        logger.info("to %d generators: %.1f s", number, time.monotonic() - began)
        seen.append(observer.nodes())
    first, most, last = (nodes.pop("generator") for nodes in seen)
    assert first == last < most
    assert len(most) == 3
    assert seen[0] == seen[1] == seen[2]
    assert {role: len(nodes) for role, nodes in seen[0].items()} == {"controller": 1, "verifier": 1, "learner": 1}


def test_verifiers_are_scaled_by_themselves_too(observer: Observer) -> None:
    before = observer.nodes()
    observer.want(verifiers=2)
    until(is_so(observer, verifier=2), within_s=WITHIN_S, what="two nodes for verifiers")
    after = observer.nodes()
    assert before.pop("verifier") < after.pop("verifier")
    assert before == after


def test_every_node_carries_its_role_and_its_price(observer: Observer) -> None:
    labels = observer.labels()
    assert {label["rlvr.io/role"] for label in labels} == {"controller", "generator", "verifier", "learner"}
    assert all(float(label["rlvr.io/usd-per-hour"]) > 0 for label in labels)
