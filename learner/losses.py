"""The objective's terms, one small pure function each, in tables by their configured names.

Owns the formulas and nothing else: called by `learner.learner`, knows no model, no rank, no batch.
Shapes: M completion tokens of one micro-batch, rows one after the other. Logprobs are nats. A term is a [M] vector to be lowered; the aggregation
is a [M] vector of weights that sums to 1 over all micro-batches and ranks of one optimizer update: a loss is always `(weights_M * term_M).sum()`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


def clipped_surrogate(ratio_M: Tensor, advantages_M: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """Policy-gradient term of each token. Source: PPO (arXiv:1707.06347) eq. 7, with a clip of its own on either side (arXiv:2503.14476)."""
    return torch.maximum(-advantages_M * ratio_M, -advantages_M * ratio_M.clamp(1.0 - clip_low, 1.0 + clip_high))


def is_clipped(ratio_M: Tensor, advantages_M: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """[M] bool: tokens whose policy term has no gradient because the clip acts."""
    return ((advantages_M > 0) & (ratio_M > 1.0 + clip_high)) | ((advantages_M < 0) & (ratio_M < 1.0 - clip_low))


def importance_weights(learner_M: Tensor, sampler_M: Tensor, *, cap: float) -> Tensor:
    """Truncated weights learner/sampler of the tokens, constant in the gradient. Source: the truncation of V-trace (arXiv:1802.01561)."""
    return (learner_M - sampler_M).detach().exp().clamp(max=cap)


def k1(logprobs_M: Tensor, reference_M: Tensor) -> Tensor:
    """log(π/π_ref): unbiased, of either sign."""
    return logprobs_M - reference_M


def k2(logprobs_M: Tensor, reference_M: Tensor) -> Tensor:
    """Half the squared log-ratio: biased, small variance, its gradient is that of the KL."""
    return 0.5 * (logprobs_M - reference_M).square()


def k3(logprobs_M: Tensor, reference_M: Tensor) -> Tensor:
    """π_ref/π − log(π_ref/π) − 1: unbiased and never negative."""
    delta_M = reference_M - logprobs_M
    return delta_M.exp() - delta_M - 1.0


KL_ESTIMATORS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
"""Of KL(π || π_ref) at tokens sampled from π. Source: Schulman, "Approximating KL divergence"."""


def kl_term(logprobs_M: Tensor, reference_M: Tensor, *, estimator: str, clamp: float) -> Tensor:
    """KL of each token to the reference, clamped to ± clamp nats (a clamped token has no gradient)."""
    return KL_ESTIMATORS[estimator](logprobs_M, reference_M).clamp(-clamp, clamp)


@dataclass(frozen=True)
class Share:
    """One micro-batch within its optimizer update: what an aggregation needs to know."""

    row_tokens: tuple[int, ...]
    """Completion tokens of each row of the micro-batch."""
    update_rows: int
    """Rows of the update, all ranks and micro-batches together."""
    update_tokens: int
    """Completion tokens of the update, likewise."""


def token_mean(share: Share) -> list[float]:
    """Every completion token of the update weighs the same."""
    return [1.0 / share.update_tokens for _ in share.row_tokens]


def micro_batch_token_mean(share: Share) -> list[float]:
    """Mean over the tokens of the micro-batch, micro-batches weighted by their rows: the paper's code, which depends on the packing."""
    return [len(share.row_tokens) / (share.update_rows * sum(share.row_tokens)) for _ in share.row_tokens]


def sequence_mean(share: Share) -> list[float]:
    """Mean over the tokens of a completion, then over completions: the paper's text."""
    return [1.0 / (share.update_rows * tokens) for tokens in share.row_tokens]


AGGREGATIONS: Mapping[str, Callable[[Share], list[float]]] = {
    "token_mean": token_mean,
    "micro_batch_token_mean": micro_batch_token_mean,
    "sequence_mean": sequence_mean,
}
"""Weight of one token of each row."""


def token_weights(share: Share, *, aggregation: str) -> Tensor:
    """[M] float64 weights of the micro-batch's tokens."""
    per_row = torch.tensor(AGGREGATIONS[aggregation](share), dtype=torch.float64)
    return per_row.repeat_interleave(torch.tensor(share.row_tokens))
