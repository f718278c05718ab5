"""Laws of a live run on hosts that carry the labels of the manifests: one host for each role, and three for generators.

One run goes through it all, in this order: it is scaled from one generator to three, one of the three hosts is told to go while its engine has work
in flight, and it is scaled back to one. The tests read what the run has left.
"""

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hosts import Host, Network
from live_run import LiveRun, model_in, trained
from manifest_groups import groups
from whole_runs import Finished

from benchmarks.audit import audit

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.long, pytest.mark.processes]

PATIENTLY_S = 600.0
SETTINGS = (
    "run.num_steps=100000", "generators.max_tokens_per_second=300", "rollout.group_size=16", "rollout.max_completion_tokens=100",
    "verifiers.labels={'rlvr.io/role' = 'verifier'}", "queue.silence_s=60", "weights.deadline_s=60",
)  # fmt: skip
Parts = dict[str, tuple[str, int]]


@dataclass
class Scaled:
    """What was seen of the run, and the run itself when it has ended."""

    parts: dict[str, Parts] = field(default_factory=dict)
    """At each moment: worker → node and process."""
    steps: dict[str, int] = field(default_factory=dict)
    drained: str = ""
    drain_s: float = 0.0
    run: Finished | None = None

    def of(self, role: str, moment: str) -> Parts:
        return {name: place for name, place in self.parts[moment].items() if name.startswith(role)}

    def events(self, kind: str) -> list[dict[str, Any]]:
        assert self.run is not None
        return [event for event in self.run.lines("events.jsonl") if event["event"] == kind and event.get("name") == self.drained]


@pytest.fixture(scope="module")
def scaled(networks: Callable[[], Network]) -> Scaled:
    """Everything that happens, in order."""
    network = networks()
    head = start(network.host("head", sees_runs=True), "controller", head=None)
    for role in ("verifier", "learner"):
        start(network.host(role), role, head=head)
    generators = [start(network.host(f"gen-{letter}"), "generator", head=head) for letter in "abc"]
    seen = Scaled()
    with LiveRun(head, network.hidden / "run", *SETTINGS, model=model_in(network.folder)) as run:
        run.reach(5, within_s=PATIENTLY_S)
        settle(seen, run, "one", 1)
        scale(run, 3)
        settle(seen, run, "three", 3)
        drain(seen, run, generators)
        settle(seen, run, "two", 2)
        scale(run, 1)
        settle(seen, run, "one again", 1)
        said = run.command("stop", str(run.folder))
        assert said.returncode == 0, said.stderr
        seen.run = run.ended(within_s=PATIENTLY_S)
    return seen


def start(host: Host, role: str, *, head: Host | None) -> Host:
    """Start a Ray node as a pod of that role would."""
    group = groups()[role]
    host.start_ray(head=head, role=role, cpus=int(head is not None), labels=group.labels, environment=group.environment)
    return host


def scale(run: LiveRun, number: int) -> None:
    said = run.command("scale", str(run.folder), "--generators", str(number))
    assert said.returncode == 0, said.stderr


def settle(seen: Scaled, run: LiveRun, moment: str, generators: int) -> None:
    """Until so many generators stand, and the run trains what they sample."""
    began = time.time()
    run.until(lambda: run.status()["alive"]["generator"] == generators, within_s=PATIENTLY_S, what=f"{generators} generators")
    logger.info("%s: %.1f s", moment, time.time() - began)
    seen.parts[moment] = {process["name"]: (process["node_id"], process["pid"]) for process in run.status()["processes"]}
    seen.steps[moment] = run.step
    run.reach(run.step + 5, within_s=PATIENTLY_S)


def drain(seen: Scaled, run: LiveRun, generators: list[Host]) -> None:
    """SIGTERM to one host's Ray node while its engine holds still with work in flight, so that there is something to hand back."""
    host, seen.drained = next((host, name) for host in generators if (name := run.worker_on(host)) == "generator-2")
    engine = next(pid for pid in host.processes() if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes())
    run.until(lambda: run.holds_in_flight(engine, seen.drained), within_s=PATIENTLY_S, what="work in flight")
    began = time.time()
    host.terminate()
    run.until(lambda: [event for event in run.events("draining") if event["name"] == seen.drained], within_s=PATIENTLY_S, what="the drain is seen")
    os.kill(engine, signal.SIGCONT)
    run.until(host.has_ended, within_s=PATIENTLY_S, what="the drained node ends")
    seen.drain_s = time.time() - began
    logger.info("drain: the node ends %.1f s after SIGTERM", seen.drain_s)


def test_generators_come_and_go_on_their_own_hosts_and_no_other_part_changes(scaled: Scaled) -> None:
    moments = ("one", "three", "two", "one again")
    assert [len(scaled.of("generator", moment)) for moment in moments] == [1, 3, 2, 1]
    assert len({node for node, _ in scaled.of("generator", "three").values()}) == 3
    for role in ("queue", "verifier", "learner"):
        assert len(scaled.of(role, "one")) == 1
        assert all(scaled.of(role, moment) == scaled.of(role, "one") for moment in moments), role
    everywhere = {node for node, _ in scaled.parts["three"].values()}
    assert len(everywhere) == 6, "each part has a host of its own; the queue is on the controller's"


def test_all_three_generators_sample_what_is_trained(scaled: Scaled) -> None:
    assert scaled.run is not None
    assert {rollout.generator for rollout in trained(scaled.run.folder, after=scaled.steps["three"])} == {"generator-0", "generator-1", "generator-2"}


def test_a_drained_host_hands_back_what_it_has_begun_and_is_gone_in_time(scaled: Scaled) -> None:
    assert scaled.run is not None
    assert len(scaled.events("draining")) == len(scaled.events("left")) == 1
    assert scaled.drain_s < groups()["generator"].drain_s
    fates = scaled.run.lines("metrics.jsonl")[-1]["queue"]["partials"]
    assert sum(fates.values()) > fates["unfit"] == 0, fates


def test_nothing_is_lost_and_nothing_is_trained_twice(scaled: Scaled) -> None:
    assert scaled.run is not None
    assert scaled.run.summary["stopped"] == "interrupted", "\n".join(scaled.run.said[-40:])
    report = audit(scaled.run.folder, scaled.run.folder)
    assert report.is_clean, report.findings
    assert [event for event in scaled.run.lines("events.jsonl") if event["event"] == "lost"] == []
