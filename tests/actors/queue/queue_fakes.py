"""Fakes for the queue's tests: rollouts of a lease, verdicts of answers, a plan of equal steps, a clock that is set by hand."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from actors.journal.entries import Change
from actors.journal.journal import Journal
from actors.queue.opening import replay
from actors.queue.rollout_queue import RolloutQueue
from actors.queue.settings import QueueSettings
from rlvr.records import (
    LOGPROB_DTYPE,
    TOKEN_DTYPE,
    Batch,
    FinishReason,
    Lease,
    Partial,
    Rollout,
    Unverified,
    Verdict,
    VerdictKind,
    Version,
    VersionSpan,
)
from rlvr.step_plan import GroupPlan


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def rollout_of(lease: Lease, rollout_id: str, *, version: int | None = None, length: int = 3) -> Rollout:
    sampled = lease.step - 1 if version is None else version
    return Rollout(
        id=rollout_id,
        problem_id=lease.problem_id,
        group_id=lease.group_id,
        lease_id=lease.id,
        token_data=np.arange(length, dtype=TOKEN_DTYPE).tobytes(),
        logprob_data=np.full(length, -1.0, dtype=LOGPROB_DTYPE).tobytes(),
        spans=(VersionSpan(Version(step=sampled), 0, length),),
        finish_reason=FinishReason.STOP,
        seconds=0.1,
        text=f"\\boxed{{{rollout_id}}}",
    )


def partial_of(rollout_id: str, *spans: tuple[Version, int]) -> Partial:
    """An unfinished completion: so many tokens of each version."""
    edges, length = [], 0
    for version, num_tokens in spans:
        edges.append(VersionSpan(version, length, length + num_tokens))
        length += num_tokens
    tokens = np.arange(length, dtype=TOKEN_DTYPE).tobytes()
    return Partial(rollout_id=rollout_id, token_data=tokens, logprob_data=np.full(length, -1.0, LOGPROB_DTYPE).tobytes(), spans=tuple(edges))


def rollouts_of(lease: Lease, *, version: int | None = None, length: Callable[[str], int] = lambda _: 3) -> list[Rollout]:
    """Finished completions of a whole lease, sampled on the version that an on-policy generator has."""
    return [rollout_of(lease, rollout_id, version=version, length=length(rollout_id)) for rollout_id in lease.rollout_ids]


def verdict_of(answer: Unverified, kind: VerdictKind = VerdictKind.CORRECT) -> Verdict:
    reward = None if kind.is_ours else float(kind is VerdictKind.CORRECT)
    return Verdict(rollout_id=answer.rollout_id, lease_id=answer.lease_id, kind=kind, reward=reward)


def all_of_kind(work: Iterable[Unverified], kind: VerdictKind) -> list[Verdict]:
    return [verdict_of(answer, kind) for answer in work]


def all_correct(work: Sequence[Unverified]) -> list[Verdict]:
    return all_of_kind(work, VerdictKind.CORRECT)


@dataclass(frozen=True)
class Plan:
    """The same groups in every step."""

    sizes: Sequence[int]

    def groups_of_step(self, step: int) -> tuple[GroupPlan, ...]:
        return tuple(GroupPlan(f"{step}-{place}", f"p{place}", size) for place, size in enumerate(self.sizes))


def queue_of(*, clock: Callable[[], float] = time.monotonic, record: Callable[[Change], None] = lambda _: None, **settings: object) -> RolloutQueue:
    return RolloutQueue(QueueSettings(**settings), clock=clock, record=record)  # type: ignore[arg-type]


def planned(sizes: Sequence[int], **settings: object) -> RolloutQueue:
    problems = [f"p{place}" for place in range(len(sizes))]
    return queue_of(
        rollouts_per_step=sum(sizes),
        planner=Plan(sizes),
        prompts=dict.fromkeys(problems, (1, 2)),
        golds={problem: f"gold of {problem}" for problem in problems},
        **settings,  # type: ignore[arg-type]
    )


def verify_all(queue: RolloutQueue, kind: VerdictKind = VerdictKind.CORRECT) -> None:
    queue.put_verdicts(all_of_kind(queue.lease_unverified(1000, verifier="v0"), kind))


def fill(queue: RolloutQueue, *, applied: int = 0) -> None:
    """Sample and verify all that may be leased."""
    for lease in queue.leases(1000, generator="g0", applied=Version(step=applied)):
        queue.put(rollouts_of(lease, version=applied))
    verify_all(queue)


def batch_of(queue: RolloutQueue, step: int) -> Batch:
    batch = queue.next_batch(step)
    assert batch is not None
    return batch


@dataclass
class MemoryFiles:
    """Segments in memory. `steps` are the states of the disk after each change; `fail` is raised by appends while it is set."""

    data: dict[int, bytes] = field(default_factory=dict)
    archive: dict[int, bytes] = field(default_factory=dict)
    steps: list[dict[int, bytes]] = field(default_factory=list)
    fail: Exception | None = None
    is_one_commit_a_segment: bool = False

    def hold(self) -> None:
        """Nobody else has this memory."""

    def segments(self) -> list[tuple[int, int]]:
        return [(number, len(self.data[number])) for number in sorted(self.data)]

    def read(self, number: int, *, offset: int = 0, size: int | None = None) -> bytes:
        return self.data[number][offset:] if size is None else self.data[number][offset : offset + size]

    def append(self, number: int, data: bytes, *, offset: int) -> None:
        if self.fail is not None:
            raise self.fail
        before = self.data.get(number, b"")
        assert len(before) == offset
        self.data[number] = before + data
        self._note()

    def cut(self, number: int, size: int) -> None:
        self.data[number] = self.data[number][:size]
        self._note()

    def remove(self, number: int, *, is_kept: bool) -> None:
        data = self.data.pop(number)
        if is_kept:
            self.archive[number] = data
        self._note()

    def close(self) -> None:
        """Nothing is open."""

    def _note(self) -> None:
        self.steps.append(dict(self.data))


@dataclass
class Counting:
    """An observer of a journal."""

    commits: int = 0
    failures: int = 0

    def committed(self, num_bytes: int, seconds: float) -> None:
        self.commits += 1

    def failed(self) -> None:
        self.failures += 1


def journal_on(files: MemoryFiles, **settings: object) -> Journal:
    return Journal(files, run="a run", observer=Counting(), **{"commit_s": 0.0, **settings})  # type: ignore[arg-type]


def reopened(files: MemoryFiles, make: Callable[[int, Callable[[Change], None]], RolloutQueue], **settings: object) -> tuple[RolloutQueue, Journal]:
    """The queue that this journal has, and the journal. make: of an incarnation, and of who takes its changes."""
    journal = journal_on(files, **settings)
    queue = make(journal.inspect(), journal.append)
    replay(journal, queue)
    journal.open(lineage=queue.lineage)
    queue.begin_again()
    queue.check()
    return queue, journal
