"""An evaluation of some evaluators keeps what was measured before, where it is still true."""

import copy

import pytest

from configs import base as configs
from miro_jax.evaluate import beside, kept

SETTINGS = {
    "evaluate": {"evaluators": ["all"], "images_per_level": 96, "images_per_prompt": 4}
    | {"levels": [0.0, 1.0], "conflict_reward": "beauty", "categories": ["colors"]}
    | {"prompts_per_category": 16, "prompts": "auto"},
    "sample": {"num_steps": 16, "guidance_scale": 1.0, "targets": ""},
}
EVALUATORS = ("gallery", "geneval", "reward_scores", "dials", "conflict")


def make(*evaluators, digest="1", texts="1", **changes):
    entry = {"step": 20, "num_parameters": 5, "rewards": ["a@1"], "shapes": True}
    entry |= {"training": {"num_records": 3}, "settings": copy.deepcopy(SETTINGS)}
    entry |= {"prompts": {"source": "the shapes world", "sha256": digest}}
    entry["prompts"]["texts_sha256"] = texts
    entry["results"] = {name: {"of": name} for name in evaluators}
    for key, value in changes.items():
        part = next((p for p in entry["settings"].values() if key in p), entry)
        part[key] = value
    return entry


def test_what_was_measured_for_the_same_checkpoint_and_settings_is_kept():
    before = make(*EVALUATORS)
    new = make("dials", evaluators=["dials"])
    assert kept.earlier_results([before], new).keys() == {*EVALUATORS} - {"dials"}
    assert kept.earlier_results([], new) == {}
    new["settings"]["sample"]["batch_size"] = 2  # the command alone sets it, to its devices
    assert kept.earlier_results([before, make("geneval", num_steps=8)], new)["geneval"]
    later = make("geneval") | {"results": {"geneval": {"of": "later"}}}
    assert kept.earlier_results([before, later], new)["geneval"] == {"of": "later"}


@pytest.mark.parametrize("key, value", [("model", {"dtype": "a"}), ("weights", {"clip": "a"})])
def test_another_dtype_or_another_models_weights_measure_something_else(key, value):
    before, new = make(*EVALUATORS), make("dials")
    before["settings"][key] = new["settings"][key] = value
    assert kept.earlier_results([before], new)
    assert kept.earlier_results([make(*EVALUATORS)], new)  # of before these were written
    new["settings"][key] = {}
    assert kept.earlier_results([before], new) == {}


@pytest.mark.parametrize(
    "changes, left",
    [
        ({"images_per_level": 64, "digest": "2"}, {"gallery", "geneval", "reward_scores"}),
        ({"images_per_prompt": 2}, {"gallery", "conflict"}),
        ({"conflict_reward": "colors"}, {"gallery", "geneval", "reward_scores"}),
        ({"texts": "2", "digest": "2"}, set()),
        ({"guidance_scale": 2.0}, set()),
        ({"targets": "a=0.5"}, set()),
        ({"step": 40}, set()),
        ({"training": {"num_records": 4}}, set()),
        ({"rewards": ["a@2"]}, set()),
        ({"num_parameters": 6}, set()),
    ],
)
def test_what_depends_on_another_setting_or_network_is_not(changes, left):
    new = make("dials", evaluators=["dials"], **changes)
    assert kept.earlier_results([make(*EVALUATORS)], new).keys() == left


def test_other_weights_of_the_same_step_are_another_network():
    new, before = make("dials", checkpoint="a"), make(*EVALUATORS, checkpoint="b")
    assert kept.earlier_results([before], new) == {}
    assert kept.earlier_results([before | {"checkpoint": "a"}], new)


def test_the_recorded_baseline_stands_beside_another_number_of_images_of_a_dial(caplog):
    (name,) = [name for name in beside.recorded() if name == configs.get_config("").evaluate.beside]
    recorded = beside.read_json(beside.find(name), beside._SCHEMA)[-1]
    entry = copy.deepcopy(recorded)
    entry["settings"]["evaluate"]["images_per_level"] = 8
    entry["prompts"]["sha256"] = "another"
    assert beside.read(name, entry) is not None and not caplog.records
    entry["prompts"]["texts_sha256"] = "another"
    assert beside.read(name, entry) is None and "another list of prompts" in caplog.text
