"""Uncertainty of accuracies: Wilson intervals and paired bootstrap intervals."""

import math
from statistics import NormalDist

import numpy as np

#: Quantile of the standard normal distribution for an interval that covers 95 %.
_Z = NormalDist().inv_cdf((1 + 0.95) / 2)


def accuracy_interval(correct: int, total: int) -> tuple[float, float]:
    """
    95 % score interval of a binomial share (E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 22, 1927), which stays in [0, 1] and holds for few clips and shares near 0 or 1:

        (p + z^2 / 2n -+ z * sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    The clips are taken for independent draws.

    Args:
        correct: number of hits.
        total: number of clips.

    Raises:
        ValueError: no clips, or more hits than clips.
    """
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"{correct} correct of {total} clips: pass 0 <= correct <= total, and at least one clip")
    share = correct / total
    centre = share + _Z**2 / (2 * total)
    half = _Z * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    scale = 1 + _Z**2 / total
    # Exactly 0 and 1 at the ends, free of rounding error.
    low = 0.0 if correct == 0 else (centre - half) / scale
    high = 1.0 if correct == total else (centre + half) / scale
    return low, high


def paired_bootstrap(differences: np.ndarray, *, draws: int = 2000) -> tuple[float, float, float]:
    """
    Mean of paired differences, and its 95 % interval over new draws of both seeds and test clips (percentiles of the
    bootstrap of a table with crossed rows and columns; A. Owen, "The pigeonhole bootstrap", 2007).

    Args:
        differences: (seeds, test clips), such as hits minus hits.
        draws: number of draws of the bootstrap, from a fixed seed.

    Returns:
        Mean, low end and high end.
    """
    rng = np.random.default_rng(0)
    num_seeds, num_clips = differences.shape
    rows = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=draws)
    columns = rng.multinomial(num_clips, np.full(num_clips, 1 / num_clips), size=draws)
    means = ((rows @ differences) * columns).sum(axis=1) / (num_seeds * num_clips)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)
