"""The detector: known scenes are read back, quality is told apart, any picture can be read."""

import dataclasses
import time

import numpy as np
import pytest
from scipy import stats

from miro_jax.data.shapes import detect, render
from miro_jax.data.shapes import scene as scenes

COUNT = 300


def draw(count, size, **fixed):
    drawn = []
    for index in range(count):
        rng = np.random.default_rng((11, index))
        scene = scenes.sample_scene(rng, size, scenes.CATEGORIES[index % 6])
        scene = dataclasses.replace(scene, **fixed)
        drawn.append((scene, render.render(scene, rng)))
    return [scene for scene, _ in drawn], np.stack([image for _, image in drawn])


@pytest.fixture(scope="module", params=[32, 64])
def world(request):
    truth, images = draw(COUNT, request.param)
    return truth, detect.read(images)


def matched(truth, readings):
    for scene, reading in zip(truth, readings, strict=True):
        for thing in scene.objects:
            yield (
                thing,
                min(reading.objects, key=lambda f: (f.x - thing.x) ** 2 + (f.y - thing.y) ** 2),
            )


def test_objects_are_found_with_shape_color_and_place(world):
    truth, readings = world
    counts = [len(r.objects) == len(s.objects) for s, r in zip(truth, readings, strict=True)]
    assert np.mean(counts) >= 0.99
    pairs = list(matched(truth, readings))
    assert np.mean([a.shape == b.shape for a, b in pairs]) >= 0.985
    assert np.mean([a.color == b.color for a, b in pairs]) >= 0.995
    for name in ("x", "y", "radius"):
        difference = np.array([getattr(b, name) - getattr(a, name) for a, b in pairs])
        assert np.sqrt((difference**2).mean()) < 0.2, name
        assert abs(difference.mean()) < 0.12, name


def test_fits_and_odds_are_shares_that_name_the_best(world):
    for _, found in matched(*world):
        fits = np.array([*found.shape_fits, *found.color_fits, *found.shape_odds])
        assert (fits >= 0).all() and (fits <= 1).all()
        assert sum(found.shape_odds) == pytest.approx(1, abs=1e-5)
        assert scenes.SHAPES[int(np.argmax(found.shape_odds))] == found.shape
        assert list(scenes.COLORS)[int(np.argmax(found.color_fits))] == found.color
    fitting = [found.shape_fit for _, found in matched(*world)]
    assert np.quantile(fitting, 0.02) > 0.8


@pytest.mark.parametrize("name", ["blur", "noise", "glow"])
def test_quality_follows_its_factor_and_no_other(world, name):
    truth, readings = world
    read = [getattr(r, name) for r in readings]
    for other in ("blur", "noise", "glow", "vividness"):
        rank = stats.spearmanr([getattr(s, other) for s in truth], read)[0]
        if other == name:
            assert rank >= 0.955
        else:
            assert abs(rank) < 0.15, other
    scale, offset = np.polyfit([getattr(s, name) for s in truth], read, 1)
    assert scale == pytest.approx(1, abs=0.06)  # the reading is in the scene's own unit
    assert abs(offset) < 0.06


def test_vividness_is_read_as_the_fit_of_the_color(world):
    truth, readings = world
    """What is left of it under the veil of the glow."""
    fits = [np.mean([f.color_fit for f in r.objects]) for r in readings]
    colorfulness = [s.vividness * (1 - render.VEIL * s.glow) for s in truth]
    assert stats.spearmanr(colorfulness, fits)[0] > 0.93


def test_quality_is_in_the_unit_interval_and_better_for_better_pictures():
    _, good = draw(6, 32, blur=0.0, noise=0.0, glow=1.0)
    _, bad = draw(6, 32, blur=1.4, noise=0.1, glow=0.0)
    for a, b in zip(good, bad, strict=True):
        better, worse = (
            (r.sharpness, r.cleanliness, r.beauty) for r in detect.read(np.stack([a, b]))
        )
        assert all(0 <= w < b <= 1 for w, b in zip(worse, better, strict=True))


def test_a_reading_does_not_depend_on_the_batch():
    _, images = draw(24, 32)
    together = detect.read(images)
    assert together == [detect.read(image[None])[0] for image in images]
    assert together[3].objects == detect.detect(images[3])


def test_a_jpeg_like_disturbance_does_not_lose_objects():
    truth, images = draw(60, 32, noise=0.02)
    rounded = (images // 8 * 8).astype(np.uint8)
    counts = [
        len(r.objects) == len(s.objects) for s, r in zip(truth, detect.read(rounded), strict=True)
    ]
    assert np.mean(counts) >= 0.98


def hostile():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (5, 32, 32, 3), np.uint8)
    half = np.zeros((1, 32, 32, 3), np.uint8)
    half[:, :, 16:] = (0, 0, 255)
    half[:, :, :16] = (255, 0, 0)
    blobs = rng.integers(0, 256, (5, 4, 4, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    return {
        "black": np.zeros((2, 32, 32, 3), np.uint8),
        "white": np.full((2, 32, 32, 3), 255, np.uint8),
        "red": np.tile(np.array([255, 0, 0], np.uint8), (2, 32, 32, 1)),
        "noise": noise,
        "halves": half,
        "blobs": blobs,
        "one pixel": noise[:, :1, :1],
        "two pixels": noise[:, :1, :2],
        "row": noise[:, :1],
        "wide": noise.reshape(1, 32, 160, 3),
        "odd": rng.integers(0, 256, (2, 77, 45, 3), np.uint8),
        "large": rng.integers(0, 256, (1, 300, 200, 3), np.uint8),
        "none": noise[:0],
    }


@pytest.mark.parametrize("name", hostile())
def test_any_picture_is_read(name):
    images = hostile()[name]
    readings = detect.read(images)
    assert len(readings) == len(images)
    for reading in readings:
        assert len(reading.objects) <= 8
        quality = (reading.sharpness, reading.cleanliness, reading.beauty)
        assert all(0 <= q <= 1 for q in quality) and np.isfinite(reading.noise)
        assert all(np.isfinite([f.x, f.y, f.radius, *f.shape_fits]).all() for f in reading.objects)


@pytest.mark.parametrize("name", ["black", "white", "red", "noise", "halves", "one pixel", "row"])
def test_what_is_no_object_is_not_taken_for_one(name):
    for reading in detect.read(hostile()[name]):
        assert all(f.shape_fit < 0.5 for f in reading.objects)


def test_wrong_pictures_are_refused():
    with pytest.raises(TypeError, match="uint8.*got float32"):
        detect.read(np.zeros((1, 32, 32, 3), np.float32))
    with pytest.raises(TypeError, match="got list"):
        detect.read([[0]])
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\].*got \(32, 32, 3\)"):
        detect.read(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"got \(1, 0, 32, 3\)"):
        detect.read(np.zeros((1, 0, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\].*got \(1, 32, 32\)"):
        detect.detect(np.zeros((32, 32), np.uint8))


def test_reading_is_fast_enough_to_score_a_run():
    _, images = draw(256, 32)
    start = time.process_time()
    detect.read(images)
    # Half a millisecond on an idle core; the bound leaves room for a busy machine.
    assert (time.process_time() - start) / len(images) < 3e-3
