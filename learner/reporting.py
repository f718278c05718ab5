"""From the figures of a step to its report.

Owns the arithmetic of `learner.report.StepReport`: pure functions, called by `learner.learner` once a step.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from learner.batches import StepData
from learner.report import PhaseSeconds, RatioStats, SamplerGap, StepReport
from rlvr.config import ObjectiveConfig
from rlvr.records import Batch


def step_report(
    batch: Batch,
    data: StepData,
    objective: ObjectiveConfig,
    *,
    figures: Mapping[str, float],
    norms: Sequence[float],
    learning_rate: float,
    seconds: Mapping[str, float],
) -> StepReport:
    """The report of a trained step. figures: what `StepStats.reduced` gave. norms: gradient norm of each update."""
    updates, tokens = len(norms), figures["tokens"]
    lengths = data.lengths
    has_importance = bool(objective.policy_coef) and objective.importance_cap is not None
    return StepReport(
        step=batch.step,
        lineage=batch.lineage,
        skipped=False,
        updates=updates,
        loss=figures["loss"] / updates,
        policy_loss=figures["policy"] / updates if objective.policy_coef else None,
        kl=figures["kl"] / updates if objective.kl_coef else None,
        entropy=figures["entropy"] / updates,
        grad_norm=max(norms),
        learning_rate=learning_rate,
        ratio=RatioStats(
            mean=figures["ratio"] / tokens,
            min=-figures["ratio_min_negated"],
            max=figures["ratio_max"],
            clip_fraction=figures["clipped"] / tokens,
        ),
        sampler_gap=SamplerGap(
            mean=figures["gap"] / figures["gap_tokens"], mean_abs=figures["gap_abs"] / figures["gap_tokens"], max_abs=figures["gap_max"]
        ),
        importance_mean=figures["importance"] / tokens if has_importance else None,
        rollouts=data.num_rows,
        groups=int(data.group_N.max()) + 1,
        informative_groups=np.unique(data.group_N[data.advantages_N != 0.0]).size,
        tokens=int(lengths.sum()),
        length_mean=float(lengths.mean()),
        truncated_share=sum(judged.rollout.is_truncated for judged in batch.rollouts) / data.num_rows,
        reward_mean=float(data.rewards_N.mean()),
        reward_std=float(data.rewards_N.std()),
        staleness_mean=float(data.staleness_N.mean()),
        staleness_max=int(data.staleness_N.max()),
        seconds=PhaseSeconds(**seconds),
    )


def empty_report(batch: Batch, *, learning_rate: float, seconds: Mapping[str, float]) -> StepReport:
    """The report of a step without rollouts: nothing was learnt, nothing is known."""
    return StepReport(
        step=batch.step,
        lineage=batch.lineage,
        skipped=True,
        updates=0,
        loss=0.0,
        policy_loss=None,
        kl=None,
        entropy=0.0,
        grad_norm=0.0,
        learning_rate=learning_rate,
        ratio=RatioStats(mean=1.0, min=1.0, max=1.0, clip_fraction=0.0),
        sampler_gap=SamplerGap(mean=0.0, mean_abs=0.0, max_abs=0.0),
        importance_mean=None,
        rollouts=0,
        groups=0,
        informative_groups=0,
        tokens=0,
        length_mean=0.0,
        truncated_share=0.0,
        reward_mean=0.0,
        reward_std=0.0,
        staleness_mean=0.0,
        staleness_max=0,
        seconds=PhaseSeconds(**seconds),
    )
