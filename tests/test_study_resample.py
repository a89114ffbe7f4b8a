"""Means over prompts and seeds, and their intervals."""

import itertools

import numpy as np
import pytest

from miro_jax.evaluate.study.measured import Measured
from miro_jax.evaluate.study.resample import Study, interval
from tests import studying


def test_the_estimate_is_the_plain_mean_and_overall_the_mean_of_categories():
    categories = ("a", "b", "b", "b")
    given = {"report": categories}
    right = np.array([True, True, False, False])
    scores = np.array([[0.0], [1.0], [2.0], [5.0]], np.float32)
    cell = studying.Cell("miro", 0, 10, "default", right, scores)
    study = Study(Measured(("beauty",), 1, given, given, (cell,)))
    assert study.axes == ("beauty", "geneval/a", "geneval/b", "geneval")
    np.testing.assert_allclose(study.values("miro")[0, 0], [2, 1, 1 / 3, 2 / 3], rtol=1e-12)


@pytest.mark.parametrize("over", ["seeds", "prompts"])
def test_the_variance_of_resampled_means_is_unbiased(over):
    """Also for few seeds, where plain resampling has (n - 1) / n of it."""
    study = Study(studying.make_study([], each=8))
    values = np.array([0.0, 1.0, 5.0]) if over == "seeds" else np.arange(24.0) % 8
    x = np.broadcast_to(values[:, None] if over == "seeds" else values, (3, 24))[..., None]
    rows = study.resample(x, "miro", "report", [0, 1, 2])
    if over == "seeds":
        expected = values.std(ddof=1) / np.sqrt(3)
    else:  # three categories of eight prompts
        expected = np.arange(8).std(ddof=1) / np.sqrt(24)
    assert rows[0, 0] == pytest.approx(values.mean())
    assert rows[1:].std() == pytest.approx(expected, rel=0.07)


def test_differences_of_variants_are_paired_over_prompts():
    """The scores of a prompt go together: the difference is known far better than the values."""
    cells = [
        studying.make_cell([0.5 + 0.1 * (name == "miro")] * 4, 0.5, name, seed, noise=0.5)
        for name in ("miro", "baseline")
        for seed in (0, 1, 2)
    ]
    study = Study(studying.make_study(cells))
    miro, baseline = study.values("miro")[:, 0], study.values("baseline")[:, 0]
    alone, apart = interval(miro[:, 0]), interval((miro - baseline)[:, 0])
    assert apart["high"] - apart["low"] < 0.3 * (alone["high"] - alone["low"])
    assert apart["low"] < 0.1 < apart["high"]


def test_the_expected_best_is_the_mean_over_all_choices():
    cells = [
        studying.make_best_of([0.5] * 4, 0.2, "baseline", seed, num_images=5) for seed in (0, 1)
    ]
    cells += [studying.make_cell([0.5] * 4, 0.5, "baseline", seed) for seed in (0, 1)]
    curve = Study(studying.make_study(cells)).best("baseline")[0]
    for n in range(1, 6):
        chosen = [list(c) for c in itertools.combinations(range(5), n)]
        score = np.mean(
            [[cell.scores[:, c].max(1).astype(float) for c in chosen] for cell in cells[:2]],
            (0, 1, 2),
        )
        right = np.mean([[cell.right[:, c].any(1) for c in chosen] for cell in cells[:2]])
        np.testing.assert_allclose(curve[:4, n - 1], score, rtol=1e-6)
        assert curve[4, n - 1] == pytest.approx(right)  # categories of equal size


def test_runs_that_did_not_reach_the_last_step_do_not_count():
    cells = [
        studying.make_cell([0.5] * 4, 0.5, variant, seed, step)
        for variant, seed, step in [
            *(("miro", seed, step) for seed in (0, 1) for step in (500, 1000)),
            ("miro", 2, 500),
            ("baseline", 0, 500),
        ]
    ]
    study = Study(studying.make_study(cells))
    assert study.last == 1000 and study.variants == ["miro"]
    assert study.seeds("miro") == [0, 1] and study.steps("miro") == [500, 1000]
    assert not study.has("baseline") and study.steps("baseline") == []


@pytest.mark.parametrize(("seeds_differ", "low", "high"), [(0.0, 0.93, 1.0), (0.2, 0.8, 0.95)])
def test_intervals_over_three_seeds_cover_about_what_the_guide_says(seeds_differ, low, high):
    """The truth is 0: differences of two variants, with noise by prompt, by image and by seed."""
    study, rng, covered = Study(studying.make_study([])), np.random.default_rng(1), []
    prompts = studying.EACH * len(studying.CATEGORIES)
    for _ in range(100):
        rows = [
            study.resample(
                0.15 * rng.normal(size=(1, prompts, 1))
                + 0.3 * rng.normal(size=(3, prompts, 1))
                + seeds_differ * rng.normal(size=(3, 1, 1)),
                variant,
                "report",
                [0, 1, 2],
            )
            for variant in ("miro", "baseline")
        ]
        value = interval((rows[0] - rows[1])[:, 0])
        covered.append(value["low"] <= 0 <= value["high"])
    assert low <= np.mean(covered) <= high
