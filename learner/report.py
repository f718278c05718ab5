"""What a training step tells: one record, made by the learner, read by the controller.

Knows no torch, so that an actor without it can read a report.
"""

import msgspec


class PhaseSeconds(msgspec.Struct, frozen=True, kw_only=True):
    """Where the seconds of one step went, on the rank that reports."""

    prepare: float = 0.0
    score: float = 0.0
    """Forward passes without gradient: recomputed old logprobs and the reference."""
    train: float = 0.0
    """Forward and backward passes."""
    optimize: float = 0.0
    """Gradient norm, clipping, AdamW."""
    total: float = 0.0


class RatioStats(msgspec.Struct, frozen=True, kw_only=True):
    """Probability ratio learner/old over the completion tokens of every update."""

    mean: float
    min: float
    max: float
    clip_fraction: float
    """Share of tokens whose policy term the clip has cut off."""


class SamplerGap(msgspec.Struct, frozen=True, kw_only=True):
    """Learner's logprobs before the step minus the sampler's, nats per token: numerics and staleness together.

    With old_logprobs = "sampler" and several updates a step, over the tokens of the first update alone (later ones see changed weights).
    """

    mean: float
    mean_abs: float
    max_abs: float


class StepReport(msgspec.Struct, frozen=True, kw_only=True):
    """One training step. Loss terms are means under the configured aggregation over all updates; a term that is off is None."""

    step: int
    lineage: int
    skipped: bool
    """True where the batch was empty, so that no optimizer update took place."""
    updates: int
    loss: float
    policy_loss: float | None
    kl: float | None
    """To the reference, before its coefficient."""
    entropy: float
    """Of the distribution that the logprobs belong to (tempered, if so configured)."""
    grad_norm: float
    """Before clipping; the largest of the step's updates."""
    learning_rate: float
    ratio: RatioStats
    sampler_gap: SamplerGap
    importance_mean: float | None
    """Mean truncated importance weight; None where there is none."""
    rollouts: int
    groups: int
    informative_groups: int
    """Groups with an advantage that is not 0."""
    tokens: int
    """Completion tokens of the batch."""
    length_mean: float
    truncated_share: float
    reward_mean: float
    reward_std: float
    staleness_mean: float
    staleness_max: int
    seconds: PhaseSeconds
