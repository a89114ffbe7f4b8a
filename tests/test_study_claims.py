"""Claims, on measurements whose answers are known."""

import dataclasses

import numpy as np
import pytest

from miro_jax.evaluate.study import best_of, claims, composition, dials, faster, specialists, sweep
from miro_jax.evaluate.study.resample import GENEVAL, Study
from tests import studying
from tests.studying import REWARDS, make_cell, make_study

SEEDS = (0, 1, 2)
STEPS = range(50, 1050, 50)


def contains(value, number):
    return value["low"] <= number <= value["high"]


def test_a_network_three_times_as_fast_has_the_speed_up_three_by_both_readings():
    result = faster.judge(Study(make_study(studying.curves(3.0, STEPS))))
    assert result.verdict == "shown" and contains(result.ours, 3)
    assert set(result.axes) == {*REWARDS, *(f"geneval/{c}" for c in studying.CATEGORIES), GENEVAL}
    assert all(one.rises and one.verdict == "shown" for one in result.axes.values())
    ratios = [r for one in result.axes.values() for r in (one.to_final, one.at_best, one.median)]
    assert not any(ratio["at_least"] for ratio in ratios)
    np.testing.assert_allclose([ratio["ratio"]["mean"] for ratio in ratios], 3, rtol=0.3)
    assert np.mean([contains(ratio["ratio"], 3) for ratio in ratios]) > 0.9


def test_equal_networks_show_no_speed_up():
    result = faster.judge(Study(make_study(studying.curves(1.0, STEPS))))
    assert result.verdict == "not shown"
    assert all(contains(one.median["ratio"], 1) for one in result.axes.values())


def test_a_slower_network_is_the_opposite():
    result = faster.judge(Study(make_study(studying.curves(0.4, STEPS))))
    assert result.verdict == "opposite" and result.ours["mean"] == 0  # never reaches it
    assert "< 1x" in result.words
    assert contains(result.axes["beauty"].at_best["ratio"], 0.4)


def test_what_stands_there_at_the_first_step_is_a_lower_bound():
    cells = studying.curves(3.0, STEPS)
    best = [make_cell([2.0] * 4, 1, "miro", c.seed, c.step) for c in cells if c.variant == "miro"]
    cells = [c for c in cells if c.variant != "miro"] + best
    ratio = faster.judge(Study(make_study(cells))).axes["beauty"].to_final
    assert ratio["at_least"] and ratio["ratio"]["mean"] == 1000 / 50
    assert faster.write_ratio(ratio).startswith("at least 20.0x")


def test_an_axis_that_the_baseline_does_not_learn_has_no_speed():
    cells = [
        dataclasses.replace(c, scores=c.scores * [0, 1, 1, 1] + 0.5) if c.variant != "miro" else c
        for c in studying.curves(3.0, STEPS)
    ]
    cells = [dataclasses.replace(c, scores=c.scores.astype(np.float32)) for c in cells]
    result = faster.judge(Study(make_study(cells)))
    assert not result.axes["beauty"].rises and result.axes["beauty"].verdict == "not measured"
    still = [dataclasses.replace(c, right=np.zeros_like(c.right)) for c in cells]
    result = faster.judge(Study(make_study(still)))
    assert result.ours is None and "Overall the baseline does not rise" in result.words


def test_updates_at_a_value_lie_on_straight_lines():
    steps, curve = np.array([10.0, 20, 40]), np.array([[1.0, 3, 2]])
    values = np.array([[0.5, 1, 2, 3, 3.5]])
    reached = faster.first_reach(steps, curve, values)
    np.testing.assert_array_equal(reached, [[10, 10, 15, 20, np.inf]])


def test_smoothing_leaves_a_straight_line():
    line = np.arange(6.0)[:, None] * [1, -2]
    np.testing.assert_allclose(faster.smooth(line), line, atol=1e-12)


def test_a_specialist_hacks_that_wins_its_reward_and_loses_the_rest():
    cells = [make_cell([0.8] * 4, 0.8, "miro", s) for s in SEEDS]
    for seed in SEEDS:
        cells.append(make_cell([0.9, 0.4, 0.4, 0.4], 0.3, "only_beauty", seed))
        cells.append(make_cell([0.4, 0.9, 0.4, 0.4], 0.8, "only_objects", seed))  # loses nothing
        cells.append(make_cell([0.4, 0.4, 0.5, 0.4], 0.3, "only_colors", seed))  # wins nothing
    result = specialists.judge(Study(make_study(cells)))
    hacks = {name: one.hacks for name, one in result.specialists.items()}
    assert hacks == {"beauty": True, "objects": False, "colors": False}
    assert result.verdict == "not shown"
    assert result.specialists["beauty"].overall["mean"] == pytest.approx(-0.5)
    alone = [c for c in cells if c.variant in ("miro", "only_beauty")]
    assert specialists.judge(Study(make_study(alone))).verdict == "shown"


def test_composition_is_judged_by_the_overall_score_of_miro_and_baseline():
    shares = {"baseline": 0.4, "miro": 0.6, "synth": 0.8}
    cells = [make_cell([0.5] * 4, share, v, s) for v, share in shares.items() for s in SEEDS]
    result = composition.judge(Study(make_study(cells)), None)
    assert result.verdict == "shown" and result.axes[-1] == GENEVAL
    differences = {name: values[-1]["mean"] for name, values in result.differences.items()}
    expected = {
        "miro against baseline": 0.2,
        "synth against miro": 0.2,
        "synth against baseline": 0.4,
    }
    assert differences == pytest.approx(expected)
    swapped = [dataclasses.replace(c, right=~c.right) for c in cells]
    assert composition.judge(Study(make_study(swapped)), None).verdict == "opposite"


def test_the_baseline_catches_up_at_the_n_of_the_closed_form():
    """All prompts have the scores 1..16: the best of n has the mean 17 n / (n + 1)."""
    cells = [make_cell([0.5] * 4, 0.5, v, s) for v in ("miro", "baseline") for s in SEEDS]
    for seed in SEEDS:
        cell = studying.make_best_of([0.0] * 4, 1.0, "baseline", seed)
        ladder = np.broadcast_to(np.arange(1, 17)[None, :, None], cell.scores.shape)
        cells.append(dataclasses.replace(cell, scores=ladder.astype(np.float32)))
        one = studying.make_best_of([17 * 3 / 4 - 0.01, 17.0, 1.0, 8.5], 0.0, "miro", seed, 1)
        cells.append(one)
    result = best_of.judge(Study(make_study(cells)))
    numbers = {name: result.axes[name].catches_up["mean"] for name in REWARDS}
    assert numbers == {"beauty": 3, "objects": 17, "colors": 1, "count": 1}
    means = [value["mean"] for value in result.axes["beauty"].curve]
    np.testing.assert_allclose(means, [17 * n / (n + 1) for n in range(1, 17)])
    assert best_of.write_catch(result.axes["objects"].catches_up, 16) == "more than 16"
    assert result.verdict == "not shown"


def swept(searched, reported=None):
    cells = [make_cell([0.5] * 4, 0.5, "miro", s) for s in SEEDS]
    for seed in SEEDS:
        for target in (0.0, 0.25, 0.5, 0.75, 1.0):
            for kind in ("search", "sweep"):
                means = [target, 0.5, 0.5, 0.5]
                share = (searched if kind == "search" else reported or searched)(target)
                cells.append(make_cell(means, share, "miro", seed, setting=f"{kind}:{target:g}"))
    return sweep.judge(Study(make_study(cells)))


def test_the_target_is_chosen_on_other_prompts_than_those_of_the_gain():
    result = swept(lambda t: 0.8 - (t - 0.5) ** 2, lambda t: 0.8 - 0.4 * t)
    assert result.target == 0.5 and result.verdict == "shown"
    assert result.ours["mean"] == pytest.approx(0.2) and sum(result.best_at) == pytest.approx(1)
    assert result.best_at[2] > 0.9
    assert [value["mean"] for value in result.score] == pytest.approx(result.targets, abs=0.02)


def test_a_sweep_that_is_best_at_1_is_the_opposite():
    result = swept(lambda t: 0.3 + 0.5 * t)
    assert result.target == 1 and result.verdict == "opposite" and result.best_at[-1] > 0.95


def test_a_flat_sweep_is_not_shown():
    assert swept(lambda t: 0.5).verdict == "not shown"


def turned(change, noise=0.1):
    """Dials whose scores are 0.5 + change * level."""
    cells = [make_cell([0.5] * 4, 0.5, "miro", s) for s in SEEDS]
    rng = np.random.default_rng(0)
    for seed in SEEDS:
        for name in REWARDS:
            for level in (0.0, 0.25, 0.5, 0.75, 1.0):
                means = np.full(4, 0.5)
                means[REWARDS.index(name)] += change * level
                cell = make_cell(means, 0.5, "miro", seed, setting=f"dial:{name}={level:g}")
                scores = cell.scores + noise * rng.normal(size=cell.scores.shape)
                cells.append(dataclasses.replace(cell, scores=scores.astype(np.float32)))
    return dials.judge(Study(make_study(cells)))


def test_a_live_dial_rises_and_controls():
    result = turned(1.0, noise=0.0)
    assert result.verdict == "shown"
    assert f"{REWARDS[0]} 1.00 (1.00 to 1.00)" in result.words
    for index, name in enumerate(REWARDS):
        dial = result.dials[name]
        assert dial.rises and dial.rank == pytest.approx(1)
        assert dial.range["mean"] == pytest.approx(1, abs=0.01)
        assert dial.controllability["mean"] == pytest.approx(1)
        others = [value["mean"] for i, value in enumerate(dial.cross) if i != index]
        np.testing.assert_allclose(others, 0, atol=0.05)  # standard deviations; the overall score


def test_a_flat_dial_controls_nothing():
    result = turned(0.0)
    assert result.verdict == "not shown"
    for dial in result.dials.values():
        assert contains(dial.controllability, 0) and abs(dial.controllability["mean"]) < 0.1


def test_a_reversed_dial_is_the_opposite():
    result = turned(-1.0)
    assert result.verdict == "opposite" and "0 of 4 dials rise" in result.words


def test_without_cells_nothing_is_measured():
    results = claims.judge(Study(make_study([])))
    assert [r.figure for r in results] == ["F3", "F4", "F5", "F6", "F7", "F8"]
    assert {r.verdict for r in results} == {"not measured"}


def test_a_reduced_study_measures_what_it_can():
    """Baseline, MIRO and one specialist, default images alone."""
    cells = studying.curves(3.0, STEPS)
    cells += [make_cell([0.97, 0.2, 0.2, 0.2], 0.2, "only_beauty", s) for s in SEEDS]
    verdicts = {r.figure: r.verdict for r in claims.judge(Study(make_study(cells)))}
    absent = dict.fromkeys(("F6", "F7", "F8"), "not measured")
    assert verdicts == {"F3": "shown", "F4": "shown", "F5": "shown"} | absent


def test_a_whole_study_shows_what_was_put_into_it():
    verdicts = {r.figure: r.verdict for r in claims.judge(Study(studying.whole_study()))}
    shown = dict.fromkeys(("F3", "F4", "F5", "F7", "F8"), "shown")
    assert verdicts == shown | {"F6": "not shown"}


def test_intervals_of_shares_lie_between_0_and_1_also_where_seeds_are_few_and_differ():
    cells = [
        cell
        for variant, shares in (
            ("baseline", (0.0, 0.1)),
            ("miro", (1.0, 0.9)),
            ("only_beauty", (0, 1)),
        )
        for seed, share in enumerate(shares)
        for step in (500, 1000)
        for cell in [make_cell([share] * len(REWARDS), share, variant, seed, step)]
    ]
    cells += [
        make_cell([level] * 4, seed, seed=seed, setting=f"{kind}{level:g}")
        for kind in ("search:", "sweep:", "dial:beauty=")
        for level in (0.0, 1.0)
        for seed in (0, 1)
    ]
    study = Study(make_study(cells))
    fast, special = faster.judge(study), specialists.judge(study)
    overall = fast.axes["geneval"]
    assert overall.miro[-1]["mean"] == pytest.approx(0.95) and overall.miro[-1]["high"] == 1
    swept = sweep.judge(study)
    values = [*overall.baseline, *overall.miro, *swept.report, *swept.search]
    values += [row[-1] for row in special.values.values()]
    assert all(0 <= value["low"] <= value["mean"] <= value["high"] <= 1 for value in values)
    differences = next(iter(composition.judge(study, None).differences.values()))
    differences = [*differences, dials.judge(study).dials["beauty"].controllability]
    assert all(-1 <= value["low"] <= value["high"] <= 1 for value in differences)
