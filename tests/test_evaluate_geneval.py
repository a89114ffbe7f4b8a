"""The GenEval-like table, of pipelines that paint the right or the wrong thing."""

import numpy as np
import pytest

from miro_jax.evaluate import geneval
from miro_jax.evaluate.base import Sampling
from miro_jax.sample.settings import Settings
from tests.painting import SAMPLING, Painter, paint

PROMPTS = {"single_object": ["a circle", "a square"], "colors": ["a red square", "a blue square"]}


def rows(changes, sampling=SAMPLING):
    found = geneval.Evaluator(sampling, PROMPTS, 2).run(Painter(changes=changes))
    assert found.images_per_prompt == 2
    return found.rows


def test_right_pictures_count_and_each_category_has_its_own_row_entry():
    for row, scale in zip(rows(lambda scale: {}), (0.0, 2.0), strict=True):
        assert row["guidance_scale"] == scale
        assert list(row["categories"]) == ["single_object", "colors"]
        assert all(c["correct"] == c["total"] == 4 for c in row["categories"].values())
        assert row["overall"]["accuracy"] == row["named_color"]["accuracy"] == 1


def test_guidance_makes_the_difference_that_the_pipeline_makes():
    wrong, right = rows(lambda scale: {} if scale else {"color": "green"})
    assert wrong["categories"]["colors"]["accuracy"] == 0 == wrong["named_color"]["accuracy"]
    assert wrong["categories"]["single_object"]["accuracy"] == 1
    assert wrong["overall"]["accuracy"] == 0.5
    assert right["overall"]["accuracy"] == 1


def test_named_color_ignores_the_shape():
    row = rows(lambda scale: {"shape": "circle"})[0]
    assert row["categories"]["colors"]["accuracy"] == 0
    assert row["named_color"]["accuracy"] == 1


def test_no_default_guidance_gives_one_row():
    sampling = Sampling(Settings(guidance_scale=0.0, num_steps=3), seed=7)
    assert [row["guidance_scale"] for row in rows(lambda scale: {}, sampling)] == [0.0]


def test_without_the_category_colors_there_is_no_named_color():
    found = geneval.Evaluator(SAMPLING, {"single_object": ["a circle"]}, 1).run(Painter())
    assert found.rows[0]["named_color"] is None


@pytest.mark.parametrize("prompt", ["a circle", "", "a photo of a dog"])
def test_a_prompt_without_a_color_has_no_named_color(prompt):
    assert not geneval.has_named_color(paint("a red circle"), prompt)


def test_an_empty_picture_has_no_named_color():
    assert not geneval.has_named_color(np.full((32, 32, 3), 128, np.uint8), "a red circle")
