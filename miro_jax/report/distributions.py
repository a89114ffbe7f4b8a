"""How scores are spread and which go together: what `stats.json` and summaries say of them.

Letters: N scores, R rewards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_NUM_BUCKETS = 50


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
    counts, edges = np.histogram(present, bins=_NUM_BUCKETS)
    values = np.percentile(present, PERCENTILES)
    return facts | {
        "mean": float(present.mean(dtype=np.float64)),
        "std": float(present.std(dtype=np.float64)),
        "min": float(present[0]),
        "max": float(present[-1]),
        "percentiles": {str(p): float(v) for p, v in zip(PERCENTILES, values, strict=True)},
        "histogram": {"counts": counts.tolist(), "edges": edges.astype(float).tolist()},
    }


def summarize(scores: np.ndarray, names: Sequence[str]) -> dict:
    """Describe several rewards and how they go together, for stats.json.

    Args:
        scores: [N, R] float, NaN is missing.
        names: [R].

    Returns:
        JSON values: `rewards`, see `describe`; and the matrices `pearson` and `spearman` [R][R]
        over the examples that have both scores (None where undefined).
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
    # Sorting is what takes time: a column without holes is ranked once for all its pairs.
    whole = {
        i: _ranks(scores[:, i]) if ranked else scores[:, i]
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
                pair = np.stack([_ranks(pair[0]), _ranks(pair[1])]) if ranked else pair
            if pair.shape[1] >= 2 and (np.ptp(pair, axis=1) > 0).all():
                table[i][j] = table[j][i] = float(np.corrcoef(pair)[0, 1])
    return table


def _ranks(values: np.ndarray) -> np.ndarray:
    """Rank from 0; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + last - 1) / 2)[inverse]
