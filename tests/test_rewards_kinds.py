"""Wrong kinds of arguments of calls from Python to rewards: each is answered by what must hold."""

import numpy as np
import pytest

from miro_jax.rewards import load_reward, load_rewards

IMAGE = np.zeros((32, 32, 3), np.uint8)


@pytest.mark.parametrize("name", [["colors"], None, 3, b"colors"])
def test_the_name_of_a_reward_is_a_text(name):
    with pytest.raises(TypeError, match="name of a reward must be a text; got .* load_rewards"):
        load_reward(name)
    with pytest.raises(TypeError, match="name of a reward must be a text"):
        load_rewards(["count", name])


def test_names_that_can_be_read_once_are_refused():
    with pytest.raises(TypeError, match="rewards must be a list of names; got <generator"):
        load_rewards(name for name in ["colors", "count"])
    with pytest.raises(TypeError, match="rewards must be a list of names; got None"):
        load_rewards(None)
    made = load_rewards(np.array(["colors", "count"]))
    assert [reward.name for reward in made] == ["colors", "count"]


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("colors", {"weights": "x"}, "reward colors must be of version; got weights"),
        ("objects@shapes1", {"version": "2"}, "reward objects@shapes1 must be of none; got ver"),
        ("pick_score", {"wieghts": "x"}, "reward pick_score must be of weights, .*; got wieghts"),
    ],
)
def test_an_argument_that_a_reward_does_not_have_is_named(name, arguments, said):
    with pytest.raises(TypeError, match=said):
        load_reward(name, **arguments)


def test_weights_are_a_mapping():
    for weights in ("folder", ["pick_score"]):
        with pytest.raises(TypeError, match="weights must be {name: folder or hub id}; got"):
            load_rewards(["pick_score"], weights=weights)


def test_captions_and_images_of_other_kinds_are_named():
    reward = load_reward("count")
    for captions, kind in (((text for text in "ab"), "generator"), (3, "int")):
        with pytest.raises(TypeError, match=f"captions must be a list of str.*; got {kind}"):
            reward.score([IMAGE, IMAGE], captions)
    with pytest.raises(TypeError, match="images must be paths.*one or a list; got bytes"):
        reward.score(b"\x89PNG", "a red circle")
