"""The loss of one micro-batch: the configured terms of `learner.losses`, put together.

Owns which terms are on and what each one adds. Called by `learner.learner`; knows no model and no rank.
Shapes: M completion tokens of one micro-batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.losses import clipped_surrogate, importance_weights, is_clipped, kl_term
from rlvr.config import ObjectiveConfig


@dataclass(frozen=True)
class TokenFacts:
    """What is known of each completion token before the learner's own pass. All [M] float32."""

    weights_M: Tensor
    """Aggregation weights; they sum to 1 over one optimizer update."""
    advantages_M: Tensor
    sampler_M: Tensor
    """The sampler's logprobs."""
    old_M: Tensor | None
    """Logprobs that the ratio is taken to; None = the learner's own of this very pass, so that the ratio is 1."""
    reference_M: Tensor | None
    """The reference's logprobs; None = the KL term is off."""


@dataclass(frozen=True)
class Terms:
    """The loss of one micro-batch and what there is to tell about it. All detached but `loss`."""

    loss: Tensor
    policy_M: Tensor | None
    kl_M: Tensor | None
    importance_M: Tensor | None
    ratio_M: Tensor
    clipped_M: Tensor


def objective(config: ObjectiveConfig, logprobs_M: Tensor, entropies_M: Tensor, facts: TokenFacts) -> Terms:
    """Weighted sum of the terms that are on: policy·(weights) + kl_coef·KL − entropy_coef·entropy. A term that is off is not computed."""
    old_M = logprobs_M.detach() if facts.old_M is None else facts.old_M
    ratio_M = (logprobs_M - old_M).exp()
    clip = {"clip_low": config.clip_low, "clip_high": config.clip_high}
    total_M = torch.zeros_like(logprobs_M)
    policy_M = kl_M = importance_M = None
    if config.policy_coef:
        policy_M = clipped_surrogate(ratio_M, facts.advantages_M, **clip)
        if config.importance_cap is not None:
            importance_M = importance_weights(old_M, facts.sampler_M, cap=config.importance_cap)
            policy_M = policy_M * importance_M
        total_M = total_M + config.policy_coef * policy_M
    if facts.reference_M is not None:
        kl_M = kl_term(logprobs_M, facts.reference_M, estimator=config.kl_estimator, clamp=config.kl_clamp)
        total_M = total_M + config.kl_coef * kl_M
    if config.entropy_coef:
        total_M = total_M - config.entropy_coef * entropies_M
    return Terms(
        loss=(facts.weights_M * total_M).sum(),
        policy_M=None if policy_M is None else policy_M.detach(),
        kl_M=None if kl_M is None else kl_M.detach(),
        importance_M=importance_M,
        ratio_M=ratio_M.detach(),
        clipped_M=is_clipped(ratio_M.detach(), facts.advantages_M, **clip),
    )
