"""pass@k and the interval of an accuracy.

Owns the two estimators that every evaluation reports. Pure functions of counts.
"""

import math


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that k of the samples, drawn without replacement, contain a correct one: unbiased for pass@k.

    Raises ValueError unless 0 <= num_correct <= num_samples and 1 <= k <= num_samples. Source: arXiv:2107.03374, as a product that cannot overflow.
    """
    if not (0 <= num_correct <= num_samples and 1 <= k <= num_samples):
        raise ValueError(f"pass@{k} needs k in 1..samples and correct in 0..samples, got {num_correct} of {num_samples}")
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(num_samples - num_correct + 1, num_samples + 1))


def wilson_interval(successes: float, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share, within [0, 1]; no trials say nothing: (0, 1).

    successes may be a mean over samples of each problem, hence a float. Raises ValueError unless 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be in 0..{trials}, got {successes}")
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # the interval contains the share itself; at shares 0 and 1 rounding would leave it out by 1e-17
    return max(0.0, min(share, (centre - reach) / scale)), min(1.0, max(share, (centre + reach) / scale))
