"""The table of evaluators, and what they share."""

import pytest

from configs import base as configs
from miro_jax import evals
from miro_jax.evals import base
from miro_jax.shapes import captions, scene
from tests.painting import Meter, gauges


def test_every_evaluator_of_the_table_is_built_from_the_base_config(tmp_path):
    config = configs.get_config("")
    rewards, bins = gauges(config.rewards)
    training = {name: {"mean": 0.5, "std": 0.1} for name in config.rewards}
    built = evals.build_evaluators(
        config, rewards=rewards, bins=bins, training=training, folder=tmp_path
    )
    assert tuple(built) == config.evaluate.evaluators
    assert set(built) == set(evals.EVALUATORS)


@pytest.mark.parametrize("names", [("dials", "nonsense"), ("dials", "dials"), "dials"])
def test_unknown_repeated_or_unquoted_names_are_refused(names):
    with pytest.raises(ValueError, match="config.evaluate.evaluators must be"):
        evals.check_names(names)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="gallery, geneval, reward_scores, dials, conflict"):
        evals.check_names(("nonsense",))


def test_results_stand_under_their_names_and_a_failure_names_evaluator_and_step():
    class Fine:
        def run(self, pipeline):
            return {"seen": pipeline}

    class Broken:
        def run(self, pipeline):
            raise KeyError("missing")

    assert evals.run_evaluators({"fine": Fine()}, "p", 5) == {"fine": {"seen": "p"}}
    with pytest.raises(base.EvaluatorFailed, match="'broken' failed .* step 7: KeyError") as caught:
        evals.run_evaluators({"fine": Fine(), "broken": Broken()}, "p", 7)
    assert isinstance(caught.value.__cause__, KeyError)


def test_world_prompts_take_the_categories_in_turn():
    prompts = base.world_prompts(("single_object", "colors"), 5, seed=0)
    assert len(prompts) == 5
    named = [captions.parse(p).objects[0].color is not None for p in prompts]
    assert named == [False, True, False, True, False]
    assert all(captions.parse(p).objects[0].shape in scene.SHAPES for p in prompts)


def test_sampling_settings_reach_the_pipeline():
    config = configs.get_config("tiny")
    pipeline = Meter(("first",))
    base.make_sampling(config).sample(pipeline, ["a"], guidance_scale=0.0)
    assert pipeline.calls[0] == {
        "prompts": ["a"],
        "targets": None,
        "negative_targets": None,
        "guidance_scale": 0.0,
        "num_steps": config.sample.num_steps,
        "solver": "euler",
        "negative_prompt": "empty",
        "seed": 0,
    }


def test_guidance_scales_hold_none_and_the_default_once():
    assert base.guidance_scales(2) == [0.0, 2.0]
    assert base.guidance_scales(0) == [0.0]
