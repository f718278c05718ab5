"""Laws of a live run whose hosts come and go and whose links are cut, with as many generators as there are hosts for them.

One run goes through it all, in this order: a third generator's host joins; a link is cut for 5 s in mid-lease, another one in mid-broadcast, then
until the worker behind it is given up; a link is cut for good, and the host behind it comes back when Ray has taken it for dead; a host is drained as
when a pod is deleted. The tests read what the run has left.
"""

import contextlib
import itertools
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hosts import Host, Network
from live_run import START_S, LiveRun, model_in, samplers, seconds_of, trained
from runs import Finished

from benchmarks.audit import audit

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.long, pytest.mark.processes]

DEADLINE_S, SILENCE_S = 10.0, 15.0
"""weights.deadline_s and queue.silence_s of the run (`live_run.SETTINGS`)."""
CUT_S = 5.0
SHORTLY_S, PATIENTLY_S = 60.0, 180.0
KBIT = 1000
"""At this rate a broadcast of the model's 0.7 MB takes more than 5 s."""
IN_MID_BROADCAST = 150_000
"""Bytes of a version that a host has when its link is cut."""
DRAIN_S = 60
IN_FLIGHT = 3
STALENESS = 2
WORKERS = ("Actor", "EngineCore", "verifier.")
"""What the processes of a run have in their command lines, and the Ray nodes' own have not."""
SETTINGS = ("run.num_steps=100000", 'generators.count="auto"', "generators.max_tokens_per_second=300", "rollout.max_completion_tokens=100")


@dataclass
class Act:
    """What was done to a host, and to which worker on it; when, in seconds of the clock, and at which step."""

    host: Host
    worker: str
    began: float
    step: int
    ended: float = 0.0
    first_rollout: float = 0.0


@dataclass
class Storm:
    """The run after all acts, by name."""

    run: Finished
    acts: dict[str, Act]
    left: dict[str, list[str]]
    """What works for the run on each host after its end."""

    def events(self, kind: str, worker: str) -> list[dict[str, Any]]:
        return [event for event in self.run.lines("events.jsonl") if event["event"] == kind and event.get("name") == worker]

    def gap_s(self, act: Act) -> float:
        """The longest time without a published version while the act lasted."""
        times = [seconds_of(event) for event in self.run.lines("events.jsonl") if event["event"] == "published"]
        seen = [at for at in times if at < act.began][-1:] + [at for at in times if act.began <= at <= act.ended]
        return max(after - before for before, after in itertools.pairwise(seen))

    def brought(self, worker: str, *, after: int) -> int:
        """Rollouts of a worker that later steps have trained."""
        return sum(rollout.generator == worker and rollout.step > after for rollout in trained(self.run.folder))


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
        self.run.until(lambda: self.stops_in_flight(engine, replica), within_s=SHORTLY_S, what=f"{act.worker} has work in flight")
        act.began = time.time()
        self.c.terminate()
        self.run.until(
            lambda: any(event["name"] == act.worker for event in self.run.events("draining")), within_s=SHORTLY_S, what="the drain is seen"
        )
        os.kill(engine, signal.SIGCONT)
        self.run.until(self.c.has_ended, within_s=DRAIN_S, what="the drained node ends")
        act.ended = time.time()
        self.run.reach(self.run.step + 10, within_s=PATIENTLY_S)

    def stops_in_flight(self, engine: int, replica: str) -> bool:
        """Stop an engine; True where it holds unfinished completions, else it goes on."""
        os.kill(engine, signal.SIGSTOP)
        if self.run.measured(replica, "rlvr_requests_in_flight") >= IN_FLIGHT:
            return True
        os.kill(engine, signal.SIGCONT)
        return False

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


@pytest.fixture(scope="module")
def storm(networks: Callable[[], Network]) -> Iterator[Storm]:
    """Everything that happens, in order."""
    play = Play(networks())
    with play.run as run:
        run.reach(5, within_s=START_S)
        play.join("join", play.c)
        play.cut_in_mid_lease()
        play.cut_in_mid_broadcast()
        play.cut_until_given_up()
        play.cut_for_good()
        play.return_of_the_lost()
        play.drain()
        said = run.command("stop", str(run.folder))
        assert said.returncode == 0, said.stderr
        finished = run.ended(within_s=PATIENTLY_S)
        left = {host.name: until_none(host) for host in play.network.hosts}
        yield Storm(finished, play.acts, left)


def until_none(host: Host) -> list[str]:
    """What still works for the run on a host some time after its end; nothing, as it should be, ends the wait."""
    ends_at = time.monotonic() + SHORTLY_S
    while (left := workers_on(host)) and time.monotonic() < ends_at:
        time.sleep(0.2)
    return left


def workers_on(host: Host) -> list[str]:
    """Processes of actors, engines and sandboxes."""
    found = []
    for pid in host.processes():
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [words for words in found if any(mark in words for mark in WORKERS)]


def test_the_run_stops_in_good_order_and_leaves_no_process_on_any_host(storm: Storm) -> None:
    assert storm.run.summary["stopped"] == "interrupted", "\n".join(storm.run.said[-40:])
    assert storm.left == {name: [] for name in storm.left}


def test_nothing_is_lost_and_nothing_is_trained_twice(storm: Storm) -> None:
    report = audit(storm.run.folder, storm.run.folder)
    assert report.is_clean, report.findings
    assert report.lineages == 1, "the learner was never started anew"


def test_a_host_that_joins_a_live_run_gets_an_engine_that_samples(storm: Storm) -> None:
    joined = storm.acts["join"]
    stands = seconds_of(storm.events("stands", joined.worker)[0])
    logger.info("joiner: stands %.1f s after its host's start, first rollout %.1f s later", stands - joined.began, joined.first_rollout - stands)
    assert joined.first_rollout - stands < 5.0
    assert storm.brought(joined.worker, after=joined.step) > 0


@pytest.mark.parametrize("name", ["cut in mid-lease", "cut in mid-broadcast"])
def test_a_link_that_is_cut_for_5_s_costs_no_worker_and_no_work(storm: Storm, name: str) -> None:
    cut = storm.acts[name]
    logger.info("%s: the run's gap is %.1f s", name, storm.gap_s(cut))
    assert [event for event in storm.events("lost", cut.worker) if seconds_of(event) < cut.ended] == []
    assert storm.gap_s(cut) < DEADLINE_S + CUT_S
    assert storm.brought(cut.worker, after=cut.step) > 0


def test_a_link_that_is_cut_for_good_costs_one_deadline(storm: Storm) -> None:
    cut = storm.acts["cut for good"]
    lost = seconds_of(storm.events("lost", cut.worker)[0])
    dead = storm.acts["return"].began
    gap_s, lost_s, dead_s = storm.gap_s(cut), lost - cut.began, dead - cut.began
    logger.info("cut for good: the run's gap is %.1f s, given up after %.1f s, dead for Ray after %.1f s", gap_s, lost_s, dead_s)
    assert gap_s < DEADLINE_S + 5.0
    assert lost_s < SILENCE_S + 10.0


def test_a_worker_that_was_given_up_and_is_reached_again_is_replaced_and_brings_nothing(storm: Storm) -> None:
    given_up, back = storm.acts["given up"], storm.acts["back"]
    stands = seconds_of(storm.events("stands", back.worker)[0])
    logger.info("given up: the run's gap is %.1f s, replaced %.1f s after its link is there again", storm.gap_s(given_up), stands - back.began)
    assert [event["cause"] for event in storm.events("lost", given_up.worker)] == ["hung"]
    assert storm.gap_s(given_up) < DEADLINE_S + 5.0
    assert storm.brought(given_up.worker, after=back.step + STALENESS + 2) == 0
    assert storm.brought(back.worker, after=back.step) > 0


def test_a_lost_node_that_returns_brings_nothing_twice_and_its_host_may_join_again(storm: Storm) -> None:
    back, again = storm.acts["return"], storm.acts["join after the return"]
    logger.info("return: the old node ends %.1f s after its link is there again", back.ended - back.began)
    assert again.worker != back.worker
    assert storm.brought(back.worker, after=back.step + STALENESS + 2) == 0
    assert storm.brought(again.worker, after=again.step) > 0


def test_a_drained_node_hands_back_what_it_has_begun_and_others_finish_it(storm: Storm) -> None:
    drained = storm.acts["drain"]
    logger.info("drain: the node ends %.1f s after SIGTERM", drained.ended - drained.began)
    assert len(storm.events("draining", drained.worker)) == 1
    assert len(storm.events("left", drained.worker)) == 1
    assert storm.events("lost", drained.worker) == []
    fates = storm.run.lines("metrics.jsonl")[-1]["queue"]["partials"]
    assert fates["continued"] > 0, fates
