"""Intervals, rank correlations and distributions: against textbook values, scipy and numpy."""

import re

import numpy as np
import pytest
from scipy import stats

from miro_jax.report import comparison, statistics
from tests.shares import wilson


@pytest.mark.parametrize(
    "correct, total, low, high",
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilsons_intervals_are_newcombes_published_ones_and_those_of_scipy(
    correct, total, low, high
):
    found = statistics.wilson_interval(correct / total, total)
    expected = wilson(correct, total)
    assert found == pytest.approx((expected["low"], expected["high"]), abs=1e-12)
    assert tuple(round(end, 4) for end in found) == (low, high)


def test_mean_of_one_share_is_that_share():
    share = wilson(7, 10)
    found = statistics.mean_of_shares([share])
    assert found == pytest.approx({k: share[k] for k in ("accuracy", "low", "high")})


def test_mean_of_shares_is_unweighted_and_narrower_by_the_root_of_their_number():
    shares = [wilson(5, 10), wilson(5, 10)]
    found = statistics.mean_of_shares(shares)
    assert found["accuracy"] == 0.5
    assert found["high"] - 0.5 == pytest.approx((shares[0]["high"] - 0.5) / np.sqrt(2))
    uneven = statistics.mean_of_shares([wilson(10, 10), wilson(0, 1000)])
    assert uneven["accuracy"] == 0.5


def test_bootstrap_of_a_constant_has_no_width():
    assert statistics.bootstrap_mean(np.full(9, 0.3)) == pytest.approx(
        {"mean": 0.3, "low": 0.3, "high": 0.3}
    )


def test_bootstrap_of_many_samples_is_near_the_normal_interval():
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = statistics.bootstrap_mean(values)
    half = 1.96 * values.std() / 20
    assert found["mean"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found["high"] == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_bootstrap_of_few_samples_has_the_unbiased_variance_of_their_mean():
    """Of three, as many draws as samples would give 2/3 of it; the interval is theirs."""
    chosen = statistics.draw(np.random.default_rng(0), 3, 20_000)
    values = np.array([0.0, 1.0, 5.0])
    assert chosen.shape == (20_000, 2)
    assert values[chosen].mean(axis=1).var() == pytest.approx(values.var(ddof=1) / 3, rel=0.03)
    found = statistics.bootstrap_mean(values)  # of 9 equal chances, the lowest is 0, the highest 5
    assert found == {"mean": 2.0, "low": 0.0, "high": 5.0}


def test_bootstrap_gives_the_same_interval_again():
    values = np.random.default_rng(2).random(50)
    assert statistics.bootstrap_mean(values) == statistics.bootstrap_mean(values)


def test_bootstrap_over_prompts_is_that_of_their_means_where_images_are_alike():
    means = np.random.default_rng(3).random(50)
    prompts = np.repeat([str(n) for n in range(50)], 4)
    found = statistics.bootstrap_mean(np.repeat(means, 4), list(prompts))
    alone = statistics.bootstrap_mean(means)
    width = alone["high"] - alone["low"]
    assert found["mean"] == pytest.approx(alone["mean"])
    assert found["high"] - found["low"] == pytest.approx(width, rel=0.1)
    blind = statistics.bootstrap_mean(np.repeat(means, 4))
    assert blind["high"] - blind["low"] == pytest.approx(width / 2, rel=0.1)


def test_bootstrap_of_one_prompt_is_over_its_images():
    values = np.random.default_rng(4).random(50)
    assert statistics.bootstrap_mean(values, ["a"] * 50) == statistics.bootstrap_mean(values)
    lost = statistics.bootstrap_mean(np.array([1, 2, np.nan]), ["a", "a", "b"])
    assert lost == statistics.bootstrap_mean(np.array([1.0, 2.0]))


def test_a_prompt_without_values_is_dropped_from_the_bootstrap():
    values = np.array([1.0, 2.0, np.nan, 4.0])
    found = statistics.bootstrap_mean(values, ["a", "b", "c", "d"])
    assert found == statistics.bootstrap_mean(np.array([1.0, 2.0, 4.0]))


def test_bootstrap_refuses_no_values():
    with pytest.raises(ValueError, match="N >= 1"):
        statistics.bootstrap_mean(np.zeros(0))
    with pytest.raises(ValueError, match="N >= 1"):
        statistics.bootstrap_mean(np.array([np.nan]))


@pytest.mark.parametrize(
    "x, y, rho",
    [
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 1 - 6 * 4 / (5 * 24)),  # the textbook's formula
        ([1, 2, 3], [9, 8, 1], -1.0),
        ([0, 0, 1, 1], [1, 2, 3, 4], 4 / np.sqrt(20)),  # ties share their mean rank
    ],
)
def test_rank_correlation_matches_closed_forms(x, y, rho):
    assert statistics.rank_correlation(x, y) == pytest.approx(rho)


def test_rank_correlation_of_a_constant_is_undefined():
    assert statistics.rank_correlation([1, 2, 3], [4, 4, 4]) is None
    assert statistics.rank_correlation([1], [2]) is None


def test_summary_agrees_with_scipy_and_numpy():
    rng = np.random.default_rng(5)
    scores = np.round(rng.normal(size=(200, 3)), 1)
    scores[:, 1] += scores[:, 0]
    scores[:, 2] = 7
    scores[:50, 1] = np.nan
    summary = statistics.summarize(scores, ["a@1", "b@1", "c@1"])
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


@pytest.mark.parametrize("count, most", [(2, 2), (24, 12), (1000, 50)])
def test_a_histogram_has_as_many_bars_as_its_samples_carry(count, most):
    scores = np.random.default_rng(3).normal(size=count)
    counts = statistics.describe(scores)["histogram"]["counts"]
    assert 2 <= len(counts) <= most and sum(counts) == count
    assert len(counts) < count or count == 2


def test_an_outlier_and_a_constant_give_a_bounded_histogram():
    scores = np.append(np.linspace(0, 1, 999), 1e12)
    assert len(statistics.describe(scores)["histogram"]["counts"]) == 50
    assert sum(statistics.describe(np.full(9, 0.3))["histogram"]["counts"]) == 9


def test_missing_values_are_dropped_from_means_and_ranks():
    values = np.array([1.0, np.nan, 3.0, 2.0])
    assert statistics.bootstrap_mean(values) == statistics.bootstrap_mean(values[[0, 2, 3]])
    assert statistics.rank_correlation([1, 2, 3, 4], values) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "ends, shown",
    [
        ((0.0004, 0.002), "+0.0012  (+0.0004 to +0.0020) *"),
        (
            (-0.002, -0.00003),
            "\N{MINUS SIGN}0.00102  (\N{MINUS SIGN}0.00200 to \N{MINUS SIGN}0.00003) *",
        ),
        ((0.0, 0.002), "+0.001  (0.000 to +0.002)"),
    ],
)
def test_a_difference_beyond_chance_has_no_end_that_is_shown_as_0(ends, shown):
    low, high = ends
    change = {"mean": (low + high) / 2, "low": low, "high": high}
    row = {"before": None, "after": None, "difference": change, "rank_before": None}
    side = {"name": "a", "step": 1}
    result = {"before": side, "after": side, "new": [], "images": 2, "alone": {}}
    result |= {"requests": {"all": {"beauty": row}}, "dials": {}}
    assert comparison.lines(result)[-3].endswith(f"  {shown}")
    page = comparison.render(result).decode()
    assert all(number in page for number in re.findall(r"[+\N{MINUS SIGN}]?0\.\d+", shown))


def test_intervals_of_negative_means_have_a_true_minus_and_no_dash():
    means = [(-0.0021, -0.0034, -0.0002), (0.5, 0.4, 0.6)]
    before, after = (dict(zip(("mean", "low", "high"), one, strict=True)) for one in means)
    row = {"before": before, "after": after, "difference": None}
    side = {"name": "a", "step": 1}
    result = {"before": side, "after": side, "new": [], "images": 2, "alone": {}}
    result |= {"requests": {"all": {"beauty": row}, "none": {}, "old": {}}, "dials": {}}
    page = comparison.render(result).decode()
    ids = re.findall(r'id="(\w+)"', page)
    assert [one for one in ids if one in comparison.SECTIONS] == list(comparison.SECTIONS)  # links'
    minus = "\N{MINUS SIGN}"
    assert f"<td>{minus}0.002<small>{minus}0.003 to 0.000</small></td>" in page
    assert "<td>0.500<small>0.400–0.600</small></td>" in page
    assert "at the default targets" in page and "requested at 1" not in page


def test_equal_columns_divide_the_rows_in_which_they_are_best():
    rows = np.array([[0.1 + 0.2, 0.3, 0.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]])
    found = statistics.shares_of_best(rows) * len(rows)
    np.testing.assert_allclose(found, [1 / 2 + 1 / 3 + 1, 1 / 2 + 1 / 3, 1 / 3 + 1])
