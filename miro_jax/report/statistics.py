"""Intervals and rank correlations of evaluators.

All intervals are of 95 %. Letters: N samples.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

_Z = 1.959963984540054  # of a normal distribution, 95 % lie within
_RESAMPLES = 1000
_SEED = 0  # of the resampling: the same samples give the same interval


def bootstrap_mean(values: np.ndarray) -> dict[str, float]:
    """Return the mean of [N] values with its percentile bootstrap interval: mean, low, high."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values must be [N] with N >= 1; got shape {values.shape}.")
    rng = np.random.default_rng(_SEED)
    chosen = rng.integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(values[chosen].mean(axis=1), (2.5, 97.5))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def wilson(correct: int, total: int) -> dict[str, Any]:
    """Return the share correct / total with its Wilson score interval (Wilson, 1927).

    Returns:
      correct, total, accuracy, low, high.
    """
    if not 0 <= correct <= total or total < 1:
        raise ValueError(
            f"correct must be within 0..total and total >= 1; got {correct} of {total}."
        )
    share, z2 = correct / total, _Z**2
    center = (correct + z2 / 2) / (total + z2)
    half = _Z * math.sqrt(total * share * (1 - share) + z2 / 4) / (total + z2)
    # Exact at the ends, where rounding may leave the unit interval or pass the share itself.
    low = 0.0 if correct == 0 else max(center - half, 0.0)
    high = 1.0 if correct == total else min(center + half, 1.0)
    return {"correct": correct, "total": total, "accuracy": share, "low": low, "high": high}


def mean_of_shares(shares: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the unweighted mean of shares given by `wilson`: accuracy, low, high.

    The interval adds the squared distances of each share to its own bounds (the method of variance
    estimates recovery, Zou and Donner, 2008), so it inherits their good behaviour near 0 and 1.
    """
    count = len(shares)
    mean = sum(s["accuracy"] for s in shares) / count
    below = math.sqrt(sum((s["accuracy"] - s["low"]) ** 2 for s in shares)) / count
    above = math.sqrt(sum((s["high"] - s["accuracy"]) ** 2 for s in shares)) / count
    return {"accuracy": mean, "low": mean - below, "high": mean + above}


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return Spearman's rank correlation of [N] and [N]; None where one of them is constant."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(stats.spearmanr(x, y).statistic)
