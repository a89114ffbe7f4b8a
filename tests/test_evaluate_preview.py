"""Previews in training: a grid on disk, rewards of what was asked for at its best."""

import types

import numpy as np
import pytest
from PIL import Image

from configs import base as configs
from miro_jax.evaluate import preview
from miro_jax.evaluate.base import EvaluatorFailed
from tests.painting import Meter, gauges

NAMES = ("first", "second")


class Spy(Meter):
    """A Meter in place of the MiroPipeline, that keeps what it was built with."""

    built = []

    def __init__(self, trained, batch_size):
        super().__init__(trained.reward_names)
        self.size, self.weights = batch_size, trained.weights
        Spy.built.append(self)

    def __call__(self, *arguments, **settings):
        assert self.weights == ("ema", "fixed")
        return super().__call__(*arguments, **settings)


@pytest.fixture
def make(monkeypatch, tmp_path):
    def build(names=NAMES, devices=4):
        monkeypatch.setattr(preview, "MiroPipeline", Spy)
        Spy.built.clear()
        config = configs.get_config("")
        config.sample.targets = "first=0.5"
        config.sample.prompts, config.sample.images_per_prompt = ("a circle", "a square"), 3
        parts = types.SimpleNamespace(
            graphdef=None,
            network_config=None,
            image_encoder=None,
            caption_encoder=None,
            reward_names=names,
            mesh=types.SimpleNamespace(shape={"data": devices}),
        )
        return preview.Preview(config, parts, gauges(NAMES)[0], tmp_path)

    return build


def test_scalars_are_the_means_at_level_one(make):
    scalars, _ = make()("ema", "fixed", 20)
    assert scalars == {"reward/first": 1.0, "reward/second": 1.0}


def test_the_grid_is_written_under_its_step_and_returned(make, tmp_path):
    _, grid = make()("ema", "fixed", 20)
    written = np.asarray(Image.open(tmp_path / "samples" / "step-000020.png"))
    np.testing.assert_array_equal(written, grid)


def test_each_level_is_asked_of_all_rewards_with_one_seed(make):
    look = make()
    look("ema", "fixed", 1)
    look("ema", "fixed", 2)
    (pipeline,) = Spy.built  # one pipeline for all calls: nothing compiles again
    asked = [call["targets"] for call in pipeline.calls]
    assert asked == [dict.fromkeys(NAMES, level) for level in (0.0, 0.5, 1.0)] * 2
    assert {call["seed"] for call in pipeline.calls} == {0}


def test_the_batch_is_no_larger_than_needed_and_divides_over_the_mesh(make):
    make(devices=4)
    assert Spy.built[0].size == 8  # 2 prompts x 3 pictures, in whole rows of 4 devices
    make(devices=1)
    assert Spy.built[0].size == 6


def test_parameters_are_not_kept_between_calls(make):
    look = make()
    look("ema", "fixed", 1)
    assert look.pipeline.weights == ()


def test_a_failure_names_the_preview_and_the_step(make):
    look = make()
    with pytest.raises(EvaluatorFailed, match="'preview' failed .* step 30: AssertionError"):
        look("other", "fixed", 30)
