"""Laws of a live run whose hosts come and go and whose links are cut, with as many generators as there are hosts for them.

One run goes through it all, in this order: a third generator's host joins; a link is cut for 5 s in mid-lease, another one in mid-broadcast, then
until the worker behind it is given up; a link is cut for good, and the host behind it comes back when Ray has taken it for dead; a host is drained as
when a pod is deleted. The tests read what the run has left.
"""

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from acts import CUT_S, PATIENTLY_S, SHORTLY_S, STALENESS, Act, Play
from hosts import Host, Network
from live_run import START_S, seconds_of, trained
from whole_runs import Finished

from benchmarks.audit import audit

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.long, pytest.mark.processes]

DEADLINE_S, SILENCE_S = 10.0, 15.0
"""weights.deadline_s and queue.silence_s of the run (`live_run.SETTINGS`)."""
WORKERS = ("Actor", "EngineCore", "verifier.")
"""What the processes of a run have in their command lines, and the Ray nodes' own have not."""


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
        """The longest time without a published version from the act's beginning to its end."""
        times = [seconds_of(event) for event in self.run.lines("events.jsonl") if event["event"] == "published"]
        seen = [act.began, *(at for at in times if act.began <= at <= act.ended)]
        return max(after - before for before, after in itertools.pairwise(seen))

    def brought(self, worker: str, *, after: int) -> int:
        """Rollouts of a worker that later steps have trained."""
        return sum(rollout.generator == worker and rollout.step > after for rollout in trained(self.run.folder))


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


def test_a_drained_node_hands_back_what_it_has_begun(storm: Storm) -> None:
    drained = storm.acts["drain"]
    logger.info("drain: the node ends %.1f s after SIGTERM", drained.ended - drained.began)
    assert len(storm.events("draining", drained.worker)) == 1
    assert len(storm.events("left", drained.worker)) == 1
    assert storm.events("lost", drained.worker) == []
    fates = storm.run.lines("metrics.jsonl")[-1]["queue"]["partials"]
    assert sum(fates.values()) > fates["unfit"] == 0, fates
