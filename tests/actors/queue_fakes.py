"""Fakes for the queue's tests: rollouts of a lease, verdicts of answers, a clock that is set by hand."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rlvr.records import LOGPROB_DTYPE, TOKEN_DTYPE, FinishReason, Lease, Rollout, Unverified, Verdict, VerdictKind, Version, VersionSpan


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
