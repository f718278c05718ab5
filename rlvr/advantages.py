"""Advantages: what a reward means beside the rewards of its group.

Owns the estimators as pure functions of arrays. Called by the learner. Knows no rollout, no torch.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def grpo(rewards: ArrayLike, group_index: ArrayLike, ddof: int, eps: float) -> NDArray[np.float64]:
    """Advantage (r - mean) / (std + eps) of each reward in its group.

    rewards: [N]. group_index: [N] int, any labels; rollouts with one label share a baseline. ddof: degrees of freedom taken from the standard
    deviation. A group of equal rewards, or of one, gives 0. Returns [N] float64. Raises ValueError on rewards that are not finite or do not pair up.
    Source: GRPO (arXiv:2402.03300), with the standard deviation of arXiv:2504.20571's code.
    """
    values = np.asarray(rewards, dtype=np.float64)
    labels = np.asarray(group_index)
    if values.ndim != 1 or values.shape != labels.shape:
        raise ValueError(f"rewards of shape {values.shape} and group indices of shape {labels.shape} do not pair up")
    if not np.isfinite(values).all():
        raise ValueError("a reward is not finite")
    if not values.size:
        return values
    _, group, size = np.unique(labels, return_inverse=True, return_counts=True)
    centred = values - (np.bincount(group, weights=values) / size)[group]
    variance = np.bincount(group, weights=centred**2) / np.maximum(size - ddof, 1)
    spread = _is_spread(values, group, num_groups=size.size)
    # a group without spread is decided by equality of its rewards: rounding of the mean must not turn into advantages when eps is tiny
    scale: NDArray[np.float64] = np.where(spread, np.sqrt(variance) + eps, np.inf)[group]
    return np.divide(centred, scale)


def _is_spread(values: NDArray[np.float64], group: NDArray[np.intp], *, num_groups: int) -> NDArray[np.bool_]:
    """[num_groups] bool: true where a group has two different rewards."""
    lowest = np.full(num_groups, np.inf)
    highest = np.full(num_groups, -np.inf)
    np.minimum.at(lowest, group, values)
    np.maximum.at(highest, group, values)
    return lowest < highest
