"""Our resizing against the libraries of the published scorers, to the pixel."""

import functools
import io

import numpy as np
import pytest
from PIL import Image

from miro_jax.data.sources import images
from miro_jax.pretrained.networks import clip
from miro_jax.rewards import resize
from tests.oracles import resize as oracle

SIZE = 56
KINDS = ("rgb", "grey", "palette", "alpha", "cmyk", "rotated", "thin", "exact", "high contrast")


def pictures(count=200):
    """(kind, picture as a file holds it) of odd sizes, larger and smaller than the result."""
    rng = np.random.default_rng(5)
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        height, width = (int(n) for n in rng.integers(3, 400, 2))
        if kind == "thin":
            height, width = (1, width) if i % 2 else (height, 1)
        if kind == "exact":
            height = SIZE
        channels = {"cmyk": 4, "alpha": 4}.get(kind, 3)
        x = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
        if kind == "high contrast":
            x = x // 128 * 255
        mode = {"cmyk": "CMYK", "alpha": "RGBA"}.get(kind, "RGB")
        picture = Image.frombytes(mode, (width, height), x.tobytes())
        if kind == "grey":
            picture = picture.convert("L")
        yield kind, picture.quantize(9) if kind == "palette" else picture


def encoded(kind, picture):
    """The picture as the bytes of a file."""
    buffer, options = io.BytesIO(), {}
    if kind == "rotated":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    picture.save(buffer, "TIFF" if kind == "cmyk" else "PNG", **options)
    return buffer.getvalue()


@functools.cache
def decoded():
    """(kind, [H, W, 3] uint8) by our decoder."""
    return [(k, images.load_rgb(encoded(k, p), min_side=1)) for k, p in pictures()]


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


def test_where_the_crop_begins_differs_by_a_pixel_for_some_sizes_only():
    begins = [
        [resize.offset(length, 224, rounding) for rounding in resize.ROUNDINGS]
        for length in range(224, 1000)
    ]
    steps = [a - b for a, b in begins]
    assert set(steps) == {0, 1} and steps.count(1) == len(steps) // 4


def test_kinds_without_transparency_or_rotation_decode_as_pillow_converts():
    for kind, picture in pictures():
        if kind in ("grey", "palette", "cmyk", "rgb"):
            expected = np.asarray(picture.convert("RGB"))
            found = images.load_rgb(encoded(kind, picture), min_side=1)
            np.testing.assert_array_equal(found, expected, err_msg=kind)


def test_names_tell_what_would_give_other_pictures():
    kinds = [
        resize.BicubicCrop(224),
        resize.BicubicCrop(224, "floor"),
        resize.BicubicCrop(336),
        resize.FloatBicubicCrop(224),
    ]
    assert len(set(map(str, kinds))) == len(kinds)
    assert str(resize.BicubicCrop(224)) == str(resize.BicubicCrop(224, "round"))
    with pytest.raises(ValueError, match="round, floor; got 'ceil'"):
        resize.BicubicCrop(224, "ceil")


def test_a_picture_that_would_grow_out_of_bounds_is_refused_or_costs_nothing():
    thin = np.zeros((1, 100_000, 3), np.uint8)
    with pytest.raises(ValueError, match="100000 x 1.*leave it out"):
        resize.BicubicCrop(224)(thin)
    assert resize.FloatBicubicCrop(224)(thin).shape == (224, 224, 3)


def test_pictures_are_not_changed():
    image = np.random.default_rng(2).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image.flags.writeable = False
    for prepare in (resize.BicubicCrop(30), resize.FloatBicubicCrop(20)):
        prepare(image)
