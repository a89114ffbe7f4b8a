"""Distributions: against scipy and numpy."""

import numpy as np
import pytest
from scipy import stats

from miro_jax.report import distributions


def test_summary_agrees_with_scipy_and_numpy():
    rng = np.random.default_rng(5)
    scores = np.round(rng.normal(size=(200, 3)), 1)
    scores[:, 1] += scores[:, 0]
    scores[:, 2] = 7
    scores[:50, 1] = np.nan
    summary = distributions.summarize(scores, ["a@1", "b@1", "c@1"])
    both = scores[50:]
    np.testing.assert_allclose(
        summary["spearman"][0][1], stats.spearmanr(both[:, 0], both[:, 1])[0], atol=1e-12
    )
    np.testing.assert_allclose(summary["pearson"][1][0], np.corrcoef(both[:, 0], both[:, 1])[0, 1])
    assert summary["pearson"][2] == [None, None, None]
    b = summary["rewards"]["b@1"]
    assert (b["count"], b["missing"]) == (150, 50)
    assert sum(b["histogram"]["counts"]) == 150
    assert b["percentiles"]["50"] == pytest.approx(np.median(both[:, 1]))
