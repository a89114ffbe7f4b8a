"""What `reward.score` takes: paths, PIL images and arrays, one or several, with captions or not."""

import os

import numpy as np
import pytest
from PIL import Image

from miro_jax.data.shapes import world
from miro_jax.rewards import base, load_reward
from miro_jax.rewards.inputs import as_arrays


@pytest.fixture(scope="module")
def samples():
    return [world.make_sample(3, i, 48) for i in range(3)]


@pytest.fixture
def expected(samples):
    images, captions = zip(*((s.image, s.caption) for s in samples), strict=True)
    return load_reward("count").score(np.stack(images), captions)


def test_paths_pil_images_and_arrays_have_the_same_scores(samples, expected, tmp_path):
    reward, captions = load_reward("count"), [s.caption for s in samples]
    pictures = [Image.fromarray(s.image) for s in samples]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    mixed = [str(paths[0]), pictures[1], samples[2].image]
    for images in (pictures, paths, [str(p) for p in paths], mixed, tuple(mixed)):
        np.testing.assert_array_equal(reward.score(images, captions), expected)
    assert len(set(expected)) > 1


def test_a_single_image_takes_a_single_caption(samples, expected, tmp_path):
    reward, sample = load_reward("count"), samples[0]
    picture = Image.fromarray(sample.image)
    picture.save(tmp_path / "one.png")
    for image in (picture, sample.image, tmp_path / "one.png", str(tmp_path / "one.png")):
        for caption in (sample.caption, [sample.caption]):
            assert reward.score(image, caption).tolist() == [expected[0]]


def test_captions_may_be_missing_for_a_reward_that_needs_none(samples):
    images = [s.image for s in samples]
    scores = load_reward("sharpness").score(images)
    np.testing.assert_array_equal(scores, load_reward("sharpness").score(images, [""] * 3))
    with pytest.raises(ValueError, match="count judges an image with its caption; got None"):
        load_reward("count").score(images)


def test_pil_images_are_turned_upright_and_laid_over_white(tmp_path):
    clear = Image.new("RGBA", (5, 4), (255, 0, 0, 0))
    np.testing.assert_array_equal(as_arrays(clear)[0], np.full((4, 5, 3), 255))
    turned = Image.new("RGB", (5, 4))
    turned.getexif()[0x0112] = 6
    assert as_arrays([turned, Image.new("L", (3, 2))])[0].shape == (5, 4, 3)


def test_what_is_no_image_is_refused_by_name(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="text.png must be an image; got: not an image"):
        as_arrays(tmp_path / "text.png")
    with pytest.raises(TypeError, match="a path, a PIL image or a numpy array of uint8; got int"):
        as_arrays([3])
    with pytest.raises(TypeError, match="one or a list; got int"):
        as_arrays(3)
    with pytest.raises(TypeError, match="uint8.*got float32"):
        as_arrays(np.zeros((2, 4, 4, 3), np.float32))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_truncated_image_ends_in_one_line_that_names_it(samples, tmp_path, form):
    path = tmp_path / f"cut.{form.lower()}"
    Image.fromarray(samples[0].image).save(path, form)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    reward = load_reward("sharpness")
    for action in (reward.score, reward.read, as_arrays):
        with pytest.raises(ValueError, match=f"{path.name} must be an image; got: ") as caught:
            action([samples[1].image, path])
        assert "\n" not in str(caught.value)
    if form in ("PNG", "JPEG"):  # the others are decoded when they are opened
        with Image.open(path) as picture, pytest.raises(ValueError, match="must be an image"):
            reward.score([picture])


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="pipe.png must be a regular file"):
        as_arrays(tmp_path / "pipe.png")
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        as_arrays(tmp_path / "missing.png")


class Broken(base.Judge):
    """Judges a black image by a number that is none."""

    name, version, tower, preprocessing = "broken", "1", "broken", "none"
    needs_caption, synthetic_form = False, "long"
    value = np.nan

    def prepare(self, image):
        return image

    def encode(self, prepared):
        return prepared

    def judge(self, features, captions):
        return np.where(features.any((1, 2, 3)), 0.5, self.value).astype(np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_stops_with_its_image(samples, value, monkeypatch):
    reward, images = Broken(), [samples[0].image, np.zeros_like(samples[0].image)]
    reward.value = value
    with pytest.raises(FloatingPointError, match=rf"broken gives images\[1\] {value}"):
        reward.score(images)
    rewards, texts = [load_reward("sharpness"), reward], [{"caption": [""] * 5}]
    monkeypatch.setattr(base, "BATCH_SIZE", 3)
    with pytest.raises(FloatingPointError, match=r"broken gives images\[4\]"):
        base.score_all(rewards, [images[0]] * 3 + images, texts)
    reward.may_be_missing = True
    if np.isnan(value):
        assert np.isnan(reward.score(images)).tolist() == [False, True]
    else:
        with pytest.raises(FloatingPointError):
            reward.score(images)
