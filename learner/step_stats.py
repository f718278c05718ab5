"""The figures of one training step, added up over micro-batches and then over ranks.

Owns the accumulators behind `learner.report.StepReport`. Called by `learner.learner`; knows no model.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor

from learner.objective import Terms, TokenFacts

SUMS = ("loss", "policy", "kl", "entropy", "importance", "ratio", "clipped", "tokens", "gap", "gap_abs", "gap_tokens")
EXTREMES = ("ratio_max", "ratio_min_negated", "gap_max")


class StepStats:
    """Sums and extremes of one rank, on its device until `reduced` is asked."""

    def __init__(self, device: torch.device) -> None:
        self._sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in SUMS}
        self._extremes = {name: torch.full((), -math.inf, dtype=torch.float64, device=device) for name in EXTREMES}

    def add_terms(self, terms: Terms, entropies_M: Tensor, facts: TokenFacts) -> None:
        """Count one micro-batch of a training pass. Terms are weighted as in the loss, ratios per token."""
        weighted = {"policy": terms.policy_M, "kl": terms.kl_M, "entropy": entropies_M.detach()}
        for name, values_M in weighted.items():
            if values_M is not None:
                self._sums[name] += (facts.weights_M.double() * values_M.double()).sum()
        self._sums["loss"] += terms.loss.detach().double()
        self._sums["ratio"] += terms.ratio_M.double().sum()
        self._sums["clipped"] += terms.clipped_M.sum()
        self._sums["tokens"] += terms.ratio_M.numel()
        if terms.importance_M is not None:
            self._sums["importance"] += terms.importance_M.double().sum()
        self._raise("ratio_max", terms.ratio_M.max())
        self._raise("ratio_min_negated", -terms.ratio_M.min())

    def add_gap(self, learner_M: Tensor, sampler_M: Tensor) -> None:
        """Count the distance of the learner's logprobs from the sampler's, before any update of the step."""
        gap_M = learner_M.detach().double() - sampler_M.double()
        self._sums["gap"] += gap_M.sum()
        self._sums["gap_abs"] += gap_M.abs().sum()
        self._sums["gap_tokens"] += gap_M.numel()
        self._raise("gap_max", gap_M.abs().max())

    def _raise(self, name: str, value: Tensor) -> None:
        self._extremes[name] = torch.maximum(self._extremes[name], value.detach().double())

    def loss_sum(self) -> Tensor:
        """This rank's loss so far, a float64 scalar on its device."""
        return self._sums["loss"]

    def reduced(self) -> dict[str, float]:
        """All figures over all ranks, by name. Collective."""
        sums = torch.stack([self._sums[name] for name in SUMS]).cpu()
        extremes = torch.stack([self._extremes[name] for name in EXTREMES]).cpu()
        dist.all_reduce(sums, op=dist.ReduceOp.SUM)
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
        return dict(zip((*SUMS, *EXTREMES), (*sums.tolist(), *extremes.tolist()), strict=True))
