"""Laws of a run whose parts live on five hosts: the controller with the run folder, two generators, two learner ranks.

No host but the controller's sees the run folder, every host's name resolves to 127.0.1.1 on it, and Ray asks for a token. From its middle on the link
of one generator loses 2% of the frames and holds the others for 50 ms each way.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import Network, why_no_wire
from live_run import START_S, LiveRun, model_in, seconds_of, trained
from whole_runs import Finished

from benchmarks.audit import audit
from learner.checkpoint_files import check_files, read_marker
from rlvr.store import FolderStore

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.long, pytest.mark.processes]

STEPS, MIDDLE = 30, 10


class Spoilt:
    """The finished run, and when its link became bad."""

    def __init__(self, run: Finished, at: float | None) -> None:
        self.run = run
        self.at = at


@pytest.fixture(scope="module")
def spoilt(networks: Callable[[], Network]) -> Spoilt:
    network = networks()
    head = network.host("head", sees_runs=True)
    head.start_ray(head=None, role="head", cpus=1)
    has_wire = why_no_wire() is None
    first, second = network.host("gen-a"), network.host("gen-b", has_wire=has_wire)
    for host, role in ((first, "generator"), (second, "generator"), (network.host("learn-a"), "learner"), (network.host("learn-b"), "learner")):
        host.start_ray(head=head, role=role, cpus=1)
    settings = (f"run.num_steps={STEPS}", "generators.count=2", "generators.max_tokens_per_second=200", "learner.ranks=2")
    with LiveRun(head, network.hidden / "run", *settings, model=model_in(network.folder)) as run:
        run.reach(MIDDLE, within_s=START_S)
        at = None
        if has_wire:
            second.spoil(loss=0.02, delay_s=0.05)
            at = time.time()
        finished = run.ended(within_s=START_S)
    assert finished.code == 0, "\n".join(finished.said[-40:])
    return Spoilt(finished, at)


def test_a_run_on_five_hosts_finishes(spoilt: Spoilt) -> None:
    assert (spoilt.run.summary["stopped"], spoilt.run.summary["steps"]) == ("finished", STEPS)


def test_both_generators_sample_what_is_trained(spoilt: Spoilt) -> None:
    assert {rollout.generator for rollout in trained(spoilt.run.folder)} == {"generator-0", "generator-1"}


def test_checkpoints_are_whole_and_hold_the_shards_of_both_ranks(spoilt: Spoilt) -> None:
    store = FolderStore(spoilt.run.folder)
    markers = {step: read_marker(store, step) for step in (STEPS - 10, STEPS)}
    for step, marker in markers.items():
        check_files(store, step, marker.files)
        assert marker.world_size == 2
        shards = {Path(file.name).name for file in marker.files if file.name.endswith(".distcp")}
        assert {name.split("_")[2] for name in shards} == {"0", "1"}, shards


def test_nothing_is_lost_or_trained_twice_across_hosts(spoilt: Spoilt) -> None:
    report = audit(spoilt.run.folder, spoilt.run.folder)
    assert report.is_clean, report.findings


def test_a_link_that_loses_2_percent_and_delays_50_ms_ends_nothing(spoilt: Spoilt) -> None:
    if spoilt.at is None:
        pytest.skip(f"a link that loses and delays: {why_no_wire()}")
    published = [event for event in spoilt.run.lines("events.jsonl") if event["event"] == "published" and seconds_of(event) > spoilt.at]
    assert len(published) >= STEPS - MIDDLE - 2
    late = [rollout for rollout in trained(spoilt.run.folder) if rollout.step > MIDDLE + 5]
    assert {rollout.generator.partition("#")[0] for rollout in late} == {"generator-0", "generator-1"}
