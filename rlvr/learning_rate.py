"""The learning rate of each step.

Owns the schedules. Called by the learner; a pure function of the step, so that a resumed run continues where it was.
"""

import math

from rlvr.config import OptimizerConfig


def learning_rate(optimizer: OptimizerConfig, step: int, num_steps: int) -> float:
    """Learning rate of step 1..num_steps: the schedule's value, times step / warmup_steps while it warms up. Raises ValueError outside."""
    if not 1 <= step <= num_steps:
        raise ValueError(f"step must be in 1..{num_steps}, got {step}")
    progress = (step - 1) / num_steps
    factor = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}[optimizer.schedule]
    warmup = min(1.0, step / optimizer.warmup_steps) if optimizer.warmup_steps else 1.0
    return optimizer.learning_rate * factor * warmup
