"""Intervals, rank correlations and distributions: the numbers of pages and tables.

All intervals are of 95 %. Letters: N samples, R rewards.
"""

import math
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
import scipy  # its `stats`, which takes half a second, is loaded when it is first used

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_MOST_BUCKETS = 50  # of a histogram
ENDS = (2.5, 97.5)  # percentiles, of an interval
NORMAL = 1.959963984540054  # 97.5 % of the normal distribution
_RESAMPLES = 1000
_SEED = 0  # of the resampling: the same samples give the same interval


class Mean(TypedDict):
    """A mean with its interval."""

    mean: float
    low: float
    high: float


class Share(TypedDict):
    """A share with its interval; a mean of several shares has no counts."""

    correct: NotRequired[int]
    total: NotRequired[int]
    accuracy: float
    low: float
    high: float


def bootstrap_mean(values: np.ndarray, prompts: Sequence[str] | None = None) -> Mean:
    """Return the mean of values with its percentile bootstrap interval.

    Args:
      values: [N], NaN is missing.
      prompts: [N], resampled with all their images, which are alike (see `clustered`). None, or
        one prompt alone: values are independent.

    Raises:
      ValueError: there is no value, or they are not [N].
    """
    values = np.asarray(values, np.float64)
    present = ~np.isnan(values)
    if values.ndim != 1 or not present.any():
        raise ValueError(f"values must be [N] with N >= 1 numbers; got shape {values.shape}.")
    values, groups = values[present], np.arange(present.sum())
    if prompts is not None:
        _, own = np.unique(np.asarray(prompts)[present], return_inverse=True)
        groups = own if own.any() else groups
    sums, counts = np.bincount(groups, values), np.bincount(groups)
    rng = np.random.default_rng(_SEED)
    chosen = draw(rng, len(sums), _RESAMPLES)
    means = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    low, high = np.percentile(means, ENDS)
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def draw(rng: np.random.Generator, count: int, resamples: int) -> np.ndarray:
    """Draw `count` things again and again; returns indices [B, max(count - 1, 1)].

    count - 1 of count: as many as there are would give a variance (count - 1) / count of what it
    is (Rao and Wu, 1988).
    """
    return rng.integers(0, count, (resamples, max(count - 1, 1)))


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """Return the ends of Wilson's interval (1927) of a share of `count`, perhaps no integer."""
    square = NORMAL**2 / count
    half = math.sqrt(square * (share * (1 - share) + square / 4))
    low, high = ((share + square / 2 + sign * half) / (1 + square) for sign in (-1, 1))
    return 0.0 if share == 0 else low, 1.0 if share == 1 else high


def mean_of_shares(shares: Sequence[Share]) -> dict[str, float]:
    """Return the unweighted mean of shares with intervals: accuracy, low, high.

    The interval adds the squared distances of each share to its own bounds (the method of variance
    estimates recovery, Zou and Donner, 2008), so it inherits their good behaviour near 0 and 1.
    """
    count = len(shares)
    mean = sum(s["accuracy"] for s in shares) / count
    below = math.sqrt(sum((s["accuracy"] - s["low"]) ** 2 for s in shares)) / count
    above = math.sqrt(sum((s["high"] - s["accuracy"]) ** 2 for s in shares)) / count
    return {"accuracy": mean, "low": mean - below, "high": mean + above}


def shares_of_best(rows: np.ndarray) -> np.ndarray:
    """Return [T]: in which share of rows [B, T] each is the highest; equal ones divide a row."""
    top = np.isclose(rows, rows.max(axis=1, keepdims=True), rtol=1e-9, atol=1e-12)
    return (top / top.sum(axis=1, keepdims=True)).mean(axis=0)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return Spearman's rank correlation of [N] and [N]; None where one of them is constant.

    NaN is missing: its pair is dropped.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x, y = np.stack([x, y])[:, ~(np.isnan(x) | np.isnan(y))]
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(scipy.stats.spearmanr(x, y).statistic)


def describe(scores: np.ndarray) -> dict:
    """Describe the scores of one reward.

    Args:
      scores: [N] float, NaN is missing.

    Returns:
      count, missing, and where there is a score: mean, std, min, max, percentiles (exact) and the
      histogram (`counts` in equal buckets between `edges`), as JSON values.
    """
    present = scores[~np.isnan(scores)]
    facts = {"count": len(present), "missing": len(scores) - len(present)}
    if not len(present):
        return facts
    present = np.sort(present)  # percentiles of a sorted array need no copies
    counts, edges = np.histogram(present, bins=_num_buckets(present))
    values = np.percentile(present, PERCENTILES)
    return facts | {
        "mean": float(present.mean(dtype=np.float64)),
        "std": float(present.std(dtype=np.float64)),
        "min": float(present[0]),
        "max": float(present[-1]),
        "percentiles": {str(p): float(v) for p, v in zip(PERCENTILES, values, strict=True)},
        "histogram": {"counts": counts.tolist(), "edges": edges.astype(float).tolist()},
    }


def _num_buckets(values: np.ndarray) -> int:
    """Return how many buckets [N] values fill: Sturges (1926) or Freedman and Diaconis (1981).

    The larger of the two, as numpy's "auto", but bounded before an outlier makes millions.
    """
    size = len(values)
    low, high = np.percentile(values, (25, 75))
    width = 2.0 * (high - low) / size ** (1 / 3)
    by_width = np.ptp(values) / width if width > 0 else 0.0
    return math.ceil(min(max(math.log2(size) + 1, by_width), _MOST_BUCKETS))


def summarize(scores: np.ndarray, names: Sequence[str]) -> dict:
    """Describe several rewards and how they correlate, for stats.json.

    Args:
      scores: [N, R] float, NaN is missing.
      names: [R].

    Returns:
      JSON values: `rewards`, see `describe`; and the matrices `pearson` and `spearman` [R][R] over
      the samples that have both scores (None where undefined).
    """
    scores = np.asarray(scores, np.float64).reshape(-1, len(names))
    return {
        "rewards": {name: describe(column) for name, column in zip(names, scores.T, strict=True)},
        "pearson": _correlations(scores, ranked=False),
        "spearman": _correlations(scores, ranked=True),
    }


def _correlations(scores: np.ndarray, ranked: bool) -> list[list[float | None]]:
    """Correlate every pair of columns; None where one is constant or fewer than two have both."""
    scores = scores[~np.isnan(scores).all(axis=1)]
    num_rewards = scores.shape[1]
    holes = np.isnan(scores)
    # Sorting takes the time: a column without holes is ranked once for all its pairs.
    whole = {
        i: scipy.stats.rankdata(scores[:, i]) if ranked else scores[:, i]
        for i in range(num_rewards)
        if not holes[:, i].any()
    }
    table: list[list[float | None]] = [[None] * num_rewards for _ in range(num_rewards)]
    for i in range(num_rewards):
        for j in range(i, num_rewards):
            if i in whole and j in whole:
                pair = np.stack([whole[i], whole[j]])
            else:
                pair = scores[~holes[:, i] & ~holes[:, j]][:, [i, j]].T
                pair = scipy.stats.rankdata(pair, axis=1) if ranked else pair
            if pair.shape[1] >= 2 and (np.ptp(pair, axis=1) > 0).all():
                table[i][j] = table[j][i] = float(np.corrcoef(pair)[0, 1])
    return table
