"""From a batch of rollouts to micro-batches of tensors: advantages, mini-batches, ranks, token budgets.

Owns the plan of a step. Every rank has the whole batch and makes the same plan from it, without a word to the others: all of them must do the same
number of forward and backward passes, or a sharded model waits for ever. Called by `learner.learner`; knows no model.
Shapes: N rows (rollouts) of the step, K completion tokens of the step, M those of one micro-batch, B its rows, L its padded length.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvr.advantages import grpo
from rlvr.config import AdvantageConfig
from rlvr.errors import LearnerError
from rlvr.records import Batch, Rollout
from rlvr.seeds import derive_seed
from rlvr.staleness import staleness

Plan = tuple[tuple[tuple[int, ...], ...], ...]
"""[rank][micro-batch] → rows; an empty micro-batch only keeps step with the other ranks."""


@dataclass(frozen=True)
class StepData:
    """One batch as flat arrays, in the batch's order."""

    prompts: tuple[tuple[int, ...], ...]
    """Prompt ids of each row."""
    tokens_K: NDArray[np.int64]
    sampler_K: NDArray[np.float32]
    offsets: NDArray[np.int64]
    """[N + 1]: row i owns tokens offsets[i] : offsets[i + 1]."""
    rewards_N: NDArray[np.float64]
    advantages_N: NDArray[np.float64]
    group_N: NDArray[np.int64]
    staleness_N: NDArray[np.int64]

    @property
    def num_rows(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Completion tokens of each row."""
        return np.diff(self.offsets)

    @property
    def input_lengths(self) -> NDArray[np.int64]:
        """Tokens that the model reads of each row: prompt and completion without the last token, which is only predicted."""
        return np.array([len(prompt) for prompt in self.prompts], dtype=np.int64) + self.lengths - 1

    def tokens_of(self, row: int) -> slice:
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))


def flatten(batch: Batch, advantage: AdvantageConfig) -> StepData:
    """Lay out a batch and compute its advantages. Raises LearnerError for a rollout that cannot train."""
    rollouts = [judged.rollout for judged in batch.rollouts]
    lengths = [rollout.num_tokens for rollout in rollouts]
    groups: dict[str, int] = {}
    group_N = np.array([groups.setdefault(rollout.group_id, len(groups)) for rollout in rollouts], dtype=np.int64)
    rewards_N = np.array([_reward(judged.verdict.reward, judged.rollout.id) for judged in batch.rollouts], dtype=np.float64)
    return StepData(
        prompts=tuple(_prompt(batch, rollout.problem_id) for rollout in rollouts),
        tokens_K=np.concatenate([np.zeros(0, np.int64), *(rollout.token_ids.astype(np.int64) for rollout in rollouts)]),
        sampler_K=np.concatenate([np.zeros(0, np.float32), *(rollout.logprobs for rollout in rollouts)]),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        rewards_N=rewards_N,
        advantages_N=grpo(rewards_N, group_N, advantage.std_ddof, advantage.std_eps),
        group_N=group_N,
        staleness_N=np.array([_staleness(batch, rollout) for rollout in rollouts], dtype=np.int64),
    )


def _staleness(batch: Batch, rollout: Rollout) -> int:
    try:
        return staleness(batch.step, rollout.oldest_version)
    except ValueError as error:
        raise LearnerError(f"rollout {rollout.id} does not fit its batch: {error}") from error


def _reward(reward: float | None, rollout_id: str) -> float:
    if reward is None:
        raise LearnerError(f"rollout {rollout_id} has no reward: a verdict that is our fault never trains")
    return reward


def _prompt(batch: Batch, problem_id: str) -> tuple[int, ...]:
    if not batch.prompts.get(problem_id):
        raise LearnerError(f"the batch of step {batch.step} lacks the prompt of problem {problem_id}")
    return batch.prompts[problem_id]


def mini_batches(num_rows: int, *, updates: int, epochs: int, seed: int, step: int) -> tuple[NDArray[np.int64], ...]:
    """Rows of each optimizer update: equal shares of the batch, epoch after epoch.

    In the batch's order where there is one update, else shuffled anew in each epoch. Shares of a short batch differ by one row at most.
    """
    shares: list[NDArray[np.int64]] = []
    for epoch in range(epochs):
        rows = np.arange(num_rows, dtype=np.int64)
        if updates > 1:
            rows = np.random.default_rng(derive_seed(seed, "mini-batches", step, epoch)).permutation(rows)
        shares += [share for share in np.array_split(rows, updates) if share.size]
    return tuple(shares)


def plan_micro_batches(rows: NDArray[np.int64], input_lengths: NDArray[np.int64], *, world_size: int, max_tokens: int) -> Plan:
    """Deal rows to ranks and pack each rank's into micro-batches of at most max_tokens padded tokens (a longer row goes alone).

    Longest first, to and fro over the ranks, so that ranks do alike work and micro-batches pad little. All ranks get equally many micro-batches.
    """
    order = rows[np.lexsort((rows, -input_lengths[rows]))]
    turn = np.arange(order.size) % (2 * world_size)
    rank_of = np.where(turn < world_size, turn, 2 * world_size - 1 - turn)
    packed = [_pack(order[rank_of == rank], input_lengths, max_tokens=max_tokens) for rank in range(world_size)]
    most = max(len(micro_batches) for micro_batches in packed)
    return tuple((*micro_batches, *((),) * (most - len(micro_batches))) for micro_batches in packed)


def _pack(rows: NDArray[np.int64], input_lengths: NDArray[np.int64], *, max_tokens: int) -> tuple[tuple[int, ...], ...]:
    """Cut rows, longest first, into runs whose padded size keeps to max_tokens."""
    packed: list[list[int]] = []
    for row in rows.tolist():
        if packed and (len(packed[-1]) + 1) * input_lengths[packed[-1][0]] <= max_tokens:
            packed[-1].append(row)
        else:
            packed.append([row])
    return tuple(tuple(micro_batch) for micro_batch in packed)


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads. Tokens of its rows stand one row after the other, in the order of `rows`."""

    rows: tuple[int, ...]
    row_tokens: tuple[int, ...]
    input_ids_BL: Tensor
    positions_M: Tensor
    """Flat index into [B * L] of the token before each target."""
    targets_M: Tensor
    flat_M: Tensor
    """Index of each target among the step's completion tokens; stays on the CPU."""


def micro_batch(data: StepData, rows: tuple[int, ...], device: torch.device) -> MicroBatch:
    """Build the tensors of some rows. No rows: a smallest pass over row 0, whose results nobody may use."""
    if not rows:
        first = torch.zeros(1, dtype=torch.int64)
        inputs, target = torch.tensor([[data.prompts[0][-1]]]), torch.from_numpy(data.tokens_K[:1].copy())
        return MicroBatch((), (), inputs.to(device), first.to(device), target.to(device), first)
    width = int(data.input_lengths[list(rows)].max())
    inputs_BL = np.zeros((len(rows), width), dtype=np.int64)
    positions, flat = [], []
    for place, row in enumerate(rows):
        prompt, owned = data.prompts[row], data.tokens_of(row)
        read = np.concatenate([np.array(prompt, dtype=np.int64), data.tokens_K[owned][:-1]])
        inputs_BL[place, : read.size] = read
        positions.append(place * width + np.arange(len(prompt) - 1, read.size))
        flat.append(np.arange(owned.start, owned.stop))
    flat_M = np.concatenate(flat)
    return MicroBatch(
        rows=rows,
        row_tokens=tuple(int(data.lengths[row]) for row in rows),
        input_ids_BL=torch.from_numpy(inputs_BL).to(device),
        positions_M=torch.from_numpy(np.concatenate(positions)).to(device),
        targets_M=torch.from_numpy(data.tokens_K[flat_M]).to(device),
        flat_M=torch.from_numpy(flat_M),
    )
