"""What a rollout queue is born with: the run's settings as far as they concern it, and their defaults.

Owns what follows from a setting by itself. Read by the rollout queue and its parts; a plain queue for a test needs `rollouts_per_step` alone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from actors.queue.groups import OneGroup, Planner
from rlvr.records import VerdictKind

Order = Literal["admission", "completion", "window"]


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Without a planner each step is one group of one nameless problem; prompts and golds belong to a planner's problems."""

    rollouts_per_step: int
    max_staleness: int = 0
    planner: Planner | None = None
    prompts: Mapping[str, Sequence[int]] | None = None
    """Token ids by problem id."""
    golds: Mapping[str, str] | None = None
    """Gold answers by problem id."""
    num_steps: int | None = None
    lease_s: float = 600.0
    verify_lease_s: float = 120.0
    order: Order = "admission"
    window: int = 0
    undecided: Literal["zero", "exclude"] = "zero"
    max_resamples: int = 2
    resample_grace_s: float = 30.0
    """How long after the learner first asked for its step a group's excluded members are still sampled again; each at most `max_resamples` times.
    The clock has no say in deterministic mode."""
    deterministic: bool = False
    seed: int = 1
    incarnation: int = 0
    lineage: int = 0
    is_forgetful: bool = False
    """Rollouts of old batches are `recalled` by the caller and not kept."""

    def __post_init__(self) -> None:
        if self.rollouts_per_step < 1 or self.max_staleness < 0:
            raise ValueError(f"rollouts_per_step {self.rollouts_per_step} must be >= 1 and max_staleness {self.max_staleness} >= 0")
        if self.deterministic and (self.max_staleness or self.order != "admission"):
            raise ValueError(f"deterministic mode needs max_staleness 0 and order admission, got {self.max_staleness} and {self.order}")

    @property
    def plan(self) -> Planner:
        return self.planner or self._nameless

    @property
    def prompt_ids(self) -> dict[str, tuple[int, ...]]:
        return {self._nameless.problem_id: ()} if self.prompts is None else {problem: tuple(ids) for problem, ids in self.prompts.items()}

    @property
    def gold_answers(self) -> dict[str, str]:
        return {self._nameless.problem_id: ""} if self.golds is None else dict(self.golds)

    @property
    def num_slots(self) -> int:
        return (self.max_staleness + 1) * self.rollouts_per_step

    @property
    def num_may_pass(self) -> float:
        """Younger complete groups that may pass one that is not, on their way into a batch."""
        return {"admission": 0.0, "completion": math.inf, "window": float(self.window)}[self.order]

    @property
    def grace_s(self) -> float:
        return math.inf if self.deterministic else self.resample_grace_s

    @property
    def request_seed(self) -> int | None:
        """From which each rollout has its own, in deterministic mode; None in any other."""
        return self.seed if self.deterministic else None

    @property
    def excluded(self) -> frozenset[VerdictKind]:
        """Verdicts whose rollouts do not train."""
        return frozenset(kind for kind in VerdictKind if kind.is_ours or (kind is VerdictKind.UNDECIDED and self.undecided == "exclude"))

    @property
    def _nameless(self) -> OneGroup:
        return OneGroup(self.rollouts_per_step)
