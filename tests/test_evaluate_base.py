"""The table of evaluators, and what they share."""

import dataclasses
import json

import numpy as np
import pytest

from configs import base as configs
from miro_jax.data.shapes import captions, scene
from miro_jax.evaluate import base, settings
from miro_jax.evaluate.prompts import prompts_in_turn
from miro_jax.evaluate.run import run_evaluators
from tests.painting import SAMPLING, Meter, Painter, build_all, gauges


def test_every_evaluator_of_the_table_is_built_from_the_base_config(tmp_path):
    built = build_all(configs.get_config(""), tmp_path)
    assert list(built) == list(settings.EVALUATORS)


@pytest.mark.parametrize("names", [("dials", "nonsense"), ("dials", "dials"), "dials"])
def test_unknown_repeated_or_unquoted_names_are_refused(names):
    with pytest.raises(ValueError, match="config.evaluate.evaluators must be"):
        settings.check_names(names)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="gallery, geneval, reward_scores, dials, conflict"):
        settings.check_names(("nonsense",))


def test_results_stand_under_their_names_and_a_failure_names_evaluator_and_step():
    class Fine:
        def num_images(self, reward_names):
            return 0

        def run(self, pipeline):
            return {"seen": pipeline.reward_names}

    class Broken(Fine):
        def run(self, pipeline):
            raise KeyError("missing")

    pipeline = Meter(("a", "b"))
    assert run_evaluators({"fine": Fine()}, pipeline, 5) == {"fine": {"seen": ("a", "b")}}
    with pytest.raises(base.EvaluatorFailed, match="'broken' failed .* step 7: KeyError") as caught:
        run_evaluators({"fine": Fine(), "broken": Broken()}, pipeline, 7)
    assert isinstance(caught.value.__cause__, KeyError)


def test_world_prompts_take_the_categories_in_turn():
    prompts = prompts_in_turn(("single_object", "colors"), 5, seed=0)
    assert len(prompts) == 5
    named = [captions.parse(p).objects[0].color is not None for p in prompts]
    assert named == [False, True, False, True, False]
    assert all(captions.parse(p).objects[0].shape in scene.SHAPES for p in prompts)


def test_pictures_that_were_made_are_not_made_again():
    pipeline = Meter(("a", "b"))
    memory = base.Remembering(pipeline)
    first = SAMPLING.sample(memory, ["x", "y"], 2, targets={"a": 0.5})
    for again in ({"a": 0.5}, {"b": 1.0, "a": 0.5}, [{"a": 0.5}] * 4):
        assert SAMPLING.sample(memory, ["x", "y"], 2, targets=again) is first
    SAMPLING.sample(memory, ["x", "y"], 2, targets={"a": 0.5}, negative_targets={"b": 0.0})
    assert len(pipeline.calls) == 1
    np.testing.assert_array_equal(first, SAMPLING.sample(pipeline, ["x", "y"], 2, {"a": 0.5}))


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": ["x", "z"]},
        {"num_images": 1},
        {"targets": {"a": 0.25}},
        {"targets": {"a": 0.5, "b": None}},
        {"negative_targets": {"b": 0.5}},
        {"guidance_scale": 0.0},
    ],
)
def test_pictures_that_differ_in_anything_are_made(change):
    pipeline = Meter(("a", "b"))
    memory = base.Remembering(pipeline)
    asked = {"prompts": ["x", "y"], "num_images": 2, "targets": {"a": 0.5}}
    SAMPLING.sample(memory, **asked)
    SAMPLING.sample(memory, **asked | change)
    assert len(pipeline.calls) == 2


def test_evaluators_of_the_base_config_share_pictures(tmp_path):
    config = configs.get_config("tiny")
    rewards, _ = gauges(config.rewards, captioned=config.rewards)
    built = build_all(config, tmp_path, rewards)
    pipeline = Meter(config.rewards)
    run_evaluators(built, pipeline, 1)
    levels = len(config.evaluate.levels)
    gallery = lone_beauty = levels
    # All dials at their default are one and the same; that of beauty is one of the levels.
    assert config.sample.targets == "beauty=0.25" and 0.25 in config.evaluate.levels
    dials = len(config.rewards) * (levels - 1) + 1
    both_guidances = 2
    assert len(pipeline.calls) == gallery + lone_beauty + dials + both_guidances


def test_sampling_settings_reach_the_pipeline():
    config = configs.get_config("tiny")
    config.sample.targets = "first=0.5"
    pipeline = Meter(("first",))
    base.make_sampling(config).sample(pipeline, ["a"], guidance_scale=0.0)
    assert pipeline.calls[0] == {
        "prompts": ["a"],
        "targets": {"first": 0.5},
        "negative_targets": None,
        "guidance_scale": 0.0,
        "guidance_interval": (0.0, 1.0),
        "num_steps": config.sample.num_steps,
        "solver": "euler",
        "negative_prompt": "empty",
        "output_type": "numpy",
        "seed": 0,
    }


def test_every_evaluator_keeps_to_the_negative_targets_of_the_run(tmp_path):
    config = configs.get_config("tiny")
    config.sample.negative_targets = "beauty=0.5"
    pipeline = Meter(config.rewards)
    rewards, _ = gauges(config.rewards, captioned=config.rewards)
    run_evaluators(build_all(config, tmp_path, rewards), pipeline, 1)
    beauty = config.rewards.index("beauty")
    guided = [call["negative_targets"] for call in pipeline.calls if call["guidance_scale"]]
    assert {float(level) for levels in guided for level in levels[:, beauty]} <= {0.5}


def test_guidance_scales_hold_none_and_the_default_once():
    assert SAMPLING.scales == [0.0, 2.0]
    without = dataclasses.replace(SAMPLING.settings, guidance_scale=0)
    assert dataclasses.replace(SAMPLING, settings=without).scales == [0.0]


def test_rewards_named_with_a_version_or_a_file_work_in_every_evaluator(tmp_path):
    """Pages, tables and the network know them by their short names."""
    config = configs.get_config("tiny")
    config.rewards = ("hpsv2@2.1", "my_file.py:Colorfulness", "beauty")
    config.evaluate.conflict_reward = "hpsv2@2.1"
    names = ("hpsv2", "colorfulness", "beauty")
    config.sample.prompts = ("a circle",)
    rewards, _ = gauges(names, captioned=("colorfulness",))
    built = build_all(config, tmp_path, rewards)
    results = run_evaluators(built, Painter(names), 1)
    assert results["dials"].cross["asked"] == results["dials"].cross["measured"] == list(names)
    assert list(results["reward_scores"].training) == list(names)
    conflict = results["conflict"]
    assert (conflict.chased, conflict.agreement_of) == ("hpsv2", ["colorfulness"])


def test_results_survive_json_and_unknown_keys_are_ignored(tmp_path):
    config = configs.get_config("tiny")
    built = build_all(config, tmp_path)
    results = run_evaluators(built, Painter(config.rewards), 1)
    for name, result in results.items():
        values = json.loads(json.dumps(result.to_json())) | {"of a later version": 1}
        assert result.evaluator == name and type(result).from_json(values) == result


def test_progress_counts_every_image_and_ends_each_evaluator_with_a_line(tmp_path, capsys):
    config = configs.get_config("tiny")
    built = build_all(config, tmp_path, gauges(config.rewards, captioned=config.rewards)[0])
    total = sum(one.num_images(config.rewards) for one in built.values())
    run_evaluators(built, Painter(config.rewards), 1)
    lines = capsys.readouterr().err.splitlines()
    # A slow evaluator has lines on its way, too.
    began = dict.fromkeys(line.split(":")[0] for line in lines)
    assert list(began) == [f"evaluate {name}" for name in built]
    assert f"{total} of {total} images" in lines[-1] and "left" in lines[0]
