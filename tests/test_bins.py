"""Bins: quantile edges, ties, missing scores, and the levels that the network sees."""

import numpy as np
import pytest

from miro_jax.data.records import bins

K = 16


def bin_of(scores, edges):
    fitted = bins.Bins(("r@1",), edges[None], len(edges) + 1, "quantile", (1,), "")
    return np.round(bins.levels(fitted, np.asarray(scores)[:, None])[:, 0] * len(edges)).astype(int)


@pytest.mark.parametrize("strategy", bins.STRATEGIES)
def test_bins_are_monotone_and_within_range(strategy):
    for seed in range(50):
        rng = np.random.default_rng(seed)
        scores = np.round(rng.normal(size=rng.integers(1, 300)), rng.integers(0, 6))
        edges = bins.fit_edges(scores, K, strategy)
        assert edges.shape == (K - 1,) and (np.diff(edges) >= 0).all()
        probe = np.sort(np.concatenate([scores, rng.normal(size=100) * 3]))
        found = bin_of(probe, edges)
        assert (np.diff(found) >= 0).all() and found.min() >= 0 and found.max() <= K - 1


def test_distinct_scores_fill_the_bins_nearly_equally():
    scores = np.random.default_rng(0).gamma(2.0, size=1003).astype(np.float32)
    counts = np.bincount(bin_of(scores, bins.fit_edges(scores, K)), minlength=K)
    assert counts.min() >= 1003 // K and counts.max() <= 1003 // K + 1


def test_edges_of_distinct_scores_are_numpy_quantiles():
    scores = np.random.default_rng(1).normal(size=777)
    want = [np.quantile(scores, k / K) for k in range(1, K)]
    np.testing.assert_array_equal(bins.fit_edges(scores, K), want)


def test_official_edges_are_quantiles_of_distinct_scores_and_clamp():
    scores = np.array([0.1] * 50 + [0.2, 0.3, 0.4, 1.5])
    edges = bins.fit_edges(scores, 4, "official")
    np.testing.assert_allclose(edges, np.quantile([0.1, 0.2, 0.3, 0.4, 1.5], [0.25, 0.5, 0.75]))
    assert bin_of([-9.0, 1.5, 9.0], edges).tolist() == [0, 3, 3]


def test_tied_minimum_gets_the_bottom_and_tied_maximum_the_top_bin():
    rng = np.random.default_rng(2)
    scores = np.concatenate([np.zeros(300), rng.uniform(0.1, 0.9, size=400), np.ones(300)])
    found = bin_of(scores, bins.fit_edges(scores, K))
    assert set(found[:300]) == {0} and set(found[-300:]) == {K - 1}
    assert set(found[300:700]) >= {5, 6, 7, 8, 9}


def test_two_valued_reward_uses_the_two_outer_bins():
    for share in (0.02, 0.3, 0.5, 0.98):
        scores = (np.arange(100) < 100 * share).astype(np.float32)
        found = bin_of(scores, bins.fit_edges(scores, K))
        assert set(found[scores == 0]) == {0} and set(found[scores == 1]) == {K - 1}


def test_tied_middle_gets_the_middle_of_its_span():
    scores = np.concatenate([np.linspace(0, 1, 250), np.full(500, 2.0), np.linspace(3, 4, 250)])
    found = bin_of(scores, bins.fit_edges(scores, K))
    assert set(found[250:750]) == {8}  # the group covers bins 4 to 11
    assert found[:250].max() <= 4 and found[750:].min() >= 11


def test_equal_scores_share_one_level_in_any_mixture_of_ties():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scores = rng.choice(rng.normal(size=6), size=200).astype(np.float32)
        found = bin_of(scores, bins.fit_edges(scores, K))
        assert found[scores.argmax()] == K - 1
        assert found[scores.argmin()] == 0
        for value in np.unique(scores):
            assert len(set(found[scores == value])) == 1


def test_constant_reward_gets_the_top_level():
    for value in (-3.25, 0.0, 0.1, 1.0):
        scores = np.full(5, value, np.float32)
        assert set(bin_of(scores, bins.fit_edges(scores, K))) == {K - 1}


def test_nan_is_ignored_when_fitting_and_kept_by_levels():
    scores = np.random.default_rng(3).normal(size=(500, 2))
    holes = scores.copy()
    holes[::3, 1] = np.nan
    fitted = bins.fit_bins(holes, ["a@1", "b@1"], K)
    assert fitted.counts == (500, 333)
    np.testing.assert_array_equal(
        fitted.edges[1], bins.fit_edges(scores[np.arange(500) % 3 > 0, 1], K)
    )
    out = bins.levels(fitted, holes)
    assert out.dtype == np.float32 and out.shape == (500, 2)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(holes))


def test_levels_are_k_over_k_minus_one_for_any_leading_axes():
    fitted = bins.Bins(("r@1",), np.array([[1.0, 2.0, 3.0]]), 4, "quantile", (9,), "")
    scores = np.array([[0.0, 1.0, 1.5], [2.0, 2.999, 3.0]])[..., None]
    want = np.array([[0, 1, 1], [2, 2, 3]], np.float32)[..., None] / np.float32(3)
    np.testing.assert_array_equal(bins.levels(fitted, scores), want)
    np.testing.assert_array_equal(bins.levels(fitted, scores[0, 0]), want[0, 0])


def test_file_gives_back_the_same_bins_exactly(tmp_path):
    scores = np.concatenate([np.zeros(40), np.random.default_rng(4).normal(size=60)])
    fitted = bins.fit_bins(
        np.stack([scores, scores**3], 1), ["a@1", "b@1"], K, "quantile", "digest"
    )
    fitted.save(tmp_path / "bins.json")
    for path in (tmp_path, tmp_path / "bins.json"):
        loaded = bins.Bins.load(path)
        assert loaded.edges.tobytes() == fitted.edges.tobytes()
        assert {**vars(loaded), "edges": 0} == {**vars(fitted), "edges": 0}
    with pytest.raises(FileNotFoundError, match="annotate"):
        bins.Bins.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("scores", "num_bins", "strategy", "text"),
    [
        ([1.0, 2.0], K, "kmeans", "quantile"),
        ([1.0, 2.0], 1, "quantile", "at least 2"),
        ([np.nan], K, "quantile", "at least one number"),
        ([1.0, np.inf], K, "quantile", "infinite"),
    ],
)
def test_bad_arguments_are_named(scores, num_bins, strategy, text):
    with pytest.raises(ValueError, match=text):
        bins.fit_edges(np.array(scores), num_bins, strategy)


def test_a_reward_that_cannot_be_fitted_is_named():
    with pytest.raises(ValueError, match="'b@1'.*infinite"):
        bins.fit_bins(np.array([[1.0, np.inf], [2.0, 0.0]]), ["a@1", "b@1"], K)


def test_a_reward_without_any_score_has_no_levels():
    scores = np.stack([np.arange(9.0), np.full(9, np.nan)], axis=1)
    fitted = bins.fit_bins(scores, ["a@1", "b@1"], K)
    assert fitted.counts == (9, 0)
    assert np.isnan(bins.levels(fitted, scores)[:, 1]).all()


def test_levels_refuse_another_number_of_rewards():
    fitted = bins.fit_bins(np.arange(6.0).reshape(3, 2), ["a@1", "b@1"], K)
    with pytest.raises(ValueError, match="2 rewards"):
        bins.levels(fitted, np.zeros((3, 1)))
