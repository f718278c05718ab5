"""What is done to the hosts of a live run, one act after the other, and when.

Owns the cluster and the run on it. Called by the tests that read what is left; decides nothing about what should be.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from hosts import Host, Network
from live_run import LiveRun, model_in, samplers

CUT_S = 5.0
SHORTLY_S, PATIENTLY_S = 60.0, 180.0
KBIT = 1000
"""At this rate a broadcast of the model's 0.7 MB takes more than 5 s."""
IN_MID_BROADCAST = 150_000
"""Bytes of a version that a host has when its link is cut."""
DRAIN_S = 60
STALENESS = 2
SETTINGS = (
    "run.num_steps=100000", 'generators.count="auto"', "generators.max_tokens_per_second=300", "rollout.group_size=16",
    "rollout.max_completion_tokens=100",
)  # fmt: skip


@dataclass
class Act:
    """What was done to a host, and to which worker on it; when, in seconds of the clock, and at which step."""

    host: Host
    worker: str
    began: float
    step: int
    ended: float = 0.0
    first_rollout: float = 0.0


class Play:
    """A cluster, the run on it, and what is done to them."""

    def __init__(self, network: Network) -> None:
        self.head = network.host("head", sees_runs=True)
        self.head.start_ray(head=None, role="head", cpus=1)
        learner = network.host("learn-a")
        learner.start_ray(head=self.head, role="learner", cpus=1)
        self.a, self.b, self.c = (network.host(name) for name in ("gen-a", "gen-b", "gen-c"))
        for host in (self.a, self.b):
            self.boot(host)
        self.run = LiveRun(self.head, network.hidden / "run", *SETTINGS, model=model_in(network.folder))
        self.network = network
        self.acts: dict[str, Act] = {}

    def boot(self, host: Host) -> None:
        host.start_ray(head=self.head, role="generator", cpus=1, environment={"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(DRAIN_S)})

    def act(self, name: str, host: Host, worker: str = "") -> Act:
        self.acts[name] = Act(host=host, worker=worker or self.run.worker_on(host), began=time.time(), step=self.run.step)
        return self.acts[name]

    def join(self, name: str, host: Host) -> None:
        """A host starts, and its generator brings its first rollout."""
        act = self.act(name, host, "-")
        self.boot(host)
        act.worker = self.run.until(lambda: self.run.worker_on(host), within_s=PATIENTLY_S, what=f"a generator on {host.name}")
        replica = act.worker.partition("#")[0]
        self.run.until(lambda: self.run.measured(replica, "rlvr_rollouts_generated_total"), within_s=SHORTLY_S, what=f"{act.worker} samples")
        act.first_rollout = time.time()
        self.until_it_works(act)

    def cut_in_mid_lease(self) -> None:
        act = self.act("cut in mid-lease", self.a)
        self.run.until(lambda: self.run.leases_of(act.worker), within_s=SHORTLY_S, what=f"{act.worker} has leases")
        self.cut_for_a_while(act)

    def cut_in_mid_broadcast(self) -> None:
        self.b.throttle(KBIT)
        act = self.act("cut in mid-broadcast", self.b)
        self.until_a_broadcast_is_under_way(act)
        self.cut_for_a_while(act)

    def cut_until_given_up(self) -> None:
        """The link comes back while Ray still takes the node for alive, and the old worker lives on it."""
        act = self.act("given up", self.b)
        self.cut_in_earnest(act)
        act.ended = time.time()
        back = self.act("back", self.b, act.worker)
        self.b.heal()
        back.worker = self.run.until(lambda: self.other_worker_on(self.b, act.worker), within_s=PATIENTLY_S, what=f"{act.worker} is replaced")
        self.until_it_works(back)

    def cut_for_good(self) -> None:
        act = self.act("cut for good", self.a)
        self.cut_in_earnest(act)
        self.run.reach(self.run.step + 10, within_s=PATIENTLY_S)
        act.ended = time.time()

    def cut_in_earnest(self, act: Act) -> None:
        """In mid-lease, and until its worker is given up."""
        self.run.until(lambda: self.run.leases_of(act.worker), within_s=SHORTLY_S, what=f"{act.worker} has leases")
        act.began = time.time()
        act.host.cut()
        self.run.until(lambda: self.is_lost(act.worker), within_s=PATIENTLY_S, what=f"{act.worker} is given up")

    def other_worker_on(self, host: Host, old: str) -> str:
        worker = self.run.worker_on(host)
        return worker if worker != old else ""

    def return_of_the_lost(self) -> None:
        """The link is there again, and with it whatever still lives on that host; then its pod is started anew."""
        self.run.until(lambda: self.run.status()["wanted"]["generator"] == 2, within_s=PATIENTLY_S, what="Ray takes the lost node for dead")
        act = self.act("return", self.a, self.acts["cut for good"].worker)
        self.a.heal()
        self.run.until(self.a.has_ended, within_s=PATIENTLY_S, what="the Ray node that was taken for dead ends")
        act.ended = time.time()
        self.a.kill()
        self.join("join after the return", self.a)

    def drain(self) -> None:
        """SIGTERM to a host's Ray node while its engine holds still with work in flight, so that there is something to hand back."""
        act = self.act("drain", self.c)
        replica = act.worker.partition("#")[0]
        engine = next(pid for pid in self.c.processes() if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes())
        self.run.until(lambda: self.run.holds_in_flight(engine, replica), within_s=SHORTLY_S, what=f"{act.worker} has work in flight")
        act.began = time.time()
        self.c.terminate()
        self.run.until(
            lambda: any(event["name"] == act.worker for event in self.run.events("draining")), within_s=SHORTLY_S, what="the drain is seen"
        )
        os.kill(engine, signal.SIGCONT)
        self.run.until(self.c.has_ended, within_s=DRAIN_S, what="the drained node ends")
        act.ended = time.time()
        self.run.reach(self.run.step + 10, within_s=PATIENTLY_S)

    def until_a_broadcast_is_under_way(self, act: Act) -> None:
        """Between two published versions its host has received a good part of the next one, and not all."""

        def is_under_way() -> bool:
            published = len(self.run.events("published"))
            if published != seen["published"]:
                seen.update(published=published, bytes=act.host.bytes_received())
            return act.host.bytes_received() - seen["bytes"] > IN_MID_BROADCAST

        seen = {"published": -1, "bytes": 0}
        self.run.until(is_under_way, within_s=SHORTLY_S, what="a broadcast is under way")

    def cut_for_a_while(self, act: Act) -> None:
        act.began = time.time()
        act.host.cut()
        self.run.until(lambda: time.time() - act.began >= CUT_S, within_s=SHORTLY_S, what="the cut")
        act.host.heal()
        act.host.unthrottle()
        self.until_it_works(act)

    def until_it_works(self, act: Act) -> None:
        """The run trains what this worker has begun from now on."""
        begun_later = self.run.step + STALENESS + 2
        self.run.until(lambda: act.worker in samplers(self.run.folder, after=begun_later), within_s=PATIENTLY_S, what=f"{act.worker} samples")
        act.ended = time.time()

    def is_lost(self, worker: str) -> bool:
        return any(event["name"] == worker for event in self.run.events("lost"))
