"""The audit beside the real queue and its journal: after whatever crashes, roll-backs and losses, an outsider finds the books in order."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from actors.journal.files import FolderFiles
from actors.journal.journal import Journal
from actors.queue.opening import QueueSetup, build_queue, replay
from actors.queue.rollout_queue import RolloutQueue
from benchmarks.audit import audit
from rlvr.config import Config, PromptsConfig, RolloutConfig, RunConfig
from rlvr.problems import Problem
from rlvr.records import FinishReason, JudgedRollout, Lease, Rollout, Verdict, VerdictKind, Version, VersionSpan

NUM_MOVES = 1500


class Observer:
    def committed(self, num_bytes: int, seconds: float) -> None: ...
    def failed(self) -> None: ...


class World:
    """One queue after the other on one journal, and workers who remember what they were told."""

    def __init__(self, folder: Path, seed: int) -> None:
        config = Config(run=RunConfig(num_steps=1000), prompts=PromptsConfig(copies_per_step=1), rollout=RolloutConfig(group_size=4, max_staleness=2))
        (folder / "config.toml").write_text(tomli_w.dumps({"rollout": {"max_staleness": 2}, "queue": {"order": "admission"}}))
        self.setup = QueueSetup(config=config, problems=(Problem(id="p", prompt="1 + 1?", answer="2"),), prompt_ids={"p": (1, 2)})
        self.folder, self.chance, self.now = folder, random.Random(seed), 0.0
        self.leases: list[Lease] = []
        self.acknowledged: set[str] = set()
        self.trained, self.checkpoints = 0, [0]
        self.open()

    def open(self) -> None:
        self.files = FolderFiles(self.folder / "journal")
        self.journal = Journal(self.files, run="run", observer=Observer(), commit_s=0.0, keep_segments=True, segment_bytes=6000, has_thread=False)
        self.queue: RolloutQueue = build_queue(self.setup, clock=lambda: self.now, incarnation=self.journal.inspect(), record=self.journal.append)
        replay(self.journal, self.queue)
        self.journal.open(lineage=self.queue.lineage)
        self.queue.begin_again()
        self.queue.check()

    @property
    def version(self) -> Version:
        return Version(lineage=self.queue.lineage, step=self.trained)

    def crash(self) -> None:
        """Nothing that was not written is there any more; sometimes half a frame is."""
        self.files.close()
        if self.chance.random() < 0.5:
            newest = max((self.folder / "journal").glob("*.journal"))
            with newest.open("ab") as file:
                file.write(self.chance.randbytes(self.chance.randint(1, 40)))
        self.open()

    def lease(self) -> None:
        self.leases += self.queue.leases(self.chance.randint(1, 4), generator="g0", applied=self.version)

    def put(self) -> None:
        if not self.leases:
            return
        lease = self.leases.pop(self.chance.randrange(len(self.leases)))
        rollouts = [self.rollout(lease, rollout_id) for rollout_id in lease.rollout_ids]
        results = self.queue.put(rollouts)
        if self.chance.random() < 0.8:  # else it dies before the answer
            self.journal.write()
            self.acknowledged |= {result.rollout_id for result in results if result.is_accepted}

    def rollout(self, lease: Lease, rollout_id: str) -> Rollout:
        spans = (VersionSpan(Version(lineage=self.queue.lineage, step=max(0, min(self.trained, lease.step - 1))), 0, 1),)
        return Rollout(
            id=rollout_id, problem_id=lease.problem_id, group_id=lease.group_id, lease_id=lease.id, token_data=bytes(4), logprob_data=bytes(4),
            spans=spans, finish_reason=FinishReason.STOP, seconds=0.1, text="", generator="g0",
        )  # fmt: skip

    def judge(self) -> None:
        verdicts = []
        for answer in self.queue.lease_unverified(self.chance.randint(1, 8), verifier="v0"):
            kind = self.chance.choice([VerdictKind.CORRECT] * 8 + [VerdictKind.TIMEOUT])
            verdicts.append(Verdict(rollout_id=answer.rollout_id, lease_id=answer.lease_id, kind=kind, reward=None if kind.is_ours else 1.0))
        self.queue.put_verdicts(verdicts)

    def train(self) -> None:
        step = self.trained + 1
        absent = self.queue.absent(step)
        if absent:
            self.journal.write()
            self.queue.recalled(step, [judged for judged in self.journal.recall(absent) if isinstance(judged, JudgedRollout)])
        batch = self.queue.next_batch(step, lineage=self.queue.lineage)
        if batch is not None:
            self.journal.write()
            self.trained = step
            self.queue.applied(self.version, generator="g0")

    def save(self) -> None:
        if self.trained > self.checkpoints[-1]:
            self.checkpoints = [*self.checkpoints[-1:], self.trained]
            self.queue.commit(self.checkpoints[0])
            self.journal.compact(self.queue.state.snapshot())
            self.journal.write()

    def lose_the_learner(self) -> None:
        self.checkpoints = self.checkpoints[: self.chance.randint(1, len(self.checkpoints))]
        self.trained = self.checkpoints[-1]
        self.queue.roll_back(self.trained)
        self.journal.write()

    def lose_a_worker(self) -> None:
        worker = self.chance.choice(["g0", "v0"])
        self.queue.lost(worker)
        if worker == "g0":
            self.leases.clear()

    def expire(self) -> None:
        self.now += 700.0
        self.queue.expire()


@pytest.mark.parametrize("seed", range(6))
def test_a_queue_that_crashes_and_rolls_back_has_its_books_in_order(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path, seed)
    often: list[Callable[[], None]] = [world.lease, world.put, world.judge, world.train]
    seldom: list[Callable[[], None]] = [world.save, world.save, world.crash, world.lose_the_learner, world.lose_a_worker, world.expire]
    for _ in range(NUM_MOVES):
        world.chance.choice(often if world.chance.random() < 0.96 else seldom)()
    world.journal.write()
    report = audit(tmp_path, tmp_path, witnesses=world.acknowledged)
    assert report.is_clean, report.findings
    counts = world.queue.counts()
    assert (report.accepted, report.steps) == (counts.accepted, world.queue.step)
    assert sum(report.dropped.values()) == counts.num_dropped
    assert report.lineages > 1
    assert report.incarnations > 1
    assert report.consumed > 20
    world.journal.close()
