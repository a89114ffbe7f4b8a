"""Where a crop begins, what is refused; tests/oracles/test_resize.py compares to the pixel."""

import numpy as np
import pytest

from miro_jax.data.sources import images
from miro_jax.rewards import resize
from tests.odd_images import encoded, pictures


def test_where_the_crop_begins_differs_by_a_pixel_for_some_sizes_only():
    begins = [
        [resize.offset(length, 224, rounding) for rounding in resize.ROUNDINGS]
        for length in range(224, 1000)
    ]
    steps = [a - b for a, b in begins]
    assert set(steps) == {0, 1} and steps.count(1) == len(steps) // 4


@pytest.mark.over_a_second
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
    with pytest.raises(ValueError, match="100000 x 1.*skip it"):
        resize.BicubicCrop(224)(thin)
    assert resize.FloatBicubicCrop(224)(thin).shape == (224, 224, 3)


def test_pictures_are_not_changed():
    image = np.random.default_rng(2).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image.flags.writeable = False
    for prepare in (resize.BicubicCrop(30), resize.FloatBicubicCrop(20)):
        prepare(image)
