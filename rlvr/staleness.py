"""Staleness: how old a rollout may be when it trains.

Owns the two rules that queue and learner share. Step k makes version k; version 0 is the start; lineages do not count, steps do.
"""

from rlvr.records import Version


def staleness(step: int, oldest: Version) -> int:
    """Versions between a rollout's oldest token and the start of the step that trains it; 0 = on-policy.

    Raises ValueError when the token is of a version that the step itself, or a later one, makes.
    """
    age = step - 1 - oldest.step
    if age < 0:
        raise ValueError(f"step {step} cannot train a token of version {oldest}: it starts from version step {step - 1}")
    return age


def oldest_allowed_step(step: int, max_staleness: int) -> int:
    """The oldest version step that a rollout of `step` may start from."""
    return max(0, step - 1 - max_staleness)
