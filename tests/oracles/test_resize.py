"""Our resizing against the libraries of the published scorers, to the pixel."""

import functools

import numpy as np
import pytest
from PIL import Image

from miro_jax.data.sources import images
from miro_jax.pretrained.networks import clip
from miro_jax.rewards import resize
from tests.odd_images import SIZE, encoded, pictures
from tests.oracles import resize as oracle


@functools.cache
def decoded():
    """(kind, [H, W, 3] uint8) by our decoder."""
    return [(k, images.load_rgb(encoded(k, p), min_side=1)) for k, p in pictures()]


@pytest.mark.slow
def test_bytes_are_resized_as_hugging_face_does():
    for kind, image in decoded():
        found = resize.BicubicCrop(SIZE, "floor")(image)
        expected = oracle.hugging_face(Image.fromarray(image), SIZE)
        np.testing.assert_array_equal(found, expected, err_msg=f"{kind} {image.shape}")


def test_bytes_are_resized_as_openai_does():
    for kind, image in decoded():
        found = resize.BicubicCrop(SIZE, "round")(image)
        expected = oracle.openai(Image.fromarray(image), SIZE)
        np.testing.assert_array_equal(found, expected, err_msg=f"{kind} {image.shape}")


@pytest.mark.over_a_second
def test_floats_are_resized_as_hpsv2_does():
    beyond = False
    for kind, image in decoded():
        found = resize.FloatBicubicCrop(SIZE)(image)
        assert found.dtype == np.float32
        expected = oracle.hpsv2(Image.fromarray(image), SIZE)
        assert np.abs(found - expected).max() <= 5e-6, (kind, image.shape)
        beyond |= found.min() < -0.1 and found.max() > 1.1
    assert beyond  # over- and undershoot are kept


@pytest.mark.parametrize("shape", [(1013, 771), (224, 500), (640, 331)])
def test_size_of_the_release_agrees_up_to_the_network(shape):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    prepared = resize.BicubicCrop(224, "floor")(image)
    expected = oracle.normalized(Image.fromarray(image))
    assert np.abs(clip.normalize(prepared[None])[0] - expected).max() < 2e-6
    floats = resize.FloatBicubicCrop(224)(image)
    assert np.abs(floats - oracle.hpsv2(Image.fromarray(image), 224)).max() <= 1e-5
