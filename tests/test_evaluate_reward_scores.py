"""Mean rewards of pictures, with and without guidance."""

import pytest

from miro_jax.evaluate import reward_scores
from tests.painting import SAMPLING, Meter, judges

TRAINING = {"first": {"mean": 0.5, "std": 0.2}, "second": {"mean": 0.4, "std": 0.1}}


def test_rows_hold_the_means_of_each_guidance_beside_the_training_data():
    def behave(asked, refused, scale):
        achieved = asked * (0.8 if scale else 0.6)
        achieved[2:4] -= 0.3  # both images of the second prompt
        return achieved

    pipeline = Meter(("first", "second"), behave)
    measured = judges(("first", "second"))
    evaluator = reward_scores.Evaluator(measured, SAMPLING, ["a", "b", "c"], 2, TRAINING)
    found = evaluator.run(pipeline)
    assert found.num_images == 6 and found.training == TRAINING
    assert evaluator.num_images(pipeline.reward_names) == 12
    assert [row["guidance_scale"] for row in found.rows] == [0.0, 2.0]
    for row, mean in zip(found.rows, (0.5, 0.7), strict=True):
        for value in row["rewards"].values():
            assert value["score"]["mean"] == pytest.approx(mean, abs=1 / 255)
            assert value["level"]["mean"] == pytest.approx(mean, abs=0.02)
            ends = [value["score"][end] for end in ("low", "high")]  # over prompts, not images
            assert ends == pytest.approx([mean - 0.2, mean + 0.1], abs=1 / 255)
    assert all(call["targets"] is None for call in pipeline.calls)


def test_a_reward_without_training_scores_is_an_error():
    with pytest.raises(KeyError, match="third"):
        reward_scores.Evaluator(judges(("first", "third")), SAMPLING, ["a"], 1, TRAINING)
