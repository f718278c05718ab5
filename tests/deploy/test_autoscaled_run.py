"""Laws of live runs on an autoscaled cluster whose groups are those of the manifests; minutes long, part of `make test-long`.

One run says how many generators it wants: it is scaled from one to three, the node of one of them is told to go while its engine has work in flight,
the autoscaler brings another, and it is scaled back to one. Another run follows its nodes (`generators.count = "auto"`): they become two and one
again, in the steps of `deploy/scale.sh`. The tests read what the runs have left.
"""

import time

import pytest
from elastic_run import Elastic, elastic_run
from live_run import seconds_of, trained
from manifest_groups import groups

from benchmarks.audit import audit

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.long, pytest.mark.processes]


@pytest.fixture(scope="module")
def elastic(tmp_path_factory: pytest.TempPathFactory) -> Elastic:
    """A run that leads."""
    with elastic_run(tmp_path_factory.mktemp("leads"), generators=(0, 4)) as seen:
        began = time.time()
        seen.scale(3)
        seen.settle("three", 3, began=began)
        seen.drain()
        began = time.time()
        seen.scale(1)
        seen.settle("one again", 1, began=began)
        seen.stop()
    return seen


@pytest.fixture(scope="module")
def led(tmp_path_factory: pytest.TempPathFactory) -> Elastic:
    """A run that follows."""
    with elastic_run(tmp_path_factory.mktemp("led"), "generators.count='auto'", generators=(1, 1)) as seen:
        began = time.time()
        seen.cluster.bound_generators(2, 2)
        seen.settle("two", 2, began=began)
        seen.cluster.bound_generators(1, 2)
        began = seen.terminate_youngest()
        seen.cluster.bound_generators(1, 1)
        seen.settle("one again", 1, began=began)
        seen.stop()
    return seen


def is_clean(seen: Elastic) -> None:
    assert seen.finished is not None
    assert seen.finished.summary["stopped"] == "interrupted", "\n".join(seen.finished.said[-40:])
    report = audit(seen.finished.folder, seen.finished.folder)
    assert report.is_clean, report.findings
    assert report.lineages == 1, "the learner was never started anew"


def test_the_nodes_of_generators_follow_their_number_and_no_other_node_changes(elastic: Elastic) -> None:
    assert [len(elastic.nodes[moment]["generator"]) for moment in ("one", "three", "three after the drain", "one again")] == [1, 3, 3, 1]
    for role in ("controller", "verifier", "learner"):
        assert len(elastic.nodes["one"][role]) == 1
        assert all(nodes[role] == elastic.nodes["one"][role] for nodes in elastic.nodes.values()), role


def test_each_part_stands_on_a_node_of_its_group(elastic: Elastic) -> None:
    stood = {event["part"] for event in elastic.live.events("stands")}
    assert stood == {"generator", "verifier"}
    sampled = {rollout.generator for rollout in trained(elastic.live.folder, after=elastic.steps["three"])}
    assert {name.partition("#")[0] for name in sampled} == {"generator-0", "generator-1", "generator-2"}


def test_a_drained_node_is_listed_hands_back_what_it_has_begun_and_is_gone_in_time(elastic: Elastic) -> None:
    assert elastic.listed == {elastic.drained["node_id"]}
    assert len(elastic.of_drained("draining")) == len(elastic.of_drained("left")) == 1
    assert elastic.of_drained("lost") == []
    assert elastic.seconds["drain: node gone"] < groups()["generator"].drain_s
    fates = elastic.live.lines("metrics.jsonl")[-1]["queue"]["partials"]
    assert sum(fates.values()) > fates["unfit"] == 0, fates


def test_the_autoscaler_replaces_a_drained_node_and_an_engine_stands_on_the_new_one(elastic: Elastic) -> None:
    before, after = elastic.nodes["three"]["generator"], elastic.nodes["three after the drain"]["generator"]
    assert before - after == {elastic.drained["node_id"]}
    assert len(after - before) == 1
    left = seconds_of(elastic.of_drained("left")[0])
    stands = [event for event in elastic.live.events("stands", since=left) if event["name"].startswith(elastic.drained["replica"])]
    assert len(stands) == 1


def test_nothing_is_lost_and_nothing_is_trained_twice(elastic: Elastic) -> None:
    is_clean(elastic)
    assert elastic.live.events("lost") == []
    ended = elastic.live.lines("metrics.jsonl")[-1]["queue"]["leases_ended"]
    assert ended.get("sampling_expired", 0) == ended.get("sampling_lost", 0) == 0


def test_a_run_that_follows_its_nodes_has_an_engine_on_each_and_no_other_node_changes(led: Elastic) -> None:
    assert [len(led.nodes[moment]["generator"]) for moment in ("one", "two", "one again")] == [1, 2, 1]
    for role in ("controller", "verifier", "learner"):
        assert all(nodes[role] == led.nodes["one"][role] for nodes in led.nodes.values()), role
    sampled = {rollout.generator.partition("#")[0] for rollout in trained(led.live.folder, after=led.steps["two"])}
    assert sampled == {"generator-0", "generator-1"}


def test_a_node_that_is_scaled_away_drains_and_the_run_loses_nothing(led: Elastic) -> None:
    is_clean(led)
    assert led.live.events("lost") == []
    left = [event["name"] for event in led.live.events("left") if event["part"] == "generator"]
    assert left == [event["name"] for event in led.live.events("draining")] == ["generator-1"]
