"""Every term of the objective against values worked out by hand."""

import math

import pytest
import torch

from learner.losses import (
    AGGREGATIONS,
    KL_ESTIMATORS,
    Share,
    clipped_surrogate,
    importance_weights,
    is_clipped,
    kl_term,
    token_weights,
)
from learner.objective import TokenFacts, objective
from rlvr.config import ObjectiveConfig


def test_the_surrogate_takes_the_worse_of_clipped_and_unclipped() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    terms = clipped_surrogate(ratio, advantages, clip_low=0.2, clip_high=0.3)
    torch.testing.assert_close(terms, torch.tensor([-1.3, 1.5, -0.5, 0.8, -2.0]))
    assert is_clipped(ratio, advantages, clip_low=0.2, clip_high=0.3).tolist() == [True, False, False, True, False]


def test_a_clipped_token_has_no_policy_gradient() -> None:
    ratio = torch.tensor([1.5, 1.1], requires_grad=True)
    clipped_surrogate(ratio, torch.ones(2), clip_low=0.2, clip_high=0.2).sum().backward()
    assert ratio.grad is not None
    assert ratio.grad.tolist() == [0.0, -1.0]


@pytest.mark.parametrize(("estimator", "expected"), [("k1", math.log(2.0)), ("k2", 0.5 * math.log(2.0) ** 2), ("k3", 0.5 - math.log(0.5) - 1.0)])
def test_kl_estimators_of_a_token_twice_as_likely_as_under_the_reference(estimator: str, expected: float) -> None:
    logprobs, reference = torch.log(torch.tensor([0.5, 0.3])), torch.log(torch.tensor([0.25, 0.3]))
    torch.testing.assert_close(KL_ESTIMATORS[estimator](logprobs, reference), torch.tensor([expected, 0.0]), atol=1e-6, rtol=0)


def test_k1_and_k3_are_unbiased() -> None:
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    kl = (policy * (policy / reference).log()).sum()
    for estimator in ("k1", "k3"):
        torch.testing.assert_close((policy * KL_ESTIMATORS[estimator](policy.log(), reference.log())).sum(), kl)


def test_kl_is_clamped_on_both_sides_and_then_has_no_gradient() -> None:
    logprobs = torch.tensor([-20.0, -1.0, -20.0], requires_grad=True)
    terms = kl_term(logprobs, torch.tensor([-1.0, -20.0, -20.5]), estimator="k1", clamp=10.0)
    assert terms.tolist() == [-10.0, 10.0, 0.5]
    terms.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [0.0, 0.0, 1.0]


def test_importance_weights_are_capped_and_constant() -> None:
    learner = torch.tensor([-1.0, -1.0], requires_grad=True)
    weights = importance_weights(learner, torch.tensor([-1.0 - math.log(3.0), -1.0 + math.log(2.0)]), cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([2.0, 0.5]))
    assert not weights.requires_grad


def test_aggregations_of_two_micro_batches() -> None:
    shares = [Share(row_tokens=(4, 2), update_rows=3, update_tokens=10), Share(row_tokens=(4,), update_rows=3, update_tokens=10)]
    expected = {
        "token_mean": [[0.1, 0.1], [0.1]],
        "micro_batch_token_mean": [[2 / 3 / 6, 2 / 3 / 6], [1 / 3 / 4]],
        "sequence_mean": [[1 / 12, 1 / 6], [1 / 12]],
    }
    for name, weights in expected.items():
        assert [AGGREGATIONS[name](share) for share in shares] == [pytest.approx(row) for row in weights]
        total = sum(token_weights(share, aggregation=name).sum().item() for share in shares)
        assert total == pytest.approx(1.0, abs=1e-12)


def facts(**replaced: torch.Tensor | None) -> TokenFacts:
    values: dict[str, torch.Tensor | None] = {
        "weights_M": torch.tensor([0.25, 0.75]),
        "advantages_M": torch.tensor([1.0, -1.0]),
        "sampler_M": torch.tensor([-1.0, -2.0]),
        "old_M": torch.tensor([-1.0, -2.0]),
        "reference_M": torch.tensor([-1.5, -1.0]),
    }
    return TokenFacts(**(values | replaced))  # type: ignore[arg-type]


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    logprobs, entropies = torch.tensor([-1.0 + math.log(1.1), -2.0]), torch.tensor([0.5, 1.0])
    config = ObjectiveConfig(policy_coef=2.0, kl_coef=0.1, kl_estimator="k1", entropy_coef=0.01)
    terms = objective(config, logprobs, entropies, facts())
    policy, kl = (-1.1, 1.0), (0.5 + math.log(1.1), -1.0)
    expected = sum(w * (2.0 * p + 0.1 * k - 0.01 * e) for w, p, k, e in zip((0.25, 0.75), policy, kl, (0.5, 1.0), strict=True))
    assert terms.loss.item() == pytest.approx(expected, rel=1e-6)


def test_terms_that_are_off_are_not_computed() -> None:
    config = ObjectiveConfig(policy_coef=0.0, kl_coef=0.0, entropy_coef=0.0)
    terms = objective(config, torch.tensor([-1.0, -2.0]), torch.tensor([math.nan, math.nan]), facts(reference_M=None))
    assert (terms.policy_M, terms.kl_M, terms.importance_M) == (None, None, None)
    assert terms.loss.item() == 0.0


def test_importance_weights_scale_the_policy_term_alone() -> None:
    logprobs = torch.tensor([-1.0, -2.0])
    sampler = logprobs - math.log(1.5)
    plain = objective(ObjectiveConfig(kl_coef=0.1, entropy_coef=0.0), logprobs, torch.zeros(2), facts(old_M=None))
    config = ObjectiveConfig(kl_coef=0.1, entropy_coef=0.0, old_logprobs="recomputed", importance_cap=2.0)
    weighted = objective(config, logprobs, torch.zeros(2), facts(old_M=None, sampler_M=sampler))
    assert plain.policy_M is not None
    assert weighted.policy_M is not None
    torch.testing.assert_close(weighted.policy_M, 1.5 * plain.policy_M)
    torch.testing.assert_close(weighted.kl_M, plain.kl_M)
    assert weighted.ratio_M.tolist() == [1.0, 1.0]
