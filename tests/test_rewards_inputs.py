"""What `reward.score` takes: paths, PIL images and arrays, one or several, with captions or not."""

import numpy as np
import pytest
from PIL import Image

from miro_jax.data.shapes import world
from miro_jax.rewards import load_reward
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
