"""The closed walk through reward space: its levels, its frames and its file."""

import numpy as np
import pytest
from PIL import Image

from miro_jax import sample
from miro_jax.sample import animation, verbs
from miro_jax.sample.verbs import Loop
from tests.sampling import NAMES, Dial


def levels(rewards, frames):
    return np.array([list(step.values()) for step in verbs.walk(rewards, frames)])


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_walk_is_closed_smooth_and_within_the_levels(count):
    walked = levels([f"r{j}" for j in range(count)], 60)
    assert walked.shape == (60, count) and walked.min() >= 0 and walked.max() <= 1
    steps = np.diff(np.concatenate([walked, walked[:1]]), axis=0)  # the last frame meets the first
    assert np.abs(steps).max() < 0.06
    assert np.abs(np.diff(steps, axis=0)).max() < 0.006


@pytest.mark.parametrize("count", [2, 3, 4])
def test_each_reward_has_its_turn_in_order(count):
    turns = levels([f"r{j}" for j in range(count)], 120).argmax(axis=0)
    assert turns[0] == 0 and list(turns) == sorted(set(turns))


def test_two_rewards_walk_a_circle():
    walked = levels(["a", "b"], 50) - 0.5
    np.testing.assert_allclose((walked**2).sum(axis=1), 0.25)


def test_frames_keep_the_noise_and_ask_for_the_levels():
    asked = sample.ask(NAMES, ["a", "b"], 2, targets={"colors": 0.25})
    sheet = Loop(("beauty", "count"), 8).sheet(asked)
    assert len(sheet.images) == 2 * 8 * 2
    assert len({p.file for p in sheet.images}) == 32
    assert {p.file.split("/")[0] for p in sheet.images} == {"frames"}
    for picture in sheet.images:
        frame = int(picture.file.split("-")[-2])
        expected = verbs.walk(["beauty", "count"], 8)[frame] | {"colors": 0.25}
        assert picture.targets == expected
        assert picture.negative_targets == {"beauty": 0, "count": 0, "colors": 0}
        assert (picture.seed, picture.prompt_index) == (0, sheet.rows.index(picture.prompt))
    assert "colors 0.25" in sheet.title


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((("beuty",), 8), "Unknown reward 'beuty'"),
        ((("beauty", "beauty"), 8), "one or more different rewards"),
        (((), 8), "one or more different rewards"),
        ((None, 1001), "frames must be at most 1000; got 1001"),
        ((None, 1), "frames must be at least 2; got 1"),
    ],
)
def test_what_cannot_be_walked_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        Loop(*arguments).sheet(sample.ask(NAMES, "a"))


def bar_length(frame, row):
    """Pixels of the bar of one reward."""
    blue = (frame == (29, 99, 183)).all(axis=-1)
    lines = np.flatnonzero(blue.any(axis=1))
    groups = np.split(lines, np.flatnonzero(np.diff(lines) > 1) + 1)
    return blue[groups[row][0]].sum()


def test_bars_are_as_long_as_the_levels():
    cells = np.zeros((1, 1, 8, 8, 3), np.uint8)
    full = animation.draw_frame(cells, ["a"], {"x": 1.0, "y": 0.5}, "t")
    assert bar_length(full, 0) == pytest.approx(2 * bar_length(full, 1), abs=2)
    none = animation.draw_frame(cells, ["a"], {"x": 0.0, "y": 0.5}, "t")
    assert none.shape == full.shape and bar_length(none, 0) == bar_length(full, 1)


@pytest.mark.parametrize("ending", ["webp", "gif", "apng"])
def test_the_file_is_an_endless_animation_of_all_frames(tmp_path, ending):
    frames = sample.reward_loop(Dial(), ["a red circle", "b"], ["beauty", "count"], 6)
    assert len(frames) == 6 and len({frame.shape for frame in frames}) == 1
    path = sample.save_animation(frames, tmp_path / f"loop.{ending}", 10)
    with Image.open(path) as image:
        assert image.n_frames == 6 and image.info["loop"] == 0
        assert image.size == frames[0].shape[1::-1]
        for index, frame in enumerate(frames):
            image.seek(index)
            shown = np.asarray(image.convert("RGB")).astype(int)
            assert np.abs(shown - frame).mean() < 6


def test_an_ending_that_is_no_animation_is_named(tmp_path):
    with pytest.raises(ValueError, match="ends in webp, gif, apng; got 1 frames and x.mp4"):
        sample.save_animation([np.zeros((4, 4, 3), np.uint8)], tmp_path / "x.mp4")
    with pytest.raises(ValueError, match="0 frames"):
        sample.save_animation([], tmp_path / "x.gif")


def test_long_prompts_are_shortened_and_frames_stay_as_wide():
    cells = np.zeros((2, 1, 8, 8, 3), np.uint8)
    short, long = (animation.draw_frame(cells, [x, "b"], {"r": 0.5}, "t") for x in ("a", "a" * 400))
    assert short.shape == long.shape


def test_a_prompt_of_two_lines_stands_on_one():
    cells = np.zeros((1, 1, 192, 192, 3), np.uint8)
    whole, broken = (
        animation.draw_frame(cells, [text], {"r": 0.5}, "t") for text in ("a hen", "a\nhen")
    )
    np.testing.assert_array_equal(broken, whole)


def test_prompts_of_other_scripts_are_named_below_frames():
    cells = np.zeros((1, 1, 192, 192, 3), np.uint8)
    hebrew, named = (
        animation.draw_frame(cells, [text], {"r": 0.5}, "t")
        for text in ("חתול", "[4 Hebrew letters]")
    )
    np.testing.assert_array_equal(hebrew, named)
