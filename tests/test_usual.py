"""Where nothing is said: a run is sampled as its config says, a release as the paper says."""

import dataclasses

import numpy as np
import pytest

from configs import base as configs
from miro_jax import sample as verbs
from miro_jax.evaluate import compare
from miro_jax.evaluate.base import Sampling
from miro_jax.evaluate.suites import command as suite_command
from miro_jax.evaluate.suites import sampling
from miro_jax.sample import command, pipeline
from miro_jax.sample.preset import Preset
from miro_jax.sample.settings import Settings
from miro_jax.sample.usual import Usual, read_usual, request_of
from tests.sampling import NAMES, Dial
from tests.suites import small_suite
from tests.test_pipeline import make_pipeline

OF_RUN = Settings(guidance_scale=2.0, num_steps=3, solver="heun", negative_prompt="same")


@pytest.fixture
def run(tmp_path):
    """The folder of a run with settings of its own, as far as plans look."""
    config = configs.get_config("tiny")
    config.sample.update({"targets": "beauty=0.25,count=none", "negative_targets": "colors=0.5"})
    config.sample.update({"guidance_scale": 2.0, "num_steps": 3, "solver": "heun"})
    config.sample.negative = "same"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(config.to_json())
    return tmp_path, tuple(config.data.train_rewards)


def planned(*words):
    return command._plan(*command._parse([*words, "--prompt=a"]))[0].request


def test_a_run_brings_its_defaults_and_flags_count_more(run):
    folder, names = run
    request = planned(f"--checkpoint={folder}")
    (prompt,) = request.prompts
    ones = dict.fromkeys(names, 1.0)
    assert request.positive(prompt) == ones | {"beauty": 0.25, "count": None}
    assert request.negative(prompt) == dict.fromkeys(names, 0.0) | {"colors": 0.5}
    assert request.settings == OF_RUN
    given = planned(f"--checkpoint={folder}", "--target=beauty=0.75", "--steps=5")
    assert given.positive(prompt) == ones | {"beauty": 0.75, "count": None}
    assert given.settings == dataclasses.replace(OF_RUN, num_steps=5)
    own = planned("isolate", f"--checkpoint={folder}")  # this verb defines the negative branch
    assert own.negative(prompt, ones) == ones and own.positive(prompt) == request.positive(prompt)


def test_a_suite_is_sampled_with_the_same_defaults(run, tmp_path):
    folder, names = run
    parser = suite_command.make_parser()
    flags = parser.read([str(folder), "--suite=parti"])
    plan = sampling.plan(str(folder), small_suite(2), 1, flags, tmp_path / "out")
    ours = planned(f"--checkpoint={folder}")
    assert (plan.request.targets, plan.request.settings) == (ours.targets, ours.settings)
    assert plan.request.negative_targets == ours.negative_targets


@pytest.mark.over_a_second
def test_a_pipeline_of_a_run_has_them_too_and_a_release_the_papers():
    made = make_pipeline()
    assert made.default_settings == Settings() and made.default_targets["beauty"] == 1.0
    usual = Usual({"beauty": 0.25}, {"count": 0.5}, OF_RUN)
    ours = pipeline.MiroPipeline(dataclasses.replace(made.trained, usual=usual), 4)
    levels = {"targets": {"beauty": 0.25}, "negative_targets": {"count": 0.5}}
    plain = ours("a red circle", 2, output_type="numpy")
    given = made("a red circle", 2, output_type="numpy", **levels, **dataclasses.asdict(OF_RUN))
    other = made("a red circle", 2, output_type="numpy", num_steps=3)
    np.testing.assert_array_equal(plain, given)
    assert not np.array_equal(plain, other)


def test_calls_of_the_verbs_take_the_defaults_of_the_pipeline():
    pipe = Dial()
    pipe.default_targets, pipe.default_settings = {**pipe.default_targets, "count": 0.5}, OF_RUN
    request = request_of(pipe, ["a"], targets={"beauty": 0.25}, num_steps=7)
    assert request.targets == {"beauty": 0.25, "count": 0.5}
    assert request.settings == dataclasses.replace(OF_RUN, num_steps=7)
    verbs.sweep_strip(pipe, "a", "beauty", 3)
    assert {call["num_steps"] for call in pipe.calls} == {3}


@pytest.mark.parametrize("key", ["targets", "negative_targets"])
@pytest.mark.parametrize("levels", [[{"beauty": 0.25}, {"count": 0.5}], np.zeros((2, len(NAMES)))])
def test_targets_of_single_images_are_refused_by_the_calls_of_the_verbs(key, levels):
    """In a call of the pipeline they are of one image each; the last one would count for all."""
    with pytest.raises(TypeError, match="targets must be .* the same for all prompts"):
        verbs.sweep_strip(Dial(), ["a", "b"], "colors", 3, **{key: levels})


def test_a_preset_takes_the_place_of_the_levels_of_a_run():
    found = {"checkpoint": "", "objective": ""}
    preset = Preset(NAMES, {"colors": 0.5}, {}, 4.0, found)
    usual = preset.over(Usual({"beauty": 0.25}, {"count": 1.0}, OF_RUN))
    assert usual.levels(NAMES)[0] == {"beauty": 1.0, "count": 1.0, "colors": 0.5}
    assert usual.levels(NAMES)[1] == dict.fromkeys(NAMES, 0.0)
    assert usual.settings == dataclasses.replace(OF_RUN, guidance_scale=4.0)


def test_a_preset_samples_as_it_was_found_and_flags_count_more(run, tmp_path):
    folder, names = run
    found = {"checkpoint": "", "objective": "", "seed": 3}
    how = Settings(2.0, (0.1, 0.9), 9, "euler", "empty", "apg:norm=2", "linear")
    preset = Preset(names, {}, {}, 4.0, found | how.to_json())
    (tmp_path / "p.json").write_bytes(preset.to_json())
    words = f"--checkpoint={folder}", f"--preset={tmp_path / 'p.json'}"
    assert planned(*words).settings == dataclasses.replace(how, guidance_scale=4.0)
    given = planned(*words, "--guidance-rule=cfg", "--guidance-interval=0,1", "--solver=heun")
    assert (given.settings.guidance_rule, given.settings.guidance_interval) == ("cfg", (0.0, 1.0))
    assert (given.settings.solver, given.settings.guidance_schedule) == ("heun", "linear")
    plain = Preset(names, {}, {}, 4.0, found | Settings().to_json()).over(preset.over(Usual()))
    assert plain.settings == Settings(guidance_scale=4.0)


def test_what_a_config_says_is_read_and_a_wrong_name_is_refused():
    assert read_usual(None) == Usual()
    with pytest.raises(ValueError, match="Unknown reward 'clop'"):
        Usual({"clop": 1.0}).levels(NAMES)


def test_a_comparison_samples_with_the_defaults_that_a_network_knows_by_any_name():
    levels = {"beauty@shapes1": 0.5, "mine.py:Redness": 0.25}
    known = compare._known(Sampling(Settings(), 0, levels, levels), ("beauty",))
    assert known.targets == known.negative_targets == {"beauty@shapes1": 0.5}
