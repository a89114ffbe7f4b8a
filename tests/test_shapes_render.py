"""Rendering: the pixels are those that the scene's numbers ask for."""

import dataclasses

import numpy as np
import pytest

from miro_jax.data.shapes import render
from miro_jax.data.shapes import scene as scenes


def one(shape="circle", color="red", **changes):
    size = changes.pop("size", 32)
    thing = scenes.Object(shape, color, 14.0, 17.0, 7.0)
    return scenes.Scene((thing,), "colors", size=size, **changes)


def draw(scene, seed=0):
    return render.render(scene, np.random.default_rng(seed))


@pytest.mark.parametrize("color, rgb", scenes.COLORS.items())
def test_a_vivid_object_has_its_color_on_grey(color, rgb):
    image = draw(one(color=color))
    assert image.dtype == np.uint8 and image.shape == (32, 32, 3)
    np.testing.assert_array_equal(image[17, 14], rgb)
    assert np.abs(image[0, 0].astype(int) - 128).max() <= 1


@pytest.mark.parametrize("shape", scenes.SHAPES)
@pytest.mark.parametrize("size", [32, 64, 128])
def test_shapes_have_their_area_and_centre_of_mass(shape, size):
    image = draw(one(shape, size=size)) / 255.0
    cover = 1 - image[:, :, 1] / image[0, 0, 1]
    unit = size / 32
    places = (np.arange(size) + 0.5) / unit
    area = cover.sum() / unit**2
    assert area == pytest.approx(render.AREA[shape] * 49, rel=0.02)
    assert (cover.sum(axis=0) @ places) / cover.sum() == pytest.approx(14, abs=0.1)
    low = 17 + 7 * render.CENTROID[shape]
    assert (cover.sum(axis=1) @ places) / cover.sum() == pytest.approx(low, abs=0.1)


def test_the_glow_brightens_the_top_and_darkens_the_bottom():
    image = draw(one(glow=1.0, grey=0.5)).astype(float) / 255
    column = image[:, 31].mean(axis=1)
    assert (np.diff(column) < 0).all()
    assert column[0] - column[-1] == pytest.approx(render.GLOW_RANGE * 31 / 32, abs=0.01)
    assert column.mean() == pytest.approx(0.5, abs=0.01)


def test_the_glow_veils_the_objects():
    plain, veiled = (draw(one(glow=g)).astype(float)[17, 14] for g in (0.0, 1.0))
    background = draw(one(glow=1.0))[17, 31].astype(float)
    np.testing.assert_allclose(
        veiled - background, (1 - render.VEIL) * (plain - background), atol=1.5
    )


def test_blur_widens_edges_as_a_gaussian_of_its_deviation_and_keeps_the_light():
    sharp, soft = (draw(one("square", blur=b, size=64)).astype(float) for b in (0.0, 1.4))
    assert soft[:, :, 0].sum() == pytest.approx(sharp[:, :, 0].sum(), rel=1e-3)
    edge = np.diff(soft[34, :28, 0])  # across the left side, 0.7 of the way in
    edge = edge / edge.sum()
    places = np.arange(len(edge))
    deviation = np.sqrt(edge @ (places - edge @ places) ** 2)
    assert deviation == pytest.approx(1.4 * 2, rel=0.05)


def test_noise_has_its_deviation_in_each_channel_and_its_own_generator():
    scene = one(noise=0.08)
    image, other = draw(scene), draw(scene, seed=1)
    grain = (image.astype(float) - draw(one())) / 255
    corner = grain[:8].reshape(-1, 3)
    np.testing.assert_allclose(corner.std(axis=0), 0.08, rtol=0.15)
    assert np.abs(np.corrcoef(corner.T) - np.eye(3)).max() < 0.25
    assert (image != other).any()
    np.testing.assert_array_equal(image, draw(scene))


def test_a_larger_picture_shows_the_same_scene():
    scene = scenes.sample_scene(np.random.default_rng(3), 32, "color_attr")
    scene = dataclasses.replace(scene, noise=0.0, blur=0.8)
    small = draw(scene).astype(float)
    large = draw(dataclasses.replace(scene, size=64)).astype(float)
    shrunk = large.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - shrunk).max() < 12
