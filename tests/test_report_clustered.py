"""Statistics of images that share prompts, against simulated benchmarks and closed forms."""

import itertools

import numpy as np
import pytest

from miro_jax.report import clustered
from tests.shares import wilson

# GenEval's tags: number of prompts and MIRO's published rates (synthetic captions).
PROMPTS = (80, 99, 80, 94, 100, 100)
RATES = (0.9719, 0.7298, 0.6125, 0.7660, 0.46, 0.52)
IMAGES = 4


def simulate(rng, rho, rates=RATES):
    """A benchmark whose prompts are beta-binomial: tag -> [P, 3]."""
    tags = {}
    for tag, (count, rate) in enumerate(zip(PROMPTS, rates, strict=True)):
        size = (1 - rho) / rho
        chance = rng.beta(rate * size, (1 - rate) * size, count)
        right = rng.binomial(IMAGES, chance).astype(float)
        tags[str(tag)] = np.column_stack([right, np.full(count, IMAGES), right])
    return tags


def covers(interval, truth):
    return interval["low"] <= truth <= interval["high"]


def naive(tags):
    """The interval that takes images as independent."""
    shares = [(t[:, 0].sum() / t[:, 1].sum(), t[:, 1].sum()) for t in tags.values()]
    mean = np.mean([share for share, _ in shares])
    error = 1.96 * np.sqrt(sum(s * (1 - s) / n for s, n in shares)) / len(shares)
    return {"low": mean - error, "high": mean + error}


@pytest.mark.slow
def test_intervals_over_prompts_cover_and_those_over_images_do_not():
    rng, truth, sets = np.random.default_rng(1), np.mean(RATES), 300
    hits = dict.fromkeys(("bootstrap", "normal", "naive"), 0)
    widths = []
    for _ in range(sets):
        tags = simulate(rng, 0.5)
        drawn = clustered.bootstrap(tags, clustered.TAGS, 200)
        normal = clustered.clustered_normal(tags, clustered.TAGS)
        hits["bootstrap"] += covers(drawn, truth)
        hits["normal"] += covers(normal, truth)
        hits["naive"] += covers(naive(tags), truth)
        widths.append((drawn["high"] - drawn["low"]) / (normal["high"] - normal["low"]))
    assert 0.91 <= hits["bootstrap"] / sets <= 0.98
    assert 0.91 <= hits["normal"] / sets <= 0.98
    assert hits["naive"] / sets < 0.85
    assert abs(np.mean(widths) - 1) < 0.1


def test_the_correlation_within_prompts_is_recovered():
    rng = np.random.default_rng(2)
    for rho in (0.3, 0.7):
        found = [clustered.intra_prompt_correlation(simulate(rng, rho)) for _ in range(30)]
        assert abs(np.mean(found) - rho) < 0.03
    one = {"": np.column_stack([np.arange(5.0), np.ones(5), np.arange(5.0) ** 2])}
    assert clustered.intra_prompt_correlation(one) is None
    alike = {"": np.array([[0.0, 4, 0], [4.0, 4, 4]])}
    assert clustered.intra_prompt_correlation(alike) == 1


def test_the_sign_flip_test_keeps_its_level_and_is_exact_on_few_prompts():
    rng = np.random.default_rng(3)
    p = [clustered.sign_flip([rng.normal(size=20), rng.normal(size=30)], 500) for _ in range(1000)]
    assert 0.03 <= np.mean(np.array(p) < 0.05) <= 0.07
    few = np.array([0.5, 1.0, 0.25, 2.0, 0.1])
    flips = [abs(sum(s * few)) >= few.sum() for s in itertools.product((-1, 1), repeat=5)]
    assert clustered.sign_flip([few]) == pytest.approx(np.mean(flips), abs=0.01)
    assert clustered.sign_flip([np.zeros(4)]) == 1.0


def test_the_score_is_the_mean_of_tags_and_not_of_images():
    tags = clustered.cluster([1, 1, 1, 0], ["a", "b", "c", "d"], ["x", "x", "x", "y"])
    assert clustered.estimate(tags, clustered.TAGS) == 0.5
    assert clustered.estimate(tags, clustered.IMAGES) == 0.75
    uneven = clustered.cluster([1, 1, 1, 0], ["a", "a", "a", "b"], [""] * 4)
    assert clustered.estimate(uneven, clustered.PROMPTS) == 0.5
    assert clustered.estimate(uneven, clustered.TAGS) == 0.75
    with pytest.raises(ValueError, match="estimator must be one of mean of tags.*'median'"):
        clustered.estimate(tags, "median")


def test_missing_values_are_no_zeros():
    group = clustered.cluster([1, None, float("nan"), 0.5], ["a", "a", "b", "c"], [""] * 4)
    assert clustered.estimate(group, clustered.PROMPTS) == 0.75
    assert group[""].tolist() == [[1, 1, 1], [0, 0, 0], [0.5, 1, 0.25]]
    assert clustered.bootstrap(group, clustered.PROMPTS)["value"] == 0.75
    none = clustered.cluster([None], ["a"], [""])
    assert clustered.bootstrap(none, clustered.TAGS) == {"value": None}


def test_equal_sets_do_not_differ_and_a_shift_is_seen():
    rng = np.random.default_rng(4)
    values, prompts = rng.normal(size=200), [str(n // 4) for n in range(200)]
    first = clustered.cluster(list(values), prompts, [""] * 200)
    same = clustered.compare(first, first, clustered.PROMPTS)
    assert same.difference == {"value": 0, "low": 0, "high": 0} and same.p == 1 and same.ties == 50
    second = clustered.cluster(list(values + 0.1), prompts, [""] * 200)
    better = clustered.compare(first, second, clustered.PROMPTS)
    assert better.difference["low"] == pytest.approx(0.1) and better.wins == 50
    assert better.p < 0.001 and better.correlation == pytest.approx(1)
    with pytest.raises(ValueError, match="must have the same prompts"):
        clustered.compare(first, {"": first[""][1:]}, clustered.PROMPTS)


def test_prompts_without_a_value_on_one_side_are_compared_on_neither():
    values = list(np.arange(8.0))
    prompts = [str(n) for n in range(8)]
    first = clustered.cluster([None, *values[1:]], prompts, [""] * 8)
    second = clustered.cluster([*values[:-1], None], prompts, [""] * 8)
    same = clustered.compare(first, second, clustered.PROMPTS)
    assert same.difference == {"value": 0, "low": 0, "high": 0} and same.ties == 6 and same.p == 1


def test_holm_multiplies_the_smallest_by_the_family():
    assert clustered.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert clustered.holm([0.6, 0.7]) == [1.0, 1.0] and clustered.holm([]) == []


def test_wilson_counts_prompts_where_images_are_alike():
    group = np.column_stack([np.repeat([4.0, 0.0], [60, 40]), np.full(100, 4), np.zeros(100)])
    counts = {"correct": 240, "total": 400, "accuracy": 0.6}
    assert clustered.wilson_of_clusters(group, 1.0) == pytest.approx(wilson(60, 100) | counts)
    assert clustered.wilson_of_clusters(group, None) == pytest.approx(wilson(60, 100) | counts)
    assert clustered.wilson_of_clusters(group, 0.0) == pytest.approx(wilson(240, 400))


@pytest.mark.parametrize(("rho", "effect"), [(0.5, 2.5), (0.1, 1.3)])
def test_the_number_that_images_count_for_is_not_rounded(rho, effect):
    shares = []
    for correct in range(9):  # of 8 images of two prompts
        group = np.array([[min(correct, 4), 4, 0.0], [max(correct - 4, 0), 4, 0.0]])
        shares.append(clustered.wilson_of_clusters(group, rho))
    for end in ("low", "high"):
        assert (np.diff([share[end] for share in shares]) > 0.01).all()  # one more right counts
    # The ends are where a share of so many is a normal quantile away (Wilson, 1927).
    for share in shares[1:-1]:
        for end in (share["low"], share["high"]):
            error = np.sqrt(end * (1 - end) * effect / 8)
            assert abs(share["accuracy"] - end) / error == pytest.approx(1.96, rel=1e-4)


def test_shares_of_tags_take_the_correlation_of_all_of_them():
    tags = ["a"] * 40 + ["b"] * 60
    prompts = [str(n // 4) for n in range(100)]
    alike = [n // 4 % 2 == 0 for n in range(100)]
    found = clustered.shares(alike, prompts, tags)
    assert list(found) == ["a", "b"]
    for tag, right, total in (("a", 5, 10), ("b", 8, 15)):
        ends = {key: found[tag][key] for key in ("low", "high")}
        assert ends == pytest.approx({key: wilson(right, total)[key] for key in ("low", "high")})
        assert found[tag]["total"] == 4 * total and found[tag]["correct"] == 4 * right
    single = clustered.shares(alike, [str(n) for n in range(100)], tags)
    assert single["a"] == pytest.approx(wilson(20, 40))
    assert clustered.shares([], [], []) == {}


def test_what_one_prompt_alone_says_has_no_interval_over_prompts():
    one = clustered.cluster([0.1, 0.5, 0.9], "aaa", "xxx")
    both = one | clustered.cluster([0.0, 1.0], "bc", "yy")
    open_ended = {"value": pytest.approx(0.5), "low": None, "high": None}
    for clusters, estimator in ((one, clustered.PROMPTS), (both, clustered.TAGS)):
        assert clustered.bootstrap(clusters, estimator) == open_ended
        assert "low" not in clustered.clustered_normal(clusters, estimator)
        difference = clustered.compare(clusters, clusters, estimator).difference
        assert difference == {"value": 0, "low": None, "high": None}
    known = clustered.bootstrap(both, clustered.PROMPTS)  # three prompts, whatever their tags
    assert known["low"] < known["value"] < known["high"]
    blank = clustered.cluster([0.1, 0.5, None], "aab", "xxx")
    assert clustered.bootstrap(blank, clustered.PROMPTS)["low"] is None


def test_images_of_one_prompt_alone_are_independent_as_in_the_interval_of_its_mean():
    right = [True] * 3 + [False] * 5
    for values, correct in ((right, 3), ([True] * 8, 8)):
        assert clustered.shares(values, ["a"] * 8, [""] * 8)[""] == pytest.approx(
            wilson(correct, 8)
        )
    apart = clustered.shares(right + right, ["a"] * 8 + ["b"] * 8, ["x"] * 8 + ["y"] * 8)
    assert apart["x"] == apart["y"] == pytest.approx(wilson(3, 8))
    alike = clustered.shares([True] * 16, ["a"] * 8 + ["b"] * 8, [""] * 16)[""]
    assert alike["low"] == pytest.approx(wilson(2, 2)["low"]) and alike["total"] == 16


@pytest.mark.parametrize("count", [2, 3, 8])
def test_tags_of_few_prompts_vary_in_the_bootstrap_as_they_do(count):
    rng = np.random.default_rng(4)
    scores = rng.normal(size=(6, count))
    tags = {
        str(tag): np.column_stack([own, np.ones(count), own**2]) for tag, own in enumerate(scores)
    }
    drawn = clustered.resample(tags, clustered.TAGS, 20_000)
    error = np.sqrt(scores.var(axis=1, ddof=1).sum() / count) / len(scores)  # of the mean of means
    assert drawn.std() == pytest.approx(error, rel=0.02)
    normal = clustered.clustered_normal(tags, clustered.TAGS)
    assert normal["high"] - normal["low"] == pytest.approx(2 * 1.96 * error, rel=1e-4)
