"""The plan of a step: nothing lost, nothing twice, the same number of passes on every rank."""

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import batch

from learner.batches import flatten, micro_batch, mini_batches, plan_micro_batches
from rlvr.advantages import grpo
from rlvr.config import AdvantageConfig
from rlvr.errors import LearnerError
from rlvr.records import Verdict, VerdictKind

CPU = torch.device("cpu")


def test_a_batch_lies_flat_in_its_own_order() -> None:
    made = batch(num=6, groups=2)
    data = flatten(made, AdvantageConfig(std_ddof=0))
    for row, judged in enumerate(made.rollouts):
        assert data.tokens_K[data.tokens_of(row)].tolist() == judged.rollout.token_ids.tolist()
        assert data.sampler_K[data.tokens_of(row)].tolist() == judged.rollout.logprobs.tolist()
        assert data.prompts[row] == made.prompts[judged.rollout.problem_id]
    rewards = np.array([judged.verdict.reward for judged in made.rollouts])
    assert data.advantages_N.tolist() == grpo(rewards, np.array([0, 1, 0, 1, 0, 1]), 0, 1e-6).tolist()


def test_a_rollout_without_reward_never_trains() -> None:
    made = batch(num=2)
    ours = Verdict(rollout_id="r0000", lease_id="l", kind=VerdictKind.TIMEOUT, reward=None)
    broken = msgspec.structs.replace(made, rollouts=(msgspec.structs.replace(made.rollouts[0], verdict=ours), made.rollouts[1]))
    with pytest.raises(LearnerError, match="r0000 has no reward"):
        flatten(broken, AdvantageConfig())


def test_a_batch_without_a_rollouts_prompt_is_refused() -> None:
    with pytest.raises(LearnerError, match="lacks the prompt of problem p0"):
        flatten(msgspec.structs.replace(batch(num=2), prompts={}), AdvantageConfig())


@given(num_rows=st.integers(1, 40), updates=st.integers(1, 8), epochs=st.integers(1, 3), seed=st.integers(0, 5))
def test_every_epoch_trains_every_row_once_in_equal_shares(num_rows: int, updates: int, epochs: int, seed: int) -> None:
    shares = mini_batches(num_rows, updates=updates, epochs=epochs, seed=seed, step=3)
    assert sorted(np.concatenate(shares).tolist()) == sorted(list(range(num_rows)) * epochs)
    assert len(shares) == min(updates, num_rows) * epochs
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_update_keeps_the_batchs_order_and_several_are_shuffled_by_the_seed() -> None:
    assert mini_batches(5, updates=1, epochs=1, seed=1, step=1)[0].tolist() == [0, 1, 2, 3, 4]
    draws = [np.concatenate(mini_batches(64, updates=2, epochs=1, seed=seed, step=step)).tolist() for seed, step in ((1, 1), (1, 1), (2, 1), (1, 2))]
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) == 3


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40), world_size=st.integers(1, 4), max_tokens=st.integers(1, 200))
def test_a_plan_deals_every_row_once_within_the_budget_and_keeps_ranks_in_step(lengths: list[int], world_size: int, max_tokens: int) -> None:
    input_lengths = np.array(lengths)
    plan = plan_micro_batches(np.arange(len(lengths)), input_lengths, world_size=world_size, max_tokens=max_tokens)
    assert sorted(row for rank in plan for part in rank for row in part) == list(range(len(lengths)))
    assert len(plan) == world_size
    assert len({len(rank) for rank in plan}) == 1
    for part in (part for rank in plan for part in rank if len(part) > 1):
        assert len(part) * input_lengths[list(part)].max() <= max_tokens


def test_a_micro_batch_predicts_each_completion_token_from_the_one_before() -> None:
    made = batch(num=4, groups=2)
    data = flatten(made, AdvantageConfig())
    micro = micro_batch(data, (3, 0), CPU)
    width = micro.input_ids_BL.shape[1]
    assert micro.row_tokens == (made.rollouts[3].rollout.num_tokens, made.rollouts[0].rollout.num_tokens)
    assert micro.targets_M.tolist() == [*made.rollouts[3].rollout.token_ids.tolist(), *made.rollouts[0].rollout.token_ids.tolist()]
    for place, row in enumerate((3, 0)):
        whole = [*data.prompts[row], *made.rollouts[row].rollout.token_ids.tolist()]
        read = micro.input_ids_BL[place].tolist()
        assert read[: len(whole) - 1] == whole[:-1]
        assert set(read[len(whole) - 1 :]) <= {0}
        positions = [int(p) - place * width for p in micro.positions_M if place * width <= int(p) < (place + 1) * width]
        assert [whole[p + 1] for p in positions] == made.rollouts[row].rollout.token_ids.tolist()
