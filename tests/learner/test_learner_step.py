"""One rank's training step against a plain reference, and what it refuses."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tiny_models import batch, config, learner, whole_weights
from transformers import AutoModelForCausalLM

from learner.learner import Learner
from rlvr.config import AdvantageConfig, Config, LearnerConfig, RunConfig
from rlvr.errors import LearnerError
from rlvr.records import LOGPROB_DTYPE, Batch, Version

pytestmark = pytest.mark.usefixtures("alone")


def gradients_of_a_step(ours: Learner, made: Batch) -> dict[str, torch.Tensor]:
    """What reached the optimizer in the step's (last) update."""
    seen: dict[str, torch.Tensor] = {}

    def look(*_: object) -> None:
        seen.update({name: weight.grad.full_tensor().clone() for name, weight in ours.policy.weights().items()})  # type: ignore[union-attr]

    ours.optimizer.register_step_pre_hook(look)
    ours.train_step(made)
    return seen


def reference_gradients(folder: Path, run: Config, made: Batch) -> dict[str, torch.Tensor]:
    """The paper's loss written plainly: one row at a time, all logits, no packing, no shards."""
    model, initial = (AutoModelForCausalLM.from_pretrained(folder).eval() for _ in range(2))
    rewards = np.array([judged.verdict.reward for judged in made.rollouts])
    total, num_tokens, objective = torch.zeros(()), sum(judged.rollout.num_tokens for judged in made.rollouts), run.objective
    for judged, reward in zip(made.rollouts, rewards, strict=True):
        prompt, answer = made.prompts[judged.rollout.problem_id], torch.tensor(judged.rollout.token_ids.tolist())
        whole = torch.cat([torch.tensor(prompt), answer])[None]
        logits, reference = (m(whole).logits[0, len(prompt) - 1 : -1] / run.rollout.temperature for m in (model, initial))
        logprobs = logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]
        advantage = (reward - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
        ratio = (logprobs - torch.tensor(judged.rollout.logprobs.tolist())).exp()
        clipped = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
        policy = -torch.min(ratio * advantage, clipped * advantage)
        delta = reference.log_softmax(-1).gather(1, answer[:, None])[:, 0].detach() - logprobs
        kl = (delta.exp() - delta - 1).clamp(-objective.kl_clamp, objective.kl_clamp)
        entropy = logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)
        total = total + (policy + objective.kl_coef * kl - objective.entropy_coef * entropy).sum() / num_tokens
    total.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


ALL_TERMS = {"kl_coef": 0.5, "entropy_coef": 0.3, "clip_low": 0.05, "clip_high": 0.05}


@pytest.mark.parametrize("which", ["small", "small_tied"])
@pytest.mark.parametrize("max_tokens", [40, 24000])
def test_the_gradient_is_that_of_the_plain_loss(which: str, max_tokens: int, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    optimizer = {"max_grad_norm": 1e9, "max_tokens_per_micro_batch": max_tokens}
    run = config(folder, objective=ALL_TERMS, optimizer=optimizer, rollout={"temperature": 0.6}, learner=LearnerConfig(logprob_chunk_tokens=7))
    made = batch(num=8, spread=0.3)
    ours, plain = gradients_of_a_step(learner(run), made), reference_gradients(folder, run, made)
    assert ours.keys() == plain.keys()
    scale = max(gradient.abs().max().item() for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, atol=2e-6 * scale, rtol=1e-4)


def test_micro_batches_do_not_change_a_token_mean(small: Path) -> None:
    made = batch(num=12)
    gradients = [gradients_of_a_step(learner(config(small, optimizer={"max_tokens_per_micro_batch": budget})), made) for budget in (20, 60, 10**6)]
    for name, whole in gradients[-1].items():
        for packed in gradients[:-1]:
            torch.testing.assert_close(packed[name], whole, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("aggregation", ["micro_batch_token_mean", "sequence_mean"])
def test_other_aggregations_weigh_tokens_otherwise(small: Path, aggregation: str) -> None:
    made = batch(num=12)
    plain = gradients_of_a_step(learner(config(small, optimizer={"max_tokens_per_micro_batch": 40})), made)
    other = gradients_of_a_step(learner(config(small, objective={"aggregation": aggregation}, optimizer={"max_tokens_per_micro_batch": 40})), made)
    assert max((plain[name] - other[name]).abs().max().item() for name in plain) > 1e-4


def test_the_same_batches_give_the_same_bits(small: Path) -> None:
    runs = []
    for _ in range(2):
        ours = learner(config(small, objective=ALL_TERMS, optimizer={"updates_per_step": 2}, run=RunConfig(deterministic=True)))
        reports = [ours.train_step(batch(step=step, num=8)) for step in (1, 2, 3)]
        runs.append((whole_weights(ours), [(report.loss, report.grad_norm) for report in reports]))
    torch.use_deterministic_algorithms(False)
    assert runs[0][1] == runs[1][1]
    assert all(torch.equal(first, runs[1][0][name]) for name, first in runs[0][0].items())


def test_a_rewarded_completion_becomes_likelier(small: Path) -> None:
    ours = learner(config(small, optimizer={"learning_rate": 1e-3}))
    gaps = [ours.train_step(msgspec.structs.replace(batch(num=8), step=step)).policy_loss for step in range(1, 9)]
    assert gaps[-1] < gaps[0]  # type: ignore[operator]


def with_sampler_logprobs(ours: Learner, made: Batch) -> Batch:
    """The batch as if this learner's own policy had sampled it."""
    rollouts = []
    for judged in made.rollouts:
        prompt, tokens = made.prompts[judged.rollout.problem_id], judged.rollout.token_ids.tolist()
        inputs = torch.tensor([[*prompt, *tokens[:-1]]])
        with torch.no_grad():
            logprobs, _ = ours.policy(inputs, torch.arange(len(prompt) - 1, inputs.shape[1]), torch.tensor(tokens))
        data = logprobs.numpy().astype(LOGPROB_DTYPE).tobytes()
        rollouts.append(msgspec.structs.replace(judged, rollout=msgspec.structs.replace(judged.rollout, logprob_data=data)))
    return msgspec.structs.replace(made, rollouts=tuple(rollouts))


def test_on_policy_logprobs_leave_no_gap_and_a_ratio_of_one(small: Path) -> None:
    ours = learner(config(small))
    report = ours.train_step(with_sampler_logprobs(ours, batch(num=8)))
    assert report.sampler_gap.max_abs < 1e-5
    assert report.ratio.mean == pytest.approx(1.0, abs=1e-5)
    assert report.ratio.clip_fraction == 0.0


def test_the_gap_is_measured_before_the_steps_first_update_alone(small: Path) -> None:
    ours = learner(config(small, optimizer={"updates_per_step": 2, "learning_rate": 1e-2}))
    report = ours.train_step(with_sampler_logprobs(ours, batch(num=8)))
    assert report.sampler_gap.max_abs < 1e-5
    assert report.ratio.max > 1.01


def test_recomputed_old_logprobs_make_the_first_ratio_one_whatever_the_sampler_says(small: Path) -> None:
    ours = learner(config(small, objective={"old_logprobs": "recomputed", "importance_cap": 1.1}))
    report = ours.train_step(batch(num=8, spread=0.5))
    assert (report.ratio.min, report.ratio.max) == (1.0, 1.0)
    assert report.sampler_gap.max_abs > 0.5
    assert report.importance_mean is not None
    assert 0.0 < report.importance_mean < 1.1


def test_recomputed_old_logprobs_stay_those_before_the_step(small: Path) -> None:
    ours = learner(config(small, objective={"old_logprobs": "recomputed"}, optimizer={"updates_per_step": 2, "learning_rate": 1e-2}))
    report = ours.train_step(batch(num=8))
    assert report.updates == 2
    assert report.ratio.max > 1.01


def test_kl_to_the_initial_policy_starts_at_nothing_and_grows(small: Path) -> None:
    ours = learner(config(small, objective={"kl_coef": 0.001}, optimizer={"learning_rate": 1e-3}))
    kls = [ours.train_step(batch(step=step, num=8)).kl for step in (1, 2, 3)]
    assert kls[0] == pytest.approx(0.0, abs=1e-9)
    assert kls[2] > 1e-4  # type: ignore[operator]


def test_no_reference_is_loaded_where_the_kl_term_is_off(small: Path) -> None:
    assert learner(config(small)).reference is None


def test_the_learning_rate_follows_its_schedule(small: Path) -> None:
    ours = learner(config(small, optimizer={"schedule": "linear", "learning_rate": 1e-4}, run=RunConfig(num_steps=4)))
    rates = [ours.train_step(batch(step=step, num=4)).learning_rate for step in (1, 2, 3, 4)]
    assert rates == pytest.approx([1e-4, 0.75e-4, 0.5e-4, 0.25e-4])


def test_the_first_update_moves_weights_by_the_scheduled_learning_rate(small: Path) -> None:
    ours = learner(config(small, optimizer={"learning_rate": 1e-3, "warmup_steps": 10, "weight_decay": 0.0}))
    before = whole_weights(ours)
    ours.train_step(batch())
    moved = max((weight - before[name]).abs().max().item() for name, weight in whole_weights(ours).items())
    assert moved == pytest.approx(1e-4, rel=1e-2)  # AdamW's first update is one learning rate wherever there is a gradient


def test_gradients_are_clipped_to_their_global_norm(small: Path) -> None:
    clipped = gradients_of_a_step(learner(config(small, optimizer={"max_grad_norm": 0.01})), batch(num=8))
    assert math.sqrt(sum(gradient.square().sum().item() for gradient in clipped.values())) == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_not_finite_raises_and_changes_nothing(small: Path) -> None:
    ours = learner(config(small))
    before = whole_weights(ours)
    made = batch(num=4)
    first = made.rollouts[0].rollout
    hopeless = np.full(first.num_tokens, -np.inf, LOGPROB_DTYPE).tobytes()
    broken = msgspec.structs.replace(made.rollouts[0], rollout=msgspec.structs.replace(first, logprob_data=hopeless))
    with pytest.raises(LearnerError, match="not both finite"):
        ours.train_step(msgspec.structs.replace(made, rollouts=(broken, *made.rollouts[1:])))
    assert ours.version == Version()
    assert all(torch.equal(weight, before[name]) for name, weight in whole_weights(ours).items())


def test_a_step_out_of_turn_is_refused(small: Path) -> None:
    with pytest.raises(LearnerError, match="cannot train step 2"):
        learner(config(small)).train_step(batch(step=2))


def test_a_rollout_of_a_later_version_is_refused(small: Path) -> None:
    ours = learner(config(small))
    with pytest.raises(LearnerError, match="does not fit its batch"):
        ours.train_step(msgspec.structs.replace(batch(step=5), step=1))
    assert ours.version == Version()


def test_an_empty_batch_counts_as_a_step_and_says_that_it_was_skipped(small: Path) -> None:
    ours = learner(config(small))
    before = whole_weights(ours)
    report = ours.train_step(Batch(step=1, lineage=0, rollouts=(), prompts={}))
    assert (report.skipped, report.updates, ours.version) == (True, 0, Version(step=1))
    assert all(torch.equal(weight, before[name]) for name, weight in whole_weights(ours).items())


def test_the_report_tells_the_batchs_facts(small: Path) -> None:
    made = batch(num=8, groups=2)
    report = learner(config(small, advantage=AdvantageConfig(std_ddof=0))).train_step(made)
    rewards = [judged.verdict.reward for judged in made.rollouts]
    lengths = [judged.rollout.num_tokens for judged in made.rollouts]
    assert (report.step, report.rollouts, report.groups, report.tokens) == (1, 8, 2, sum(lengths))
    assert report.reward_mean == pytest.approx(float(np.mean(rewards)))  # type: ignore[arg-type]
    assert report.length_mean == pytest.approx(float(np.mean(lengths)))
    assert (report.staleness_max, report.truncated_share, report.kl) == (0, 0.0, None)
    assert msgspec.json.decode(msgspec.json.encode(report), type=type(report)) == report
