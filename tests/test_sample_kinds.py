"""Calls of `miro_jax.sample` from Python: arguments of other kinds are named, or taken as meant."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from miro_jax import sample
from miro_jax.models.targets import to_levels
from miro_jax.rewards import load_reward
from tests.sampling import NAMES, Dial, ask, write


@pytest.mark.parametrize(
    ("prompts", "said"),
    [(None, "got None, of type NoneType"), (3, "got 3"), (["a", float("nan")], "got nan")],
)
def test_a_prompt_that_is_no_text_is_named(prompts, said):
    with pytest.raises(TypeError, match=f"prompts must be a text or a list of texts; {said}"):
        sample.isolation_grid(Dial(), prompts)


def test_one_prompt_with_levels_of_its_own_need_not_be_in_a_list():
    own = sample.Prompt("a", {"count": 0.5})
    assert sample.make_request(NAMES, own) == sample.make_request(NAMES, [own])


def test_an_unknown_argument_is_answered_with_the_nearest_one():
    with pytest.raises(TypeError, match="unknown argument 'num_step'; did you mean num_steps"):
        sample.sweep_strip(Dial(), "a", "count", num_step=1)
    with pytest.raises(TypeError, match="unknown argument 'xyz'; these are known: guidance_scale,"):
        sample.sweep_strip(Dial(), "a", "count", xyz=1)


def test_names_of_rewards_are_texts():
    for call in (
        lambda: sample.sweep_strip(Dial(), "a", ["count"]),
        lambda: sample.tradeoff_strip(Dial(), "a", "count", None),
        lambda: sample.isolation_grid(Dial(), "a", targets={3: 1.0}),
        lambda: to_levels({None: 1.0}, 1, NAMES, 1.0),
    ):
        with pytest.raises(TypeError, match="name of a reward .*must be a text; got"):
            call()
    with pytest.raises(ValueError, match="of beauty, count, colors; got none"):
        sample.isolation_grid(Dial(), "a", rewards=[])


def test_columns_of_a_table_are_not_taken_for_rewards_by_their_order():
    table = SimpleNamespace(columns=["colors", "count", "beauty"], shape=(1, 3))  # as of pandas
    with pytest.raises(TypeError, match=r"targets of a table .* by name.*to_dict\('records'\)"):
        to_levels(table, 1, NAMES, 1.0)


@pytest.mark.parametrize("two", [2.0, np.int64(2), np.float32(2)])
def test_whole_numbers_of_other_types_are_numbers_of_images(tmp_path, two):
    paths, manifest = write(tmp_path, num_images=two, guidance_scale=np.float32(2))
    assert len(paths) == 4
    assert {image["guidance_scale"] for image in manifest["images"]} == {2.0}
    assert ask(num_images=two) == ask(num_images=2)
    with pytest.raises(ValueError, match="num_images must be an integer; got '2'"):
        ask(num_images="2")


def test_a_reward_is_an_object_and_no_name():
    for reward in ("sharpness", None, [load_reward("sharpness")], type(load_reward("sharpness"))):
        for call in (
            lambda one=reward: sample.best_of(Dial(), "a", one),
            lambda one=reward: sample.find_preset(Dial(), ["a", "b"], one),
            lambda one=reward: sample.RewardMean([one]),
        ):
            with pytest.raises(TypeError, match=r"A reward must be an object, as load_reward\("):
                call()
    with pytest.raises(ValueError, match="at least one reward is needed for a mean; got none"):
        sample.RewardMean([])
    with pytest.raises(TypeError, match="give num_candidates alone"):
        sample.best_of(Dial(), "a", load_reward("sharpness"), 2, num_images=2)


def test_frames_of_an_animation_are_images_of_one_size(tmp_path):
    frames = [np.full((4, 6, 3), shade, np.uint8) for shade in (0, 255)]
    arrays = sample.save_animation(frames, tmp_path / "a.gif")
    images = sample.save_animation(list(map(Image.fromarray, frames)), tmp_path / "b.gif")
    assert arrays.read_bytes() == images.read_bytes()
    for wrong in ([*frames, frames[0][:3]], np.zeros((2, 4, 6, 3), np.float32)):
        with pytest.raises(ValueError, match=r"frames must be \[height, width, 3\] uint8, all of"):
            sample.save_animation(wrong, tmp_path / "c.gif")
    with pytest.raises(ValueError, match="frames_per_second must be above 0; got 0"):
        sample.save_animation(frames, tmp_path / "c.gif", 0)
