"""The plan of a step: which groups are sampled, of which problem, how many completions each.

Owns the order of problems. Called by the rollout queue. A pure function of the step, so that a resumed run, or one rolled back, plans the same again.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from rlvr.config import Config
from rlvr.config_rules import rollouts_per_step
from rlvr.problems import Problem

__all__ = ["GroupPlan", "StepPlanner", "rollouts_per_step"]


class GroupPlan(msgspec.Struct, frozen=True):
    """`size` completions of one problem that share a baseline. Ids sort as steps and groups follow each other."""

    group_id: str
    problem_id: str
    size: int


class StepPlanner:
    """Plans every step of a run over its problems. Raises ValueError where a step asks for more different problems than there are."""

    def __init__(self, problems: Sequence[Problem], config: Config) -> None:
        self._ids = tuple(problem.id for problem in problems)
        self._per_step = config.prompts.problems_per_step or len(self._ids)
        if not 1 <= self._per_step <= len(self._ids):
            raise ValueError(f"a step of {self._per_step} different problems cannot be made of {len(self._ids)}")
        self._shuffles = config.prompts.sampler == "shuffle_drop_last"
        self._seed = config.run.seed
        by_copy = config.advantage.group_by == "copy"
        copies, size = config.prompts.copies_per_step, config.rollout.group_size
        self._groups_per_problem, self._group_size = (copies, size) if by_copy else (1, copies * size)
        self.rollouts_per_step = rollouts_per_step(config, len(self._ids))

    def groups_of_step(self, step: int) -> tuple[GroupPlan, ...]:
        """The groups of step 1, 2, ..., problem by problem."""
        if step < 1:
            raise ValueError(f"steps count from 1, got {step}")
        owners = [id_ for id_ in self._problems_of_step(step) for _ in range(self._groups_per_problem)]
        return tuple(GroupPlan(f"{step:07d}-{index:05d}", id_, self._group_size) for index, id_ in enumerate(owners))

    def _problems_of_step(self, step: int) -> tuple[str, ...]:
        if not self._shuffles:  # in file order, round and round; nothing is dropped
            first = (step - 1) * self._per_step
            return tuple(self._ids[(first + offset) % len(self._ids)] for offset in range(self._per_step))
        steps_per_epoch = len(self._ids) // self._per_step
        epoch, place = divmod(step - 1, steps_per_epoch)
        return self._shuffled(epoch)[place * self._per_step : (place + 1) * self._per_step]

    def _shuffled(self, epoch: int) -> tuple[str, ...]:
        """The problems in the order of an epoch: by a hash, so that no library's generator can change it."""
        return tuple(sorted(self._ids, key=lambda id_: hashlib.blake2b(f"{self._seed}/{epoch}/{id_}".encode(), digest_size=16).digest()))
