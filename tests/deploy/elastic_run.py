"""A live run on an autoscaled cluster whose groups are those of the manifests: what is done to it, and what is seen of it meanwhile.

Owns the run, its cluster, and when a change of either has settled. Called by the tests that read what is left; decides nothing about what should be.
"""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoscaled_cluster import AutoscaledCluster, Observer, autoscaling_config
from live_run import LiveRun, model_in
from whole_runs import Finished, engine_of

logger = logging.getLogger(__name__)

PATIENTLY_S = 600.0
"""Three engines that start at once on two cores take minutes where other work has those too."""
ONE_ENGINE = {"generators": {"CPU": 1}, "verifiers": {"CPU": 1}, "learner": {"CPU": 1}}
"""A node holds one part of the run, as a pod of the manifests does; its GPUs are left out."""
SETTINGS = (
    "run.num_steps=100000", "generators.max_tokens_per_second=300", "rollout.group_size=16", "rollout.max_completion_tokens=100",
    "verifiers.labels={'rlvr.io/role' = 'verifier'}", "queue.silence_s=60", "weights.deadline_s=60",
)  # fmt: skip


@dataclass
class Elastic:
    """The run and its cluster: what was seen at which moment, and how long it took to come there."""

    live: LiveRun
    cluster: AutoscaledCluster
    observer: Observer
    nodes: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    drained: dict[str, Any] = field(default_factory=dict)
    """Replica, name, node of the generator whose node was told to go."""
    listed: set[str] = field(default_factory=set)
    """Nodes that were seen as draining."""
    finished: Finished | None = None

    def scale(self, number: int) -> None:
        said = self.live.command("scale", str(self.live.folder), "--generators", str(number))
        assert said.returncode == 0, said.stderr

    def settle(self, moment: str, generators: int, *, began: float) -> None:
        """Until there are so many generators, each on a node of its own, and the run trains what they sample."""
        self.live.until(lambda: len(self.observer.nodes().get("generator", ())) == generators, within_s=PATIENTLY_S, what=f"{generators} nodes")
        self.seconds[f"{moment}: nodes"] = time.time() - began
        self.live.until(lambda: self.live.status()["alive"]["generator"] == generators, within_s=PATIENTLY_S, what=f"{generators} generators")
        self.seconds[f"{moment}: generators"] = time.time() - began
        self.nodes[moment] = self.observer.nodes()
        self.steps[moment] = self.live.step
        self.live.reach(self.live.step + 5, within_s=PATIENTLY_S)

    def drain(self) -> None:
        """SIGTERM to the node of the last generator while its engine holds still with work in flight, so that there is something to hand back."""
        self.drained = max((part for part in self.live.status()["processes"] if part["role"] == "generator"), key=lambda part: str(part["replica"]))
        engine = engine_of(self.drained["pid"])
        self.live.until(lambda: self.live.holds_in_flight(engine, self.drained["replica"]), within_s=PATIENTLY_S, what="work in flight")
        began = time.time()
        self.cluster.terminate(self.drained["node_id"])
        self.listed = self.live.until(lambda: self.observer.nodes(is_draining=True).get("generator"), within_s=PATIENTLY_S, what="a draining node")
        self.seconds["drain: listed"] = time.time() - began
        self.live.until(lambda: self.of_drained("draining"), within_s=PATIENTLY_S, what="the drain is seen")
        os.kill(engine, signal.SIGCONT)
        self.live.until(
            lambda: self.drained["node_id"] not in self.observer.nodes()["generator"], within_s=PATIENTLY_S, what="the drained node has gone"
        )
        self.seconds["drain: node gone"] = time.time() - began
        self.settle("three after the drain", 3, began=began)

    def terminate_youngest(self) -> float:
        """SIGTERM to the node that came last, as the operator does to a pod that `deploy/scale.sh` names to it. Returns when, when it has gone."""
        youngest, *_ = self.nodes["two"]["generator"] - self.nodes["one"]["generator"]
        began = time.time()
        self.cluster.terminate(youngest)
        self.live.until(lambda: youngest not in self.observer.nodes()["generator"], within_s=PATIENTLY_S, what="the youngest node has gone")
        return began

    def of_drained(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.live.events(kind) if event["name"] == self.drained["name"]]

    def stop(self) -> None:
        said = self.live.command("stop", str(self.live.folder))
        assert said.returncode == 0, said.stderr
        self.finished = self.live.ended(within_s=PATIENTLY_S)
        logger.info("seconds: %s", {name: round(seconds, 1) for name, seconds in self.seconds.items()})


@contextlib.contextmanager
def elastic_run(folder: Path, *settings: str, generators: tuple[int, int]) -> Iterator[Elastic]:
    """A run that has trained its first steps. generators: the least and the most nodes of that group."""
    cluster = AutoscaledCluster(autoscaling_config(idle_s=3.0, generators=generators, resources=ONE_ENGINE))
    with cluster, Observer(cluster) as observer, LiveRun(cluster, folder / "run", *SETTINGS, *settings, model=model_in(folder)) as live:
        seen = Elastic(live, cluster, observer)
        live.reach(5, within_s=PATIENTLY_S)
        seen.settle("one", 1, began=time.time())
        yield seen
