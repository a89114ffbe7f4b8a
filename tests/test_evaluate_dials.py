"""Dials of pipelines that obey, disobey or do the opposite."""

import numpy as np
import pytest

from miro_jax.evaluate import dials, settings
from tests.painting import SAMPLING, Meter, judges

NAMES = ("first", "second", "third")
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
PROMPTS = ["one", "two", "three", "four"]
NEAR = 1 / 63 + 1 / 255  # one bin and one step of a pixel


def run(behave, names=NAMES, levels=LEVELS):
    pipeline = Meter(names, behave)
    found = dials.Evaluator(judges(NAMES), SAMPLING, PROMPTS, levels).run(pipeline)
    return found, pipeline


def test_an_obedient_dial_achieves_what_is_asked():
    found, _ = run(lambda asked, *_: asked)
    for name in NAMES:
        dial = found.dials[name]
        for level, achieved, score in zip(LEVELS, dial["level"], dial["score"], strict=True):
            assert achieved["mean"] == pytest.approx(level, abs=NEAR)
            assert score["mean"] == pytest.approx(level, abs=1 / 255)
            assert achieved["low"] == achieved["mean"] == achieved["high"]
        assert dial["rank_of_means"] == pytest.approx(1.0)
        assert dial["rank_of_samples"] == pytest.approx(1.0)


def test_cross_effects_of_independent_dials_are_the_identity():
    cross = run(lambda asked, *_: asked)[0].cross
    assert cross["asked"] == list(NAMES) == cross["measured"]
    for part in ("difference", "low", "high"):
        np.testing.assert_allclose(cross[part], np.eye(3), atol=1e-6)


def test_a_dial_that_costs_another_shows_beside_the_diagonal():
    def behave(asked, *_):
        achieved = asked.copy()
        achieved[:, 2] = 1 - 0.4 * asked[:, 0]
        return achieved

    cross = run(behave, names=NAMES)[0].cross
    assert cross["difference"][0] == pytest.approx([1, 0, -0.4], abs=1 / 255)
    assert cross["difference"][1] == pytest.approx([0, 1, 0], abs=1 / 255)


def test_a_dead_dial_has_no_rank_and_no_effect():
    found, _ = run(lambda asked, *_: np.full_like(asked, 0.5))
    assert all(d["rank_of_means"] is None for d in found.dials.values())
    assert np.all(np.array(found.cross["difference"]) == 0)


def test_an_inverted_dial_has_rank_minus_one():
    found, _ = run(lambda asked, *_: 1 - asked)
    assert found.dials["first"]["rank_of_means"] == pytest.approx(-1.0)
    assert found.cross["difference"][0][0] == pytest.approx(-1.0, abs=1e-6)


def test_noise_between_pictures_lowers_the_rank_of_samples_only():
    spread = np.array([-0.3, -0.1, 0.1, 0.3])[:, None]
    found, _ = run(lambda asked, *_: 0.4 + 0.2 * asked + spread)
    dial = found.dials["second"]
    assert dial["rank_of_means"] == pytest.approx(1.0)
    assert 0.1 < dial["rank_of_samples"] < 0.6
    # paired: the spread between pictures is the same at both ends, so the change has no width
    assert found.cross["low"][1][1] == pytest.approx(found.cross["high"][1][1], abs=1e-2)


def test_levels_use_the_same_seed_and_guidance_and_others_stay_at_one():
    _, pipeline = run(lambda asked, *_: asked)
    assert {(c["seed"], c["guidance_scale"], c["num_steps"]) for c in pipeline.calls} == {(7, 2, 3)}
    assert all(c["prompts"] == PROMPTS and c["negative_targets"] is None for c in pipeline.calls)
    assert all(len(c["targets"]) == 1 for c in pipeline.calls)


def test_rewards_that_the_network_does_not_know_are_measured_but_not_asked():
    found, _ = run(lambda asked, *_: np.pad(asked, ((0, 0), (1, 1))), names=("second",))
    assert list(found.dials) == found.cross["asked"] == ["second"]
    assert found.cross["measured"] == list(NAMES)
    assert found.cross["difference"] == [pytest.approx([0, 1, 0], abs=1 / 255)]


def test_a_network_without_rewards_has_no_dials():
    found, pipeline = run(lambda asked, *_: asked, names=())
    assert found.dials == {} and found.cross["difference"] == [] and not pipeline.calls


@pytest.mark.parametrize("levels", [(1.0,), (0.0, 0.0), (0.0, 1.5), (-0.1, 1.0)])
def test_bad_levels_are_refused_with_the_key(levels):
    with pytest.raises(ValueError, match="config.evaluate.levels"):
        settings.check_levels(levels)


def test_a_reward_that_may_be_missing_is_measured_where_it_is_there():
    measured = judges(NAMES)
    measured.rewards[1].may_be_missing = True
    measured.rewards[1].judge = lambda features, captions: np.where(
        np.arange(len(features)) % 2, np.nan, features[:, 1, 0, 0] / 255
    ).astype(np.float32)
    found = dials.Evaluator(measured, SAMPLING, PROMPTS, LEVELS).run(Meter(NAMES))
    assert found.rises("second") and found.dials["second"]["level"][-1]["mean"] == 1.0
